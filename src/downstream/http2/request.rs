//! An HTTP/2 request translated into the terms of HTTP/1.1, which the rest of the proxy reads.

use hyper::{
    HeaderMap, Method, Request,
    header::{self, Entry, HeaderValue},
};

use super::heads;
use crate::{headers::framing::has_one_length, local_reply::LocalReply};

/// Checks what h2 leaves open, and translates the rest into the terms of HTTP/1.1: the authority
/// becomes `Host`, and cookies become one `Cookie`.
///
/// The h2 crate has already reset streams with missing, repeated or misplaced pseudo-header
/// fields, with connection-specific fields, and with any `TE` but `trailers` (RFC 9113 §8.2 and
/// §8.3). Faults for which it would end the connection are rejected here ([`heads`]).
///
/// # Errors
///
/// Faults that are rejected in the head of an HTTP/1.1 request as well.
pub(crate) fn check<B>(request: Request<B>) -> Result<Request<B>, LocalReply> {
    let mut request = request;
    heads::check(request.headers())?;
    if request.headers().values().any(has_blank_at_an_end) {
        return Err(LocalReply::BadRequest(
            "header value begins or ends with a blank",
        ));
    }
    if !has_one_length(request.headers()) {
        return Err(LocalReply::BadRequest("illegal Content-Length"));
    }
    if !request.uri().scheme_str().is_none_or(is_scheme) {
        return Err(LocalReply::BadRequest("unknown scheme"));
    }
    let target = request.uri().path_and_query();
    let target = target.map_or("", |target| target.as_str());
    // h2 and the http crate accept bytes that no URI contains (RFC 3986 §2).
    if !target.is_ascii() {
        return Err(LocalReply::BadRequest("illegal request target"));
    }
    let path = request.uri().path();
    let is_connect = request.method() == Method::CONNECT;
    let is_asterisk = path == "*" && request.method() == Method::OPTIONS;
    if !path.starts_with('/') && !is_connect && !is_asterisk {
        return Err(LocalReply::BadRequest("illegal path"));
    }
    set_host(&mut request)?;
    join_cookies(request.headers_mut());
    Ok(request)
}

/// Returns whether a value has a blank at either end, which HTTP/1.1 would drop and HTTP/2
/// forbids (RFC 9113 §8.2.1).
fn has_blank_at_an_end(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
}

/// Returns whether a scheme is one of HTTP's, or one that clients may write for a WebSocket;
/// which of them has no effect.
fn is_scheme(scheme: &str) -> bool {
    ["http", "https", "ws", "wss"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
}

/// Sets `Host` from the authority. A `Host` that is present stays, and is later compared with the
/// authority as it is in HTTP/1.1.
fn set_host<B>(request: &mut Request<B>) -> Result<(), LocalReply> {
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    let host = HeaderValue::from_str(authority.as_str())
        .map_err(|_| LocalReply::BadRequest("illegal authority"))?;
    if let Entry::Vacant(none) = request.headers_mut().entry(header::HOST) {
        none.insert(host);
    }
    Ok(())
}

/// Joins the cookies into one field: clients may send each in a field of its own so that they
/// compress better, and a server of HTTP/1.1 expects one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for cookie in headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    let joined = HeaderValue::from_bytes(&joined).expect("values with \"; \" between are one");
    headers.insert(header::COOKIE, joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_becomes_the_host_unless_there_is_one() {
        let checked = |request: http::request::Builder| {
            let request = check(request.body(()).unwrap()).unwrap();
            request.headers()[header::HOST].to_str().unwrap().to_owned()
        };
        let to = |uri| Request::builder().uri(uri);

        assert_eq!(checked(to("http://a:80/x")), "a:80");
        assert_eq!(checked(to("http://a/x").header("host", "b")), "b");
        assert_eq!(checked(to("/x").header("host", "b")), "b");
    }

    #[test]
    fn cookies_become_one() {
        let request = Request::builder()
            .uri("http://a/")
            .header("cookie", "a=1")
            .header("x", "y")
            .header("cookie", "b=2; c=3")
            .header("cookie", "d");

        let request = check(request.body(()).unwrap()).unwrap();

        let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d"]);
        assert_eq!(request.headers()["x"], "y");
    }
}
