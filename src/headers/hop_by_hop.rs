//! Header fields that go end to end, and removal of all others.
//!
//! # Invariants
//!
//! * Fields are filtered into a new map, so their order and their duplicates survive; removing
//!   from a `HeaderMap` moves its last entry.
//! * Fields that `Connection` names are removed before the proxy's own are added, so that no
//!   client can have those removed. `Host` cannot be removed at all.
//! * Names with an underscore are removed from requests: applications that see headers as CGI
//!   variables cannot tell `X_Forwarded_For` from `X-Forwarded-For`. All of them, as nginx does,
//!   and not only those that look like the proxy's own: which names an application or another
//!   proxy trusts is not known here. A route may let them pass; those that look like the proxy's
//!   own never do.
//! * A client's statements about itself are removed; those that are trusted, and the proxy's own,
//!   are added by [`forwarded`](super::forwarded).

use bytes::Bytes;
use hyper::{
    HeaderMap,
    body::Frame,
    header::{self, HeaderName, HeaderValue},
};

use crate::{route::Underscores, websocket::handshake::list};

/// Fields of one connection, not of the message (RFC 9110 §7.6.1).
///
/// `Trailer` stays: the trailers that it announces are passed on.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Fields with a request's origin, id, or target before another proxy rewrote it: a client would
/// send them only to deceive. All names with [`ABOUT_PREFIX`] belong to them as well.
const ABOUT_THE_CLIENT: [&str; 11] = [
    "forwarded",
    "forwarded-for",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-forwarded",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];

/// Prefix of an open set: each proxy adds fields of its own, such as `X-Forwarded-Client-Cert`.
const ABOUT_PREFIX: &str = "x-forwarded-";

/// Fields that are not allowed as trailers, beside those of the connection and about the client.
const FORBIDDEN_IN_TRAILERS: [&str; 27] = [
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "vary",
    "www-authenticate",
];

/// Keeps the end-to-end fields of a request: without those of the connection, the client's
/// statements about itself, and `Expect`, which the proxy fulfils.
#[must_use]
pub fn of_request(headers: &HeaderMap, underscores: Underscores) -> HeaderMap {
    let mut kept = filter(headers, |name| {
        let is_for_us = name == header::EXPECT || name == header::TE;
        !is_for_us && underscores.allow(name.as_str()) && !is_about_the_client(name)
    });
    if list(headers.get_all(header::TE)).any(|coding| coding.eq_ignore_ascii_case("trailers")) {
        // Hop-by-hop, but trailers are passed on, so they can be asked for (RFC 9110 §10.1.4).
        kept.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    kept
}

/// Keeps the end-to-end fields of an opening handshake, without those of the handshake itself:
/// the proxy makes one of its own.
#[must_use]
pub fn of_handshake(headers: &HeaderMap, underscores: Underscores) -> HeaderMap {
    let of_the_handshake = [
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::TE,
        header::TRAILER,
    ];
    filter(headers, |name| {
        !of_the_handshake.contains(name)
            && underscores.allow(name.as_str())
            && !is_about_the_client(name)
    })
}

/// Keeps the end-to-end fields of an upstream's `101`, without those of the handshake itself, and
/// without a length, which no interim response may have.
#[must_use]
pub fn of_switching(headers: &HeaderMap) -> HeaderMap {
    let of_the_handshake = [
        header::CONTENT_LENGTH,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_VERSION,
        header::TRAILER,
    ];
    filter(headers, |name| !of_the_handshake.contains(name))
}

/// Keeps the end-to-end fields of a `1xx` response, which has no body and must not describe one
/// (RFC 9110 §8.6).
#[must_use]
pub fn of_interim(headers: &HeaderMap) -> HeaderMap {
    filter(headers, |name| name != header::CONTENT_LENGTH)
}

/// Keeps the end-to-end fields of a response.
#[must_use]
pub fn of_response(headers: HeaderMap) -> HeaderMap {
    // The common case removes nothing and copies nothing. A field can only be named by a
    // `Connection` that is present, which itself is hop-by-hop.
    if headers.keys().any(is_hop_by_hop) {
        filter(&headers, |_| true)
    } else {
        headers
    }
}

/// Removes fields that are not allowed in trailers (RFC 9110 §6.5.1): a recipient that merges
/// them into the headers would frame, route, trust or store the message by them.
#[must_use]
pub fn without_forbidden_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(filter(&trailers, |name| {
            !is_about_the_client(name) && !FORBIDDEN_IN_TRAILERS.contains(&name.as_str())
        })),
        Err(frame) => frame,
    }
}

/// Copies the fields that belong to the message and satisfy `keep`, in their order.
fn filter(headers: &HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let named: Vec<_> = list(headers.get_all(header::CONNECTION)).collect();
    let is_of_the_connection = |name: &HeaderName| {
        let is_named = || {
            named
                .iter()
                .any(|named| named.eq_ignore_ascii_case(name.as_str()))
        };
        is_hop_by_hop(name) || (name != header::HOST && is_named())
    };
    let mut kept = HeaderMap::with_capacity(headers.keys_len() + 4);
    for (name, value) in headers {
        if !is_of_the_connection(name) && keep(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Returns whether a field says something about the client that only a trusted proxy may say.
///
/// Underscores count as hyphens: applications that see headers as CGI variables cannot tell
/// `X_Forwarded_For` from `X-Forwarded-For`.
pub(crate) fn is_about_the_client(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let is_same = |(byte, ours): (&u8, u8)| *byte == ours || (*byte == b'_' && ours == b'-');
    let is = |name: &[u8], ours: &str| {
        name.len() == ours.len() && name.iter().zip(ours.bytes()).all(is_same)
    };
    let start = name.get(..ABOUT_PREFIX.len());
    start.is_some_and(|start| is(start, ABOUT_PREFIX))
        || ABOUT_THE_CLIENT.iter().any(|ours| is(name, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, value.parse::<HeaderValue>().unwrap())
            })
            .fold(HeaderMap::new(), |mut all, (name, value)| {
                all.append(name, value);
                all
            })
    }

    fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
        headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn fields_that_connection_names_are_removed_except_host() {
        let kept = of_request(
            &headers(&[
                ("host", "a"),
                ("connection", "close, X-Private, Host"),
                ("connection", "x-other"),
                ("x-private", "1"),
                ("x-other", "2"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "secret"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQAAP__"),
                ("expect", "100-continue"),
                ("accept", "x"),
            ]),
            Underscores::Drop,
        );

        assert_eq!(lines(&kept), [("host", "a"), ("accept", "x")]);
    }

    #[test]
    fn order_and_duplicates_survive() {
        let all = [
            ("b", "1"),
            ("connection", "c"),
            ("c", "0"),
            ("a", "2"),
            ("d", "3"),
        ];
        let mut sent = headers(&all);
        sent.append("a", HeaderValue::from_static("4"));

        assert_eq!(
            lines(&of_response(sent)),
            [("b", "1"), ("a", "2"), ("a", "4"), ("d", "3")]
        );
    }

    #[test]
    fn names_with_an_underscore_pass_only_where_they_may() {
        let sent = headers(&[
            ("api_key", "1"),
            ("x_forwarded_for", "2"),
            ("x_forwarded_client_cert", "2"),
            ("x-original_url", "2"),
            ("a", "3"),
        ]);

        assert_eq!(lines(&of_request(&sent, Underscores::Drop)), [("a", "3")]);
        let passed = of_request(&sent, Underscores::Pass);
        assert_eq!(lines(&passed), [("api_key", "1"), ("a", "3")]);
    }

    #[test]
    fn of_te_only_trailers_goes_on() {
        let kept = of_request(
            &headers(&[("te", "deflate, Trailers"), ("connection", "te")]),
            Underscores::Drop,
        );
        assert_eq!(lines(&kept), [("te", "trailers")]);

        let kept = of_request(&headers(&[("te", "deflate")]), Underscores::Drop);
        assert!(kept.is_empty());
    }

    #[test]
    fn what_the_client_says_about_itself_is_removed() {
        let kept = of_request(
            &headers(&[
                (
                    "connection",
                    "x-forwarded-for, x-forwarded-proto, forwarded",
                ),
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil"),
                ("x-forwarded-port", "1"),
                ("x-forwarded-prefix", "/evil"),
                ("x-real-ip", "1.1.1.1"),
                ("forwarded", "for=1.1.1.1"),
            ]),
            Underscores::Drop,
        );
        assert!(kept.is_empty());
    }
}
