//! The opening handshake (RFC 6455 §4), from both sides, and the little HTTP around it.

use std::{net::SocketAddr, str};

use sha1::{Digest, Sha1};

/// The RFC's own example; a benchmark need not surprise anybody.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What the server appends to the key (RFC 6455 §1.3).
const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The head of an HTTP message, up to and including its empty line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a>(&'a str);

impl<'a> Head<'a> {
    /// The head at the beginning of `bytes`, and its length; `None` while it is incomplete
    /// or when it is not text.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        Some((Self(str::from_utf8(&bytes[..end]).ok()?), end))
    }

    /// The request line or status line.
    pub fn first_line(&self) -> &'a str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The value of the first header called `name`, in whatever case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut headers = self
            .0
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        let (_, value) = headers.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }

    /// Whether this is the response that accepts [`request`]'s handshake.
    pub fn is_accepted(&self) -> bool {
        self.first_line().starts_with("HTTP/1.1 101 ")
            && self.header("sec-websocket-accept") == Some(accept(KEY).as_str())
    }
}

/// The client's handshake.
pub fn request(host: SocketAddr) -> Vec<u8> {
    format!(
        "GET /bench HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    .into_bytes()
}

/// The server's answer to a handshake with `key`.
pub fn response(key: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    )
    .into_bytes()
}

fn accept(key: &str) -> String {
    let hash = Sha1::new()
        .chain_update(key)
        .chain_update(SUFFIX)
        .finalize();
    base64(&hash)
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index| u32::from(chunk.get(index).copied().unwrap_or_default());
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * index) & 63) as usize];
            text.push(if index > chunk.len() {
                '='
            } else {
                letter.into()
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_the_rfc_example() {
        assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn base64_pads_as_rfc_4648_does() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn the_server_accepts_what_the_client_asks() {
        let request = request("127.0.0.1:80".parse().unwrap());
        let (head, length) = Head::parse(&request).unwrap();
        assert_eq!(length, request.len());

        let mut response = response(head.header("SEC-websocket-KEY").unwrap());
        response.extend_from_slice(b"frame");
        let (head, length) = Head::parse(&response).unwrap();

        assert!(head.is_accepted());
        assert_eq!(&response[length..], b"frame");
    }

    #[test]
    fn an_incomplete_head_or_another_key_is_not_accepted() {
        assert_eq!(Head::parse(b"HTTP/1.1 101 Switching Protocols\r\n"), None);
        let other = response("AAAAAAAAAAAAAAAAAAAAAA==");
        assert!(!Head::parse(&other).unwrap().0.is_accepted());
    }
}
