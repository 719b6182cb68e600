//! An upstream of a route at one address: all that is known of it, for all workers.
//!
//! ```text
//!  a client ──► breaker ──► session ──► schedule ──► lookup, connect ──► TLS, handshake
//!                 ▲  │                     ▲  │
//!                 │  └─ refused: probes ───┘  │ somebody listens
//!                 └───────────────────────────┘
//! ```
//!
//! * [`Names`]: the addresses of its name, looked up once for all who wait.
//! * `Schedule`: while nobody listens, one of those who wait tries; when
//!   somebody does, all go at once, each on a connection of its own.
//! * [`Breaker`](super::breaker): whether new sessions are let through.
//! * `Probes`: while nobody listens and sessions are refused, the proxy itself tries.
//! * `Troubles`: why sessions wait, for the log, once for each change.
//!
//! What a session does behind its connection (TLS, the opening handshake) is its own: an answer
//! may be about this very client, and so are the waits behind it.
//!
//! # Invariants
//!
//! * While nobody listens there is one connection attempt at a time, however many wait, on
//!   however many workers; whoever makes it and is dropped hands over to another one.
//! * The breaker is closed once somebody listens again, whoever finds that out.

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

pub(super) use self::trouble::{Patience, Reason};
use self::{probes::Probes, schedule::Schedule, trouble::Troubles};
use super::{
    Address, Settings,
    attempts::{Attempts, Failure},
    breaker::{self, Breaker, Refused, Status, Ticket},
    dial::{self, DialError, Protocol},
    lookup::{Name, Names},
};
use crate::transport::{Transport, descriptors};

/// How long refusals are counted until the log says how many there were.
const SUMMARY: Duration = Duration::from_secs(1);

/// The upstream of a route.
#[derive(Debug)]
pub struct Endpoint {
    /// The name of the route, for the log.
    route: Box<str>,
    settings: Settings,
    /// The name in its address; that of a Unix socket is never looked up.
    name: Arc<Name>,
    schedule: Schedule,
    breaker: Breaker,
    probes: Probes,
    troubles: Troubles,
    /// How many sessions and requests wait for it.
    waiting: AtomicUsize,
    /// How many sessions were refused since the log has told.
    refused: AtomicU64,
}

impl Endpoint {
    /// One for the route that metrics and the log call `route`, of which nothing is known.
    #[must_use]
    pub fn new(
        route: &str,
        settings: &Settings,
        breaker: breaker::Settings,
        names: &Names,
    ) -> Arc<Self> {
        Arc::new(Self::with(
            route,
            settings,
            Breaker::new(breaker, route),
            names,
        ))
    }

    /// One for a route whose upstream was this one, whose breaker counts on; sessions of this one
    /// say nothing any more.
    #[must_use]
    pub fn follow(
        &self,
        settings: &Settings,
        breaker: breaker::Settings,
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
            schedule: Schedule::new(&settings.retry),
            breaker,
            probes: Probes::default(),
            troubles: Troubles::default(),
            waiting: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// One that nobody else knows, for an upstream that is connected once.
    #[must_use]
    pub fn alone(settings: &Settings) -> Arc<Self> {
        let never = breaker::Settings {
            failures: 0,
            ..breaker::Settings::default()
        };
        Self::new("", settings, never, &Names::default())
    }

    /// How it is reached.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Closes the breaker, which has other settings from now on; sessions that have begun do not
    /// count any more.
    pub fn forget(&self, breaker: breaker::Settings) {
        self.breaker.forget(breaker);
    }

    /// What the breaker knows at this moment.
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

    /// Lets one more session through.
    ///
    /// While nobody listens, a refusal has the proxy itself try for a minute, and so has a session
    /// that is let through half-open: the breaker closes without a client.
    ///
    /// # Errors
    ///
    /// The breaker is open, or half-open and has no room. It makes sense to try again after a
    /// second or more.
    pub fn admit(self: &Arc<Self>) -> Result<Trial, Refused> {
        match self.breaker.admit(|| self.is_trying()) {
            Ok(None) => Ok(Trial::default()),
            Ok(Some(ticket)) => {
                if ticket.is_half_open() {
                    self.probe();
                }
                let endpoint = Arc::clone(self);
                Ok(Trial(Some(Admitted { endpoint, ticket })))
            }
            Err(refused) => {
                self.count_refusal();
                self.probe();
                Err(refused)
            }
        }
    }

    /// Whether nobody listens, and somebody tries until that changes.
    fn is_trying(&self) -> bool {
        self.schedule.is_absent() && self.probes.is_running()
    }

    /// Counts a session that is refused; the log says in a second how many there were.
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
            let refused = endpoint.refused.swap(0, Ordering::Relaxed);
            let route = &*endpoint.route;
            tracing::warn!(route, refused, "sessions refused: the breaker is open");
        });
    }

    /// Connects as soon as somebody listens, and speaks TLS where the upstream does; `preamble`
    /// is what the connection begins with.
    ///
    /// # Errors
    ///
    /// As [`dial`](dial::dial), but for an address at which nobody listens.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that was being made.
    pub async fn dial(&self, protocol: Protocol, preamble: &[u8]) -> Result<Transport, DialError> {
        let _waiting = self.wait();
        let stream = self.connect((), || self.connect_once()).await?;
        dial::finish(&self.settings, stream, protocol, preamble).await
    }

    /// Connects as [`dial`](Self::dial) does, without waiting for somebody to listen: one attempt,
    /// or none where that is known to be of no use.
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
        if let Some(error) = self.schedule.known_error() {
            return Err(DialError::Unreachable(error));
        }
        let _waiting = self.wait();
        let seen = self.schedule.connections();
        let stream = match self.connect_once().await {
            Ok(stream) => stream,
            Err(error) => {
                self.note_failed((), seen, &error);
                return Err(error.into());
            }
        };
        self.note_connected();
        dial::finish(&self.settings, stream, protocol, preamble).await
    }

    /// Connects once, which nobody else learns of.
    ///
    /// # Errors
    ///
    /// As [`dial`](dial::dial).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that was being made.
    pub async fn check(&self, protocol: Protocol) -> Result<Transport, DialError> {
        let stream = self.connect_once().await?;
        dial::finish(&self.settings, stream, protocol, &[]).await
    }

    /// Connects for a session, as soon as somebody listens.
    pub(super) async fn connect_for(&self, attempts: &Attempts) -> Result<Transport, DialError> {
        self.connect(attempts, || self.connect_once()).await
    }

    async fn connect_once(&self) -> io::Result<Transport> {
        dial::connect(&self.settings, &self.name).await
    }

    /// Connects by `connect` as soon as somebody listens.
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
            is_counted = is_counted || self.count_for_those_who_wait(tries);
            let turn = self.take_turn(tries, &mut is_counted, &connect, changed.as_mut());
            if let Some(connected) = turn.await {
                return connected;
            }
        }
    }

    /// Waits for the turn to try, or until more is known; `None`: that is so.
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

    /// Notes for one who waits the latest attempt of the others, which is as good as its own;
    /// whether there was one.
    fn count_for_those_who_wait(&self, tries: impl Tries) -> bool {
        let Some(error) = self.schedule.last_error() else {
            return false;
        };
        tries.count();
        tries.note(&DialError::Unreachable(error));
        true
    }

    fn note_connected(&self) {
        if self.schedule.note_connection() {
            self.breaker.hear();
            self.troubles.heard(self);
        }
    }

    /// Notes an attempt that failed after there were `seen` connections; whether nobody listens.
    ///
    /// It is not known to be so where others were connected meanwhile, where the queue of those to
    /// be accepted is full, or where the machine of the proxy lacks something.
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
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    /// A session has got its `101`: whatever kept others from theirs is over.
    pub(super) fn note_switched(&self) {
        self.troubles.switched(self);
    }
}

/// Who counts attempts to connect.
trait Tries: Copy {
    /// There is one more.
    fn count(self);
    /// It has failed.
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
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session that was let through, until it is known what that says about the upstream.
///
/// Dropping it says nothing. The default belongs to no breaker.
#[derive(Debug, Default)]
pub struct Trial(Option<Admitted>);

#[derive(Debug)]
struct Admitted {
    endpoint: Arc<Endpoint>,
    ticket: Ticket,
}

impl Trial {
    /// The upstream is in order.
    pub fn succeed(mut self) {
        if let Some(Admitted { endpoint, ticket }) = self.0.take() {
            endpoint.breaker.succeed(&ticket);
        }
    }

    /// It is not.
    pub fn fail(mut self) {
        if let Some(Admitted { endpoint, ticket }) = self.0.take()
            && endpoint.breaker.fail(&ticket)
        {
            endpoint.probe();
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(Admitted { endpoint, ticket }) = self.0.take() {
            endpoint.breaker.give_up(&ticket);
        }
    }
}

#[cfg(test)]
mod tests;
