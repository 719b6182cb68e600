//! Access to the admin listener.
//!
//! There are no passwords: every client that can connect may look. Hence the default address is
//! loopback, and changes are accepted from the machine itself only. That leaves the browsers on the
//! machine, in which any page may send requests:
//!
//! * A page whose name an attacker points to this machine (DNS rebinding) reads responses as if
//!   they were its own. It cannot make a browser send another `Host` than its name, so only
//!   addresses and `localhost` are accepted there.
//! * Any other page can send requests without reading the responses (CSRF). Requests that change
//!   something carry its `Origin`, by which they are rejected.

use std::net::IpAddr;

use hyper::{
    HeaderMap,
    header::{HOST, HeaderName, ORIGIN},
};

use crate::client_addr::ClientAddr;

/// Kind of access that an endpoint needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Health and numbers, for monitoring; any `Host` is accepted.
    Monitor,
    /// Activity of clients.
    Look,
    /// A change.
    Change,
}

/// Checks a request of `peer`; the error is the text of a `403`.
pub(super) fn check(
    access: Access,
    peer: ClientAddr,
    headers: &HeaderMap,
) -> Result<(), &'static str> {
    if access == Access::Monitor {
        return Ok(());
    }
    let host = only(headers, &HOST);
    // Browsers cannot connect to Unix sockets.
    if peer != ClientAddr::Unix && !host.is_some_and(is_address) {
        return Err("ask for an IP address or localhost: other names may be anybody's");
    }
    // Two `Host` fields count as none: a proxy between might have checked the other one.
    if access == Access::Look {
        return Ok(());
    }
    if peer.ip().is_some_and(|address| !address.is_loopback()) {
        return Err("only from this machine");
    }
    // Absent in requests of curl and the command line; a page cannot suppress it.
    if headers.contains_key(ORIGIN) {
        // The listener has no TLS, so its own pages have an origin with `http`.
        let origin = only(headers, &ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        if origin.is_none() || origin != host {
            return Err("not from other pages");
        }
    }
    Ok(())
}

/// Returns the value of a header that occurs exactly once and is ASCII text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    value.and_then(|value| value.to_str().ok())
}

/// Returns whether `host` is an address or `localhost`, which no attacker can point elsewhere.
fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    // An IPv6 address is in brackets (RFC 3986 §3.2.2).
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use hyper::header::HeaderValue;

    use super::*;

    fn tcp(address: &str) -> ClientAddr {
        ClientAddr::from(SocketAddr::new(address.parse().unwrap(), 1))
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn names_that_may_be_anybody_s_are_refused() {
        for (host, is_allowed) in [
            ("127.0.0.1:9901", true),
            ("127.0.0.1", true),
            ("[::1]:9901", true),
            ("LOCALHOST:9901", true),
            ("10.1.2.3:9901", true),
            ("rebound.example:9901", false),
            ("127.0.0.1.example", false),
            ("localhost.example", false),
            ("", false),
        ] {
            let headers = headers(&[("host", host)]);
            for access in [Access::Look, Access::Change] {
                let allowed = check(access, tcp("127.0.0.1"), &headers);
                assert_eq!(allowed.is_ok(), is_allowed, "{host}");
            }
            assert_eq!(check(Access::Monitor, tcp("127.0.0.1"), &headers), Ok(()));
        }
    }

    #[test]
    fn only_the_machine_itself_may_change_something() {
        let headers = headers(&[("host", "10.0.0.1:9901")]);

        assert!(check(Access::Look, tcp("10.0.0.2"), &headers).is_ok());
        assert!(check(Access::Change, tcp("10.0.0.2"), &headers).is_err());
        assert!(check(Access::Change, tcp("127.0.0.9"), &headers).is_ok());
        assert!(check(Access::Change, tcp("::1"), &headers).is_ok());
        assert!(check(Access::Change, ClientAddr::Unix, &HeaderMap::new()).is_ok());
    }

    #[test]
    fn other_pages_may_not_change_anything() {
        let change = |origin| {
            let headers = headers(&[("host", "localhost:9901"), ("origin", origin)]);
            check(Access::Change, tcp("127.0.0.1"), &headers)
        };

        assert_eq!(change("http://localhost:9901"), Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:8080", ""] {
            assert!(change(origin).is_err(), "{origin}");
        }
    }
}
