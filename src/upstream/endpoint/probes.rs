//! The proxy's own attempts at an address at which nobody listens, while sessions are refused.
//!
//! # Invariants
//!
//! * They stop [`QUIET`] after the last refused session, so that an upstream that is scaled to
//!   zero may sleep.
//! * They are attempts of the endpoint's schedule: where sessions still wait, they add none.
//! * There is one task at a time, and that it is over is noted once, under the lock under which it
//!   is decided: whoever is refused behind that begins another one.

use std::{
    mem,
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

#[derive(Clone, Debug, Default)]
pub(super) struct Probes(Arc<Mutex<State>>);

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

    /// Begins them, for a session that is refused; `None`: they are made already.
    pub(super) fn start(&self) -> Option<Running> {
        let mut state = self.state();
        state.refused_at = Some(Instant::now());
        if mem::replace(&mut state.is_running, true) {
            return None;
        }
        Some(Running {
            probes: self.clone(),
            has_stopped: false,
        })
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
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let Some(running) = self.probes.start() else {
            return;
        };
        let endpoint = Arc::clone(self);
        runtime.spawn(async move {
            endpoint.try_for_the_refused(running).await;
        });
    }

    /// Tries until somebody listens, or nobody is refused any more.
    async fn try_for_the_refused(&self, mut running: Running) {
        while let Some(quiet_at) = running.stop_if_quiet() {
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

/// They are made until this is dropped, or stops them.
#[derive(Debug)]
pub(super) struct Running {
    probes: Probes,
    has_stopped: bool,
}

impl Running {
    /// Stops them if it is quiet; else when that will be.
    pub(super) fn stop_if_quiet(&mut self) -> Option<Instant> {
        let mut state = self.probes.state();
        let quiet_at = state.quiet_at();
        if quiet_at > Instant::now() {
            return Some(quiet_at);
        }
        state.is_running = false;
        self.has_stopped = true;
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Others may be made since.
        if !self.has_stopped {
            self.probes.state().is_running = false;
        }
    }
}
