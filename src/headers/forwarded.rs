//! The origin of a request, told to the upstream: `X-Forwarded-*`, and `Forwarded` (RFC 7239).
//!
//! | header | from any client | from a trusted proxy |
//! |---|---|---|
//! | `X-Forwarded-For` | the peer's address | the received value, and the peer's address behind it |
//! | `Forwarded` | the peer, the host, the scheme | the received value, and these behind it |
//! | `X-Forwarded-Host`, `X-Forwarded-Proto` | the host, the scheme | the received value, or these |
//! | `X-Request-Id` | the request's id | the received value, if it is a legal id |
//! | other fields about the client ([`hop_by_hop`](super::hop_by_hop)) | removed | the received value |
//!
//! A peer on a Unix domain socket has no address: it is `unknown` in `Forwarded`, and absent from
//! `X-Forwarded-For`.

use std::net::IpAddr;

use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};

use super::{hop_by_hop::is_about_the_client, request_id::X_REQUEST_ID};
use crate::{
    client_addr::{Client, TrustedProxies},
    websocket::handshake::list,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Initial capacity of a list element, which suffices for most.
const ELEMENT_BYTES: usize = 96;

/// Returns the client of a request on the connection of `connection`, whose trusted proxy may
/// have appended to `X-Forwarded-For`.
#[must_use]
pub fn client(connection: Client, headers: &HeaderMap, trusted: &TrustedProxies) -> Client {
    if !connection.is_trusted {
        return connection;
    }
    let forwarded_for: Vec<_> = list(headers.get_all(X_FORWARDED_FOR)).collect();
    let address = trusted.client_behind(connection.peer, forwarded_for.into_iter());
    Client {
        address,
        ..connection
    }
}

/// Formats an address; IPv4 by hand, because every request needs it and `to_string` takes eight
/// times as long.
fn text_of(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        if octet >= 100 {
            text.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            text.push(char::from(b'0' + octet / 10 % 10));
        }
        text.push(char::from(b'0' + octet % 10));
    }
    text
}

/// Adds the forwarding fields to the `headers` for the upstream; the request had `received`, with
/// its own id already in place.
///
/// `host` is the result of [`host`](super::host::host); without one its fields are left out.
pub fn set(headers: &mut HeaderMap, received: &HeaderMap, client: Client, host: Option<&str>) {
    if client.is_trusted {
        pass_on(headers, received);
    }
    if let Some(id) = received.get(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    let address = client.peer.ip();
    let address_text = address.map(text_of);
    match &address_text {
        Some(address) => append(headers, X_FORWARDED_FOR, received, client, |list| {
            list.extend_from_slice(address.as_bytes());
        }),
        // There is no address to append: the list stays as it came.
        None if client.is_trusted => {
            for value in received.get_all(X_FORWARDED_FOR) {
                headers.append(X_FORWARDED_FOR, value.clone());
            }
        }
        None => {}
    }
    if let Some(host) = host
        && !headers.contains_key(X_FORWARDED_HOST)
    {
        insert(headers, X_FORWARDED_HOST, host.into());
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(client.scheme()));
    append(headers, header::FORWARDED, received, client, |list| {
        // A node that is not a token must be quoted, and IPv6 is in brackets (RFC 7239 §6).
        let (before, after) = match address {
            Some(IpAddr::V6(_)) => ("for=\"[", "]\""),
            _ => ("for=", ""),
        };
        // A host is always quoted: a port or a bracket makes it more than a token, and it cannot
        // contain a character that would need escaping.
        let host = host.map_or(["", "", ""], |host| [";host=\"", host, "\""]);
        let node = address_text.as_deref().unwrap_or("unknown");
        let parts = [
            [before, node, after],
            host,
            [";proto=", client.scheme(), ""],
        ];
        for part in parts.as_flattened() {
            list.extend_from_slice(part.as_bytes());
        }
    });
}

/// Passes on the fields `received` from a trusted proxy, except those that are set here.
fn pass_on(headers: &mut HeaderMap, received: &HeaderMap) {
    let is_passed = |name: &HeaderName| {
        // Neither fields that are set here, nor names that CGI would take for one of them.
        let is_set_anyway = [X_FORWARDED_FOR, header::FORWARDED, X_REQUEST_ID].contains(name);
        is_about_the_client(name) && !is_set_anyway && !name.as_str().contains('_')
    };
    for (name, value) in received {
        if is_passed(name) {
            headers.append(name, value.clone());
        }
    }
}

/// Sets a list to the value `received` from a trusted proxy, followed by what `write_element`
/// writes.
fn append(
    headers: &mut HeaderMap,
    name: HeaderName,
    received: &HeaderMap,
    client: Client,
    write_element: impl FnOnce(&mut Vec<u8>),
) {
    let mut list = Vec::with_capacity(ELEMENT_BYTES);
    if client.is_trusted {
        for line in received.get_all(&name) {
            list.extend_from_slice(line.as_bytes());
            list.extend_from_slice(b", ");
        }
    }
    write_element(&mut list);
    insert(headers, name, list);
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: Vec<u8>) {
    let value = HeaderValue::try_from(value).expect("values, addresses and hosts are legal in one");
    headers.insert(name, value);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::client_addr::ClientAddr;

    fn client(peer: &str, is_trusted: bool) -> Client {
        let peer = match peer.parse::<SocketAddr>() {
            Ok(address) => ClientAddr::from(address),
            Err(_) => ClientAddr::Unix,
        };
        Client {
            address: peer,
            peer,
            server: None,
            is_trusted,
            is_tls: false,
        }
    }

    /// Returns the fields that the upstream gets for a `client` that sends `lines`.
    fn sent(client: Client, lines: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut received = HeaderMap::new();
        for (name, value) in lines {
            received.append(*name, value.parse().unwrap());
        }
        let mut headers = HeaderMap::new();
        set(&mut headers, &received, client, Some("h:8080"));
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn assert_sent(client: Client, lines: &[(&'static str, &str)], expected: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let expected: Vec<_> = expected.iter().map(owned).collect();
        assert_eq!(sent(client, lines), expected);
    }

    const CLAIMS: [(&str, &str); 9] = [
        ("x-forwarded-for", "192.0.2.9"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-host", "public.example"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-prefix", "/app"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-server", "edge"),
        ("x-real-ip", "192.0.2.9"),
        ("forwarded", "for=192.0.2.9;by=\"a,,b\""),
    ];

    #[test]
    fn what_anybody_says_about_itself_is_replaced() {
        assert_sent(
            client("192.0.2.7:1234", false),
            &CLAIMS,
            &[
                ("forwarded", "for=192.0.2.7;host=\"h:8080\";proto=http"),
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-host", "h:8080"),
                ("x-forwarded-proto", "http"),
            ],
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_passes_with_the_proxy_behind_it() {
        assert_sent(
            client("10.0.0.1:1234", true),
            &CLAIMS,
            &[
                (
                    "forwarded",
                    "for=192.0.2.9;by=\"a,,b\", for=10.0.0.1;host=\"h:8080\";proto=http",
                ),
                ("x-forwarded-for", "192.0.2.9, 10.0.0.2, 10.0.0.1"),
                ("x-forwarded-host", "public.example"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-prefix", "/app"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-server", "edge"),
                ("x-real-ip", "192.0.2.9"),
            ],
        );
    }

    #[test]
    fn what_a_trusted_proxy_does_not_say_is_said_for_it() {
        assert_sent(
            client("10.0.0.1:1234", true),
            &[],
            &[
                ("forwarded", "for=10.0.0.1;host=\"h:8080\";proto=http"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-host", "h:8080"),
                ("x-forwarded-proto", "http"),
            ],
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_passes_byte_for_byte() {
        let mut received = HeaderMap::new();
        let list = HeaderValue::from_bytes(b"192.0.2.9, caf\xe9").unwrap();
        received.append(X_FORWARDED_FOR, list);
        let mut headers = HeaderMap::new();

        set(&mut headers, &received, client("10.0.0.1:1234", true), None);

        let expected = b"192.0.2.9, caf\xe9, 10.0.0.1";
        assert_eq!(headers[X_FORWARDED_FOR].as_bytes(), expected);
    }

    #[test]
    fn ipv4_is_in_decimal_without_leading_zeros() {
        for octet in 0..=u8::MAX {
            let address = Ipv4Addr::new(octet, 0, 255, octet);
            assert_eq!(text_of(address.into()), address.to_string());
        }
    }

    #[test]
    fn ipv6_is_in_brackets_and_quoted_and_a_mapped_ipv4_is_not_ipv6() {
        let first = |peer: &str| {
            let lines = sent(client(peer, false), &[]);
            (lines[0].1.clone(), lines[1].1.clone())
        };

        let (forwarded, forwarded_for) = first("[2001:db8::1]:9");
        assert_eq!(
            forwarded,
            "for=\"[2001:db8::1]\";host=\"h:8080\";proto=http"
        );
        assert_eq!(forwarded_for, "2001:db8::1");

        assert_eq!(first("[::ffff:192.0.2.7]:9").1, "192.0.2.7");
    }

    #[test]
    fn a_peer_on_a_unix_socket_is_unknown() {
        let unknown = "for=unknown;host=\"h:8080\";proto=http";

        let nobody = sent(client("unix", false), &CLAIMS);
        assert_eq!(nobody[0].1, unknown);
        assert_eq!(nobody[1].0, "x-forwarded-host");

        let trusted = sent(client("unix", true), &CLAIMS[..1]);
        assert_eq!(trusted[0].1, unknown);
        assert_eq!(trusted[1], ("x-forwarded-for".into(), "192.0.2.9".into()));
    }
}
