//! Local replies: responses that the proxy makes itself, without the upstream.
//!
//! Each is a variant of [`LocalReply`] and one row: its text, status, header fields and reason.
//! The counters of the metrics ([`rejections`]), the field `reason` of the log and the table of
//! the documentation come from the rows.
//!
//! # Invariants
//!
//! * The body has the request's id, and neither an address nor anything else that was received.
//! * After a request whose end is uncertain, or that met a limit, the connection is closed.

pub mod rejections;

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};

use crate::{
    headers::{framing::Flaw, request_id::RequestId},
    route::Unrouted,
    websocket::handshake::VERSION,
};

/// `Retry-After` where no better time is known, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Facts about one local reply.
#[derive(Debug)]
pub struct Row {
    /// Status of the response.
    pub status: StatusCode,
    /// Stable name of the reason, in the log and in metrics; several replies may share one.
    pub reason: &'static str,
    /// True if the connection is closed after the response: the request cannot be trusted to end
    /// where it seems to, or has met a limit.
    pub closes: bool,
    /// True if the response has a `Retry-After`.
    pub retry_after: bool,
    /// Cause in the words of the documentation; Markdown.
    pub cause: &'static str,
}

/// Makes the enum, its texts, and the row of each variant.
macro_rules! local_replies {
    ($(
        $(#[$doc:meta])+
        $name:ident
        $(($payload:ty))?
        $({ $(#[$field_doc:meta])+ $field:ident: $type:ty })?
        = $text:literal => { $($row:tt)+ }
    )+) => {
        /// Reasons for a local reply.
        ///
        /// The client does not have its `101` yet, so every variant maps to an HTTP status. The
        /// texts go to the client: they name no address.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum LocalReply {
            $(
                $(#[$doc])+
                #[error($text)]
                $name $(($payload))? $({ $(#[$field_doc])+ $field: $type })?,
            )+
        }

        /// Rows of all local replies.
        pub static LOCAL_REPLIES: [Row; [$(stringify!($name)),+].len()] = [$(Row { $($row)+ }),+];

        impl LocalReply {
            /// Position of the reply's row in [`LOCAL_REPLIES`].
            const fn index(self) -> usize {
                enum Index { $($name),+ }
                match self {
                    $(Self::$name { .. } => Index::$name as usize,)+
                }
            }
        }
    };
}

local_replies! {
    /// Too many connections, or sessions over HTTP/2, of the process.
    Connections = "too many connections" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "connections",
        closes: true, retry_after: true,
        cause: "more connections than `limits.max_connections`",
    }
    /// Too many connections, or sessions behind a trusted proxy, of one address.
    AddressConnections = "too many connections from this address" => {
        status: StatusCode::TOO_MANY_REQUESTS, reason: "address_connections",
        closes: true, retry_after: true,
        cause: "more connections of the address than `limits.max_connections_per_address`",
    }
    /// Too many sessions on one connection.
    ConnectionSessions = "too many sessions on this connection" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "connection_sessions",
        closes: true, retry_after: true,
        cause: "more sessions on one HTTP/2 connection than `limits.max_streams`",
    }
    /// Too many new sessions per second, of the process.
    SessionRate = "too many new sessions" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "session_rate",
        closes: true, retry_after: true,
        cause: "more new sessions than `limits.session_rate`",
    }
    /// Too many new sessions per second, of one address.
    AddressSessionRate = "too many new sessions from this address" => {
        status: StatusCode::TOO_MANY_REQUESTS, reason: "address_session_rate",
        closes: true, retry_after: true,
        cause: "more new sessions of the address than `limits.session_rate_per_address`",
    }
    /// The client is too slow to send its header section.
    HeaderTimeout = "request too slow" => {
        status: StatusCode::REQUEST_TIMEOUT, reason: "header_timeout",
        closes: true, retry_after: false,
        cause: "the header section took longer than `limits.header_timeout`",
    }
    /// The header section is too large, or has too many lines.
    HeadersTooLarge = "too many headers" => {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "headers_too_large",
        closes: true, retry_after: false,
        cause: "the header section is larger than `limits.max_header_bytes` or `limits.max_headers`",
    }
    /// The target of the request is too long.
    TargetTooLong = "target too long" => {
        status: StatusCode::URI_TOO_LONG, reason: "uri_too_long",
        closes: true, retry_after: false,
        cause: "the path with its query is longer than `limits.max_uri_bytes`",
    }
    /// The body is larger than the limit of the route.
    BodyTooLarge = "body too large" => {
        status: StatusCode::PAYLOAD_TOO_LARGE, reason: "body_too_large",
        closes: true, retry_after: false,
        cause: "the body is larger than `route.http.max_body_bytes`",
    }
    /// The client is too slow to send the body that it announced.
    RequestTimeout = "request body too slow" => {
        status: StatusCode::REQUEST_TIMEOUT, reason: "body_timeout",
        closes: true, retry_after: false,
        cause: "nothing of the body came for `route.http.body_timeout`",
    }
    /// Bytes that are not a request, or that can be read in two ways.
    BadRequest(&'static str) = "{0}" => {
        status: StatusCode::BAD_REQUEST, reason: "bad_request",
        closes: true, retry_after: false,
        cause: "a malformed or ambiguous request",
    }
    /// No route has this host, with any path (RFC 9110 §15.5.20).
    Misdirected = "no route for this host" => {
        status: StatusCode::MISDIRECTED_REQUEST, reason: "unknown_host",
        closes: false, retry_after: false,
        cause: "a host without a route",
    }
    /// No route for the host has this path.
    NoRoute = "no route" => {
        status: StatusCode::NOT_FOUND, reason: "unknown_path",
        closes: false, retry_after: false,
        cause: "a path without a route",
    }
    /// The page that opens the WebSocket is not from an allowed origin.
    OriginNotAllowed = "origin not allowed" => {
        status: StatusCode::FORBIDDEN, reason: "origin",
        closes: false, retry_after: false,
        cause: "an origin that is not among the route's `origins`",
    }
    /// A WebSocket is opened with GET; CONNECT and TRACE are not for a reverse proxy.
    MethodNotAllowed {
        /// Methods that are allowed.
        allow: &'static str
    } = "method not allowed" => {
        status: StatusCode::METHOD_NOT_ALLOWED, reason: "method",
        closes: false, retry_after: false,
        cause: "a WebSocket handshake with a method other than GET; CONNECT and TRACE",
    }
    /// An `Expect` other than `100-continue` (RFC 9110 §10.1.1).
    UnknownExpectation = "unknown expectation" => {
        status: StatusCode::EXPECTATION_FAILED, reason: "expectation",
        closes: true, retry_after: false,
        cause: "an `Expect` other than `100-continue`",
    }
    /// A transfer coding other than `chunked` (RFC 9112 §6.1).
    UnknownCoding = "unknown Transfer-Encoding" => {
        status: StatusCode::NOT_IMPLEMENTED, reason: "transfer_coding",
        closes: true, retry_after: false,
        cause: "a transfer coding other than `chunked`",
    }
    /// A version of the WebSocket protocol other than 13.
    WrongVersion = "WebSocket version must be 13" => {
        status: StatusCode::UPGRADE_REQUIRED, reason: "websocket_version",
        closes: false, retry_after: false,
        cause: "a WebSocket version other than 13",
    }
    /// An extended `CONNECT` to a protocol other than WebSocket (RFC 8441 §4).
    UnknownProtocol = "unknown protocol" => {
        status: StatusCode::NOT_IMPLEMENTED, reason: "connect_protocol",
        closes: false, retry_after: false,
        cause: "an extended CONNECT over HTTP/2 to something other than a WebSocket",
    }
    /// Too little memory for anything new.
    Memory = "memory is short" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "memory",
        closes: true, retry_after: true,
        cause: "more memory in use than `limits.max_memory_bytes`",
    }
    /// Too many bytes that sessions hold.
    HeldBytes = "too much is held" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "held_bytes",
        closes: true, retry_after: true,
        cause: "sessions hold more than `limits.max_held_bytes`",
    }
    /// Too many held requests of one route.
    HeldRequests = "too many requests are waiting" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "held_requests",
        closes: true, retry_after: true,
        cause: "more plain requests wait than `route.http.max_held_requests`",
    }
    /// Too few file descriptors for connections to upstreams.
    OutOfDescriptors = "out of file descriptors" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "descriptors",
        closes: true, retry_after: true,
        cause: "too few file descriptors to connect to the backend",
    }
    /// The route's breaker is open, for its upstream is failing.
    BreakerOpen {
        /// Time until the breaker lets an attempt through.
        retry_after_seconds: u32
    } = "upstream is failing" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "breaker_open",
        closes: true, retry_after: true,
        cause: "an open [breaker](upstream.md#the-circuit-breaker)",
    }
    /// The process drains.
    Draining = "draining" => {
        status: StatusCode::SERVICE_UNAVAILABLE, reason: "draining",
        closes: true, retry_after: true,
        cause: "readygate is stopping",
    }
    /// The upstream was reached but gave no valid response.
    BadGateway = "no valid answer from upstream" => {
        status: StatusCode::BAD_GATEWAY, reason: "upstream_failed",
        closes: false, retry_after: false,
        cause: "a backend without a valid response",
    }
    /// The upstream did not listen in time.
    GatewayTimeout = "upstream not ready in time" => {
        status: StatusCode::GATEWAY_TIMEOUT, reason: "upstream_timeout",
        closes: false, retry_after: true,
        cause: "a backend that does not listen",
    }
    /// The upstream was reached, but its response did not begin in time.
    NoAnswer = "no answer from upstream in time" => {
        status: StatusCode::GATEWAY_TIMEOUT, reason: "upstream_timeout",
        closes: false, retry_after: false,
        cause: "a backend that does not begin to respond",
    }
    /// The client left while its request was held, so that the response has no reader.
    ClientGone = "client left" => {
        status: StatusCode::BAD_REQUEST, reason: "client_gone",
        closes: true, retry_after: false,
        cause: "the client left while it waited for the backend, so that nobody reads the response",
    }
}

impl From<Unrouted> for LocalReply {
    fn from(unrouted: Unrouted) -> Self {
        match unrouted {
            Unrouted::IllegalPath(problem) => Self::BadRequest(problem),
            Unrouted::AmbiguousPath => Self::BadRequest("ambiguous path"),
            Unrouted::Host => Self::Misdirected,
            Unrouted::Path => Self::NoRoute,
        }
    }
}

impl From<Flaw> for LocalReply {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(what) => Self::BadRequest(what),
            Flaw::TargetTooLong => Self::TargetTooLong,
            Flaw::UnknownCoding => Self::UnknownCoding,
        }
    }
}

impl LocalReply {
    /// Returns the facts about this reply.
    #[must_use]
    pub fn row(self) -> &'static Row {
        &LOCAL_REPLIES[self.index()]
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().status
    }

    /// Returns the name of the reason, in the log and in metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.row().reason
    }

    /// Returns whether the upstream or the proxy has failed, which is logged as a warning.
    ///
    /// `501` depends on the client's request alone: no client may cause warnings.
    #[must_use]
    pub fn is_failure(self) -> bool {
        let status = self.status();
        status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
    }

    /// Makes the response: the status, the fields that it demands, and one line of text with the
    /// request's id.
    pub(crate) fn into_response(self, identity: &RequestId) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.line(identity)));
        *response.status_mut() = self.status();
        self.set_headers(response.headers_mut());
        identity.tag(response.headers_mut());
        response
    }

    fn set_headers(self, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let row = self.row();
        if row.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if row.retry_after {
            let seconds = match self {
                Self::BreakerOpen {
                    retry_after_seconds,
                } => retry_after_seconds,
                _ => RETRY_AFTER_SECONDS,
            };
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        match self {
            Self::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::WrongVersion => {
                let version = HeaderValue::from_static(VERSION);
                headers.insert(header::SEC_WEBSOCKET_VERSION, version);
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            }
            _ => {}
        }
    }

    /// Formats the response for HTTP/1.1, after bytes that hyper does not take for a request.
    pub(crate) fn to_http1(self, identity: &RequestId) -> String {
        let (status, id, line) = (self.status(), identity.id(), self.line(identity));
        let length = line.len();
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
             X-Request-Id: {id}\r\nContent-Length: {length}\r\n\r\n{line}"
        )
    }

    /// Text of the response.
    fn line(self, identity: &RequestId) -> String {
        format!("{self} (request {})\n", identity.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::request_id::RequestIds;

    #[test]
    fn a_limit_replies_with_retry_after_and_closes_the_connection() {
        let identity = RequestId::of(&HeaderMap::new(), false, &RequestIds::default());
        let retry_after_seconds = 17;
        let breaker = LocalReply::BreakerOpen {
            retry_after_seconds,
        };
        let limits = [
            (LocalReply::Connections, 503, "1"),
            (LocalReply::AddressConnections, 429, "1"),
            (LocalReply::ConnectionSessions, 503, "1"),
            (LocalReply::SessionRate, 503, "1"),
            (LocalReply::AddressSessionRate, 429, "1"),
            (LocalReply::Memory, 503, "1"),
            (LocalReply::HeldBytes, 503, "1"),
            (LocalReply::HeldRequests, 503, "1"),
            (LocalReply::OutOfDescriptors, 503, "1"),
            (LocalReply::Draining, 503, "1"),
            (breaker, 503, "17"),
        ];
        for (reply, status, seconds) in limits {
            let response = reply.into_response(&identity);

            assert_eq!(response.status(), status, "{reply}");
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds, "{reply}");
            assert_eq!(response.headers()[header::CONNECTION], "close", "{reply}");
        }
        let statuses = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        let rows = LOCAL_REPLIES.iter();
        let rows = rows.filter(|row| statuses.contains(&row.status));
        assert_eq!(rows.count(), limits.len(), "each limit is above");
    }
}
