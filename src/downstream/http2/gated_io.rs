//! A client's byte stream under hyper's HTTP/2 server, which keeps it for a graceful close and
//! stops reading it while memory is short.
//!
//! Header sections that pass through it are made readable for h2 and hyper
//! ([`heads`](super::heads)).
//!
//! Bytes on a stream that is not read, because its session has enough or its upstream reads
//! nothing, are in this process but in none of its queues: up to a stream's window, and for small
//! frames many times their size on the wire. While memory is short they must not grow, so a
//! connection with such streams is not read: TCP slows its client down, as it does one of
//! HTTP/1.1. If that lasts, the connection ends, for its streams may wait for each other, or for
//! something that the client has long sent.

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
    local_reply::LocalReply,
    state::process::ProcessState,
    transport::{Transport, backlog::Backlog, lazy_deadline::LazyDeadline},
};

/// Bytes read at once when little memory is left.
const SMALL_READ_BYTES: usize = 2 * 1024;

/// Interval at which a paused connection checks for memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Longest time that a connection may be paused.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// A handle to a client's stream; clones share it.
#[derive(Clone)]
pub(crate) struct Handle(Rc<RefCell<GatedState>>);

struct GatedState {
    stream: Sniffed,
    heads: HeadReader,
    backlog: Arc<Backlog>,
    shared: Arc<ProcessState>,
    /// Set while the connection is paused.
    watchdog: LazyDeadline,
    /// Start of the pause.
    waiting_since: Option<Instant>,
}

impl Handle {
    /// The first handle to `stream`, whose unread HTTP/2 streams `backlog` counts.
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

    /// Returns the stream; `None` while other handles exist.
    pub(crate) fn into_inner(self) -> Option<Transport> {
        Some(Rc::into_inner(self.0)?.into_inner().stream.stream)
    }

    fn with<T>(&self, operation: impl FnOnce(Pin<&mut Sniffed>) -> T) -> T {
        operation(Pin::new(&mut self.0.borrow_mut().stream))
    }
}

impl GatedState {
    /// Becomes ready when no stream is unread, or there is memory for more.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut) after [`MAX_WAIT`].
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The backlog is polled first: that registers the waker for when it empties.
        while self.backlog.poll_empty(context).is_pending() && !self.shared.memory().has_room() {
            let now = Instant::now();
            let since = *self.waiting_since.get_or_insert(now);
            if now - since >= MAX_WAIT {
                self.shared.rejections.count(LocalReply::Memory);
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

    /// Reads the client's bytes, in small pieces when little memory is left.
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
        // Nothing else accounts for bytes that unread streams keep until memory is measured
        // again.
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
            // The rest is in the reader's output, rewritten, or still incomplete.
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
