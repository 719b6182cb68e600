//! How often connections and requests were not served, and why.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! rejections {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a connection or a request was not served; a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rejection {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Rejection {
            /// All of them, in order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Its name, for a label.
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
    /// There were too many connections.
    Connections = "connections",
    /// There were too many connections from one address.
    AddressConnections = "address_connections",
    /// There were too many sessions on one HTTP/2 connection.
    ConnectionSessions = "connection_sessions",
    /// Too many sessions began at once.
    SessionRate = "session_rate",
    /// Too many sessions of one address began at once.
    AddressSessionRate = "address_session_rate",
    /// No header of the PROXY protocol, or not from a trusted proxy.
    ProxyHeader = "proxy_header",
    /// The TLS handshake failed, or took too long.
    TlsHandshake = "tls_handshake",
    /// The header section did not come in time.
    HeaderTimeout = "header_timeout",
    /// The header section was too large, or had too many lines.
    HeadersTooLarge = "headers_too_large",
    /// The request target was too long.
    UriTooLong = "uri_too_long",
    /// The body was too large.
    BodyTooLarge = "body_too_large",
    /// The body did not come in time.
    BodyTimeout = "body_timeout",
    /// The client took nothing of its answer.
    WriteTimeout = "write_timeout",
    /// The request was malformed or ambiguous.
    BadRequest = "bad_request",
    /// No route has the host.
    UnknownHost = "unknown_host",
    /// No route has the path.
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
    /// Sessions held too much.
    HeldBytes = "held_bytes",
    /// Too many requests were held.
    HeldRequests = "held_requests",
    /// There were too few file descriptors to connect to the upstream.
    Descriptors = "descriptors",
    /// The upstream was known to be out of order.
    BreakerOpen = "breaker_open",
    /// The process drained.
    Draining = "draining",
    /// The upstream gave no valid answer.
    UpstreamFailed = "upstream_failed",
    /// The upstream was not there, or did not answer, in time.
    UpstreamTimeout = "upstream_timeout",
    /// The client left first.
    ClientGone = "client_gone",
}

/// How often each of them happened since the start of the process.
#[derive(Debug)]
pub struct Rejections([AtomicU64; Rejection::ALL.len()]);

impl Default for Rejections {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Rejection::ALL.len()])
    }
}

impl Rejections {
    /// Counts one.
    pub fn count(&self, rejection: Rejection) {
        self.0[rejection as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often `rejection` has happened.
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
