//! What the backend answers: bytes in, bytes out.

use std::mem;

use crate::{
    Result,
    websocket::{
        Decoder, Header, Opcode, Piece,
        handshake::{self, Head},
        mask,
    },
};

/// The answer to a request that is not a handshake.
const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

const MAX_HEAD_BYTES: usize = 64 * 1024;

/// One connection's protocol.
#[derive(Debug)]
pub enum Session {
    /// HTTP: the beginning of a request that is not complete.
    Http(Vec<u8>),
    /// The WebSocket after the handshake.
    WebSocket(Decoder),
    /// The close frame is answered.
    Over,
}

impl Default for Session {
    fn default() -> Self {
        Self::Http(Vec::new())
    }
}

impl Session {
    /// Whether the connection is to be closed once everything is written.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Appends the answer to `input` to `out`.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Http(head) => {
                let mut bytes = mem::take(head);
                bytes.extend_from_slice(input);
                self.receive_requests(bytes, out)
            }
            Self::WebSocket(_) => self.receive_frames(input, out),
            Self::Over => Ok(()),
        }
    }

    /// Answers the requests that are complete, up to a handshake.
    fn receive_requests(&mut self, mut bytes: Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
        while let Some((head, length)) = Head::parse(&bytes) {
            if let Some(key) = head.header("sec-websocket-key") {
                out.extend_from_slice(&handshake::response(key));
                *self = Self::WebSocket(Decoder::default());
                return self.receive_frames(&bytes[length..], out);
            }
            out.extend_from_slice(HELLO);
            bytes.drain(..length);
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err("a request head without an end".into());
        }
        *self = Self::Http(bytes);
        Ok(())
    }

    fn receive_frames(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        while let Self::WebSocket(decoder) = self {
            let Some(piece) = decoder.next(&mut input)? else {
                break;
            };
            echo(&piece, out);
            if piece.header.opcode == Opcode::Close && piece.is_last() {
                *self = Self::Over;
            }
        }
        Ok(())
    }
}

/// Appends `piece`, unmasked, in the frame that answers its frame.
fn echo(piece: &Piece<'_>, out: &mut Vec<u8>) {
    let opcode = match piece.header.opcode {
        Opcode::Pong => return,
        Opcode::Ping => Opcode::Pong,
        opcode => opcode,
    };
    if piece.is_first() {
        Header {
            opcode,
            mask: None,
            ..piece.header
        }
        .encode(out);
    }
    let start = out.len();
    out.extend_from_slice(piece.payload);
    if let Some(key) = piece.header.mask {
        mask(&mut out[start..], key, piece.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::encode_message;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    #[test]
    fn a_whole_conversation_is_answered_however_it_is_cut() {
        let mut input = handshake::request("127.0.0.1:80".parse().unwrap());
        let mut expected = handshake::response("dGhlIHNhbXBsZSBub25jZQ==");
        let long: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        for (sent, answered, payload) in [
            (Opcode::Binary, Opcode::Binary, &long[..]),
            (Opcode::Ping, Opcode::Pong, b"hi"),
            (Opcode::Close, Opcode::Close, &[3, 232]),
        ] {
            input.extend(encode_message(sent, payload, Some(KEY)));
            expected.extend(encode_message(answered, payload, None));
        }

        for size in [1, 7, 1000, input.len()] {
            let mut session = Session::default();
            let mut out = Vec::new();
            for chunk in input.chunks(size) {
                session.receive(chunk, &mut out).unwrap();
            }
            assert!(session.is_over());
            assert!(out == expected, "in chunks of {size}");
        }
    }

    #[test]
    fn requests_on_one_connection_get_thirteen_bytes_each() {
        let mut session = Session::default();
        let mut out = Vec::new();

        session
            .receive(b"GET / HTTP/1.1\r\n\r\nGET / HT", &mut out)
            .unwrap();
        session
            .receive(b"TP/1.1\r\nHost: a\r\n\r\n", &mut out)
            .unwrap();

        assert_eq!(out, [HELLO, HELLO].concat());
        assert!(HELLO.ends_with(b"\r\n\r\nHello, world!"));
    }
}
