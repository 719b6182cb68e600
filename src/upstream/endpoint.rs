//! An upstream of a route at one address, with everything known about it, shared by all workers.
//!
//! ```text
//!  a client ──► breaker ──► session ──► schedule ──► lookup, connect ──► TLS, handshake
//!                 ▲  │                     ▲  │
//!                 │  └─ refused: probes ───┘  │ the upstream listens
//!                 └───────────────────────────┘
//! ```
//!
//! * [`Names`]: the addresses of its name, looked up once for everything that waits.
//! * `ConnectSchedule`: while the upstream does not listen, one waiting session tries; once it listens,
//!   all connect at once, each on a connection of its own.
//! * [`Breaker`](super::breaker): admission of new sessions.
//! * `Probes`: the proxy's own attempts while the upstream does not listen and sessions are
//!   refused.
//! * `Troubles`: reasons why sessions wait, for the log, once for each change.
//!
//! Everything behind a session's connection (TLS, the opening handshake) is its own: a response may
//! concern this very client, and so may the backoff behind it.
//!
//! # Invariants
//!
//! * While the upstream does not listen there is one connection attempt at a time, however many
//!   sessions wait on however many workers; if the one that makes it is dropped, another takes
//!   over.
//! * The breaker closes as soon as any attempt finds that the upstream listens again.

mod probes;
mod schedule;
mod trouble;

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::futures::Notified, time};

pub(super) use self::trouble::{Reason, Tolerance};
use self::{probes::Probes, schedule::ConnectSchedule, trouble::Troubles};
use super::{
    Address, Settings,
    attempts::{Attempts, Failure},
    breaker::{Breaker, Status, Ticket, Unhealthy},
    dial::{self, DialError},
    dns::{Name, Names},
    protocol::Protocol,
};
use crate::{
    config::BreakerSettings,
    transport::{Transport, descriptors},
};

/// Interval over which refusals are counted for one line of the log.
const SUMMARY: Duration = Duration::from_secs(1);

/// The upstream of a route.
#[derive(Debug)]
pub struct Endpoint {
    /// Name of the route, for the log.
    route: Box<str>,
    settings: Settings,
    /// Name in the address; that of a Unix socket is never looked up.
    name: Arc<Name>,
    schedule: ConnectSchedule,
    breaker: Breaker,
    probes: Probes,
    troubles: Troubles,
    /// Sessions and requests that wait for it.
    waiting: Arc<AtomicUsize>,
    /// Sessions that were refused since the log has told.
    refused: AtomicU64,
}

impl Endpoint {
    /// Creates an endpoint for the route that metrics and the log call `route`, in its initial
    /// state.
    #[must_use]
    pub fn new(
        route: &str,
        settings: &Settings,
        breaker: BreakerSettings,
        names: &Names,
    ) -> Arc<Self> {
        Arc::new(Self::with(
            route,
            settings,
            Breaker::new(breaker, route),
            names,
        ))
    }

    /// Creates the successor of this endpoint after a change of the configuration: the breaker's
    /// counts continue, and outcomes of this endpoint's sessions no longer count.
    #[must_use]
    pub fn follow(
        &self,
        settings: &Settings,
        breaker: BreakerSettings,
        names: &Names,
    ) -> Arc<Self> {
        let breaker = self.breaker.follow(breaker);
        Arc::new(Self {
            troubles: self.troubles.hand_over(),
            ..Self::with(&self.route, settings, breaker, names)
        })
    }

    fn with(route: &str, settings: &Settings, breaker: Breaker, names: &Names) -> Self {
        let host = match &settings.address {
            Address::Tcp { host, .. } => host,
            Address::Unix(_) => "",
        };
        Self {
            route: route.into(),
            settings: settings.clone(),
            name: names.of(host),
            schedule: ConnectSchedule::new(&settings.retry),
            breaker,
            probes: Probes::default(),
            troubles: Troubles::default(),
            waiting: Arc::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Creates an endpoint that shares nothing, for an upstream that is connected once.
    #[must_use]
    pub fn alone(settings: &Settings) -> Arc<Self> {
        let never = BreakerSettings {
            failures: 0,
            ..BreakerSettings::default()
        };
        Self::new("", settings, never, &Names::default())
    }

    /// Settings for connections to the upstream.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Resets the breaker, with new settings; the outcomes of sessions admitted before no longer
    /// count.
    pub fn forget(&self, breaker: BreakerSettings) {
        self.breaker.forget(breaker);
    }

    /// Returns the state of the breaker.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.breaker.status();
        if let Some(probe_in) = &mut status.probe_in
            && self.is_trying()
        {
            *probe_in = self.schedule.next_try(true);
        }
        status
    }

    /// Admits a session.
    ///
    /// While the upstream does not listen, a refusal starts the proxy's own attempts for a minute,
    /// and so does a session admitted half-open: the breaker then closes without a client.
    ///
    /// # Errors
    ///
    /// The breaker is open, or half-open without a free slot. Trying again makes sense after a
    /// second or more.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Unhealthy> {
        match self.breaker.admit(|| self.is_trying()) {
            Ok(None) => Ok(Permit::default()),
            Ok(Some(ticket)) => {
                if ticket.is_half_open() {
                    self.probe();
                }
                let endpoint = Arc::clone(self);
                Ok(Permit(Some(Admitted { endpoint, ticket })))
            }
            Err(refused) => {
                self.count_refusal();
                self.probe();
                Err(refused)
            }
        }
    }

    /// Returns whether the upstream does not listen and the proxy keeps trying until it does.
    fn is_trying(&self) -> bool {
        self.schedule.is_absent() && self.probes.is_running()
    }

    /// Counts a refused session; the log has their number a second later.
    fn count_refusal(self: &Arc<Self>) {
        if self.refused.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let endpoint = Arc::clone(self);
        runtime.spawn(async move {
            time::sleep(SUMMARY).await;
            endpoint.log_refused();
        });
    }

    /// Logs the sessions that were refused and are not in the log yet; nothing without any.
    pub fn log_refused(&self) {
        let refused = self.refused.swap(0, Ordering::Relaxed);
        if refused > 0 {
            let route = &*self.route;
            tracing::warn!(route, refused, "sessions refused: the breaker is open");
        }
    }

    /// Connects as soon as somebody listens, and speaks TLS where the upstream does; `preamble`
    /// is what the connection begins with. Who waits for that counts while it has a
    /// [`Waiting`].
    ///
    /// # Errors
    ///
    /// As [`dial`](dial::dial), but for an address at which nobody listens.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that was being made.
    pub async fn dial(&self, protocol: Protocol, preamble: &[u8]) -> Result<Transport, DialError> {
        let stream = self.connect((), || self.connect_once()).await?;
        dial::finish(&self.settings, stream, protocol, preamble).await
    }

    /// Connects as [`dial`](Self::dial) does, without waiting for somebody to listen: one attempt,
    /// or none where nobody listens and another attempt is under way, or none is due.
    ///
    /// While nothing is known yet, several try at once: whoever waited for the attempt of another
    /// one would be held, for which there is less room than a new process may have requests.
    ///
    /// # Errors
    ///
    /// As [`dial`](dial::dial).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that was being made.
    pub async fn dial_at_once(
        &self,
        protocol: Protocol,
        preamble: &[u8],
    ) -> Result<Transport, DialError> {
        let turn = self.schedule.turn_at_once();
        let turn = turn.map_err(DialError::Unreachable)?;
        let seen = self.schedule.connections();
        let stream = match self.connect_once().await {
            Ok(stream) => stream,
            Err(error) => {
                self.note_failed((), seen, &error);
                return Err(error.into());
            }
        };
        self.note_connected();
        drop(turn);
        dial::finish(&self.settings, stream, protocol, preamble).await
    }

    /// Connects once, without sharing the outcome.
    ///
    /// # Errors
    ///
    /// As for [`dial`](dial::dial).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection in progress.
    pub async fn check(&self, protocol: Protocol) -> Result<Transport, DialError> {
        let stream = self.connect_once().await?;
        dial::finish(&self.settings, stream, protocol, &[]).await
    }

    /// Connects for a session, as soon as the upstream listens.
    pub(super) async fn connect_for(&self, attempts: &Attempts) -> Result<Transport, DialError> {
        self.connect(attempts, || self.connect_once()).await
    }

    async fn connect_once(&self) -> io::Result<Transport> {
        dial::connect(&self.settings, &self.name).await
    }

    /// Connects by `connect` as soon as the upstream listens.
    async fn connect<T, F>(
        &self,
        tries: impl Tries,
        connect: impl Fn() -> F,
    ) -> Result<T, DialError>
    where
        F: Future<Output = io::Result<T>>,
    {
        let mut is_counted = false;
        loop {
            // Registered before the state is read, so that a change in between is not missed.
            let mut changed = pin!(self.schedule.changed());
            if self.schedule.listens() {
                tries.count();
                let seen = self.schedule.connections();
                match connect().await {
                    Ok(stream) => {
                        self.note_connected();
                        return Ok(stream);
                    }
                    Err(error) if self.note_failed(tries, seen, &error) => is_counted = true,
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            // Once per session, however long it waits.
            is_counted = is_counted || self.count_for_those_who_wait(tries);
            let turn = self.take_turn(tries, &mut is_counted, &connect, changed.as_mut());
            if let Some(connected) = turn.await {
                return connected;
            }
        }
    }

    /// Waits for the turn to try; returns `None` as soon as the state changes.
    async fn take_turn<T, F>(
        &self,
        tries: impl Tries,
        is_counted: &mut bool,
        connect: &impl Fn() -> F,
        mut changed: Pin<&mut Notified<'_>>,
    ) -> Option<Result<T, DialError>>
    where
        F: Future<Output = io::Result<T>>,
    {
        let _turn = tokio::select! {
            () = changed.as_mut() => return None,
            turn = self.schedule.turn() => turn,
        };
        // Keeps the turn between attempts: the others wait for the change, not for the turn.
        loop {
            tokio::select! {
                () = changed.as_mut() => return None,
                () = self.schedule.due(|| self.probes.is_running()) => {}
            }
            if self.schedule.listens() {
                return None;
            }
            tries.count();
            let seen = self.schedule.connections();
            match connect().await {
                Ok(stream) => {
                    self.note_connected();
                    return Some(Ok(stream));
                }
                Err(error) if self.note_failed(tries, seen, &error) => *is_counted = true,
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// Counts the others' latest attempt for a waiting session, as it is as good as its own;
    /// returns whether there was one.
    fn count_for_those_who_wait(&self, tries: impl Tries) -> bool {
        let Some(error) = self.schedule.last_error() else {
            return false;
        };
        tries.count();
        tries.note(&DialError::Unreachable(error));
        true
    }

    fn note_connected(&self) {
        // Those that wait go on, on other workers, as soon as it is noted.
        let waiting = self.waiting.load(Ordering::Relaxed);
        if self.schedule.note_connection() {
            self.breaker.hear();
            self.troubles.heard(self, waiting);
        }
    }

    /// Records an attempt that failed after there were `seen` connections; returns whether the
    /// upstream is known not to listen.
    ///
    /// It is not if others connected meanwhile, if the accept queue is full, or if the proxy's
    /// machine is out of some resource.
    fn note_failed(&self, tries: impl Tries, seen: u64, error: &io::Error) -> bool {
        let is_upstreams = !descriptors::is_shortage(error) && !dial::is_of_no_meaning(error);
        if !is_upstreams || !self.schedule.note_failure(seen, error) {
            return false;
        }
        let kind = Some(error.kind());
        let error = DialError::Unreachable(io::Error::new(error.kind(), error.to_string()));
        tries.note(&error);
        let failure = Failure::Unreachable;
        self.troubles.note(self, Reason { failure, kind }, &error);
        true
    }

    /// Counts one who waits, until what is returned is dropped.
    #[must_use]
    pub fn wait(&self) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(&self.waiting))
    }

    /// Records that a session got its `101`: the obstacle for the others is gone.
    pub(super) fn note_switched(&self) {
        self.troubles.switched(self);
    }
}

/// Receiver of a session's connection attempts.
trait Tries: Copy {
    /// Counts an attempt.
    fn count(self);
    /// Records that it failed.
    fn note(self, error: &DialError);
}

impl Tries for () {
    fn count(self) {}

    fn note(self, _error: &DialError) {}
}

impl Tries for &Attempts {
    fn count(self) {
        Attempts::count(self);
    }

    fn note(self, error: &DialError) {
        self.note_failure(Failure::Unreachable, error);
    }
}

/// One who waits for an endpoint.
#[derive(Debug)]
pub struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An admitted session whose outcome for the breaker is still open.
///
/// Dropping it reports nothing. The default belongs to no breaker.
#[derive(Debug, Default)]
pub struct Permit(Option<Admitted>);

#[derive(Debug)]
struct Admitted {
    endpoint: Arc<Endpoint>,
    ticket: Ticket,
}

impl Permit {
    /// Reports that the upstream is healthy.
    pub fn succeed(mut self) {
        if let Some(Admitted { endpoint, ticket }) = self.0.take() {
            endpoint.breaker.succeed(&ticket);
        }
    }

    /// Reports that the upstream failed.
    pub fn fail(mut self) {
        if let Some(Admitted { endpoint, ticket }) = self.0.take()
            && endpoint.breaker.fail(&ticket)
        {
            endpoint.probe();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(Admitted { endpoint, ticket }) = self.0.take() {
            endpoint.breaker.give_up(&ticket);
        }
    }
}

#[cfg(test)]
mod tests;
