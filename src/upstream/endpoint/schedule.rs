//! Whether somebody listens at an address, and who of those that wait tries that, and when.
//!
//! # Invariants
//!
//! * At first nothing is known, and one tries for all.
//! * That one attempt fails tells that nobody listens only where no other one has succeeded since
//!   it began.
//! * The waits are those of one series, whoever makes the attempts: they grow while nobody
//!   listens, go on where that is soon so again, and begin anew when nobody has tried for a while.

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

use crate::upstream::backoff::{Backoff, Retry};

/// How often the proxy tries at least while it refuses sessions.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The attempts to connect to one address.
#[derive(Debug)]
pub(super) struct Schedule {
    retry: Retry,
    listens: AtomicBool,
    /// How many connections there were.
    connections: AtomicU64,
    /// Whose turn it is.
    turn: Semaphore,
    changed: Notify,
    series: Mutex<Series>,
}

/// The attempts since somebody has listened last.
#[derive(Debug)]
struct Series {
    backoff: Backoff,
    tried_at: Instant,
    next_at: Instant,
    heard_at: Option<Instant>,
    /// Why the latest attempt failed; `None`: none has.
    error: Option<(io::ErrorKind, String)>,
}

impl Schedule {
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

    /// Whether somebody listens, for all that is known.
    pub(super) fn listens(&self) -> bool {
        self.listens.load(Ordering::Acquire)
    }

    /// Whether nobody listens, as the latest attempt has shown.
    pub(super) fn is_absent(&self) -> bool {
        !self.listens() && self.series().error.is_some()
    }

    /// How many connections there were.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Resolves when it becomes known whether somebody listens, or that changes; to be asked for
    /// before it is looked at that.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The turn to try, until it is dropped.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.turn.acquire().await;
        turn.expect("the semaphore is never closed")
    }

    /// Resolves when the next attempt is due, which is soon when the proxy `is_probing`.
    pub(super) async fn due(&self, is_probing: impl Fn() -> bool) {
        loop {
            let wait = self.next_try(is_probing());
            if wait.is_zero() {
                return;
            }
            // A probe that begins meanwhile is not kept waiting.
            time::sleep(wait.min(PROBE_INTERVAL)).await;
        }
    }

    /// How long until the next attempt.
    pub(super) fn next_try(&self, is_probing: bool) -> Duration {
        let series = self.series();
        let mut next_at = series.next_at;
        if is_probing {
            next_at = next_at.min(series.tried_at + PROBE_INTERVAL);
        }
        next_at.saturating_duration_since(Instant::now())
    }

    /// Notes a connection; whether nobody was known to listen.
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

    /// Notes a failed attempt that began after so many connections; whether nobody listens.
    pub(super) fn note_failure(&self, seen: u64, error: &io::Error) -> bool {
        let mut series = self.series();
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
        // Of several that were under way at once the first counts, and none of the proxy's own,
        // which do not wait for their turn in the series.
        if listened || series.next_at <= now {
            let wait = series.backoff.next(rand::random());
            series.next_at = now + wait;
        }
        drop(series);
        if was_known.is_none() {
            self.changed.notify_waiters();
        }
        true
    }

    /// Why the latest attempt failed, while nobody listens.
    pub(super) fn last_error(&self) -> Option<io::Error> {
        let series = self.series();
        let (kind, text) = series.error.as_ref()?;
        Some(io::Error::new(*kind, text.clone()))
    }

    /// The same where it is of no use to try at once: another attempt is under way, or not due.
    pub(super) fn known_error(&self) -> Option<io::Error> {
        if self.listens() {
            return None;
        }
        let is_due = self.next_try(false).is_zero() && self.turn.available_permits() > 0;
        self.last_error().filter(|_| !is_due)
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        // Nothing that is done under the lock can leave it half done.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
