//! Whether the upstream of a route is known to be out of order: then a client is better off
//! without its `101`.
//!
//! A client takes a `101` for success, and begins its waits between attempts anew. One that is
//! accepted and then closed, because the upstream cannot be had, comes back at once, and so do
//! all others.
//!
//! ```text
//!            failures in a row                 cooldown is over
//!  closed ─────────────────────► open ──────────────────────────► half-open: one probe
//!    ▲                            │ ▲                                │        │
//!    │  any session becomes ready │ └── the probe failed ────────────┘        │
//!    └────────────────────────────┴───────────────────────────────────────────┘
//! ```
//!
//! The cooldown doubles each time that a probe has failed, up to eight times its length, and is
//! drawn out by a little at random, so that several proxies do not probe in step.
//!
//! # Invariants
//!
//! * At any time at most one probe is under way, and when it is over, in whatever way, either
//!   the state changes or the next client is the probe: nothing stays half-open by itself.
//! * Only what a session says that began as this very probe counts against a half-open
//!   breaker; success counts from whomever it comes.
//! * Admitting a session takes one relaxed load while the breaker is closed, and so does its
//!   success when no failure was before it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How often the cooldown doubles: it becomes at most eight times as long.
const MAX_DOUBLINGS: u32 = 3;

/// By how much of its length a cooldown may be longer.
const MAX_JITTER: f64 = 0.1;

/// When a route's breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many sessions in a row have to fail; default 5, 0: it never opens.
    pub failures: u32,
    /// How long it then is open before the first probe; default 5 s.
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
    /// One is, to see what becomes of it.
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
    /// How many have failed in a row, as long as it is closed.
    pub failures: u32,
    /// How long until the next probe, while it is open.
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

/// The breaker of one route.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    /// The name of the route, for the log.
    route: Box<str>,
    /// What `phase` says, for a quick look: [`QUIET`], or not.
    quick: AtomicU8,
    phase: Mutex<Phase>,
    transitions: [AtomicU64; State::ALL.len()],
}

/// Closed, and no session has failed since one became ready.
const QUIET: u8 = 0;

/// Closed, and sessions have failed.
const CLOSED: u8 = 1;

/// Anything else.
const NOT_CLOSED: u8 = 2;

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        probes_failed: u32,
    },
    HalfOpen {
        /// `None`: it has said nothing, and the next one is it.
        probe: Option<u64>,
        probes_failed: u32,
    },
}

impl Phase {
    const fn state(self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
        }
    }

    const fn quick(self) -> u8 {
        match self {
            Self::Closed { failures: 0 } => QUIET,
            Self::Closed { .. } => CLOSED,
            Self::Open { .. } | Self::HalfOpen { .. } => NOT_CLOSED,
        }
    }
}

impl Breaker {
    /// A closed one for the route that metrics and the log call `route`.
    #[must_use]
    pub fn new(settings: Settings, route: &str) -> Arc<Self> {
        Arc::new(Self::closed(settings, route))
    }

    fn closed(settings: Settings, route: &str) -> Self {
        Self {
            settings,
            route: route.into(),
            quick: AtomicU8::new(QUIET),
            phase: Mutex::new(Phase::Closed { failures: 0 }),
            transitions: Default::default(),
        }
    }

    /// A closed one for the same route after a change, which counts on.
    #[must_use]
    pub fn follow(&self, settings: Settings) -> Arc<Self> {
        let Status {
            state,
            mut transitions,
            ..
        } = self.status();
        let route = &*self.route;
        if state != State::Closed {
            transitions[State::Closed as usize] += 1;
            tracing::info!(route, "breaker closed: the configuration has changed");
        }
        Arc::new(Self {
            transitions: transitions.map(AtomicU64::new),
            ..Self::closed(settings, route)
        })
    }

    /// Lets one more session through.
    ///
    /// # Errors
    ///
    /// It is open, or another session is its probe.
    pub fn admit(self: &Arc<Self>) -> Result<Trial, Refused> {
        if self.settings.failures == 0 {
            return Ok(Trial::default());
        }
        let probe = if self.quick.load(Ordering::Relaxed) == NOT_CLOSED {
            self.admit_probe()?
        } else {
            None
        };
        let breaker = Arc::downgrade(self);
        Ok(Trial(Some(Admitted { breaker, probe })))
    }

    /// The number of the probe, if the next session is one.
    fn admit_probe(&self) -> Result<Option<u64>, Refused> {
        let now = Instant::now();
        let mut phase = self.phase();
        let probes_failed = match *phase {
            Phase::Closed { .. } => return Ok(None),
            Phase::Open { until, .. } if now < until => {
                let retry_after = until - now;
                return Err(Refused { retry_after });
            }
            Phase::HalfOpen { probe: Some(_), .. } => {
                // If it fails, the next one is not any sooner.
                let retry_after = self.settings.cooldown;
                return Err(Refused { retry_after });
            }
            Phase::Open { probes_failed, .. } | Phase::HalfOpen { probes_failed, .. } => {
                probes_failed
            }
        };
        let number = rand::random();
        let probe = Some(number);
        self.enter(
            &mut phase,
            Phase::HalfOpen {
                probe,
                probes_failed,
            },
        );
        Ok(probe)
    }

    /// A session has become ready.
    fn succeed(&self) {
        if self.quick.load(Ordering::Relaxed) != QUIET {
            self.enter(&mut self.phase(), Phase::Closed { failures: 0 });
        }
    }

    /// A session has not, and that was the upstream's fault; `probe` is its number, if it was
    /// one.
    fn fail(&self, probe: Option<u64>) {
        let mut phase = self.phase();
        match *phase {
            Phase::Closed { failures } => {
                let failures = failures.saturating_add(1);
                if failures < self.settings.failures {
                    self.enter(&mut phase, Phase::Closed { failures });
                } else {
                    self.open(&mut phase, 0);
                }
            }
            Phase::HalfOpen {
                probe: awaited,
                probes_failed,
            } if probe.is_some() && probe == awaited => {
                self.open(&mut phase, probes_failed.saturating_add(1));
            }
            // It began before that was known.
            Phase::Open { .. } | Phase::HalfOpen { .. } => {}
        }
    }

    /// The session that was the probe says nothing about the upstream.
    fn give_up(&self, number: u64) {
        let mut phase = self.phase();
        if let Phase::HalfOpen { probe, .. } = &mut *phase
            && *probe == Some(number)
        {
            *probe = None;
        }
    }

    fn open(&self, phase: &mut Phase, probes_failed: u32) {
        let cooldown = self.settings.cooldown * (1 << probes_failed.min(MAX_DOUBLINGS));
        let jitter = cooldown.mul_f64(MAX_JITTER * rand::random::<f64>());
        let until = Instant::now() + cooldown + jitter;
        self.enter(
            phase,
            Phase::Open {
                until,
                probes_failed,
            },
        );
    }

    fn enter(&self, phase: &mut Phase, next: Phase) {
        let (from, to) = (phase.state(), next.state());
        *phase = next;
        self.quick.store(next.quick(), Ordering::Relaxed);
        if from != to {
            self.transitions[to as usize].fetch_add(1, Ordering::Relaxed);
            self.log(next);
        }
    }

    fn log(&self, phase: Phase) {
        let route = &*self.route;
        match phase {
            Phase::Closed { .. } => {
                tracing::info!(route, "breaker closed: a session became ready");
            }
            Phase::Open {
                until,
                probes_failed,
            } => {
                let probe_in_ms = millis(until.saturating_duration_since(Instant::now()));
                tracing::warn!(
                    route,
                    probe_in_ms,
                    probes_failed,
                    "breaker opened: new sessions are refused, the upstream is out of order"
                );
            }
            Phase::HalfOpen { .. } => {
                tracing::info!(route, "breaker half-open: one session is let through");
            }
        }
    }

    /// What it knows at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let phase = *self.phase();
        Status {
            state: phase.state(),
            failures: match phase {
                Phase::Closed { failures } => failures,
                Phase::Open { .. } | Phase::HalfOpen { .. } => 0,
            },
            probe_in: match phase {
                Phase::Open { until, .. } => Some(until.saturating_duration_since(Instant::now())),
                Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
            },
            transitions: self
                .transitions
                .each_ref()
                .map(|it| it.load(Ordering::Relaxed)),
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        let phase = self.phase.lock();
        phase.unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A session that was let through, until it is known what that says about the upstream.
///
/// Dropping it says nothing. The default belongs to no breaker, and neither does one whose
/// breaker is no longer in use.
#[derive(Debug, Default)]
pub struct Trial(Option<Admitted>);

#[derive(Debug)]
struct Admitted {
    breaker: Weak<Breaker>,
    probe: Option<u64>,
}

impl Trial {
    /// The upstream is in order.
    pub fn succeed(mut self) {
        if let Some((breaker, _)) = self.end() {
            breaker.succeed();
        }
    }

    /// It is not.
    pub fn fail(mut self) {
        if let Some((breaker, probe)) = self.end() {
            breaker.fail(probe);
        }
    }

    fn end(&mut self) -> Option<(Arc<Breaker>, Option<u64>)> {
        let Admitted { breaker, probe } = self.0.take()?;
        Some((breaker.upgrade()?, probe))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some((breaker, Some(number))) = self.end() {
            breaker.give_up(number);
        }
    }
}

#[cfg(test)]
mod tests;
