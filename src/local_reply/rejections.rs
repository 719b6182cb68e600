//! Counts of connections and requests that were not served, by reason.
//!
//! A reason is that of a [local reply](LocalReply), or one of [`Dropped`] where there is no
//! response.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{LOCAL_REPLIES, LocalReply};

/// A reason without a response.
#[derive(Debug)]
pub struct DroppedRow {
    /// Stable name of the reason.
    pub reason: &'static str,
    /// Cause in the words of the documentation; Markdown.
    pub cause: &'static str,
}

/// Makes the enum and its rows.
macro_rules! dropped {
    ($($(#[$doc:meta])+ $name:ident => { $($row:tt)+ })+) => {
        /// Reason why a connection was closed without a response.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Dropped {
            $($(#[$doc])+ $name,)+
        }

        /// Rows of all reasons without a response.
        pub static DROPPED: [DroppedRow; [$(Dropped::$name),+].len()] =
            [$(DroppedRow { $($row)+ }),+];
    };
}

dropped! {
    /// The PROXY protocol header was missing, or not from a trusted proxy.
    ProxyHeader => {
        reason: "proxy_header",
        cause: "no valid header of the PROXY protocol from one of `trusted_proxies`",
    }
    /// The TLS handshake failed, or took too long.
    TlsHandshake => {
        reason: "tls_handshake",
        cause: "TLS with the client failed, or took longer than `limits.header_timeout`",
    }
    /// The client stopped reading its response.
    WriteTimeout => {
        reason: "write_timeout",
        cause: "the client did not read its response",
    }
    /// The client cancelled most of its requests on an HTTP/2 connection.
    CancelledRequests => {
        reason: "cancelled_requests",
        cause: "an HTTP/2 client cancelled too many requests",
    }
    /// A flood on an HTTP/2 connection, be it of resets, of empty frames or of a header section
    /// without end.
    Http2Abuse => {
        reason: "http2_abuse",
        cause: "a flood of resets or empty frames over HTTP/2, or a header section without end",
    }
}

/// Number of rejections by reason since the start of the process.
#[derive(Debug)]
pub struct Rejections {
    replies: [AtomicU64; LOCAL_REPLIES.len()],
    dropped: [AtomicU64; DROPPED.len()],
}

impl Default for Rejections {
    fn default() -> Self {
        Self {
            replies: [const { AtomicU64::new(0) }; LOCAL_REPLIES.len()],
            dropped: [const { AtomicU64::new(0) }; DROPPED.len()],
        }
    }
}

impl Rejections {
    /// Counts a request that is responded to with `reply`, or a connection that is closed without
    /// a response for the same reason.
    pub fn count(&self, reply: LocalReply) {
        self.replies[reply.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that is closed without a response.
    pub fn count_dropped(&self, dropped: Dropped) {
        self.dropped[dropped as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of rejections for each reason, including those that never happened.
    #[must_use]
    pub fn by_reason(&self) -> Vec<(&'static str, u64)> {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let replies = LOCAL_REPLIES.iter().map(|row| row.reason);
        let replies = replies.zip(self.replies.iter().map(load));
        let dropped = DROPPED.iter().map(|row| row.reason);
        let dropped = dropped.zip(self.dropped.iter().map(load));
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for (reason, count) in replies.chain(dropped) {
            match sums.iter_mut().find(|(name, _)| *name == reason) {
                Some((_, sum)) => *sum += count,
                None => sums.push((reason, count)),
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_with_one_reason_are_counted_together() {
        let rejections = Rejections::default();
        rejections.count(LocalReply::GatewayTimeout);
        rejections.count(LocalReply::NoAnswer);
        rejections.count(LocalReply::BadRequest("one"));
        rejections.count_dropped(Dropped::Http2Abuse);

        let counts = rejections.by_reason();

        let counted: Vec<_> = counts.iter().filter(|(_, count)| *count > 0).collect();
        let expected = [
            ("bad_request", 1),
            ("upstream_timeout", 2),
            ("http2_abuse", 1),
        ];
        assert_eq!(counted, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn each_reason_stands_once() {
        let mut reasons: Vec<_> = Rejections::default().by_reason();
        let all = LOCAL_REPLIES.len() + DROPPED.len();

        reasons.sort_unstable();
        reasons.dedup();

        // Two replies share `upstream_timeout`.
        assert_eq!(reasons.len(), all - 1);
    }
}
