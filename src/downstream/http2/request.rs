//! An HTTP/2 request as the rest of the proxy reads requests: as HTTP/1.1 would have said it.

use hyper::{
    HeaderMap, Method, Request,
    header::{self, Entry, HeaderValue},
};

use super::heads;
use crate::{headers::framing::has_one_length, local_reply::Refusal};

/// Checks what HTTP/2 leaves open, and says the rest in the terms of HTTP/1.1: the authority
/// is in `Host`, and there is one `Cookie`.
///
/// The h2 crate has refused by then, each with an error of its stream: pseudo-header fields
/// that are missing, there twice, or behind others, fields of the connection, any `TE` but
/// `trailers` (RFC 9113 §8.2 and §8.3). What it would end the connection for is refused here
/// ([`heads`]).
///
/// # Errors
///
/// What is refused in a head of HTTP/1.1 as well.
pub(crate) fn check<B>(request: Request<B>) -> Result<Request<B>, Refusal> {
    let mut request = request;
    heads::check(request.headers())?;
    if request.headers().values().any(has_blank_at_an_end) {
        return Err(Refusal::BadRequest(
            "header value begins or ends with a blank",
        ));
    }
    if !has_one_length(request.headers()) {
        return Err(Refusal::BadRequest("illegal Content-Length"));
    }
    if !request.uri().scheme_str().is_none_or(is_scheme) {
        return Err(Refusal::BadRequest("unknown scheme"));
    }
    let target = request.uri().path_and_query();
    let target = target.map_or("", |target| target.as_str());
    if !target.is_ascii() {
        return Err(Refusal::BadRequest("illegal request target"));
    }
    let path = request.uri().path();
    let is_connect = request.method() == Method::CONNECT;
    let is_asterisk = path == "*" && request.method() == Method::OPTIONS;
    if !path.starts_with('/') && !is_connect && !is_asterisk {
        return Err(Refusal::BadRequest("illegal path"));
    }
    set_host(&mut request)?;
    join_cookies(request.headers_mut());
    Ok(request)
}

/// HTTP/1.1 would drop them, and in HTTP/2 they are malformed (RFC 9113 §8.2.1).
fn has_blank_at_an_end(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
}

/// Those of HTTP, and those that clients may write for a WebSocket; which one it is says
/// nothing.
fn is_scheme(scheme: &str) -> bool {
    ["http", "https", "ws", "wss"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
}

/// A `Host` that is there stays, and has to agree with the authority like the target of a
/// request of HTTP/1.1.
fn set_host<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    let host = HeaderValue::from_str(authority.as_str())
        .map_err(|_| Refusal::BadRequest("illegal authority"))?;
    if let Entry::Vacant(none) = request.headers_mut().entry(header::HOST) {
        none.insert(host);
    }
    Ok(())
}

/// Clients may send each cookie in a field of its own, so that it compresses better; a
/// server of HTTP/1.1 expects one (RFC 9113 §8.2.3).
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
