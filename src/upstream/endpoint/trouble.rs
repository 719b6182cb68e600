//! Reasons why no session gets through to an upstream, for the log: once for each change.
//!
//! An upstream that does not listen is reported at once. Any other reason may concern a single
//! client; it is reported when a session has met nothing else for [`PATIENCE`] and no other session
//! got through meanwhile.
//!
//! # Invariants
//!
//! * Each reason is reported once while no session gets through, with at most one line per
//!   [`PAUSE`], however many sessions wait and however their reasons alternate.
//! * The end of trouble is reported only after a warning.
//! * An endpoint that has a successor reports nothing.

use std::{
    fmt::Display,
    io, mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Endpoint;
use crate::upstream::{attempts::Failure, breaker::millis};

/// Time without success after which the log gives the reason.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pause between two lines about the same route.
const PAUSE: Duration = Duration::from_secs(1);

/// Kind of failure of an attempt; system errors of different kinds are different reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Reason {
    pub(in crate::upstream) failure: Failure,
    pub(in crate::upstream) kind: Option<io::ErrorKind>,
}

#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Number of sessions that got through.
    switched: AtomicU64,
    /// Copy of whether there is trouble, read without the lock.
    is_known: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    trouble: Option<Trouble>,
    /// Time of the latest line, in this trouble or an earlier one.
    told_at: Option<Instant>,
    /// Set once a successor reports instead.
    is_handed_over: bool,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    latest: Reason,
    told: Vec<Reason>,
}

impl Known {
    /// Records a reason; returns whether it is to be reported.
    fn note(&mut self, reason: Reason) -> bool {
        let now = Instant::now();
        if let Some(trouble) = &mut self.trouble {
            trouble.latest = reason;
        }
        let is_told = |trouble: &Trouble| trouble.told.contains(&reason);
        if self.is_handed_over
            || self.trouble.as_ref().is_some_and(is_told)
            || self.told_at.is_some_and(|at| now < at + PAUSE)
        {
            return false;
        }
        self.told_at = Some(now);
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since: now,
            latest: reason,
            told: Vec::new(),
        });
        trouble.told.push(reason);
        true
    }
}

impl Troubles {
    /// Records that no session gets through.
    pub(super) fn note(&self, endpoint: &Endpoint, reason: Reason, error: &dyn Display) {
        let mut known = self.known();
        if !known.note(reason) {
            return;
        }
        self.is_known.store(true, Ordering::Relaxed);
        drop(known);
        let waiting = endpoint.waiting.load(Ordering::Relaxed);
        let route = &*endpoint.route;
        let upstream_address = &endpoint.settings.address;
        if reason.failure == Failure::Silent {
            tracing::info!(
                route,
                %upstream_address,
                waiting,
                "waiting for the upstream to answer: {error}"
            );
        } else {
            tracing::warn!(
                route,
                %upstream_address,
                upstream_error = %error,
                waiting,
                "upstream is unavailable"
            );
        }
    }

    /// Hands the state to the endpoint's successor; this one reports nothing from here on.
    pub(super) fn hand_over(&self) -> Self {
        let mut known = self.known();
        self.is_known.store(false, Ordering::Relaxed);
        let handed_over = mem::take(&mut *known);
        known.is_handed_over = true;
        Self {
            switched: AtomicU64::default(),
            is_known: AtomicBool::new(handed_over.trouble.is_some()),
            known: Mutex::new(handed_over),
        }
    }

    /// Records that the upstream listens again, for which `waiting` sessions and requests waited.
    pub(super) fn heard(&self, endpoint: &Endpoint, waiting: usize) {
        let is_over = |reason: Reason| reason.failure == Failure::Unreachable;
        self.end(endpoint, waiting, is_over);
    }

    /// Records that a session got through.
    pub(super) fn switched(&self, endpoint: &Endpoint) {
        self.switched.fetch_add(1, Ordering::Relaxed);
        if self.is_known.load(Ordering::Relaxed) {
            let waiting = endpoint.waiting.load(Ordering::Relaxed);
            self.end(endpoint, waiting, |_any| true);
        }
    }

    fn end(&self, endpoint: &Endpoint, waiting: usize, is_over: impl Fn(Reason) -> bool) {
        let mut known = self.known();
        let trouble = known.trouble.take_if(|trouble| is_over(trouble.latest));
        let Some(trouble) = trouble else { return };
        self.is_known.store(false, Ordering::Relaxed);
        drop(known);
        let is_warning = |reason: &Reason| reason.failure != Failure::Silent;
        if !trouble.told.iter().any(is_warning) {
            return;
        }
        let unavailable_ms = millis(trouble.since.elapsed());
        tracing::info!(
            route = &*endpoint.route,
            upstream_address = %endpoint.settings.address,
            unavailable_ms,
            waiting,
            "upstream is available again"
        );
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // No operation under the lock leaves the state inconsistent if it panics.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time that a session has waited while no other one got through.
#[derive(Debug)]
pub(in crate::upstream) struct Tolerance {
    since: Instant,
    switched: u64,
}

impl Tolerance {
    /// Time that a session waits before the reason is reported.
    pub(in crate::upstream) const LENGTH: Duration = PATIENCE;

    /// Starts waiting for `endpoint`.
    pub(in crate::upstream) fn new(endpoint: &Endpoint) -> Self {
        Self {
            since: Instant::now(),
            switched: endpoint.troubles.switched.load(Ordering::Relaxed),
        }
    }

    /// Records a failed attempt, and reports it if there was nothing else for a while.
    pub(in crate::upstream) fn fail(
        &mut self,
        endpoint: &Endpoint,
        reason: Reason,
        error: &dyn Display,
    ) {
        let now = Self::new(endpoint);
        if now.switched != self.switched {
            *self = now;
        } else if now.since - self.since >= PATIENCE {
            endpoint.troubles.note(endpoint, reason, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    const fn reason(failure: Failure, kind: Option<io::ErrorKind>) -> Reason {
        Reason { failure, kind }
    }

    const REFUSED: Reason = reason(Failure::Unreachable, Some(io::ErrorKind::ConnectionRefused));
    const NO_NAME: Reason = reason(Failure::Unreachable, Some(io::ErrorKind::NotFound));
    const UNAVAILABLE: Reason = reason(Failure::Unavailable, None);

    #[tokio::test(start_paused = true)]
    async fn reasons_that_alternate_are_told_once_each_and_not_at_once() {
        let mut known = Known::default();
        let mut told = Vec::new();
        for _ in 0..1000 {
            for reason in [REFUSED, UNAVAILABLE, NO_NAME] {
                if known.note(reason) {
                    told.push((reason, Instant::now()));
                }
            }
            time::advance(Duration::from_millis(10)).await;
        }

        assert_eq!(told.len(), 3, "{told:?}");
        for (earlier, later) in told.iter().zip(&told[1..]) {
            assert!(later.1 - earlier.1 >= PAUSE, "{told:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_trouble_is_not_logged_each_time() {
        let mut known = Known::default();
        let mut told = 0;
        for _ in 0..100 {
            told += u32::from(known.note(REFUSED));
            known.trouble = None;
            time::advance(Duration::from_millis(10)).await;
        }

        assert_eq!(told, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_goes_to_the_endpoint_that_follows() {
        let troubles = Troubles::default();
        assert!(troubles.known().note(REFUSED));

        let next = troubles.hand_over();

        time::advance(2 * PAUSE).await;
        assert!(!troubles.known().note(UNAVAILABLE));
        assert!(!next.known().note(REFUSED), "that is told");
        assert!(next.known().note(UNAVAILABLE));
    }
}
