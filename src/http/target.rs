//! What a request is for: one host. How its path is read is in [`route`](crate::route::path).

use hyper::{Request, header, http::uri::Authority};

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
