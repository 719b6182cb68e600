//! Circuit breaker: while the upstream of a route is known to be failing, a client is better off
//! without its `101`.
//!
//! A client takes a `101` for success and resets its own backoff. One that is accepted and then
//! closed, because the upstream is unavailable, comes back at once, and so do all others.
//!
//! ```text
//!            failures                          cooldown is over
//!  closed ───────────► open ──────────────────────────────────► half-open: a few at a time
//!    ▲                  │ ▲                                         │        │
//!    │ a session becomes│ └── one of them failed soon ──────────────┘        │
//!    │ ready, or the    │                                                    │
//!    │ upstream listens │                                                    │
//!    └──────────────────┴────────────────────────────────────────────────────┘
//! ```
//!
//! The cooldown is extended by a little at random, so that several proxies do not go half-open in
//! step. While the proxy itself [tries](super::endpoint) an address that does not listen, the
//! cooldown does not end, and half-open admits no session: it would only wait for that same
//! attempt.
//!
//! # Invariants
//!
//! * A failure counts only if no session became ready since the one that failed began: whatever
//!   some clients do, an upstream that serves others is healthy.
//! * Half-open has [`TRIALS`] slots, each occupied by an undecided session for [`PATIENCE`] at
//!   most: silent clients do not keep others out.
//! * Only such a session can reopen a half-open breaker; any session's success closes it.
//! * Admitting a session takes two relaxed loads while the breaker is closed, and its success one
//!   addition when no failure was before it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::config::BreakerSettings;

/// Longest extension of a cooldown, as a share of its length.
const MAX_JITTER: f64 = 0.1;

/// Undecided sessions that half-open admits at once.
pub const TRIALS: usize = 3;

/// Time after which an undecided session's slot is given to another one.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Admission of new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakerState {
    /// Every session is admitted.
    Closed,
    /// No session is admitted.
    Open,
    /// A few sessions are admitted, to see whether they succeed.
    HalfOpen,
}

impl BreakerState {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Value of the metrics label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// State of a breaker, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Admission of new sessions.
    pub state: BreakerState,
    /// Failed sessions since one became ready, while closed.
    pub failures: u32,
    /// Time until the upstream is tried next, by a session or by the proxy, while open.
    pub probe_in: Option<Duration>,
    /// Number of transitions into each state, in the order of [`BreakerState::ALL`].
    pub transitions: [u64; BreakerState::ALL.len()],
}

/// Rejection of a session while the breaker is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream is failing")]
pub struct Unhealthy {
    /// Time after which trying again makes sense.
    pub retry_after: Duration,
}

/// Circuit breaker of one endpoint.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Name of the route, for the log.
    route: Box<str>,
    /// Copy of the state in `inner` that is read without the lock: [`OFF`], [`QUIET`], [`CLOSED`]
    /// or [`NOT_CLOSED`].
    quick: AtomicU8,
    /// Number of sessions that became ready.
    ready: AtomicU64,
    /// Number of times that the breaker was reset.
    epoch: AtomicU32,
    inner: Mutex<Inner>,
    transitions: [AtomicU64; BreakerState::ALL.len()],
}

/// Never opens.
const OFF: u8 = 0;

/// Closed, without a failed session since one became ready.
const QUIET: u8 = 1;

/// Closed, with failed sessions.
const CLOSED: u8 = 2;

/// Open or half-open.
const NOT_CLOSED: u8 = 3;

#[derive(Debug)]
struct Inner {
    settings: BreakerSettings,
    phase: Phase,
    /// Number of sessions admitted half-open so far.
    trials: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { trials: [Option<Slot>; TRIALS] },
}

/// Undecided session that was admitted half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    number: u64,
    since: Instant,
}

impl Slot {
    fn is_awaited(&self) -> bool {
        self.since.elapsed() < PATIENCE
    }
}

/// Proof of admission, to be presented with the session's outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    epoch: u32,
    /// Number of sessions that had become ready.
    ready: u64,
    /// Number of the session, if it was admitted half-open.
    trial: Option<u64>,
}

impl Ticket {
    /// Returns whether the session was admitted half-open.
    pub(super) const fn is_half_open(&self) -> bool {
        self.trial.is_some()
    }
}

impl Phase {
    const fn state(self) -> BreakerState {
        match self {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

impl Inner {
    const fn quick(&self) -> u8 {
        match self.phase {
            _ if self.settings.failures == 0 => OFF,
            Phase::Closed { failures: 0 } => QUIET,
            Phase::Closed { .. } => CLOSED,
            Phase::Open { .. } | Phase::HalfOpen { .. } => NOT_CLOSED,
        }
    }
}

impl Breaker {
    /// Creates a closed breaker for the route that metrics and the log call `route`.
    pub(super) fn new(settings: BreakerSettings, route: &str) -> Self {
        let inner = Inner {
            settings,
            phase: Phase::Closed { failures: 0 },
            trials: 0,
        };
        Self {
            route: route.into(),
            quick: AtomicU8::new(inner.quick()),
            ready: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
            inner: Mutex::new(inner),
            transitions: Default::default(),
        }
    }

    /// Creates a closed breaker for the same route, which continues the counts.
    pub(super) fn follow(&self, settings: BreakerSettings) -> Self {
        self.forget(settings);
        let transitions = self.transitions();
        Self {
            transitions: transitions.map(AtomicU64::new),
            ..Self::new(settings, &self.route)
        }
    }

    /// Resets the breaker after a change of the configuration: the outcomes of sessions admitted
    /// before no longer count.
    pub(super) fn forget(&self, settings: BreakerSettings) {
        let mut inner = self.inner();
        inner.settings = settings;
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let change = "breaker closed: the configuration has changed";
        self.close(&mut inner, change);
    }

    /// Admits a session; `is_trying` says whether an attempt at the upstream is in progress anyway.
    ///
    /// # Errors
    ///
    /// The breaker is open, or half-open without a free slot.
    pub(super) fn admit(&self, is_trying: impl Fn() -> bool) -> Result<Option<Ticket>, Unhealthy> {
        // Without the lock: nearly every session finds the breaker closed.
        match self.quick.load(Ordering::Relaxed) {
            OFF => return Ok(None),
            NOT_CLOSED => {}
            _ => return Ok(Some(self.ticket(None))),
        }
        let trial = self.try_another(&mut self.inner(), is_trying)?;
        Ok(Some(self.ticket(trial)))
    }

    fn ticket(&self, trial: Option<u64>) -> Ticket {
        Ticket {
            epoch: self.epoch.load(Ordering::Relaxed),
            ready: self.ready.load(Ordering::Relaxed),
            trial,
        }
    }

    /// Returns the number of the session if it is admitted half-open.
    fn try_another(
        &self,
        inner: &mut Inner,
        is_trying: impl Fn() -> bool,
    ) -> Result<Option<u64>, Unhealthy> {
        let now = Instant::now();
        let mut trials = match inner.phase {
            Phase::Closed { .. } => return Ok(None),
            Phase::Open { until } if now < until => {
                let retry_after = until - now;
                return Err(Unhealthy { retry_after });
            }
            Phase::Open { .. } | Phase::HalfOpen { .. } if is_trying() => {
                let retry_after = Duration::ZERO;
                return Err(Unhealthy { retry_after });
            }
            Phase::Open { .. } => [None; TRIALS],
            Phase::HalfOpen { trials } => trials,
        };
        let is_free = |slot: &Option<Slot>| !slot.is_some_and(|slot| slot.is_awaited());
        let Some(free) = trials.iter_mut().find(|slot| is_free(slot)) else {
            let oldest = trials.iter().flatten().map(|slot| slot.since).min();
            let retry_after =
                oldest.map_or(PATIENCE, |since| PATIENCE.saturating_sub(since.elapsed()));
            return Err(Unhealthy { retry_after });
        };
        inner.trials += 1;
        let number = inner.trials;
        *free = Some(Slot { number, since: now });
        self.enter(inner, Phase::HalfOpen { trials });
        Ok(Some(number))
    }

    /// Records that a session became ready.
    pub(super) fn succeed(&self, ticket: &Ticket) {
        self.ready.fetch_add(1, Ordering::Relaxed);
        // With nothing to reset, as usual, the lock is not taken.
        if self.quick.load(Ordering::Relaxed) != QUIET {
            let mut inner = self.inner();
            if self.is_of_now(ticket) {
                self.close(&mut inner, "breaker closed: a session became ready");
            }
        }
    }

    /// Records that the upstream listens again.
    pub(super) fn hear(&self) {
        if self.quick.load(Ordering::Relaxed) == NOT_CLOSED {
            self.close(&mut self.inner(), "breaker closed: the upstream listens");
        }
    }

    /// Records that a session failed by the upstream's fault; returns whether the breaker opened.
    pub(super) fn fail(&self, ticket: &Ticket) -> bool {
        let mut inner = self.inner();
        let was_ready = self.ready.load(Ordering::Relaxed) != ticket.ready;
        match &mut inner.phase {
            // An upstream that served another session meanwhile is healthy.
            _ if was_ready || !self.is_of_now(ticket) => false,
            Phase::Closed { failures } => {
                *failures = failures.saturating_add(1);
                let is_enough = *failures >= inner.settings.failures;
                if is_enough {
                    self.open(&mut inner);
                } else {
                    self.quick.store(inner.quick(), Ordering::Relaxed);
                }
                is_enough
            }
            Phase::HalfOpen { trials } => {
                let slot = take(trials, ticket.trial);
                // After `PATIENCE` the slot may be another session's, and this outcome no longer
                // counts.
                let is_awaited = slot.is_some_and(|slot| slot.is_awaited());
                if is_awaited {
                    self.open(&mut inner);
                }
                is_awaited
            }
            // The session began before the breaker opened.
            Phase::Open { .. } => false,
        }
    }

    /// Releases the slot of a session that ended without telling anything about the upstream.
    pub(super) fn give_up(&self, ticket: &Ticket) {
        if ticket.trial.is_some()
            && self.is_of_now(ticket)
            && let Phase::HalfOpen { trials } = &mut self.inner().phase
        {
            take(trials, ticket.trial);
        }
    }

    /// Returns whether the breaker has not been reset since the ticket was issued.
    fn is_of_now(&self, ticket: &Ticket) -> bool {
        self.epoch.load(Ordering::Relaxed) == ticket.epoch
    }

    fn open(&self, inner: &mut Inner) {
        let cooldown = inner.settings.cooldown;
        let jitter = cooldown.mul_f64(MAX_JITTER * rand::random::<f64>());
        let until = Instant::now() + cooldown + jitter;
        self.enter(inner, Phase::Open { until });
    }

    fn close(&self, inner: &mut Inner, reason: &'static str) {
        let was_closed = inner.phase.state() == BreakerState::Closed;
        self.enter(inner, Phase::Closed { failures: 0 });
        if !was_closed {
            let route = &*self.route;
            tracing::info!(route, "{reason}");
        }
    }

    fn enter(&self, inner: &mut Inner, next: Phase) {
        let (from, to) = (inner.phase.state(), next.state());
        inner.phase = next;
        self.quick.store(inner.quick(), Ordering::Relaxed);
        if from != to {
            self.transitions[to as usize].fetch_add(1, Ordering::Relaxed);
            self.log(next);
        }
    }

    fn log(&self, phase: Phase) {
        let route = &*self.route;
        match phase {
            Phase::Closed { .. } => {}
            Phase::Open { until } => {
                let cooldown_ms = millis(until.saturating_duration_since(Instant::now()));
                tracing::warn!(
                    route,
                    cooldown_ms,
                    "breaker opened: the upstream is failing, new sessions are refused"
                );
            }
            Phase::HalfOpen { .. } => {
                tracing::info!(route, "breaker half-open: a few sessions are let through");
            }
        }
    }

    /// Returns whether every session is admitted.
    pub(super) fn is_closed(&self) -> bool {
        self.quick.load(Ordering::Relaxed) != NOT_CLOSED
    }

    /// Returns the current state.
    pub(super) fn status(&self) -> Status {
        let phase = self.inner().phase;
        Status {
            state: phase.state(),
            failures: match phase {
                Phase::Closed { failures } => failures,
                Phase::Open { .. } | Phase::HalfOpen { .. } => 0,
            },
            probe_in: match phase {
                Phase::Open { until } => Some(until.saturating_duration_since(Instant::now())),
                Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
            },
            transitions: self.transitions(),
        }
    }

    fn transitions(&self) -> [u64; BreakerState::ALL.len()] {
        let transitions = self.transitions.each_ref();
        transitions.map(|it| it.load(Ordering::Relaxed))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No operation under the lock leaves the state inconsistent if it panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the session with this number from the undecided ones.
fn take(trials: &mut [Option<Slot>; TRIALS], number: Option<u64>) -> Option<Slot> {
    let slots = trials.iter_mut();
    let slot = slots
        .into_iter()
        // An empty slot has no number either.
        .find(|slot| slot.map(|it| it.number) == number && number.is_some());
    slot.and_then(Option::take)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
