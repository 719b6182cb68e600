//! What both sides of an opening handshake share (RFC 6455 §4).

use bytes::Bytes;

/// A connection whose opening handshake is complete.
#[derive(Debug)]
pub struct Opened<S> {
    /// The byte stream, now WebSocket frames in both directions.
    pub stream: S,
    /// Bytes that the HTTP parser read beyond the handshake: they are frames.
    pub read_buf: Bytes,
}
