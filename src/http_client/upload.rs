//! The body of a request on its way to the upstream.
//!
//! # Invariants
//!
//! * The body is read only when the upstream is there to take it: a client that expects `100`
//!   gets it then, and other bytes of a client wait in its socket meanwhile.
//! * An unread body can be taken back and sent again.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::{
    headers::hop_by_hop,
    route::HttpSettings,
    transport::{backlog::Unread, lazy_deadline::LazyDeadline},
};

/// The body of a request, as hyper's client reads it.
#[derive(Debug, Default)]
pub struct Upload(Option<Box<Sending>>);

#[derive(Debug)]
struct Sending {
    /// `None` only while this is dropped.
    body: Option<Incoming>,
    timeout: Option<Duration>,
    /// Bytes that the body may still have.
    left: u64,
    watchdog: LazyDeadline,
    progress: Rc<UploadProgress>,
}

/// Returns whether a body of known length exceeds the limit.
#[must_use]
pub fn is_too_large(body: &Incoming, settings: &HttpSettings) -> bool {
    let max_bytes = settings.max_body_bytes.unwrap_or(u64::MAX);
    body.size_hint().lower() > max_bytes
}

/// Deadline for the response to begin, `timeout` after the last piece of the body; `None` if no
/// piece has gone upstream, or without a timeout.
#[must_use]
pub fn deadline(progress: Option<&UploadProgress>, timeout: Option<Duration>) -> Option<Instant> {
    Some(progress?.last_piece.get()? + timeout?)
}

/// Progress of an upload, shared with the wait for the response.
#[derive(Debug, Default)]
pub struct UploadProgress {
    state: Cell<UploadState>,
    is_answered: Cell<bool>,
    /// Time at which a piece of the body last went upstream.
    last_piece: Cell<Option<Instant>>,
    /// Set when bytes that looked like the body turn out not to be one.
    is_broken: Option<Rc<Cell<bool>>>,
    /// The body, if it was dropped unread.
    returned: RefCell<Option<Incoming>>,
    /// Account of the body on a client connection with several streams, for as long as it is
    /// open.
    unread: RefCell<Option<Unread>>,
    /// A frame that was found before the body was wanted.
    found: RefCell<Option<Found>>,
}

/// Result of reading a piece of a body.
type Found = Option<Result<Frame<Bytes>, hyper::Error>>;

/// States of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UploadState {
    /// None of the body has been read.
    #[default]
    Unread,
    /// Some of the body has been read.
    Reading,
    /// All of the body has been read.
    Complete,
    /// The client's bytes are not a body, or it left before the end.
    Broken,
    /// The client paused for too long.
    TooSlow,
    /// The body exceeds the route's limit.
    TooLarge,
}

/// Why a body did not reach the upstream whole.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The client's bytes are not a body, or it left before the end.
    #[error("broken body")]
    Broken(#[source] Option<hyper::Error>),
    /// The client paused for too long.
    #[error("body too slow")]
    TooSlow,
    /// The body exceeds the route's limit.
    #[error("body too large")]
    TooLarge,
}

impl Upload {
    /// Wraps the body of a request, and returns its progress unless there is no body.
    ///
    /// `is_broken` is set by a parser that is stricter than hyper's. `body_timeout` applies only
    /// before the upstream responds; after that the two may be talking to each other, and silence
    /// means nothing. `unread` accounts for the body until it is read.
    #[must_use]
    pub fn new(
        body: Incoming,
        settings: &HttpSettings,
        is_broken: Option<&Rc<Cell<bool>>>,
        unread: Option<Unread>,
    ) -> (Self, Option<Rc<UploadProgress>>) {
        if body.is_end_stream() {
            return (Self(None), None);
        }
        let progress = Rc::new(UploadProgress {
            is_broken: is_broken.cloned(),
            unread: RefCell::new(unread),
            ..UploadProgress::default()
        });
        let mut body = body;
        progress.look(&mut body);
        (Self::again(body, settings, &progress), Some(progress))
    }

    /// Wraps a body that was taken back unread, to be sent again.
    #[must_use]
    pub fn again(body: Incoming, settings: &HttpSettings, progress: &Rc<UploadProgress>) -> Self {
        Self(Some(Box::new(Sending {
            body: Some(body),
            timeout: settings.body_timeout,
            left: settings.max_body_bytes.unwrap_or(u64::MAX),
            watchdog: LazyDeadline::default(),
            progress: Rc::clone(progress),
        })))
    }

    /// Returns the progress, unless there is no body.
    #[must_use]
    pub fn progress(&self) -> Option<Rc<UploadProgress>> {
        let sending = self.0.as_ref()?;
        Some(Rc::clone(&sending.progress))
    }
}

impl UploadState {
    /// Returns whether the upload failed through the client's fault.
    #[must_use]
    pub const fn is_failed(self) -> bool {
        match self {
            Self::Unread | Self::Reading | Self::Complete => false,
            Self::Broken | Self::TooSlow | Self::TooLarge => true,
        }
    }
}

impl UploadProgress {
    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> UploadState {
        self.state.get()
    }

    /// Checks whether a frame of `body` has come: before that it does not count as unread.
    fn look(&self, body: &mut Incoming) {
        if self.unread.borrow().is_some()
            && let Poll::Ready(found) = self.poll_frame(body, &Context::from_waker(Waker::noop()))
        {
            self.found.replace(Some(found));
        }
    }

    fn poll_frame(&self, body: &mut Incoming, context: &Context<'_>) -> Poll<Found> {
        if let Some(found) = self.found.take() {
            return Poll::Ready(found);
        }
        let read = |context: &mut Context<'_>| Pin::new(body).poll_frame(context);
        match &*self.unread.borrow() {
            Some(unread) => unread.poll(context, read, |frame| !matches!(frame, Some(Ok(_)))),
            None => read(&mut Context::from_waker(context.waker())),
        }
    }

    /// Returns the length of a frame that was found early.
    fn found_bytes(&self) -> u64 {
        let found = self.found.borrow();
        let Some(Some(Ok(frame))) = &*found else {
            return 0;
        };
        frame.data_ref().map_or(0, |data| data.len() as u64)
    }

    /// Notes that the response has begun.
    pub fn set_answered(&self) {
        self.is_answered.set(true);
    }

    /// Takes the body, if it was dropped unread.
    #[must_use]
    pub fn take_unread(&self) -> Option<Incoming> {
        self.returned.take()
    }
}

impl Sending {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let read = self.progress.poll_frame(body, context);
        let Poll::Ready(read) = read else {
            return self.poll_expired(context);
        };
        self.watchdog.set(None);
        if let Some(Ok(frame)) = &read
            && let Some(data) = frame.data_ref()
        {
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.progress.state.set(UploadState::TooLarge);
                return Poll::Ready(Some(Err(UploadError::TooLarge)));
            };
            self.left = left;
        }
        let (state, frame) = match read {
            // The last byte may still reveal a broken body, so this comes before the end.
            Some(Ok(_)) | None if self.progress.is_broken.as_ref().is_some_and(|it| it.get()) => {
                (UploadState::Broken, Some(Err(UploadError::Broken(None))))
            }
            Some(Ok(frame)) if body.is_end_stream() => (UploadState::Complete, Some(Ok(frame))),
            Some(Ok(frame)) => (UploadState::Reading, Some(Ok(frame))),
            Some(Err(error)) => (
                UploadState::Broken,
                Some(Err(UploadError::Broken(Some(error)))),
            ),
            None => (UploadState::Complete, None),
        };
        if state != UploadState::Reading {
            self.progress.unread.take();
        }
        self.progress.state.set(state);
        self.progress.last_piece.set(Some(Instant::now()));
        Poll::Ready(frame.map(|frame| frame.map(hop_by_hop::without_forbidden_trailers)))
    }

    /// Fails once the client has paused for the timeout.
    fn poll_expired(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(timeout) = self.timeout.filter(|_| !self.progress.is_answered.get()) else {
            return Poll::Pending;
        };
        if !self.watchdog.is_set() {
            self.watchdog.set(Some(Instant::now() + timeout));
        }
        self.watchdog.poll_expired(context).map(|()| {
            self.progress.state.set(UploadState::TooSlow);
            Some(Err(UploadError::TooSlow))
        })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut self.get_mut().0 {
            Some(sending) => sending.poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let Some(sending) = &self.0 else {
            return true;
        };
        let has_found = sending.progress.found.borrow().is_some();
        !has_found && sending.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let sending = self.0.as_ref();
        let Some((sending, body)) = sending.and_then(|it| Some((it, it.body.as_ref()?))) else {
            return SizeHint::with_exact(0);
        };
        let (found, left) = (sending.progress.found_bytes(), body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower().saturating_add(found));
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(found));
        }
        hint
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // After a response nothing is sent again.
        let may_be_sent_again = !self.progress.is_answered.get();
        if self.progress.state() == UploadState::Unread && may_be_sent_again {
            *self.progress.returned.borrow_mut() = self.body.take();
        } else {
            self.progress.unread.take();
            self.progress.found.take();
        }
    }
}
