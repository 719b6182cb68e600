//! What goes on on one connection: how many streams there are, and how many the client
//! has cancelled.
//!
//! # Invariants
//!
//! * A request counts as answered only when its answer has reached its end: one whose body is
//!   broken by a reset gets an answer, too, which nobody sends.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    Response,
    body::{Body, Frame, SizeHint},
};
use tokio::{sync::Notify, time};

/// So many requests a client may cancel before they are compared with those that it let end.
///
/// Cancelling costs the client nothing and the upstream a request each (CVE-2023-44487). A
/// browser may well cancel many, when somebody leaves a page, but not most.
const MAX_CANCELLED: u32 = 200;

/// The streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    open: Cell<usize>,
    /// How many of them are sessions.
    sessions: Cell<u32>,
    answered: Cell<u32>,
    cancelled: Cell<u32>,
    changed: Notify,
}

impl Activity {
    /// Resolves when there has been no stream for `timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancelling starts the time anew.
    pub(super) async fn idle_for(&self, timeout: Duration) {
        loop {
            self.ended().await;
            let changed = time::timeout(timeout, self.changed.notified());
            if changed.await.is_err() && self.open.get() == 0 {
                return;
            }
        }
    }

    /// Resolves when there is no stream.
    pub(super) async fn ended(&self) {
        self.until(|| self.open.get() == 0).await;
    }

    /// Resolves when the client has cancelled more requests than anybody would who means
    /// well.
    pub(super) async fn too_many_cancelled(&self) {
        self.until(|| {
            let cancelled = self.cancelled.get();
            cancelled > MAX_CANCELLED && cancelled > self.answered.get()
        })
        .await;
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition() {
                return;
            }
            changed.await;
        }
    }

    fn enter(&self) {
        self.open.set(self.open.get() + 1);
        self.changed.notify_waiters();
    }

    fn leave(&self) {
        self.open.set(self.open.get() - 1);
        self.changed.notify_waiters();
    }
}

/// A request that counts until it is dropped, when its answer is no longer under way.
#[derive(Debug)]
pub(super) struct Stream {
    activity: Rc<Activity>,
    is_answered: bool,
}

impl Stream {
    /// One more request.
    pub(super) fn request(activity: &Rc<Activity>) -> Self {
        activity.enter();
        Self {
            activity: Rc::clone(activity),
            is_answered: false,
        }
    }

    /// Goes on until the body of `response` is sent or given up.
    pub(super) fn answer<B: Body>(mut self, response: Response<B>) -> Response<Counted<B>> {
        self.is_answered = response.body().is_end_stream();
        response.map(|body| Counted { body, stream: self })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let activity = &self.activity;
        let count = if self.is_answered {
            &activity.answered
        } else {
            &activity.cancelled
        };
        count.set(count.get().saturating_add(1));
        activity.leave();
    }
}

/// A session that counts until it is dropped, which may be long after its stream was reset.
#[derive(Debug)]
pub(super) struct Session(Rc<Activity>);

impl Session {
    /// One more session; `None` when the connection has `max` of them.
    pub(super) fn begin(activity: &Rc<Activity>, max: u32) -> Option<Self> {
        let sessions = activity.sessions.get();
        if sessions >= max {
            return None;
        }
        activity.sessions.set(sessions + 1);
        activity.enter();
        Some(Self(Rc::clone(activity)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.sessions.set(self.0.sessions.get() - 1);
        self.0.leave();
    }
}

/// The body of an answer, of which the stream counts as long as it is there.
#[derive(Debug)]
pub(super) struct Counted<B> {
    body: B,
    stream: Stream,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        // Behind an error of the upstream, too, nothing is left that a client might cancel.
        let is_end = match &frame {
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) | None => true,
        };
        self.stream.is_answered |= is_end;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
