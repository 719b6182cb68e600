//! One stream of an HTTP/2 connection, as the byte stream of a WebSocket (RFC 8441).
//!
//! # Invariants
//!
//! * Data that was written and not yet sent is bounded: at most [`MAX_WRITE_BYTES`] in each of the
//!   few writes that hyper accepts before the client's window is open for them.
//! * The client's `END_STREAM` is the end of the stream. So is its `RST_STREAM` with `CANCEL` or
//!   `NO_ERROR`, after which nothing can be written; any other is an error.

use std::{
    cell::RefCell,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backlog::Unread;

/// Longest write that is accepted: a frame of the default size (RFC 9113 §6.5.2).
const MAX_WRITE_BYTES: usize = 16 * 1024;

/// One stream of an HTTP/2 connection.
pub struct Http2Stream {
    /// In a cell because hyper reports the client's reset only to a writer, which needs `&mut`.
    upgraded: RefCell<TokioIo<Upgraded>>,
    unread: Unread,
}

impl Http2Stream {
    /// Wraps a stream whose extended `CONNECT` hyper has accepted; `unread` counts it on its
    /// connection.
    #[must_use]
    pub fn new(upgraded: Upgraded, unread: Unread) -> Self {
        Self {
            upgraded: RefCell::new(TokioIo::new(upgraded)),
            unread,
        }
    }

    /// Returns whether the client has reset the stream, or the connection has ended.
    ///
    /// A task that waits to write must poll again afterwards: its waker is replaced.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut upgraded = self.upgraded.borrow_mut();
        matches!(
            Pin::new(&mut *upgraded).poll_flush(&mut context),
            Poll::Ready(Err(_))
        )
    }

    fn upgraded(&mut self) -> Pin<&mut TokioIo<Upgraded>> {
        Pin::new(self.upgraded.get_mut())
    }
}

impl fmt::Debug for Http2Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Http2Stream")
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { upgraded, unread } = &mut *self;
        let upgraded = Pin::new(upgraded.get_mut());
        let before = buffer.filled().len();
        let read = |context: &mut Context<'_>| {
            let read = upgraded.poll_read(context, buffer);
            read.map(|read| read.map(|()| buffer.filled().len() - before))
        };
        unread
            // An empty read or an error ends the stream; nothing unread is left behind it.
            .poll(context, read, |read| !matches!(read, Ok(1..)))
            .map_ok(|_bytes| ())
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // hyper copies whatever it accepts, so a long write would be queued whole.
        let taken = bytes.len().min(MAX_WRITE_BYTES);
        self.upgraded().poll_write(context, &bytes[..taken])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [slice] = slices {
            return self.poll_write(context, slice);
        }
        // Gathering is worth its copy only when there is room.
        ready!(self.upgraded().poll_flush(context))?;
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut gathered = Vec::with_capacity(bytes.min(MAX_WRITE_BYTES));
        for slice in slices {
            let room = MAX_WRITE_BYTES - gathered.len();
            gathered.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.upgraded().poll_write(context, &gathered)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.upgraded().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.upgraded().poll_shutdown(context)
    }
}
