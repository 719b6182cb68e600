//! Heads of HTTP/1.1 messages that the proxy writes itself.

use hyper::{HeaderMap, Response};

use crate::websocket::spelling::Spelling;

/// Initial capacity of a head, which suffices for most.
const HEAD_BYTES: usize = 256;

/// Writes a `101` with the headers of `response`, in which names are spelled as the [`Spelling`]
/// among its extensions says, if there is one.
pub(crate) fn switching_protocols<B>(response: &Response<B>) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    write_headers(&mut head, response.headers());
    let spelling = response.extensions().get::<Spelling>();
    spelling.unwrap_or(&Spelling::default()).apply(&mut head);
    head
}

/// Appends `headers` in their order, and the empty line behind them.
pub(crate) fn write_headers(head: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
}
