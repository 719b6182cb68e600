//! What a request is for: one host. How its path is read is in [`route`](crate::route::path).

use std::net::Ipv6Addr;

use hyper::{
    HeaderMap, Request, Uri, header,
    http::uri::{Authority, PathAndQuery, Scheme},
};

use super::response::Refusal;

/// The one host that a request is for, as the client sent it.
///
/// # Errors
///
/// No `Host` or several, one that is not an authority without user information, or one
/// that the target of the request contradicts.
pub fn host<B>(request: &Request<B>) -> Result<&str, Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::BadRequest("exactly one Host is needed"));
    };
    let host = host
        .to_str()
        .ok()
        .filter(|host| is_host(host))
        .ok_or(Refusal::BadRequest("illegal Host"))?;
    match request.uri().authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(Refusal::BadRequest("Host differs from the target"))
        }
        _ => Ok(host),
    }
}

/// The origin form of a target (RFC 9112 §3.2.1).
#[must_use]
pub fn origin_form(target: &Uri) -> Uri {
    let path = target.path_and_query();
    path.map_or_else(|| Uri::from_static("/"), |path| path.clone().into())
}

/// The target with the host of the request, which is taken out of `headers`: in HTTP/2 it
/// is the `:authority` (RFC 9113 §8.3.1).
///
/// # Errors
///
/// The host is no authority.
pub fn with_authority(target: &Uri, is_tls: bool, headers: &mut HeaderMap) -> Result<Uri, Refusal> {
    let host = headers.remove(header::HOST);
    let mut parts = target.clone().into_parts();
    let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
    parts.scheme = Some(scheme);
    parts.authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    let path = parts.path_and_query.take();
    parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).or(Err(Refusal::BadRequest("illegal Host")))
}

/// A name or IP address, and a port or none (RFC 9110 §7.2).
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok());
    let in_brackets = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let is_name = match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(is_of_name),
    };
    is_port && is_name && host.parse::<Authority>().is_ok()
}

/// What a registered name consists of (RFC 3986 §3.2.2), but for the asterisk, which is no
/// name anywhere, and a wildcard in many places.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_authority_without_user_information() {
        let verdict = |hosts: &[&str], target: &str| {
            let mut request = Request::builder().uri(target);
            for value in hosts {
                request = request.header("host", *value);
            }
            host(&request.body(()).unwrap()).is_ok()
        };

        for good in [
            "a",
            "a:",
            "a.example:80",
            "127.0.0.1:65535",
            "[::1]",
            "[2001:db8::7]:8080",
        ] {
            assert!(verdict(&[good], "/"), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a, b",
            "u@a",
            "a/b",
            "a\"",
            ":80",
            "*",
            "*.a",
            "a:b",
            "a:+1",
            "a:65536",
            "a:1:2",
            "::1",
            "[zz]",
            "[::1",
            "::1]",
            "[::1]a",
            "[]",
            "[1.2.3.4]",
        ] {
            assert!(!verdict(&[bad], "/"), "{bad}");
        }
        assert!(!verdict(&[], "/"));
        assert!(!verdict(&["a", "a"], "/"));
        assert!(verdict(&["a"], "http://A/x"));
        assert!(!verdict(&["a"], "http://b/x"));
    }
}
