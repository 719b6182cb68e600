//! A timer that is set often and seldom fires.
//!
//! A deadline of every request that passes would be a timer started and stopped for each.
//! Here setting it only notes it: the timer below goes on as it was set before, and when it
//! fires too early it is set again. So it costs one timer for each such period of time.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Waits for a deadline that may be moved at any time.
#[derive(Debug, Default)]
pub(crate) struct LazyDeadline {
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl LazyDeadline {
    /// Moves the deadline; `None`: there is none.
    pub(crate) fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    pub(crate) const fn is_set(&self) -> bool {
        self.deadline.is_some()
    }

    /// Ready at the deadline and from then on, never without one.
    pub(crate) fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if deadline <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_deadline_however_that_was_moved() {
        let start = Instant::now();
        let mut watchdog = LazyDeadline::default();
        for (set, then_set) in [(10, 30), (300, 40), (50, 50)] {
            watchdog.set(Some(start + set * SECOND));
            let fires = time::timeout(SECOND, poll_fn(|context| watchdog.poll_expired(context)));
            assert!(fires.await.is_err());
            watchdog.set(Some(start + then_set * SECOND));

            poll_fn(|context| watchdog.poll_expired(context)).await;

            assert_eq!(Instant::now() - start, then_set * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_fire_without_a_deadline() {
        let mut watchdog = LazyDeadline::default();
        watchdog.set(Some(Instant::now() + SECOND));
        watchdog.set(None);

        let fires = time::timeout(
            9 * SECOND,
            poll_fn(|context| watchdog.poll_expired(context)),
        );

        assert!(fires.await.is_err());
    }
}
