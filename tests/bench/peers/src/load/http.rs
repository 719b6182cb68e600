//! Plain requests and their responses.

use std::net::SocketAddr;

use crate::{Result, websocket::handshake::Head};

/// One GET.
#[derive(Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// A request for the server at `host`.
    pub fn new(host: SocketAddr) -> Self {
        Self(format!("GET /bench HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes())
    }

    /// As it goes over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The responses on one connection.
#[derive(Debug, Default)]
pub struct Responses(Vec<u8>);

impl Responses {
    /// Takes a piece of the stream; returns how many responses it completed.
    ///
    /// # Errors
    ///
    /// When one is not the backend's.
    pub fn receive(&mut self, input: &[u8]) -> Result<u32> {
        self.0.extend_from_slice(input);
        let mut completed = 0;
        while let Some((head, head_bytes)) = Head::parse(&self.0) {
            let body = head
                .header("content-length")
                .and_then(|length| length.parse().ok());
            if !head.first_line().starts_with("HTTP/1.1 200") || body != Some(13) {
                return Err(format!("the answer is `{}`", head.first_line()).into());
            }
            let Some(body) = self.0.get(head_bytes..head_bytes + 13) else {
                break;
            };
            if body != b"Hello, world!" {
                return Err("the body came back changed".into());
            }
            self.0.drain(..head_bytes + 13);
            completed += 1;
        }
        Ok(completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nHello, world!";

    #[test]
    fn responses_are_counted_however_they_are_cut() {
        for size in 1..RESPONSE.len() {
            let mut responses = Responses::default();
            let stream = RESPONSE.repeat(3);
            let count = |chunk| responses.receive(chunk).unwrap();
            assert_eq!(stream.chunks(size).map(count).sum::<u32>(), 3);
        }
    }

    #[test]
    fn an_error_and_another_body_are_noticed() {
        let refused = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\n\r\n";
        assert!(Responses::default().receive(refused).is_err());
        let changed = [&RESPONSE[..RESPONSE.len() - 1], b"?"].concat();
        assert!(Responses::default().receive(&changed).is_err());
    }
}
