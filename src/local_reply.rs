//! Local replies: responses that the proxy makes itself, without the upstream.
//!
//! A [`Refusal`] is the reason and everything that follows from it:
//!
//! | consequence | by |
//! |---|---|
//! | HTTP status | [`Refusal::status`] |
//! | response, with the fields that its status demands | `Refusal::into_response` |
//! | counter, and name in the log | `Rejection::from` |
//!
//! # Invariants
//!
//! * Every match over the reasons is exhaustive: a new reason has to be given a status, a name and its fields.
//! * The body has the request's id, and neither an address nor anything else that was received.
//! * After a request whose end is uncertain, or that met a limit, the connection is closed.

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use crate::{
    headers::{framing::Flaw, request_id::RequestId},
    observability::rejections::Rejection,
    route::Unrouted,
    websocket::handshake::VERSION,
};

/// `Retry-After` where no better time is known, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Reasons for a local reply.
///
/// The client does not have its `101` yet, so every variant maps to an HTTP status. The texts go
/// to the client: they name no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Bytes that are not a request, or that can be read in two ways.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The target of the request is too long.
    #[error("target too long")]
    TargetTooLong,
    /// The page that opens the WebSocket is not from an allowed origin.
    #[error("origin not allowed")]
    OriginNotAllowed,
    /// No route for the host has this path.
    #[error("no route")]
    NoRoute,
    /// No route has this host, with any path (RFC 9110 §15.5.20).
    #[error("no route for this host")]
    Misdirected,
    /// A WebSocket is opened with GET; CONNECT and TRACE are not for a reverse proxy.
    #[error("method not allowed")]
    MethodNotAllowed {
        /// Methods that are allowed.
        allow: &'static str,
    },
    /// An `Expect` other than `100-continue` (RFC 9110 §10.1.1).
    #[error("unknown expectation")]
    UnknownExpectation,
    /// A transfer coding other than `chunked` (RFC 9112 §6.1).
    #[error("unknown Transfer-Encoding")]
    UnknownCoding,
    /// An extended `CONNECT` to a protocol other than WebSocket (RFC 8441 §4).
    #[error("unknown protocol")]
    UnknownProtocol,
    /// A version of the WebSocket protocol other than 13.
    #[error("WebSocket version must be 13")]
    WrongVersion,
    /// The upstream was reached but gave no valid response.
    #[error("no valid answer from upstream")]
    BadGateway,
    /// A limit is reached, or the process drains.
    #[error("{0}")]
    Unavailable(Shortage),
    /// The route's breaker is open, for its upstream is failing.
    #[error("upstream is failing")]
    BreakerOpen {
        /// Time until the breaker lets an attempt through.
        retry_after_seconds: u32,
    },
    /// There are more header lines than the limit.
    #[error("too many headers")]
    HeadersTooLarge,
    /// The body is larger than the limit of the route.
    #[error("body too large")]
    BodyTooLarge,
    /// The upstream did not listen in time.
    #[error("upstream not ready in time")]
    GatewayTimeout,
    /// The upstream was reached, but its response did not begin in time.
    #[error("no answer from upstream in time")]
    NoAnswer,
    /// The client is too slow to send its header section.
    #[error("request too slow")]
    HeaderTimeout,
    /// The client is too slow to send the body that it announced.
    #[error("request body too slow")]
    RequestTimeout,
    /// The client left while its request was held, so that the response has no reader.
    #[error("client left")]
    ClientGone,
}

/// Limits that are reached, and the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Connections, or sessions over HTTP/2, of the process.
    #[error("too many connections")]
    Connections,
    /// Connections, or sessions behind a trusted proxy, of one address.
    #[error("too many connections from this address")]
    AddressConnections,
    /// Sessions on one connection.
    #[error("too many sessions on this connection")]
    ConnectionSessions,
    /// New sessions per second, of the process.
    #[error("too many new sessions")]
    SessionRate,
    /// New sessions per second, of one address.
    #[error("too many new sessions from this address")]
    AddressSessionRate,
    /// Memory for anything new.
    #[error("memory is short")]
    Memory,
    /// Bytes that sessions hold.
    #[error("too much is held")]
    HeldBytes,
    /// Held requests of one route.
    #[error("too many requests are waiting")]
    HeldRequests,
    /// File descriptors for connections to upstreams.
    #[error("out of file descriptors")]
    Descriptors,
    /// Time: the process drains.
    #[error("draining")]
    Draining,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadRequest(_) => Self::BadRequest,
            Refusal::OriginNotAllowed => Self::Origin,
            Refusal::NoRoute => Self::UnknownPath,
            Refusal::Misdirected => Self::UnknownHost,
            Refusal::MethodNotAllowed { .. } => Self::Method,
            Refusal::UnknownExpectation => Self::Expectation,
            Refusal::UnknownCoding => Self::TransferCoding,
            Refusal::UnknownProtocol => Self::ConnectProtocol,
            Refusal::WrongVersion => Self::WebSocketVersion,
            Refusal::BadGateway => Self::UpstreamFailed,
            Refusal::Unavailable(shortage) => shortage.into(),
            Refusal::BreakerOpen { .. } => Self::BreakerOpen,
            Refusal::TargetTooLong => Self::UriTooLong,
            Refusal::HeadersTooLarge => Self::HeadersTooLarge,
            Refusal::BodyTooLarge => Self::BodyTooLarge,
            Refusal::GatewayTimeout | Refusal::NoAnswer => Self::UpstreamTimeout,
            Refusal::HeaderTimeout => Self::HeaderTimeout,
            Refusal::RequestTimeout => Self::BodyTimeout,
            Refusal::ClientGone => Self::ClientGone,
        }
    }
}

impl From<Shortage> for Rejection {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Connections => Self::Connections,
            Shortage::AddressConnections => Self::AddressConnections,
            Shortage::ConnectionSessions => Self::ConnectionSessions,
            Shortage::SessionRate => Self::SessionRate,
            Shortage::AddressSessionRate => Self::AddressSessionRate,
            Shortage::Memory => Self::Memory,
            Shortage::HeldBytes => Self::HeldBytes,
            Shortage::HeldRequests => Self::HeldRequests,
            Shortage::Descriptors => Self::Descriptors,
            Shortage::Draining => Self::Draining,
        }
    }
}

impl From<Unrouted> for Refusal {
    fn from(unrouted: Unrouted) -> Self {
        match unrouted {
            Unrouted::IllegalPath(problem) => Self::BadRequest(problem),
            Unrouted::AmbiguousPath => Self::BadRequest("ambiguous path"),
            Unrouted::Host => Self::Misdirected,
            Unrouted::Path => Self::NoRoute,
        }
    }
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(what) => Self::BadRequest(what),
            Flaw::TargetTooLong => Self::TargetTooLong,
            Flaw::UnknownCoding => Self::UnknownCoding,
        }
    }
}

impl Refusal {
    /// Returns the status of the response.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::OriginNotAllowed => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::UnknownExpectation => StatusCode::EXPECTATION_FAILED,
            Self::UnknownCoding | Self::UnknownProtocol => StatusCode::NOT_IMPLEMENTED,
            Self::WrongVersion => StatusCode::UPGRADE_REQUIRED,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::Unavailable(Shortage::AddressConnections | Shortage::AddressSessionRate) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Unavailable(_) | Self::BreakerOpen { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::GatewayTimeout | Self::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
            Self::HeaderTimeout | Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// Makes the response: the status, the fields that it demands, and one line of text with the
    /// request's id.
    ///
    /// After a request that may not end where it seems to, and after one that met a limit, the
    /// connection is closed.
    pub(crate) fn into_response(self, identity: &RequestId) -> Response<Bytes> {
        let close = (header::CONNECTION, HeaderValue::from_static("close"));
        let extra: &[(HeaderName, HeaderValue)] = match self {
            Self::BadRequest(_)
            | Self::ClientGone
            | Self::TargetTooLong
            | Self::UnknownExpectation
            | Self::UnknownCoding
            | Self::HeadersTooLarge
            | Self::BodyTooLarge
            | Self::HeaderTimeout
            | Self::RequestTimeout => &[close],
            Self::GatewayTimeout => &[(header::RETRY_AFTER, RETRY_AFTER_SECONDS)],
            Self::Unavailable(_) => &[close, (header::RETRY_AFTER, RETRY_AFTER_SECONDS)],
            Self::BreakerOpen {
                retry_after_seconds,
            } => &[close, (header::RETRY_AFTER, retry_after_seconds.into())],
            Self::WrongVersion => &[
                (
                    header::SEC_WEBSOCKET_VERSION,
                    HeaderValue::from_static(VERSION),
                ),
                (header::UPGRADE, HeaderValue::from_static("websocket")),
                (header::CONNECTION, HeaderValue::from_static("Upgrade")),
            ],
            Self::MethodNotAllowed { allow } => &[(header::ALLOW, HeaderValue::from_static(allow))],
            Self::OriginNotAllowed
            | Self::NoRoute
            | Self::Misdirected
            | Self::UnknownProtocol
            | Self::BadGateway
            | Self::NoAnswer => &[],
        };
        let text = self.text(identity);
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.extend(extra.iter().cloned());
        identity.tag(headers);
        response
    }

    /// Formats the response for HTTP/1.1, after bytes that hyper does not take for a request.
    pub(crate) fn to_http1(self, identity: &RequestId) -> String {
        let (status, id, text) = (self.status(), identity.id(), self.text(identity));
        let length = text.len();
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
             X-Request-Id: {id}\r\nContent-Length: {length}\r\n\r\n{text}"
        )
    }

    fn text(self, identity: &RequestId) -> String {
        format!("{self} (request {})\n", identity.id())
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;
    use crate::headers::request_id::RequestIds;

    /// Returns the status of each shortage; exhaustive, so that a new one cannot be missed.
    const fn status_of(shortage: Shortage) -> u16 {
        match shortage {
            Shortage::AddressConnections | Shortage::AddressSessionRate => 429,
            Shortage::Connections
            | Shortage::ConnectionSessions
            | Shortage::SessionRate
            | Shortage::Memory
            | Shortage::HeldBytes
            | Shortage::HeldRequests
            | Shortage::Descriptors
            | Shortage::Draining => 503,
        }
    }

    #[test]
    fn a_limit_replies_with_retry_after_and_closes_the_connection() {
        let shortages = [
            Shortage::Connections,
            Shortage::AddressConnections,
            Shortage::ConnectionSessions,
            Shortage::SessionRate,
            Shortage::AddressSessionRate,
            Shortage::Memory,
            Shortage::HeldBytes,
            Shortage::HeldRequests,
            Shortage::Descriptors,
            Shortage::Draining,
        ];
        let limits = shortages.map(|it| (Refusal::Unavailable(it), status_of(it), "1"));
        let identity = RequestId::of(&HeaderMap::new(), false, &RequestIds::default());
        let retry_after_seconds = 17;
        let breaker = Refusal::BreakerOpen {
            retry_after_seconds,
        };
        for (refusal, status, seconds) in limits.into_iter().chain([(breaker, 503, "17")]) {
            let response = refusal.into_response(&identity);

            assert_eq!(response.status(), status, "{refusal}");
            assert_eq!(
                response.headers()[header::RETRY_AFTER],
                seconds,
                "{refusal}"
            );
            assert_eq!(response.headers()[header::CONNECTION], "close", "{refusal}");
        }
    }
}
