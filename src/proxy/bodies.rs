//! The body of a response: the proxy's own, or the upstream's as it is streamed.
//!
//! # Invariants
//!
//! * A connection goes back to its home only at the end of the response; a body that is dropped
//!   before its end closes it.
//! * A response that ends before its request ends the request as well: the rest of the client's
//!   body is discarded, and neither connection is used again.
//! * Of a response that breaks off the client gets everything that has come and that it can take
//!   at once.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::task::{self, AbortHandle};

use super::binding::Home;
use crate::{
    headers::hop_by_hop,
    http_client::{http1::Http1Connection, http2::StreamSlot, upload::UploadProgress},
    websocket::spelling::Spelling,
};

/// The body of a response to a client.
#[derive(Debug)]
pub struct Body {
    kind: BodyKind,
    /// The request's line in the log, if it gets one when the body ends.
    observer: Option<Box<dyn BodyObserver>>,
    under_way: Option<UnderWay>,
    /// Spelling of the names in the response's head.
    spelling: Option<Spelling>,
    /// Progress of the request's body, until that is complete.
    upload: Option<Rc<UploadProgress>>,
    /// The error that it broke off with, to be yielded at the next poll.
    error: Option<hyper::Error>,
}

/// Guard of a request in progress; clones share it.
#[derive(Clone, Debug, Default)]
pub struct UnderWay(Rc<()>);

impl UnderWay {
    /// Returns whether no clone is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

/// Follows the body of a response to its end, for the log of requests.
///
/// It is dropped with the body, whole or not.
pub(crate) trait BodyObserver: fmt::Debug {
    /// Notes the length of the body in bytes, if that is known.
    fn set_length(&mut self, bytes: Option<u64>);

    /// Counts `bytes` of the body that were handed to hyper.
    fn add_bytes(&mut self, bytes: usize);

    /// Notes that all of the body has been handed on.
    fn set_whole(&mut self);

    /// Notes that the upstream broke off its response.
    fn set_broken(&mut self, error: &hyper::Error);
}

#[derive(Debug)]
enum BodyKind {
    /// The proxy's own, until it has been sent.
    Own(Bytes),
    /// The upstream's, on a connection that is driven elsewhere or has delivered all of it.
    Upstream(Incoming),
    /// The upstream's, on a connection that is driven here.
    Driven(Box<Driven>),
    /// The upstream's, on a shared connection.
    Shared(
        Incoming,
        #[expect(dead_code, reason = "counts until it is dropped")] StreamSlot,
    ),
    /// The upstream's, while the request's body is still being sent.
    Duplex(
        Incoming,
        #[expect(dead_code, reason = "aborts when it is dropped")] Abort,
    ),
}

/// A body on a connection that is driven by polls of the body.
#[derive(Debug)]
struct Driven {
    incoming: Incoming,
    /// `None` after it has gone back to its `home`.
    connection: Option<Box<Http1Connection>>,
    home: Home,
}

impl Body {
    /// Wraps the upstream's response on `connection`, on which the whole request has been sent.
    #[must_use]
    pub fn on(connection: Box<Http1Connection>, incoming: Incoming, home: Home) -> Self {
        // A short response came with its head, and hyper has read it to its end.
        if connection.is_reusable() {
            home.put(connection);
            return Self::from(incoming);
        }
        let connection = Some(connection);
        Self::of(BodyKind::Driven(Box::new(Driven {
            incoming,
            connection,
            home,
        })))
    }

    /// Wraps the upstream's response on `stream`.
    #[must_use]
    pub fn shared(stream: StreamSlot, incoming: Incoming) -> Self {
        Self::of(BodyKind::Shared(incoming, stream))
    }

    /// Wraps the upstream's response on `connection`, on which the request is still being sent.
    ///
    /// A task of its own drives the connection, so that the request continues when the client
    /// does not read the response.
    #[must_use]
    pub fn during_upload(connection: Box<Http1Connection>, incoming: Incoming, home: Home) -> Self {
        let mut connection = connection;
        let driving = task::spawn_local(async move {
            poll_fn(|context| {
                if connection.drive(context) && !connection.is_reusable() {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            home.put(connection);
        });
        Self::of(BodyKind::Duplex(incoming, Abort(driving.abort_handle())))
    }

    /// Sets the spelling of the names in the response's head.
    #[must_use]
    pub fn spelled(self, spelling: Spelling) -> Self {
        let spelling = Some(spelling);
        Self { spelling, ..self }
    }

    /// Takes the spelling of the names in the response's head; `None` for hyper's, which is lower
    /// case.
    pub const fn take_spelling(&mut self) -> Option<Spelling> {
        self.spelling.take()
    }

    /// Ties the body to that of its request: an error while the client's `upload` has failed is
    /// not the upstream's.
    #[must_use]
    pub fn while_uploading(self, upload: Option<Rc<UploadProgress>>) -> Self {
        Self { upload, ..self }
    }

    /// Keeps the request in progress until the body has been sent or dropped.
    pub fn keep(&mut self, under_way: UnderWay) {
        self.under_way = Some(under_way);
    }

    const fn of(kind: BodyKind) -> Self {
        Self {
            kind,
            observer: None,
            under_way: None,
            spelling: None,
            upload: None,
            error: None,
        }
    }

    /// Attaches an `observer`, which is dropped with the body.
    pub(crate) fn observed(self, observer: Box<dyn BodyObserver>) -> Self {
        let mut observer = observer;
        // Bodies of the proxy itself are short, and hyper never polls that of a response to
        // `HEAD`.
        if matches!(self.kind, BodyKind::Own(_)) || self.is_end_stream() {
            observer.set_whole();
        }
        observer.set_length(hyper::body::Body::size_hint(&self).exact());
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// Passes what became of a frame to the observer.
    fn note(&mut self, frame: Option<&hyper::Result<Frame<Bytes>>>) {
        let is_at_end = self.is_end_stream();
        let Some(observer) = &mut self.observer else {
            return;
        };
        let is_client_at_fault = || {
            let upload = self.upload.as_ref();
            upload.is_some_and(|upload| upload.state().is_failed())
        };
        match frame {
            Some(Ok(frame)) => {
                observer.add_bytes(frame.data_ref().map_or(0, Bytes::len));
                if is_at_end || frame.is_trailers() {
                    observer.set_whole();
                }
            }
            Some(Err(error)) if !is_client_at_fault() => observer.set_broken(error),
            Some(Err(_)) => {}
            None => observer.set_whole(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::of(BodyKind::Own(bytes))
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self::of(BodyKind::Upstream(incoming))
    }
}

impl Driven {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // Driving the connection wakes the task, so these polls need no waker.
        let mut unheard = Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut self.incoming).poll_frame(&mut unheard);
        if frame.is_pending()
            && let Some(connection) = &mut self.connection
        {
            connection.drive(context);
            frame = Pin::new(&mut self.incoming).poll_frame(&mut unheard);
        }
        let is_at_end =
            matches!(frame, Poll::Ready(None)) || frame.is_ready() && self.incoming.is_end_stream();
        if is_at_end && let Some(connection) = self.connection.take() {
            self.home.put(connection);
        }
        frame
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match &mut this.kind {
            BodyKind::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            BodyKind::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            BodyKind::Upstream(incoming)
            | BodyKind::Shared(incoming, _)
            | BodyKind::Duplex(incoming, _) => Pin::new(incoming).poll_frame(context),
            BodyKind::Driven(driven) => driven.poll_frame(context),
        };
        if let Poll::Ready(frame) = &frame {
            this.note(frame.as_ref());
        }
        if let Poll::Ready(Some(Err(error))) = frame {
            // On an error hyper discards what it has buffered; while it waits it writes that
            // first.
            this.error = Some(error);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        frame.map_ok(hop_by_hop::without_forbidden_trailers)
    }

    fn is_end_stream(&self) -> bool {
        if self.error.is_some() {
            return false;
        }
        match &self.kind {
            BodyKind::Own(bytes) => bytes.is_empty(),
            BodyKind::Upstream(incoming)
            | BodyKind::Shared(incoming, _)
            | BodyKind::Duplex(incoming, _) => incoming.is_end_stream(),
            BodyKind::Driven(driven) => driven.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodyKind::Upstream(incoming)
            | BodyKind::Shared(incoming, _)
            | BodyKind::Duplex(incoming, _) => incoming.size_hint(),
            BodyKind::Driven(driven) => driven.incoming.size_hint(),
        }
    }
}

/// Aborts a task when it is dropped.
#[derive(Debug)]
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
