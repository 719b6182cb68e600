//! An HTTP/1.1 connection to an upstream, and one request with its response on it.
//!
//! ```text
//!              ┌──────────── drives ────────────────┐
//!   request ──►│ Http1Connection ──► hyper's client │──► upstream
//!  response ◄──│                ◄── Answers, strict │◄──
//!              └────────────────────────────────────┘
//! ```
//!
//! hyper's client is a future of its own that has to be polled. The task that waits for the
//! response does that, which is the task of the client's connection: a task for each upstream
//! connection would cost two more wake-ups for each request.
//!
//! # Invariants
//!
//! * The connection's future is polled right before its results are read, so that nothing else
//!   has to wake the task.
//! * A connection is [reusable](Http1Connection::is_reusable) only when hyper has read the
//!   response to its end, written the request to its end, and found nothing behind the response.
//! * A response that the upstream sends before it has read the whole request is delivered, even
//!   if it closes the connection: after a failed write hyper would stop reading, so write errors
//!   are hidden from it. Later writes are discarded until the response or the end has been read.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::upload::{self, Upload};
use crate::{
    headers::framing::responses::{Answers, Interim},
    observability::error_chain::ErrorChain,
    transport::{Transport, lazy_deadline::LazyDeadline},
    upstream::{ResponseLimits, tls::TlsError},
    websocket::Opened,
};

/// An HTTP/1.1 connection to an upstream.
#[derive(Debug)]
pub struct Http1Connection {
    sender: http1::SendRequest<Upload>,
    /// `None` after it has ended.
    driver: Option<http1::Connection<TokioIo<Http1Link>, Upload>>,
    seen: Rc<ResponseSeen>,
    watchdog: LazyDeadline,
}

/// Observations of the stream below hyper.
#[derive(Debug)]
struct ResponseSeen {
    answers: RefCell<Answers>,
    /// Set after a write failed: the upstream reads no more.
    is_deaf: Cell<bool>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection had ended before any of the request was written.
    #[error("closed before the request")]
    NotSent(Box<Request<Upload>>),
    /// The connection ended before any byte of a response.
    #[error("closed before the response")]
    NoAnswer,
    /// The upstream says that it has not processed the request (RFC 9113 §8.7).
    #[error("refused unprocessed")]
    Refused,
    /// The response is malformed, or can be read in two ways.
    #[error("{0}")]
    Malformed(&'static str),
    /// TLS was rejected: in TLS 1.3 a client learns only at this point that its certificate is.
    #[error("TLS with the upstream failed: {0}")]
    Tls(TlsError),
    /// The connection ended within the response, or the request was not written whole.
    #[error(transparent)]
    Broken(hyper::Error),
    /// The response did not begin in time after the request.
    #[error("no response in time")]
    TimedOut,
}

impl Http1Connection {
    /// Wraps a stream on which nothing has been sent; its responses have to be within `limits`.
    ///
    /// # Errors
    ///
    /// None that hyper describes.
    pub async fn new(stream: Transport, limits: ResponseLimits) -> hyper::Result<Self> {
        Self::with_replay(stream, limits, None).await
    }

    /// Wraps a connection on which a request has been sent, and whose response begins with the
    /// bytes that `answer` has read: the next request is not sent, and gets that response.
    ///
    /// # Errors
    ///
    /// None that hyper describes.
    pub async fn resume(answer: Opened<Transport>, limits: ResponseLimits) -> hyper::Result<Self> {
        let Opened { stream, read_buf } = answer;
        let replay = Replay {
            read_buf,
            is_asked: false,
            reader: None,
        };
        Self::with_replay(stream, limits, Some(Box::new(replay))).await
    }

    async fn with_replay(
        stream: Transport,
        limits: ResponseLimits,
        replay: Option<Box<Replay>>,
    ) -> hyper::Result<Self> {
        let seen = Rc::new(ResponseSeen {
            answers: RefCell::new(Answers::new(limits)),
            is_deaf: Cell::new(false),
        });
        let link = Http1Link {
            stream,
            seen: Rc::clone(&seen),
            replay,
        };
        let (sender, driver) = builder(limits).handshake(TokioIo::new(link)).await?;
        Ok(Self {
            sender,
            driver: Some(driver),
            seen,
            watchdog: LazyDeadline::default(),
        })
    }

    /// Drives the connection; returns `false` after it has ended.
    pub fn drive(&mut self, context: &mut Context<'_>) -> bool {
        let Some(driver) = &mut self.driver else {
            return false;
        };
        let Poll::Ready(ended) = Pin::new(driver).poll(context) else {
            return true;
        };
        if let Err(error) = ended {
            tracing::debug!(error = %ErrorChain(&error), "connection to upstream ended");
        }
        self.driver = None;
        false
    }

    /// Returns whether an idle connection is still open, as far as the process knows.
    ///
    /// Its previous task is no longer woken for it.
    pub fn is_open(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()))
    }

    /// Returns the stream, to speak another protocol on it; `None` if it cannot carry another
    /// request.
    #[must_use]
    pub fn into_stream(self) -> Option<Transport> {
        if !self.is_reusable() {
            return None;
        }
        let parts = self.driver?.into_parts();
        let is_all_read = parts.read_buf.is_empty();
        is_all_read.then(|| parts.io.into_inner().stream)
    }

    /// Returns whether the connection may carry another request.
    pub fn is_reusable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready() && !self.seen.is_deaf.get()
    }

    /// Sends `request` and waits for the head of its response, for at most `timeout` after the
    /// last piece of the request's body.
    ///
    /// `on_interim` is called with each `1xx` response before it. The body of the response makes
    /// progress only while this connection is driven.
    ///
    /// # Errors
    ///
    /// There is no response; the connection is of no use then.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the connection has to be closed.
    pub async fn send(
        &mut self,
        request: Request<Upload>,
        timeout: Option<Duration>,
        on_interim: impl Fn(&Interim),
    ) -> Result<Response<Incoming>, SendError> {
        self.watchdog
            .set(timeout.map(|timeout| Instant::now() + timeout));
        self.seen.answers.borrow_mut().expect();
        let progress = request.body().progress();
        let mut sent = pin!(self.sender.try_send_request(request));
        poll_fn(|context| {
            // Driven before its results are read, so the noop waker below misses nothing.
            let is_open = self.drive(context);
            let mut answers = self.seen.answers.borrow_mut();
            answers.take_interims().iter().for_each(&on_interim);
            answers.verdict().map_err(SendError::Malformed)?;
            drop(answers);
            let mut unheard = Context::from_waker(Waker::noop());
            if let Poll::Ready(answer) = sent.as_mut().poll(&mut unheard) {
                return Poll::Ready(answer.map_err(|error| self.send_error(error)));
            }
            debug_assert!(is_open, "an ended connection answers what it was asked");
            if let Some(deadline) = upload::deadline(progress.as_deref(), timeout) {
                self.watchdog.set(Some(deadline));
            }
            self.watchdog
                .poll_expired(context)
                .map(|()| Err(SendError::TimedOut))
        })
        .await
    }

    fn send_error(&self, error: TrySendError<Request<Upload>>) -> SendError {
        let mut error = error;
        if let Some(request) = error.take_message() {
            return SendError::NotSent(Box::new(request));
        }
        let error = error.into_error();
        let source = error.source().and_then(<dyn Error>::downcast_ref);
        match source.and_then(TlsError::of) {
            Some(error) => SendError::Tls(error),
            None if self.seen.answers.borrow().has_begun() => SendError::Broken(error),
            None => SendError::NoAnswer,
        }
    }
}

/// Configures hyper's client for responses within `limits`.
pub(crate) fn builder(limits: ResponseLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_header_size(limits.max_header_bytes as usize);
    // With `max_headers` set, hyper allocates room for each response; [`Answers`] enforces a
    // lower limit.
    if limits.max_headers > ResponseLimits::default().max_headers {
        builder.max_headers(usize::from(limits.max_headers));
    }
    builder
}

/// The stream to an upstream, whose responses are inspected while hyper reads them, and whose
/// writes never fail.
#[derive(Debug)]
struct Http1Link {
    stream: Transport,
    seen: Rc<ResponseSeen>,
    /// Beginning of a response that was read earlier.
    replay: Option<Box<Replay>>,
}

/// Beginning of a response that was read before hyper expected it.
#[derive(Debug)]
struct Replay {
    read_buf: Bytes,
    /// Set by the first write: to hyper a response before its request would be an error.
    is_asked: bool,
    reader: Option<Waker>,
}

impl Replay {
    /// Reads from the beginning.
    fn poll_read(&mut self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<()> {
        if !self.is_asked {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let length = self.read_buf.len().min(buffer.remaining());
        buffer.put_slice(&self.read_buf.split_to(length));
        Poll::Ready(())
    }

    /// Notes that hyper has written the request, which is discarded.
    fn ask(&mut self) {
        self.is_asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Http1Link {
    /// Writes, or returns `discarded` in place of the result once the upstream reads no more.
    fn poll_hearing<T>(
        &mut self,
        discarded: T,
        write: impl FnOnce(Pin<&mut Transport>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.seen.is_deaf.get() {
            return Poll::Ready(Ok(discarded));
        }
        if let Some(replay) = &mut self.replay {
            replay.ask();
            return Poll::Ready(Ok(discarded));
        }
        let written = write(Pin::new(&mut self.stream));
        let Poll::Ready(Err(error)) = written else {
            return written;
        };
        tracing::trace!(%error, "upstream reads no more");
        self.seen.is_deaf.set(true);
        Poll::Ready(Ok(discarded))
    }
}

impl AsyncRead for Http1Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            stream,
            seen,
            replay,
        } = self.get_mut();
        let before = buffer.filled().len();
        let poll = if let Some(begun) = replay {
            ready!(begun.poll_read(context, buffer));
            if begun.read_buf.is_empty() {
                *replay = None;
            }
            Poll::Ready(Ok(()))
        } else {
            Pin::new(stream).poll_read(context, buffer)
        };
        let read = &mut buffer.filled_mut()[before..];
        seen.answers.borrow_mut().watch(read);
        poll
    }
}

impl AsyncWrite for Http1Link {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll_hearing(bytes.len(), |stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        self.get_mut()
            .poll_hearing(all, |stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.replay.is_some() {
            return Poll::Ready(Ok(()));
        }
        this.poll_hearing((), |stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
