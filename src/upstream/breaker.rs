//! Whether the upstream of a route is known to be out of order: then a client is better off
//! without its `101`.
//!
//! A client takes a `101` for success, and begins its waits between attempts anew. One that is
//! accepted and then closed, because the upstream cannot be had, comes back at once, and so do
//! all others.
//!
//! ```text
//!            failures                          cooldown is over
//!  closed ───────────► open ──────────────────────────────────► half-open: a few at a time
//!    ▲                  │ ▲                                         │        │
//!    │ a session becomes│ └── one of them failed soon ──────────────┘        │
//!    │ ready, or somebody listens again                                      │
//!    └──────────────────┴────────────────────────────────────────────────────┘
//! ```
//!
//! The cooldown is drawn out by a little at random, so that several proxies do not go half-open
//! in step. While the proxy itself [tries](super::endpoint) an address at which nobody listens, it
//! does not end, and half-open lets nobody through: that client would only wait for the same.
//!
//! # Invariants
//!
//! * A failure counts only if no session became ready since the one that failed began: whatever
//!   some clients do, an upstream that serves others is not out of order.
//! * Half-open has room for [`TRIALS`] sessions that have not been decided for [`PATIENCE`] at most:
//!   clients that say nothing do not keep others out.
//! * Only such a session can open a half-open breaker again; success counts from whomever it
//!   comes.
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

/// By how much of its length a cooldown may be longer.
const MAX_JITTER: f64 = 0.1;

/// How many sessions may be under way to see what becomes of them.
pub const TRIALS: usize = 3;

/// How long each may be undecided until another one is let through in its place.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// When a route's breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many sessions have to fail, and none to become ready meanwhile; default 5, 0: it never
    /// opens.
    pub failures: u32,
    /// How long it then is open before it is half-open; default 5 s.
    pub cooldown: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            cooldown: Duration::from_secs(5),
        }
    }
}

/// Whether sessions are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// All are.
    Closed,
    /// None is.
    Open,
    /// A few are, to see what becomes of them.
    HalfOpen,
}

impl State {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Its name, for a label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a breaker knows, for whoever looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether sessions are let through.
    pub state: State,
    /// How many have failed since one became ready, as long as it is closed.
    pub failures: u32,
    /// How long until the upstream is tried next, by a session or by the proxy, while it is open.
    pub probe_in: Option<Duration>,
    /// How often each state was entered, in the order of [`State::ALL`].
    pub transitions: [u64; State::ALL.len()],
}

/// No session is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream is out of order")]
pub struct Refused {
    /// When it makes sense to try again.
    pub retry_after: Duration,
}

/// The breaker of one endpoint.
#[derive(Debug)]
pub(super) struct Breaker {
    /// The name of the route, for the log.
    route: Box<str>,
    /// What `inner` says, for a quick look: [`OFF`], [`QUIET`], or neither.
    quick: AtomicU8,
    /// How many sessions became ready.
    ready: AtomicU64,
    /// How often all that was known has been forgotten.
    epoch: AtomicU32,
    inner: Mutex<Inner>,
    transitions: [AtomicU64; State::ALL.len()],
}

/// It never opens.
const OFF: u8 = 0;

/// Closed, and no session has failed since one became ready.
const QUIET: u8 = 1;

/// Closed, and sessions have failed.
const CLOSED: u8 = 2;

/// Anything else.
const NOT_CLOSED: u8 = 3;

#[derive(Debug)]
struct Inner {
    settings: Settings,
    phase: Phase,
    /// How many sessions were let through half-open.
    trials: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { trials: [Option<Slot>; TRIALS] },
}

/// A session that was let through half-open, and is not decided.
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

/// What a session has to show when it is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    epoch: u32,
    /// How many sessions had become ready.
    ready: u64,
    /// Its number, if it was let through half-open.
    trial: Option<u64>,
}

impl Ticket {
    /// Whether it was let through half-open.
    pub(super) const fn is_half_open(&self) -> bool {
        self.trial.is_some()
    }
}

impl Phase {
    const fn state(self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
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
    /// A closed one for the route that metrics and the log call `route`.
    pub(super) fn new(settings: Settings, route: &str) -> Self {
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

    /// A closed one for the same route, which counts on.
    pub(super) fn follow(&self, settings: Settings) -> Self {
        self.forget(settings);
        let transitions = self.transitions();
        Self {
            transitions: transitions.map(AtomicU64::new),
            ..Self::new(settings, &self.route)
        }
    }

    /// Forgets all that is known, for the configuration has changed: sessions that have begun do
    /// not count any more.
    pub(super) fn forget(&self, settings: Settings) {
        let mut inner = self.inner();
        inner.settings = settings;
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let change = "breaker closed: the configuration has changed";
        self.close(&mut inner, change);
    }

    /// Lets one more session through; whether somebody else `is_trying` the upstream anyway.
    ///
    /// # Errors
    ///
    /// It is open, or half-open and has no room.
    pub(super) fn admit(&self, is_trying: impl Fn() -> bool) -> Result<Option<Ticket>, Refused> {
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

    /// The number of the next session, if it is let through half-open.
    fn try_another(
        &self,
        inner: &mut Inner,
        is_trying: impl Fn() -> bool,
    ) -> Result<Option<u64>, Refused> {
        let now = Instant::now();
        let mut trials = match inner.phase {
            Phase::Closed { .. } => return Ok(None),
            Phase::Open { until } if now < until => {
                let retry_after = until - now;
                return Err(Refused { retry_after });
            }
            Phase::Open { .. } | Phase::HalfOpen { .. } if is_trying() => {
                let retry_after = Duration::ZERO;
                return Err(Refused { retry_after });
            }
            Phase::Open { .. } => [None; TRIALS],
            Phase::HalfOpen { trials } => trials,
        };
        let is_free = |slot: &Option<Slot>| !slot.is_some_and(|slot| slot.is_awaited());
        let Some(free) = trials.iter_mut().find(|slot| is_free(slot)) else {
            let oldest = trials.iter().flatten().map(|slot| slot.since).min();
            let retry_after =
                oldest.map_or(PATIENCE, |since| PATIENCE.saturating_sub(since.elapsed()));
            return Err(Refused { retry_after });
        };
        inner.trials += 1;
        let number = inner.trials;
        *free = Some(Slot { number, since: now });
        self.enter(inner, Phase::HalfOpen { trials });
        Ok(Some(number))
    }

    /// A session has become ready.
    pub(super) fn succeed(&self, ticket: &Ticket) {
        self.ready.fetch_add(1, Ordering::Relaxed);
        if self.quick.load(Ordering::Relaxed) != QUIET {
            let mut inner = self.inner();
            if self.is_of_now(ticket) {
                self.close(&mut inner, "breaker closed: a session became ready");
            }
        }
    }

    /// Somebody listens at an address where nobody did.
    pub(super) fn hear(&self) {
        if self.quick.load(Ordering::Relaxed) == NOT_CLOSED {
            self.close(&mut self.inner(), "breaker closed: the upstream listens");
        }
    }

    /// A session has failed, and that was the upstream's fault; whether the breaker opens.
    pub(super) fn fail(&self, ticket: &Ticket) -> bool {
        let mut inner = self.inner();
        let was_ready = self.ready.load(Ordering::Relaxed) != ticket.ready;
        match &mut inner.phase {
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
                let is_awaited = slot.is_some_and(|slot| slot.is_awaited());
                if is_awaited {
                    self.open(&mut inner);
                }
                is_awaited
            }
            // It began before that was known.
            Phase::Open { .. } => false,
        }
    }

    /// A session says nothing about the upstream.
    pub(super) fn give_up(&self, ticket: &Ticket) {
        if ticket.trial.is_some()
            && self.is_of_now(ticket)
            && let Phase::HalfOpen { trials } = &mut self.inner().phase
        {
            take(trials, ticket.trial);
        }
    }

    /// Whether nothing has been forgotten since it was given.
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
        let was_closed = inner.phase.state() == State::Closed;
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
                    "breaker opened: new sessions are refused, the upstream is out of order"
                );
            }
            Phase::HalfOpen { .. } => {
                tracing::info!(route, "breaker half-open: a few sessions are let through");
            }
        }
    }

    /// Whether it lets all sessions through.
    pub(super) fn is_closed(&self) -> bool {
        self.quick.load(Ordering::Relaxed) != NOT_CLOSED
    }

    /// What it knows at this moment.
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

    fn transitions(&self) -> [u64; State::ALL.len()] {
        let transitions = self.transitions.each_ref();
        transitions.map(|it| it.load(Ordering::Relaxed))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing that is done under the lock can leave it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the session with this number out of those that are not decided.
fn take(trials: &mut [Option<Slot>; TRIALS], number: Option<u64>) -> Option<Slot> {
    let slots = trials.iter_mut();
    let slot = slots
        .into_iter()
        .find(|slot| slot.map(|it| it.number) == number && number.is_some());
    slot.and_then(Option::take)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
