//! The host of a request. [`route`](crate::route::path) reads its path.

use std::net::Ipv6Addr;

use hyper::{
    HeaderMap, Request, Uri, Version,
    header::{self, HeaderValue},
    http::uri::{Authority, PathAndQuery, Scheme},
};

use super::framing::Flaw;

/// Returns the one host of a request, as the client sent it; `None` for a client of HTTP/1.0 that
/// names none (RFC 9112 §3.2).
///
/// In HTTP/1 the host in an absolute target takes precedence over `Host` (RFC 9112 §3.2.2).
///
/// # Errors
///
/// No `Host` or several, one that is not an authority without user information, or one that
/// `:authority` contradicts (RFC 9113 §8.3.1).
pub fn host<B>(request: &Request<B>) -> Result<Option<&str>, Flaw> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let version = request.version();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let host = host.to_str().ok().filter(|host| is_host(host));
            Some(host.ok_or(Flaw::Malformed("illegal Host"))?)
        }
        (None, _) if version == Version::HTTP_10 => None,
        _ => return Err(Flaw::Malformed("exactly one Host is needed")),
    };
    let Some(authority) = request.uri().authority().map(Authority::as_str) else {
        return Ok(named);
    };
    let scheme = request.uri().scheme_str().unwrap_or_default();
    if named.is_some_and(|host| is_same(host, authority, scheme)) {
        return Ok(named);
    }
    if version == Version::HTTP_2 {
        return Err(Flaw::Malformed("Host differs from :authority"));
    }
    if is_host(authority) {
        Ok(Some(authority))
    } else {
        Err(Flaw::Malformed("illegal host in the target"))
    }
}

/// Sets `Host` to the host of an absolute target.
///
/// # Errors
///
/// Those of [`host`].
pub(crate) fn settle_host<B>(request: &mut Request<B>) -> Result<(), Flaw> {
    if request.uri().authority().is_some()
        && let Some(host) = host(request)?
    {
        let host = HeaderValue::from_str(host).or(Err(Flaw::Malformed("illegal Host")))?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// Compares two authorities, either of which may leave out the `scheme`'s default port (RFC 9110
/// §4.2.3).
fn is_same(one: &str, other: &str, scheme: &str) -> bool {
    let is_encrypted = ["https", "wss"]
        .iter()
        .any(|encrypted| scheme.eq_ignore_ascii_case(encrypted));
    let default = if is_encrypted { ":443" } else { ":80" };
    let bare = |authority: &'_ str| -> usize {
        let without = authority.strip_suffix(default);
        let without = without.or_else(|| authority.strip_suffix(':'));
        without.map_or(authority.len(), str::len)
    };
    one.eq_ignore_ascii_case(other) || one[..bare(one)].eq_ignore_ascii_case(&other[..bare(other)])
}

/// Returns the origin form of a target (RFC 9112 §3.2.1).
#[must_use]
pub fn origin_form(target: &Uri) -> Uri {
    let path = target.path_and_query();
    path.map_or_else(|| Uri::from_static("/"), |path| path.clone().into())
}

/// Returns the target with the request's host, which is removed from `headers`: in HTTP/2 it is
/// the `:authority` (RFC 9113 §8.3.1).
///
/// # Errors
///
/// The host is not an authority.
pub fn with_authority(target: &Uri, is_tls: bool, headers: &mut HeaderMap) -> Result<Uri, Flaw> {
    let host = headers.remove(header::HOST);
    let mut parts = target.clone().into_parts();
    let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
    parts.scheme = Some(scheme);
    parts.authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    let path = parts.path_and_query.take();
    parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).or(Err(Flaw::Malformed("illegal Host")))
}

/// Returns whether `host` is a name or IP address, with or without a port (RFC 9110 §7.2).
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

/// Returns whether a registered name may contain `byte` (RFC 3986 §3.2.2). The asterisk is left
/// out: it is not part of any name, and a wildcard in many places.
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
        assert!(!verdict(&["a b"], "http://a/x"));
    }

    #[test]
    fn a_host_may_leave_out_the_port_of_its_scheme() {
        for (one, other, scheme) in [
            ("a", "A", ""),
            ("a", "a:80", "http"),
            ("a:", "a:80", "ws"),
            ("a:443", "a", "WSS"),
            ("[::1]:443", "[::1]", "https"),
        ] {
            assert!(is_same(one, other, scheme), "{one} {other} {scheme}");
        }
        for (one, other, scheme) in [
            ("a", "b", "http"),
            ("a", "a:443", "http"),
            ("a:80", "a:443", "https"),
            ("a", "a:8080", "http"),
            ("[::1]", "[::1:80]", "http"),
        ] {
            assert!(!is_same(one, other, scheme), "{one} {other} {scheme}");
        }
    }

    #[test]
    fn over_http_2_a_host_must_not_differ_from_the_authority() {
        let verdict = |host: &str, target: &str| {
            let request = Request::builder().version(Version::HTTP_2).uri(target);
            let request = request.header("host", host).body(()).unwrap();
            super::host(&request).map(|host| host.map(str::to_owned))
        };

        assert_eq!(verdict("a", "http://a:80/"), Ok(Some("a".to_owned())));
        assert!(verdict("b", "http://a/").is_err());
        assert!(verdict("a", "http://a:8080/").is_err());
    }
}
