//! The byte streams that a session runs on.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream that a session can run on.
///
/// Beyond reading and writing, a session that has stopped reading (backpressure) needs
/// to know whether anybody is still there.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Whether the peer has closed or reset the connection, even when bytes it sent
    /// before are still unread.
    ///
    /// `false` when the stream cannot tell.
    fn is_hung_up(&self) -> bool {
        false
    }
}

impl Stream for tokio::io::DuplexStream {}
