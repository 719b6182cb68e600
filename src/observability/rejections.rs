//! Counts of connections and requests that were not served, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! rejections {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Reason why a connection or a request was not served; a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rejection {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Rejection {
            /// Every reason, in the order of declaration.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Value of the metrics label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

rejections! {
    /// Too many connections were open.
    Connections = "connections",
    /// Too many connections from one address were open.
    AddressConnections = "address_connections",
    /// Too many sessions shared one HTTP/2 connection.
    ConnectionSessions = "connection_sessions",
    /// Too many sessions began at once.
    SessionRate = "session_rate",
    /// Too many sessions from one address began at once.
    AddressSessionRate = "address_session_rate",
    /// The PROXY protocol header was missing, or not from a trusted proxy.
    ProxyHeader = "proxy_header",
    /// The TLS handshake failed, or took too long.
    TlsHandshake = "tls_handshake",
    /// The header section did not arrive in time.
    HeaderTimeout = "header_timeout",
    /// The header section was too large, or had too many lines.
    HeadersTooLarge = "headers_too_large",
    /// The request target was too long.
    UriTooLong = "uri_too_long",
    /// The body was too large.
    BodyTooLarge = "body_too_large",
    /// The body did not arrive in time.
    BodyTimeout = "body_timeout",
    /// The client stopped reading its response.
    WriteTimeout = "write_timeout",
    /// The request was malformed or ambiguous.
    BadRequest = "bad_request",
    /// No route has this host.
    UnknownHost = "unknown_host",
    /// No route has this path.
    UnknownPath = "unknown_path",
    /// The origin is not allowed.
    Origin = "origin",
    /// The method is not allowed.
    Method = "method",
    /// An unknown expectation.
    Expectation = "expectation",
    /// A body with an unknown transfer coding.
    TransferCoding = "transfer_coding",
    /// Another version of the WebSocket protocol.
    WebSocketVersion = "websocket_version",
    /// An extended `CONNECT` to another protocol than WebSocket.
    ConnectProtocol = "connect_protocol",
    /// An HTTP/2 connection on which the client cancelled most of its requests.
    CancelledRequests = "cancelled_requests",
    /// A flood on an HTTP/2 connection, be it of resets, of empty frames or of a header
    /// section without end.
    Http2Abuse = "http2_abuse",
    /// Too much memory was in use.
    Memory = "memory",
    /// Sessions held too many bytes.
    HeldBytes = "held_bytes",
    /// Too many requests were held.
    HeldRequests = "held_requests",
    /// Too few file descriptors were left to connect to the upstream.
    Descriptors = "descriptors",
    /// The upstream was known to be failing.
    BreakerOpen = "breaker_open",
    /// The process was draining.
    Draining = "draining",
    /// The upstream sent no valid response.
    UpstreamFailed = "upstream_failed",
    /// The upstream did not listen, or did not respond, in time.
    UpstreamTimeout = "upstream_timeout",
    /// The client left first.
    ClientGone = "client_gone",
}

/// Number of rejections by reason since the start of the process.
#[derive(Debug)]
pub struct Rejections([AtomicU64; Rejection::ALL.len()]);

impl Default for Rejections {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Rejection::ALL.len()])
    }
}

impl Rejections {
    /// Counts a rejection.
    pub fn count(&self, rejection: Rejection) {
        self.0[rejection as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Number of times that `rejection` has happened.
    #[must_use]
    pub fn of(&self, rejection: Rejection) -> u64 {
        self.0[rejection as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_rejection_has_a_name_and_a_count_of_its_own() {
        let rejections = Rejections::default();
        for (index, rejection) in Rejection::ALL.into_iter().enumerate() {
            for _ in 0..=index {
                rejections.count(rejection);
            }
        }

        let counts = Rejection::ALL.map(|rejection| rejections.of(rejection));
        assert!(counts.into_iter().eq(1..=Rejection::ALL.len() as u64));
        let names: BTreeSet<_> = Rejection::ALL.map(Rejection::name).into();
        assert_eq!(names.len(), Rejection::ALL.len());
    }
}
