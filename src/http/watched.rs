//! A client's byte stream while HTTP is read from it: shared and watched.
//!
//! hyper owns the stream that it serves. The requests still need to see two things there:
//! whether the client has hung up, and how strictly a head was framed.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Framing, Verdict};
use crate::transport::{Stream, Transport};

/// One of the handles to a client's stream.
#[derive(Clone)]
pub(super) struct Watched(Rc<RefCell<Inner>>);

struct Inner {
    stream: Transport,
    framing: Framing,
}

impl Watched {
    pub(super) fn new(stream: Transport, max_header_bytes: usize) -> Self {
        let framing = Framing::new(max_header_bytes);
        Self(Rc::new(RefCell::new(Inner { stream, framing })))
    }

    /// The stream alone; `None` while there are other handles.
    pub(super) fn into_inner(self) -> Option<Transport> {
        Some(Rc::into_inner(self.0)?.into_inner().stream)
    }

    /// How the head was framed of the request that hyper has just parsed.
    pub(super) fn next_verdict(&self) -> Verdict {
        self.0.borrow_mut().framing.next_verdict()
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.0.borrow().stream.is_hung_up()
    }

    fn with_stream<T>(&self, operation: impl FnOnce(Pin<&mut Transport>) -> T) -> T {
        operation(Pin::new(&mut self.0.borrow_mut().stream))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Inner { stream, framing } = &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        let poll = Pin::new(stream).poll_read(context, buffer);
        framing.watch(&buffer.filled()[before..]);
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with_stream(|stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with_stream(|stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_stream(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_stream(|stream| stream.poll_shutdown(context))
    }
}
