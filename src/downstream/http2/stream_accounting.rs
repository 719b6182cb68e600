//! Accounting of one connection's streams: open ones, sessions, and requests that the client has
//! cancelled.
//!
//! # Invariants
//!
//! * A request counts as answered only when its response has reached its end: one whose body is
//!   broken by a reset gets a response as well, which is never sent.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Response,
    body::{Body, Frame, SizeHint},
};
use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use super::stall_timeout::{MAX_PIECE_BYTES, Pace};

/// Requests that a client may cancel before they are compared with the answered ones.
///
/// Cancelling costs the client nothing and the upstream a request each (CVE-2023-44487). A
/// browser may cancel many when its user leaves a page, but not most.
const MAX_CANCELLED: u32 = 200;

/// Age at which a request counts as answered, however it ends: streams of events and long polls
/// end when their clients leave. With 100 of them at a time, that is ten a second.
const LONG: Duration = Duration::from_secs(10);

/// The streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    open: Cell<usize>,
    /// The sessions among `open`.
    sessions: Cell<u32>,
    answered: Cell<u32>,
    cancelled: Cell<u32>,
    changed: Notify,
}

impl Activity {
    /// Resolves when there has been no stream for `next`, or for `first` if there never was one.
    ///
    /// # Cancel safety
    ///
    /// Cancelling restarts the time.
    pub(crate) async fn idle_for(&self, first: Duration, next: Duration) {
        loop {
            self.ended().await;
            let has_been_used = self.answered.get() > 0 || self.cancelled.get() > 0;
            let timeout = if has_been_used { next } else { first };
            let changed = time::timeout(timeout, self.changed.notified());
            if changed.await.is_err() && self.open.get() == 0 {
                return;
            }
        }
    }

    /// Resolves when no stream is open and no session is left.
    pub(crate) async fn ended(&self) {
        self.until(|| self.open.get() == 0).await;
    }

    /// Resolves when the client has cancelled more requests than a well-behaved one would.
    pub(crate) async fn too_many_cancelled(&self) {
        self.until(|| {
            let cancelled = self.cancelled.get();
            cancelled > MAX_CANCELLED && cancelled > self.answered.get()
        })
        .await;
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            // Created before the check, so that no change in between is missed.
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

/// A request that counts as open until it is dropped with its response.
#[derive(Debug)]
pub(crate) struct StreamAccount {
    activity: Rc<Activity>,
    begun: Instant,
    is_answered: bool,
}

impl StreamAccount {
    /// Opens the account of another request.
    pub(crate) fn request(activity: &Rc<Activity>) -> Self {
        activity.enter();
        Self {
            activity: Rc::clone(activity),
            begun: Instant::now(),
            is_answered: false,
        }
    }

    /// Keeps the account open until the body of `response` is sent or dropped.
    ///
    /// To be called in the task of the stream.
    pub(crate) fn answer<B: Body>(mut self, response: Response<B>) -> Response<Counted<B>> {
        self.is_answered = response.body().is_end_stream();
        response.map(|body| Counted {
            body,
            rest: Bytes::new(),
            pace: Pace::current(),
            stream: self,
        })
    }
}

impl Drop for StreamAccount {
    fn drop(&mut self) {
        let activity = &self.activity;
        let count = if self.is_answered || self.begun.elapsed() >= LONG {
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
pub(crate) struct Session(Rc<Activity>);

impl Session {
    /// Acquires a slot for another session; `None` when the connection has `max` of them.
    pub(crate) fn begin(activity: &Rc<Activity>, max: u32) -> Option<Self> {
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

/// The body of a response, which keeps its stream's account open.
#[derive(Debug)]
pub(crate) struct Counted<B> {
    body: B,
    /// Rest of the last piece that `body` yielded.
    rest: Bytes,
    pace: Pace,
    stream: StreamAccount,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        // hyper polls for a piece only when the client's window has room for it.
        self.pace.go_on();
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let last = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.rest = data;
                        None
                    }
                    Err(trailers) => Some(Some(Ok(trailers))),
                },
                end @ (Some(Err(_)) | None) => Some(end),
            };
            if let Some(last) = last {
                // After an error of the upstream, too, the client has nothing left to cancel.
                self.stream.is_answered = true;
                return Poll::Ready(last);
            }
        }
        let length = self.rest.len().min(MAX_PIECE_BYTES);
        let piece = self.rest.split_to(length);
        self.stream.is_answered |= self.is_end_stream();
        self.pace.wait();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, iter};

    use http_body_util::{BodyExt, Full, StreamBody};
    use hyper::HeaderMap;

    use super::*;

    fn answer<B: Body>(activity: &Rc<Activity>, body: B) -> Counted<B> {
        let stream = StreamAccount::request(activity);
        stream.answer(Response::new(body)).into_body()
    }

    #[tokio::test]
    async fn an_answer_is_handed_on_in_pieces_that_a_slow_client_can_take() {
        let activity = Rc::default();
        let length = 2 * MAX_PIECE_BYTES + 1;
        let whole: Bytes = (0..length).map(|at| at.to_le_bytes()[0]).collect();
        let mut body = answer(&activity, Full::new(whole.clone()));

        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
            let left = length - pieces.iter().map(Bytes::len).sum::<usize>();
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            assert_eq!(body.is_end_stream(), left == 0);
        }

        assert_eq!(pieces.concat(), whole);
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 1]);
    }

    #[tokio::test]
    async fn an_answer_whose_last_pieces_are_not_asked_for_is_cancelled() {
        let activity = Rc::default();
        let whole = Bytes::from(vec![0; 2 * MAX_PIECE_BYTES]);
        for (asked_for, answered) in [(1, 0), (2, 1)] {
            let mut body = answer(&activity, Full::new(whole.clone()));
            for _ in 0..asked_for {
                body.frame().await.unwrap().unwrap();
            }
            drop(body);

            assert_eq!(activity.answered.get(), answered);
            assert_eq!(activity.cancelled.get(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_ends_after_a_long_time_is_not_cancelled() {
        let activity = Rc::default();
        for wait in [LONG / 2, LONG] {
            let request = StreamAccount::request(&activity);
            time::advance(wait).await;
            drop(request);
        }

        assert_eq!(activity.cancelled.get(), 1);
        assert_eq!(activity.answered.get(), 1);
    }

    #[tokio::test]
    async fn trailers_are_the_end_of_an_answer() {
        let activity = Rc::default();
        let trailers = Frame::<Bytes>::trailers(HeaderMap::new());
        let frames = iter::once(Ok::<_, Infallible>(trailers));
        let mut body = answer(
            &activity,
            StreamBody::new(futures_util::stream::iter(frames)),
        );

        let frame = body.frame().await.unwrap().unwrap();
        assert!(frame.is_trailers());
        drop(body);

        assert_eq!(activity.answered.get(), 1);
    }
}
