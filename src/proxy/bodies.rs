//! The body of an answer: the proxy's own, or the upstream's as it comes.
//!
//! # Invariants
//!
//! * A connection goes back to where it is kept only at the end of the answer; a body that is
//!   dropped before its end closes it.
//! * An answer that ends before its request does ends that, too: what the client still
//!   sends goes nowhere, and neither connection is used again.
//! * Of an answer that breaks off the client gets what has come, as far as it takes that at
//!   once.

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

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    kind: BodyKind,
    /// The request's line in the log, if it gets one when this ends.
    observer: Option<Box<dyn BodyObserver>>,
    under_way: Option<UnderWay>,
    /// How names are spelled in the head of the answer.
    spelling: Option<Spelling>,
    /// How far the request has got, if that is not complete.
    upload: Option<Rc<UploadProgress>>,
    /// With what it has broken off.
    error: Option<hyper::Error>,
}

/// What is there for as long as an answer is under way; clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct UnderWay(Rc<()>);

impl UnderWay {
    /// Whether nobody has a clone.
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

    /// Counts `bytes` of the body that were sent.
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
    /// The upstream's, on a connection that somebody else drives or that is done with it.
    Upstream(Incoming),
    /// The upstream's, on a connection that is driven here.
    Driven(Box<Driven>),
    /// The upstream's, on a connection that is shared.
    Shared(
        Incoming,
        #[expect(dead_code, reason = "counts until it is dropped")] StreamSlot,
    ),
    /// The upstream's, while it also still gets the request's.
    Duplex(
        Incoming,
        #[expect(dead_code, reason = "aborts when it is dropped")] Abort,
    ),
}

/// A body on a connection that nobody else drives.
#[derive(Debug)]
struct Driven {
    incoming: Incoming,
    /// `None` when it has gone back to its `home`.
    connection: Option<Box<Http1Connection>>,
    home: Home,
}

impl Body {
    /// What the upstream answers on `connection`, which has got all of the request.
    #[must_use]
    pub fn on(connection: Box<Http1Connection>, incoming: Incoming, home: Home) -> Self {
        // A short answer came with its head: hyper has read it to its end.
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

    /// What the upstream answers on `stream`.
    #[must_use]
    pub fn shared(stream: StreamSlot, incoming: Incoming) -> Self {
        Self::of(BodyKind::Shared(incoming, stream))
    }

    /// What the upstream answers on `connection`, which still gets the request.
    ///
    /// A task of its own drives the connection, so that the request goes on when the client
    /// does not read the answer.
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

    /// The same body, of an answer in whose head names are spelled so.
    #[must_use]
    pub fn spelled(self, spelling: Spelling) -> Self {
        let spelling = Some(spelling);
        Self { spelling, ..self }
    }

    /// How names are spelled in the head of the answer; `None`: as hyper does, in lower case.
    pub const fn take_spelling(&mut self) -> Option<Spelling> {
        self.spelling.take()
    }

    /// The same body, which ends when what the client sends does so too early.
    #[must_use]
    pub fn while_uploading(self, upload: Option<Rc<UploadProgress>>) -> Self {
        Self { upload, ..self }
    }

    /// Keeps `under_way` until it has been sent, or dropped.
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

    /// The same body, watched by `observer`, which is dropped with it.
    pub(crate) fn observed(self, observer: Box<dyn BodyObserver>) -> Self {
        let mut observer = observer;
        // The proxy's own are short; and nobody asks for that of an answer to HEAD.
        if matches!(self.kind, BodyKind::Own(_)) || self.is_end_stream() {
            observer.set_whole();
        }
        observer.set_length(hyper::body::Body::size_hint(&self).exact());
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// Tells the line what has become of the answer.
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
            // hyper discards what it has not written when it meets an error, and writes when
            // it has to wait.
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
