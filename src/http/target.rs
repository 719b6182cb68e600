//! What a request is for: one host, and a path that everybody reads in the same way.

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

/// Checks that no server takes the path of a request for another one.
///
/// Routes match the path as it is, and as it is it goes upstream. A server that resolves
/// `/ws/../admin` would leave the route there. Browsers and HTTP libraries resolve such
/// paths before they send them.
///
/// # Errors
///
/// A segment that is `.` or `..`, a backslash, or a NUL, percent-encoded or not.
pub fn check_path(path: &str) -> Result<(), Refusal> {
    let path = path.to_ascii_lowercase().replace("%2e", ".");
    let is_resolved = path
        .replace("%2f", "/")
        .split('/')
        // What follows a semicolon is a parameter to some servers.
        .filter_map(|segment| segment.split(';').next())
        .any(|segment| matches!(segment, "." | ".."));
    if is_resolved || path.contains('\\') || path.contains("%5c") || path.contains("%00") {
        return Err(Refusal::BadRequest("ambiguous path"));
    }
    Ok(())
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

    #[test]
    fn a_path_that_a_server_may_resolve_to_another_one_is_refused() {
        for good in [
            "/",
            "/a/b",
            "//a",
            "/a.b/..c/...",
            "/a%20b",
            "/a;x",
            "*",
            "",
        ] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in [
            "/ws/../admin",
            "/ws/..",
            "/./a",
            "/ws/%2e%2E/admin",
            "/ws/.%2e",
            "/ws%2F..%2fadmin",
            "/ws/..;/admin",
            "/ws\\..\\admin",
            "/ws%5c",
            "/a%00",
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
