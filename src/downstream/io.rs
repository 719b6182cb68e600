//! A client's byte stream while HTTP is read from it: shared and watched.
//!
//! hyper owns the stream that it serves. The requests still need to see two things there:
//! whether the client has hung up, and how strictly a head was framed. And four things are
//! done here that hyper's server does not do: interim answers, giving up on a client that
//! takes nothing of its answer, waiting for another request in another way than for the
//! rest of one, and answering a client that says with its last request that no other will come.
//!
//! # Invariants
//!
//! * hyper, which drops the request under way at the end of the stream, does not see that end
//!   as long as a whole request is under way. Then nothing is left to be read, and the
//!   connection ends with the answer (RFC 9112 §9.6).
//! * Nothing waits for a backend for a client that sends no more.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{detect::Sniffed, request_deadline::RequestDeadline, spelling::SpelledHeads};
use crate::{
    headers::framing::{Framing, Verdict, answers::Interim},
    proxy::bodies::UnderWay,
    transport::{Stream, Transport, lazy_deadline::LazyDeadline},
    websocket::spelling::Spelling,
};

/// How long a client that sends no more may have left before that is noticed.
const LOOK_AFTER_CLIENT: Duration = Duration::from_secs(1);

/// How many bytes of interim answers may wait for a client that does not read.
const MAX_INTERIM_BYTES: usize = 16 * 1024;

/// One of the handles to a client's stream.
#[derive(Clone)]
pub(crate) struct ClientIo(Rc<RefCell<ClientIoState>>);

struct ClientIoState {
    stream: Sniffed,
    framing: Framing,
    patience: RequestDeadline,
    /// Every answer has a clone.
    under_way: UnderWay,
    /// Whether hyper has nothing left to write, as far as it has shown.
    is_flushed: bool,
    /// The heads that hyper writes.
    heads: SpelledHeads,
    /// What goes out before anything else that hyper writes.
    interim: Vec<u8>,
    write_timeout: Duration,
    /// Set while the client takes nothing.
    watchdog: LazyDeadline,
    /// Whether it took nothing for too long.
    is_stalled: bool,
    /// Set once the client sends no more, though a request is under way: when to look whether it
    /// is still there.
    next_look: Option<Pin<Box<Sleep>>>,
    /// Whether the request under way is over when the client sends no more.
    is_held: bool,
}

impl ClientIo {
    pub(crate) fn new(
        stream: Sniffed,
        framing: Framing,
        patience: RequestDeadline,
        write_timeout: Duration,
    ) -> Self {
        Self(Rc::new(RefCell::new(ClientIoState {
            stream,
            framing,
            patience,
            under_way: UnderWay::default(),
            is_flushed: true,
            heads: SpelledHeads::default(),
            interim: Vec::new(),
            write_timeout,
            watchdog: LazyDeadline::default(),
            is_stalled: false,
            next_look: None,
            is_held: false,
        })))
    }

    /// The stream alone; `None` while there are other handles.
    pub(crate) fn into_inner(self) -> Option<Transport> {
        Some(Rc::into_inner(self.0)?.into_inner().stream.stream)
    }

    /// How the head was framed of the request that hyper has just parsed.
    pub(crate) fn next_verdict(&self) -> Verdict {
        self.0.borrow_mut().framing.next_verdict()
    }

    /// See [`Framing::take_spelling`].
    pub(crate) fn take_spelling(&self) -> Spelling {
        self.0.borrow_mut().framing.take_spelling()
    }

    /// Spells the names in the head that hyper writes next; not while more goes out before it,
    /// which happens to a client that reads too slowly what it has asked for before.
    pub(crate) fn spell_next(&self, spelling: Spelling) {
        let inner = &mut *self.0.borrow_mut();
        if inner.is_flushed {
            inner.heads.expect(spelling);
        }
    }

    /// See [`Framing::is_body_broken`].
    pub(crate) fn is_body_broken(&self) -> Rc<Cell<bool>> {
        self.0.borrow().framing.is_body_broken()
    }

    /// What is there for as long as a request is under way.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.0.borrow().under_way.clone()
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.borrow().under_way.is_over()
    }

    /// Ready when a request was waited for too long; to be asked after hyper has been polled.
    pub(crate) fn poll_too_slow(&self, context: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        let is_under_way = !inner.under_way.is_over() || !inner.is_flushed;
        let has_begun = inner.framing.has_begun();
        inner.patience.poll_ended(context, is_under_way, has_begun)
    }

    /// Whether a request was waited for too long.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.0.borrow().patience.has_ended()
    }

    /// Whether the client has left, as far as that is known: while its request is held it has
    /// when it sends no more, and otherwise when it takes no answer.
    pub(crate) fn is_gone(&self) -> bool {
        let inner = self.0.borrow();
        let stream = &inner.stream.stream;
        stream.is_broken() || inner.is_held && stream.is_hung_up()
    }

    /// Says whether the request under way is held, so that it is over when the client sends no
    /// more.
    pub(crate) fn set_held(&self, is_held: bool) {
        self.0.borrow_mut().is_held = is_held;
    }

    /// Ready when a client that sends no more has got its answer, or left; to be asked after hyper
    /// has been polled.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        let is_busy = inner.is_busy();
        let Some(next_look) = &mut inner.next_look else {
            return Poll::Pending;
        };
        if inner.is_held || !is_busy {
            return Poll::Ready(());
        }
        loop {
            ready!(next_look.as_mut().poll(context));
            if inner.stream.stream.is_broken() {
                return Poll::Ready(());
            }
            next_look.as_mut().reset(Instant::now() + LOOK_AFTER_CLIENT);
        }
    }

    /// Whether all that hyper has written has gone out.
    pub(crate) fn is_flushed(&self) -> bool {
        self.0.borrow().is_flushed
    }

    /// Whether the client has taken nothing for too long, so that its connection is an error.
    pub(crate) fn is_stalled(&self) -> bool {
        self.0.borrow().is_stalled
    }

    /// Writes `bytes` when hyper serves nothing on it any more.
    ///
    /// # Errors
    ///
    /// Those of the stream, or the client takes nothing for too long.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Writes a `1xx` answer before the final one, which hyper's server cannot.
    ///
    /// To be called while hyper waits for that: it has encoded nothing since the answer
    /// before, whose end it flushes before it asks for another one. While that does not go
    /// out, neither does this.
    pub(crate) fn send_interim(&self, interim: &Interim) {
        let inner = &mut *self.0.borrow_mut();
        // An interim answer may be left out, and a client that does not read has others.
        if inner.interim.len() > MAX_INTERIM_BYTES {
            return;
        }
        interim.write(&mut inner.interim);
        if inner.is_flushed {
            // Errors and what did not fit are left for hyper to meet.
            let _ = inner.poll_interim(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl ClientIoState {
    /// Whether a request is under way, or its answer has not gone out.
    fn is_busy(&self) -> bool {
        !self.under_way.is_over() || !self.is_flushed || !self.interim.is_empty()
    }

    /// Notes that the client sends no more, if hyper must not see it.
    fn hides_end(&mut self) -> bool {
        let is_hidden = self.is_busy() && self.framing.is_between_requests();
        if is_hidden && self.next_look.is_none() {
            self.stream.stream.keep_asking();
            self.next_look = Some(Box::pin(sleep(LOOK_AFTER_CLIENT)));
        }
        is_hidden
    }

    /// Writes the interim answers that there are.
    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.interim.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(context, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.drain(..written);
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// What came of a write or a flush; an error when nothing does for too long.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.watchdog.set(None);
            return outcome;
        }
        if !self.watchdog.is_set() {
            self.watchdog.set(Some(Instant::now() + self.write_timeout));
        }
        ready!(self.watchdog.poll_expired(context));
        self.is_stalled = true;
        let stalled = "the client takes nothing of its answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }

    /// The stream for what hyper writes, and the heads in that.
    fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Pin<&mut Sniffed>, &mut SpelledHeads)>> {
        if self.is_flushed {
            ready!(self.poll_interim(context))?;
            self.is_flushed = false;
        }
        Poll::Ready(Ok((Pin::new(&mut self.stream), &mut self.heads)))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        let poll = Pin::new(&mut inner.stream).poll_read(context, buffer);
        let read = &mut buffer.filled_mut()[before..];
        let is_at_end = read.is_empty() && matches!(poll, Poll::Ready(Ok(())));
        inner.framing.watch(read);
        // Whoever has polled hyper asks for the end then.
        if is_at_end && inner.hides_end() {
            return Poll::Pending;
        }
        poll
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let written = match inner.poll_stream(context) {
            Poll::Ready(Ok((stream, heads))) => heads.poll_write(stream, context, bytes),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        inner.in_time(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let written = match inner.poll_stream(context) {
            Poll::Ready(Ok((stream, heads))) => heads.poll_write_vectored(stream, context, slices),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        inner.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let flushed = Pin::new(&mut inner.stream).poll_flush(context);
        ready!(inner.in_time(context, flushed))?;
        inner.is_flushed = true;
        let written = inner.poll_interim(context);
        inner.in_time(context, written)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(context)
    }
}
