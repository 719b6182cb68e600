//! Write timeout of one stream: the client reads nothing of its response.
//!
//! hyper runs each stream in a task of its own, of which this module sees the body of the
//! response: a piece after which hyper does not poll for the next one waits for the client's
//! window. After the timeout the stream's task is dropped, which resets the stream and cancels
//! the upstream's response; the connection's other streams continue.
//!
//! A connection on which nothing at all is read ends by its unacknowledged pings.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{task_local, time::Instant};

use crate::transport::lazy_deadline::LazyDeadline;

/// Bytes of a response that are handed to hyper at once: a client that reads this much within the
/// timeout is never disconnected. `DATA` frames are no longer than this unless the client asks
/// for larger ones (RFC 9113 §4.2).
pub(crate) const MAX_PIECE_BYTES: usize = 16 * 1024;

task_local! {
    /// The pace of the stream whose task is running.
    static CURRENT: Pace;
}

/// Time since when a piece of one response waits for its client; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Rc<Cell<Option<Instant>>>);

impl Pace {
    /// Returns the pace of the stream whose task is running, or a detached one outside such a
    /// task.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Notes that a piece has been handed to hyper.
    pub(crate) fn wait(&self) {
        self.0.set(Some(Instant::now()));
    }

    /// Notes that the next piece is polled for, or that none is left.
    pub(crate) fn go_on(&self) {
        self.0.set(None);
    }
}

/// Runs the `task` of a stream; returns false when its client has let a piece wait for `timeout`.
///
/// While `is_heard` returns false the connection is not read, so that window updates may be
/// waiting in it, and the time begins again.
pub(crate) async fn run(
    task: impl Future<Output = ()>,
    timeout: Duration,
    is_heard: impl Fn() -> bool,
) -> bool {
    let pace = Pace::default();
    let mut watchdog = LazyDeadline::default();
    let mut task = pin!(CURRENT.scope(pace.clone(), task));
    poll_fn(|context: &mut Context<'_>| {
        if task.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        loop {
            // The poll above may have moved the pace.
            watchdog.set(pace.0.get().map(|since| since + timeout));
            ready!(watchdog.poll_expired(context));
            if is_heard() {
                return Poll::Ready(false);
            }
            // The wait was not the client's fault.
            pace.wait();
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_lets_a_piece_wait_is_given_up() {
        let start = Instant::now();
        let task = async {
            sleep(TIMEOUT).await;
            Pace::current().wait();
            pending::<()>().await;
        };

        assert!(!run(task, TIMEOUT, || true).await);
        assert_eq!(start.elapsed(), 2 * TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_goes_on_in_time_is_not() {
        let task = async {
            for _ in 0..9 {
                Pace::current().wait();
                sleep(TIMEOUT / 2).await;
                Pace::current().go_on();
            }
            sleep(9 * TIMEOUT).await;
        };

        assert!(run(task, TIMEOUT, || true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_do_not_wait_for_each_other() {
        let stuck = async {
            Pace::current().wait();
            pending::<()>().await;
        };

        let (stuck, other) = tokio::join!(
            run(stuck, TIMEOUT, || true),
            run(sleep(2 * TIMEOUT), TIMEOUT, || true)
        );

        assert!(!stuck);
        assert!(other);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_not_heard_has_its_time_again() {
        let start = Instant::now();
        let task = async {
            Pace::current().wait();
            pending::<()>().await;
        };

        let is_heard = || start.elapsed() > 3 * TIMEOUT;
        assert!(!run(task, TIMEOUT, is_heard).await);
        assert_eq!(start.elapsed(), 4 * TIMEOUT);
    }
}
