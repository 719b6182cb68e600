//! A client's byte stream under hyper's HTTP/1.1 server, shared with the requests on it.
//!
//! hyper owns the stream that it serves. Requests need to know two things about it: whether the
//! client has hung up, and how strictly a head was framed. The stream also does four things that
//! hyper's server does not: it writes interim responses, disconnects a client that reads none of
//! its response, tells the idle time before a request from the time for its head, and completes
//! the response to a client that has closed its write side after its last request.
//!
//! # Invariants
//!
//! * hyper, which drops the request in progress at the end of the stream, does not see that end
//!   while a whole request is in progress. Nothing is left to be read then, and the connection
//!   ends with the response (RFC 9112 §9.6).
//! * No request waits for a backend on behalf of a client that sends no more.

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
    headers::framing::{Framing, Verdict, responses::Interim},
    proxy::bodies::UnderWay,
    transport::{Stream, Transport, lazy_deadline::LazyDeadline},
    websocket::spelling::Spelling,
};

/// Interval at which a client that sends no more is checked for having left.
const LOOK_AFTER_CLIENT: Duration = Duration::from_secs(1);

/// Bytes of interim responses that may wait for a client that does not read.
const MAX_INTERIM_BYTES: usize = 16 * 1024;

/// A handle to a client's stream; clones share it.
#[derive(Clone)]
pub(crate) struct ClientIo(Rc<RefCell<ClientIoState>>);

struct ClientIoState {
    stream: Sniffed,
    framing: Framing,
    patience: RequestDeadline,
    /// Cloned into each response; a request is in progress while clones exist.
    under_way: UnderWay,
    /// Set once hyper's bytes have been flushed, until it writes again.
    is_flushed: bool,
    /// Spelling of the heads that hyper writes.
    heads: SpelledHeads,
    /// Interim responses, sent before hyper's next byte.
    interim: Vec<u8>,
    write_timeout: Duration,
    /// Set while the client reads nothing of what we write.
    watchdog: LazyDeadline,
    /// Set once the client exceeded `write_timeout`.
    is_stalled: bool,
    /// Time of the next check for the client's presence; `None` until it has closed its write
    /// side with a request in progress.
    next_look: Option<Pin<Box<Sleep>>>,
    /// Set while the end of the client's bytes ends the request in progress.
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

    /// Returns the stream; `None` while other handles exist.
    pub(crate) fn into_inner(self) -> Option<Transport> {
        Some(Rc::into_inner(self.0)?.into_inner().stream.stream)
    }

    /// Returns how the head was framed that hyper has just parsed.
    pub(crate) fn next_verdict(&self) -> Verdict {
        self.0.borrow_mut().framing.next_verdict()
    }

    /// Takes the spelling of the last head, see [`Framing::take_spelling`].
    pub(crate) fn take_spelling(&self) -> Spelling {
        self.0.borrow_mut().framing.take_spelling()
    }

    /// Applies a spelling to the head that hyper writes next.
    ///
    /// Without effect while earlier bytes are unsent, for then the next byte that hyper writes
    /// does not begin a head: a pipelining client reads too slowly.
    pub(crate) fn spell_next(&self, spelling: Spelling) {
        let inner = &mut *self.0.borrow_mut();
        if inner.is_flushed {
            inner.heads.expect(spelling);
        }
    }

    /// Shares the flag of a body with broken framing, see [`Framing::is_body_broken`].
    pub(crate) fn is_body_broken(&self) -> Rc<Cell<bool>> {
        self.0.borrow().framing.is_body_broken()
    }

    /// Returns a guard that keeps a request in progress until it is dropped.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.0.borrow().under_way.clone()
    }

    /// Returns whether no request is in progress.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.borrow().under_way.is_over()
    }

    /// Becomes ready when a request missed its deadline; to be polled after hyper.
    pub(crate) fn poll_too_slow(&self, context: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        // A response that is still going out has `write_timeout` instead.
        let is_under_way = !inner.under_way.is_over() || !inner.is_flushed;
        let has_begun = inner.framing.has_begun();
        inner.patience.poll_ended(context, is_under_way, has_begun)
    }

    /// Returns whether a request missed its deadline.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.0.borrow().patience.has_ended()
    }

    /// Returns whether the client is known to have left: for a held request when it sends no
    /// more, for any other when it can receive no more.
    pub(crate) fn is_gone(&self) -> bool {
        let inner = self.0.borrow();
        let stream = &inner.stream.stream;
        stream.is_broken() || inner.is_held && stream.is_hung_up()
    }

    /// Sets whether the request in progress is held, and so ends when the client sends no more.
    pub(crate) fn set_held(&self, is_held: bool) {
        self.0.borrow_mut().is_held = is_held;
    }

    /// Becomes ready when a client that sends no more has its response, or has left; to be polled
    /// after hyper.
    pub(crate) fn poll_ended(&self, context: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        let is_busy = inner.is_busy();
        let Some(next_look) = &mut inner.next_look else {
            return Poll::Pending;
        };
        // A held request ends with its client; any other has had its response.
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

    /// Returns whether everything that hyper wrote has been flushed.
    pub(crate) fn is_flushed(&self) -> bool {
        self.0.borrow().is_flushed
    }

    /// Returns whether the client exceeded `write_timeout`, which failed its connection.
    pub(crate) fn is_stalled(&self) -> bool {
        self.0.borrow().is_stalled
    }

    /// Writes `bytes` after hyper is done with the stream.
    ///
    /// # Errors
    ///
    /// Those of the stream, and [`TimedOut`](io::ErrorKind::TimedOut) when the client reads
    /// nothing for `write_timeout`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Sends a `1xx` response before the final one, which hyper's server cannot do.
    ///
    /// To be called while hyper waits for the final response: hyper has encoded nothing since the
    /// previous one, whose end it flushes before it polls for the next. An interim response waits
    /// until that is flushed.
    pub(crate) fn send_interim(&self, interim: &Interim) {
        let inner = &mut *self.0.borrow_mut();
        // Interim responses are optional (RFC 9110 §15.2), so a client that does not read them
        // loses the excess.
        if inner.interim.len() > MAX_INTERIM_BYTES {
            return;
        }
        interim.write(&mut inner.interim);
        if inner.is_flushed {
            // hyper's next write or flush meets the error, and sends the rest.
            let _ = inner.poll_interim(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl ClientIoState {
    /// Returns whether a request is in progress, or its response is not yet flushed.
    fn is_busy(&self) -> bool {
        !self.under_way.is_over() || !self.is_flushed || !self.interim.is_empty()
    }

    /// Notes that the client sends no more, and returns whether hyper must not see that.
    fn hides_end(&mut self) -> bool {
        let is_hidden = self.is_busy() && self.framing.is_between_requests();
        if is_hidden && self.next_look.is_none() {
            // Reads show nothing more; keepalive probes find a client that has vanished.
            self.stream.stream.keep_asking();
            self.next_look = Some(Box::pin(sleep(LOOK_AFTER_CLIENT)));
        }
        is_hidden
    }

    /// Writes the pending interim responses.
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

    /// Passes on the outcome of a write or a flush, or fails once it has been pending for
    /// `write_timeout`.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // Any progress restarts the time.
        if outcome.is_ready() {
            self.watchdog.set(None);
            return outcome;
        }
        if !self.watchdog.is_set() {
            self.watchdog.set(Some(Instant::now() + self.write_timeout));
        }
        ready!(self.watchdog.poll_expired(context));
        self.is_stalled = true;
        let stalled = "the client reads nothing of its response";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }

    /// The stream for hyper's bytes and the spelling of their heads, once interim responses are
    /// out.
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
        // `poll_ended` is polled after hyper and reports the end.
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
