//! The proxy's own attempts at an address at which nobody listens, while sessions are refused.
//!
//! # Invariants
//!
//! * They stop [`QUIET`] after the last refused session, so that an upstream that is scaled to
//!   zero may sleep.
//! * They are attempts of the endpoint's schedule: where sessions still wait, they add none.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{self, Instant},
};

use super::Endpoint;

/// How long after the last refused session they go on.
const QUIET: Duration = Duration::from_mins(1);

/// How long nothing is tried when there are too few descriptors.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Probes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_running: bool,
    /// When the last session was refused.
    refused_at: Option<Instant>,
}

impl State {
    /// When they stop.
    fn quiet_at(&self) -> Instant {
        self.refused_at.unwrap_or_else(Instant::now) + QUIET
    }
}

impl Probes {
    /// Whether they are made.
    pub(super) fn is_running(&self) -> bool {
        self.state().is_running
    }

    /// Stops them if it is quiet; else when that will be.
    fn stop_if_quiet(&self) -> Option<Instant> {
        let mut state = self.state();
        let quiet_at = state.quiet_at();
        if quiet_at <= Instant::now() {
            state.is_running = false;
            return None;
        }
        Some(quiet_at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// Tries for those that are refused, if nobody listens.
    pub(super) fn probe(self: &Arc<Self>) {
        if !self.schedule.is_absent() {
            return;
        }
        let mut state = self.probes.state();
        state.refused_at = Some(Instant::now());
        if state.is_running {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        state.is_running = true;
        let endpoint = Arc::clone(self);
        runtime.spawn(async move {
            let _running = Running(&endpoint.probes);
            endpoint.try_for_the_refused().await;
        });
    }

    /// Tries until somebody listens, or nobody is refused any more.
    async fn try_for_the_refused(&self) {
        while let Some(quiet_at) = self.probes.stop_if_quiet() {
            if self.schedule.listens() || self.breaker.is_closed() {
                return;
            }
            let connected = self.connect((), || self.connect_once());
            match time::timeout_at(quiet_at, connected).await {
                // Nothing is said on it.
                Ok(Ok(_connection)) => return,
                Ok(Err(_shortage)) => time::sleep(SHORTAGE_PAUSE).await,
                Err(_elapsed) => {}
            }
        }
    }
}

/// They are made until this is dropped.
struct Running<'a>(&'a Probes);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().is_running = false;
    }
}
