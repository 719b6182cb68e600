//! What a request is for: one host. How its path is read is in [`route`](crate::route::path).

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

fn is_host(host: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%:[]!$&'()*+;=".contains(&byte);
    host.bytes().all(is_legal)
        && host
            .parse::<Authority>()
            .is_ok_and(|authority| !authority.host().is_empty())
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

        for good in ["a", "a.example:80", "127.0.0.1", "[::1]:8080"] {
            assert!(verdict(&[good], "/"), "{good}");
        }
        for bad in ["", "a b", "a, b", "u@a", "a/b", "a\"", ":80"] {
            assert!(!verdict(&[bad], "/"), "{bad}");
        }
        assert!(!verdict(&[], "/"));
        assert!(!verdict(&["a", "a"], "/"));
        assert!(verdict(&["a"], "http://A/x"));
        assert!(!verdict(&["a"], "http://b/x"));
    }
}
