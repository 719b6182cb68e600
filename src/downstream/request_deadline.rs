//! Deadlines for the requests of a client's HTTP/1.1 connection.
//!
//! # Invariants
//!
//! * While a request is in progress no deadline is set.
//! * Received bytes do not move a deadline unless they begin or end a request: a client that
//!   trickles a byte now and then gains no time.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::transport::lazy_deadline::LazyDeadline;

/// The deadline for the next request on one connection, or for the rest of it.
#[derive(Debug)]
pub(crate) struct RequestDeadline {
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    awaited: Awaited,
    watchdog: LazyDeadline,
    has_ended: bool,
}

/// Events that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The whole first request, whether or not it has begun.
    First,
    /// The first byte of another request.
    Next,
    /// The rest of another request's head.
    Rest,
    /// Nothing, because a request is in progress.
    Nothing,
}

impl RequestDeadline {
    /// Expects the whole first request within `header_timeout` from now; each later one has to
    /// begin within `keep_alive_timeout`, and its head to end within `header_timeout` of its
    /// beginning.
    pub(crate) fn new(header_timeout: Duration, keep_alive_timeout: Duration) -> Self {
        let mut watchdog = LazyDeadline::default();
        watchdog.set(Some(Instant::now() + header_timeout));
        Self {
            header_timeout,
            keep_alive_timeout,
            awaited: Awaited::First,
            watchdog,
            has_ended: false,
        }
    }

    /// Returns whether a deadline has passed.
    pub(crate) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Becomes ready when a deadline has passed.
    ///
    /// To be polled whenever either may have changed: whether a request is in progress, and
    /// whether one has begun whose head has not ended.
    pub(crate) fn poll_ended(
        &mut self,
        context: &mut Context<'_>,
        is_under_way: bool,
        // An unfinished first request keeps its first deadline: it had the whole of it.
        has_begun: bool,
    ) -> Poll<()> {
        let awaited = match self.awaited {
            _ if is_under_way => Awaited::Nothing,
            Awaited::First => Awaited::First,
            _ if has_begun => Awaited::Rest,
            _ => Awaited::Next,
        };
        if awaited != self.awaited {
            self.awaited = awaited;
            let timeout = match awaited {
                Awaited::Nothing => None,
                Awaited::First | Awaited::Rest => Some(self.header_timeout),
                Awaited::Next => Some(self.keep_alive_timeout),
            };
            self.watchdog
                .set(timeout.map(|timeout| Instant::now() + timeout));
        }
        let ended = self.watchdog.poll_expired(context);
        self.has_ended |= ended.is_ready();
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds until the deadline passes if nothing changes.
    async fn seconds_left(
        patience: &mut RequestDeadline,
        is_under_way: bool,
        has_begun: bool,
    ) -> u64 {
        let asked = Instant::now();
        poll_fn(|context| patience.poll_ended(context, is_under_way, has_begun)).await;
        asked.elapsed().as_secs()
    }

    /// Polls without waiting, as hyper's activity would, and expects time to be left.
    fn ask(patience: &mut RequestDeadline, is_under_way: bool, has_begun: bool) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let ended = patience.poll_ended(&mut context, is_under_way, has_begun);
        assert!(ended.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_has_the_time_of_a_head_whenever_it_begins() {
        let mut patience = RequestDeadline::new(10 * SECOND, 75 * SECOND);
        ask(&mut patience, false, false);
        time::advance(4 * SECOND).await;
        ask(&mut patience, false, true);

        assert_eq!(seconds_left(&mut patience, false, true).await, 6);
        assert!(patience.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn another_request_has_to_begin_in_its_time_and_then_to_come() {
        let mut patience = RequestDeadline::new(10 * SECOND, 75 * SECOND);
        ask(&mut patience, true, false);
        time::advance(1000 * SECOND).await;
        ask(&mut patience, true, true);
        ask(&mut patience, false, false);
        time::advance(5 * SECOND).await;
        ask(&mut patience, false, false);
        time::advance(65 * SECOND).await;
        ask(&mut patience, false, true);
        time::advance(9 * SECOND).await;
        ask(&mut patience, false, true);
        assert_eq!(seconds_left(&mut patience, false, true).await, 1);

        let mut patience = RequestDeadline::new(10 * SECOND, 75 * SECOND);
        ask(&mut patience, true, false);
        assert_eq!(seconds_left(&mut patience, false, false).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_request_is_under_way_nothing_is_waited_for() {
        let mut patience = RequestDeadline::new(SECOND, SECOND);

        let ended = poll_fn(|context| patience.poll_ended(context, true, true));

        assert!(time::timeout(9 * SECOND, ended).await.is_err());
        assert!(!patience.has_ended());
    }
}
