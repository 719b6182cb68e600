//! The proxy's own attempts at an address that does not listen, while sessions are refused.
//!
//! # Invariants
//!
//! * The attempts stop [`QUIET`] after the last refused session, so that an upstream that is scaled
//!   to zero may sleep.
//! * They belong to the endpoint's schedule: where sessions still wait, they add none.
//! * There is one task at a time. Its end is decided and recorded under one lock, so that a session
//!   refused afterwards starts another one.

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

/// Time from the last refused session to the end of the attempts.
const QUIET: Duration = Duration::from_mins(1);

/// Pause while there are too few descriptors.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub(super) struct Probes(Arc<Mutex<ProbeState>>);

#[derive(Debug, Default)]
struct ProbeState {
    is_running: bool,
    /// Time of the last refusal.
    refused_at: Option<Instant>,
}

impl ProbeState {
    /// Time at which the attempts stop.
    fn quiet_at(&self) -> Instant {
        self.refused_at.unwrap_or_else(Instant::now) + QUIET
    }
}

impl Probes {
    /// Returns whether attempts are being made.
    pub(super) fn is_running(&self) -> bool {
        self.state().is_running
    }

    /// Starts the attempts for a refused session; `None` if they are being made already.
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

    fn state(&self) -> MutexGuard<'_, ProbeState> {
        // No operation under the lock leaves the state inconsistent if it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// Starts the attempts for refused sessions, if the upstream does not listen.
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

    /// Tries until the upstream listens, or no session has been refused for [`QUIET`].
    async fn try_for_the_refused(&self, mut running: Running) {
        while let Some(quiet_at) = running.stop_if_quiet() {
            if self.schedule.listens() || self.breaker.is_closed() {
                return;
            }
            let connected = self.connect((), || self.connect_once());
            match time::timeout_at(quiet_at, connected).await {
                // The connection is closed unused: its existence was the question.
                Ok(Ok(_connection)) => return,
                Ok(Err(_shortage)) => time::sleep(SHORTAGE_PAUSE).await,
                // A session may have been refused meanwhile, which the loop checks.
                Err(_elapsed) => {}
            }
        }
    }
}

/// Guard of the attempts; dropping it ends them.
#[derive(Debug)]
pub(super) struct Running {
    probes: Probes,
    has_stopped: bool,
}

impl Running {
    /// Ends the attempts if no session has been refused for [`QUIET`]; else returns the time for
    /// that.
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
        // After a stop, another task may have started since.
        if !self.has_stopped {
            self.probes.state().is_running = false;
        }
    }
}
