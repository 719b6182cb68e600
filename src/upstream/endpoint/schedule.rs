//! State of an address (listening or not), and the turn and time of the next attempt.
//!
//! # Invariants
//!
//! * At first nothing is known, and one session tries for all.
//! * A failed attempt shows that the upstream does not listen only if no other one has succeeded
//!   since it began.
//! * All attempts share one backoff, whoever makes them: it grows while the upstream does not
//!   listen, continues if that soon happens again, and restarts after a while without attempts.

use std::{
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, futures::Notified},
    time::{self, Instant},
};

use crate::{config::Retry, upstream::backoff::Backoff};

/// Longest interval between attempts while the proxy refuses sessions.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Connection attempts to one address.
#[derive(Debug)]
pub(super) struct ConnectSchedule {
    retry: Retry,
    listens: AtomicBool,
    /// Number of connections so far.
    connections: AtomicU64,
    /// Permit to try.
    turn: Semaphore,
    changed: Notify,
    series: Mutex<Series>,
}

/// Attempts since the upstream listened last.
#[derive(Debug)]
struct Series {
    backoff: Backoff,
    tried_at: Instant,
    next_at: Instant,
    heard_at: Option<Instant>,
    /// Error of the latest attempt; `None` without a failed one.
    error: Option<(io::ErrorKind, String)>,
}

impl ConnectSchedule {
    pub(super) fn new(retry: &Retry) -> Self {
        let now = Instant::now();
        Self {
            retry: retry.clone(),
            listens: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            turn: Semaphore::new(1),
            changed: Notify::new(),
            series: Mutex::new(Series {
                backoff: Backoff::new(retry),
                tried_at: now,
                next_at: now,
                heard_at: None,
                error: None,
            }),
        }
    }

    /// Returns whether the upstream listens, as far as is known.
    pub(super) fn listens(&self) -> bool {
        self.listens.load(Ordering::Acquire)
    }

    /// Returns whether the latest attempt showed that the upstream does not listen.
    pub(super) fn is_absent(&self) -> bool {
        !self.listens() && self.series().error.is_some()
    }

    /// Number of connections so far.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Resolves when it becomes known whether the upstream listens, or when that changes; to be
    /// called before the state is read.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Acquires the turn to try, which ends when the permit is dropped.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.turn.acquire().await;
        turn.expect("the semaphore is never closed")
    }

    /// Resolves when the next attempt is due: sooner while the proxy `is_probing`.
    pub(super) async fn due(&self, is_probing: impl Fn() -> bool) {
        loop {
            let wait = self.next_try(is_probing());
            if wait.is_zero() {
                return;
            }
            // Sleeps in short steps, so that a probe that starts meanwhile is not kept waiting.
            time::sleep(wait.min(PROBE_INTERVAL)).await;
        }
    }

    /// Time until the next attempt.
    pub(super) fn next_try(&self, is_probing: bool) -> Duration {
        let series = self.series();
        let mut next_at = series.next_at;
        if is_probing {
            next_at = next_at.min(series.tried_at + PROBE_INTERVAL);
        }
        next_at.saturating_duration_since(Instant::now())
    }

    /// Records a connection; returns whether the upstream was known not to listen.
    pub(super) fn note_connection(&self) -> bool {
        self.connections.fetch_add(1, Ordering::AcqRel);
        if self.listens() {
            return false;
        }
        let mut series = self.series();
        series.heard_at = Some(Instant::now());
        let was_absent = series.error.take().is_some();
        self.listens.store(true, Ordering::Release);
        drop(series);
        self.changed.notify_waiters();
        was_absent
    }

    /// Records a failed attempt that began after `seen` connections; returns whether the upstream
    /// is known not to listen.
    pub(super) fn note_failure(&self, seen: u64, error: &io::Error) -> bool {
        let mut series = self.series();
        // A connection made meanwhile proves the opposite of this older attempt.
        if self.connections() != seen {
            return false;
        }
        let now = Instant::now();
        let listened = self.listens.swap(false, Ordering::AcqRel);
        let pause = 2 * self.retry.max;
        let is_new = if listened {
            series.heard_at.is_none_or(|at| at + pause < now)
        } else {
            series.error.is_some() && series.next_at + pause < now
        };
        if is_new {
            series.backoff = Backoff::new(&self.retry);
        }
        let was_known = series.error.replace((error.kind(), error.to_string()));
        series.tried_at = now;
        // Of several concurrent attempts the first counts, and none of the proxy's own, which do
        // not wait for their turn in the series.
        if listened || series.next_at <= now {
            let wait = series.backoff.next(rand::random());
            series.next_at = now + wait;
        }
        drop(series);
        // The first failure releases those that wait to learn whether the upstream listens.
        if was_known.is_none() {
            self.changed.notify_waiters();
        }
        true
    }

    /// Error of the latest attempt, while the upstream does not listen.
    pub(super) fn last_error(&self) -> Option<io::Error> {
        let series = self.series();
        let (kind, text) = series.error.as_ref()?;
        Some(io::Error::new(*kind, text.clone()))
    }

    /// The turn to try at once, which is needed only where nobody is known to listen.
    ///
    /// # Errors
    ///
    /// Why the latest attempt failed: another one is under way, or not due.
    pub(super) fn turn_at_once(&self) -> io::Result<Option<SemaphorePermit<'_>>> {
        if self.listens() {
            return Ok(None);
        }
        let Some(error) = self.last_error() else {
            return Ok(None);
        };
        if !self.next_try(false).is_zero() {
            return Err(error);
        }
        self.turn.try_acquire().map(Some).map_err(|_taken| error)
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        // No operation under the lock leaves the state inconsistent if it panics.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
