//! Why nobody gets through to an upstream, for the log: once for each change.
//!
//! That nobody listens is told at once. Anything else may be about one client and is told when a
//! session has met nothing but that for [`PATIENCE`], and no other one got through meanwhile.

use std::{
    fmt::Display,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Endpoint;
use crate::upstream::{attempts::Failure, breaker::millis};

/// How long nobody has to get through until the log says why.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// How many sessions got through.
    switched: AtomicU64,
    /// Whether there is any trouble, for a quick look.
    is_known: AtomicBool,
    known: Mutex<Option<Trouble>>,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    failure: Failure,
    since: Instant,
}

impl Troubles {
    /// Nobody gets through.
    pub(super) fn note(&self, endpoint: &Endpoint, failure: Failure, error: &dyn Display) {
        let mut known = self.known();
        let since = known.map_or_else(Instant::now, |trouble| trouble.since);
        if known.is_some_and(|trouble| trouble.failure == failure) {
            return;
        }
        *known = Some(Trouble { failure, since });
        self.is_known.store(true, Ordering::Relaxed);
        drop(known);
        let waiting = endpoint.waiting.load(Ordering::Relaxed);
        let route = &*endpoint.route;
        let upstream_address = &endpoint.settings.address;
        if failure == Failure::Silent {
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
                "upstream cannot be had"
            );
        }
    }

    /// Somebody listens where nobody did.
    pub(super) fn heard(&self, endpoint: &Endpoint) {
        self.end(endpoint, |failure| failure == Failure::Unreachable);
    }

    /// A session got through.
    pub(super) fn switched(&self, endpoint: &Endpoint) {
        self.switched.fetch_add(1, Ordering::Relaxed);
        if self.is_known.load(Ordering::Relaxed) {
            self.end(endpoint, |_any| true);
        }
    }

    fn end(&self, endpoint: &Endpoint, is_over: impl Fn(Failure) -> bool) {
        let mut known = self.known();
        let Some(trouble) = known.take_if(|trouble| is_over(trouble.failure)) else {
            return;
        };
        self.is_known.store(false, Ordering::Relaxed);
        drop(known);
        let waiting = endpoint.waiting.load(Ordering::Relaxed);
        let unavailable_ms = millis(trouble.since.elapsed());
        tracing::info!(
            route = &*endpoint.route,
            upstream_address = %endpoint.settings.address,
            unavailable_ms,
            waiting,
            "upstream can be had again"
        );
    }

    fn known(&self) -> MutexGuard<'_, Option<Trouble>> {
        // Nothing that is done under the lock can leave it half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a session has waited without any other one getting through.
#[derive(Debug)]
pub(in crate::upstream) struct Patience {
    since: Instant,
    switched: u64,
}

impl Patience {
    /// How long a session waits until it is told why.
    pub(in crate::upstream) const LENGTH: Duration = PATIENCE;

    /// The session begins to wait for `endpoint`.
    pub(in crate::upstream) fn new(endpoint: &Endpoint) -> Self {
        Self {
            since: Instant::now(),
            switched: endpoint.troubles.switched.load(Ordering::Relaxed),
        }
    }

    /// An attempt has failed; the log says so if that is all there was for a while.
    pub(in crate::upstream) fn fail(
        &mut self,
        endpoint: &Endpoint,
        failure: Failure,
        error: &dyn Display,
    ) {
        let now = Self::new(endpoint);
        if now.switched != self.switched {
            *self = now;
        } else if now.since - self.since >= PATIENCE {
            endpoint.troubles.note(endpoint, failure, error);
        }
    }
}
