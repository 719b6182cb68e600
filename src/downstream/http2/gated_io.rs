//! A client's byte stream while hyper serves HTTP/2 on it, which afterwards would only be
//! dropped.
//!
//! The header sections that go through it are those that h2 and hyper can read
//! ([`heads`](super::heads)).
//!
//! What a client sends on a stream that nobody reads, because its session has enough or its
//! upstream takes nothing, is in this process and in no queue of it: up to a stream's window,
//! and for small frames many times what they have on the wire. While memory is short that must
//! not grow. So a connection with such streams is not read then: its client is slowed down by
//! TCP, as one of HTTP/1.1 is. If that lasts, the connection ends: its streams may wait for
//! each other, or for something that the client has long said.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::heads::HeadReader;
use crate::{
    downstream::detect::Sniffed,
    observability::rejections::Rejection,
    state::process::ProcessState,
    transport::{Transport, backlog::Backlog, lazy_deadline::LazyDeadline},
};

/// How much is read at once when little memory is left.
const SMALL_READ_BYTES: usize = 2 * 1024;

/// After this time a connection that is not read looks whether memory is still short.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection may not be read.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// One of the handles to a stream.
#[derive(Clone)]
pub(crate) struct Handle(Rc<RefCell<GatedState>>);

struct GatedState {
    stream: Sniffed,
    heads: HeadReader,
    backlog: Arc<Backlog>,
    shared: Arc<ProcessState>,
    /// Set while it is not read.
    watchdog: LazyDeadline,
    /// Since when it is not.
    waiting_since: Option<Instant>,
}

impl Handle {
    /// The only handle to `stream`, which carries the streams of `backlog`.
    pub(crate) fn new(stream: Sniffed, backlog: Arc<Backlog>, shared: Arc<ProcessState>) -> Self {
        Self(Rc::new(RefCell::new(GatedState {
            stream,
            heads: HeadReader::default(),
            backlog,
            shared,
            watchdog: LazyDeadline::default(),
            waiting_since: None,
        })))
    }

    /// The stream alone; `None` while there are other handles.
    pub(crate) fn into_inner(self) -> Option<Transport> {
        Some(Rc::into_inner(self.0)?.into_inner().stream.stream)
    }

    fn with<T>(&self, operation: impl FnOnce(Pin<&mut Sniffed>) -> T) -> T {
        operation(Pin::new(&mut self.0.borrow_mut().stream))
    }
}

impl GatedState {
    /// Ready when nothing is unread, or there is memory for more.
    ///
    /// # Errors
    ///
    /// That was not so for too long.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.backlog.poll_empty(context).is_pending() && !self.shared.memory().has_room() {
            let now = Instant::now();
            let since = *self.waiting_since.get_or_insert(now);
            if now - since >= MAX_WAIT {
                self.shared.rejections.count(Rejection::Memory);
                let words = "memory is short, and streams wait to be read";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, words)));
            }
            self.backlog.set_waited_for(true);
            if !self.watchdog.is_set() {
                self.watchdog.set(Some(now + LOOK_INTERVAL));
            }
            ready!(self.watchdog.poll_expired(context));
            self.watchdog.set(None);
        }
        self.watchdog.set(None);
        if self.waiting_since.take().is_some() {
            self.backlog.set_waited_for(false);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what the client has sent, little at a time when little memory is left.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let memory = self.shared.memory();
        let before = buffer.filled().len();
        let stream = Pin::new(&mut self.stream);
        let read = if memory.is_near() {
            let mut bytes = [0; SMALL_READ_BYTES];
            let length = bytes.len().min(buffer.remaining());
            let mut piece = ReadBuf::new(&mut bytes[..length]);
            let read = stream.poll_read(context, &mut piece);
            buffer.put_slice(piece.filled());
            read
        } else {
            stream.poll_read(context, buffer)
        };
        if !self.backlog.is_empty() {
            memory.take_in(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncRead for Handle {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        loop {
            if inner.heads.has_output() {
                inner.heads.read(buffer);
                return Poll::Ready(Ok(()));
            }
            ready!(inner.poll_room(context))?;
            ready!(inner.poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = inner.heads.follow(read);
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Handle {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(context))
    }
}
