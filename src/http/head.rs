//! Heads that the proxy writes itself, in HTTP/1.1.

use hyper::HeaderMap;

/// Room for a head, as long as most are.
const HEAD_BYTES: usize = 256;

/// The `101` with these headers.
pub(super) fn switching_protocols(headers: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    write_headers(&mut head, headers);
    head
}

/// Appends `headers` in their order, and the empty line behind them.
pub(super) fn write_headers(head: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
}
