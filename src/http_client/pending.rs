//! Requests held for an upstream that does not listen yet.
//!
//! One of them on each worker waits, with the sessions, for the upstream to
//! [listen](crate::upstream::endpoint), and the others wait behind it. Once an attempt succeeds,
//! two may try at a time, then four, and so on: an upstream that has just started does not meet
//! all of them at once.
//!
//! # Invariants
//!
//! * A request is held only while none of it has been written, and its body is not read
//!   meanwhile: it occupies its head, and the bound on held requests bounds that.
//! * A request whose client has left does not connect.
//! * A draining process holds none.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{self, Instant},
};

use crate::{
    config::Retry,
    local_reply::LocalReply,
    route::{Route, Routes},
    transport::Transport,
    upstream::{backoff::Backoff, dial::DialError},
};

/// Maximum number of requests that try to connect at a time.
const MAX_TURNS: usize = 64;

/// Interval at which a waiting client is checked for having left.
const LOOK_AFTER_CLIENT: Duration = Duration::from_secs(1);

/// Slots for held requests, of each route and for all workers.
#[derive(Debug)]
pub struct HeldRequests(Mutex<Vec<HeldSlots>>);

/// Slots of one route.
#[derive(Debug)]
struct HeldSlots {
    route: Arc<Route>,
    free: Arc<Semaphore>,
}

impl HeldSlots {
    fn of(route: &Arc<Route>) -> Self {
        let free = route.http.max_held_requests.min(Semaphore::MAX_PERMITS);
        Self {
            route: Arc::clone(route),
            free: Arc::new(Semaphore::new(free)),
        }
    }

    /// Returns the number of held requests, and the most there may be.
    fn usage(&self) -> (usize, usize) {
        let max = self
            .route
            .http
            .max_held_requests
            .min(Semaphore::MAX_PERMITS);
        (max - self.free.available_permits(), max)
    }
}

impl HeldRequests {
    /// Creates free slots for each of `routes`.
    #[must_use]
    pub fn new(routes: &Routes) -> Self {
        Self(Mutex::new(routes.iter().map(HeldSlots::of).collect()))
    }

    /// Replaces the routes; requests held for earlier ones keep their slots.
    pub fn set_routes(&self, routes: &Routes) {
        let mut known = self.known();
        // Slots that are in use go with their requests.
        known.retain(|places| places.usage().0 > 0);
        known.extend(routes.iter().map(HeldSlots::of));
    }

    /// Lists each route's name, its held requests, and the most there may be. Requests held for a
    /// route before a reload count for the route of the same name.
    #[must_use]
    pub fn usage(&self) -> Vec<(String, usize, usize)> {
        let mut usage: Vec<(String, usize, usize)> = Vec::new();
        for places in self.known().iter() {
            let (label, (held, max)) = (places.route.label(), places.usage());
            match usage.iter_mut().find(|(known, ..)| *known == label) {
                Some(known) => *known = (label, known.1 + held, max),
                None => usage.push((label, held, max)),
            }
        }
        usage
    }

    /// Acquires a slot, which is released when the permit is dropped.
    ///
    /// # Errors
    ///
    /// No slot is free.
    pub fn enter(&self, route: &Arc<Route>) -> Result<OwnedSemaphorePermit, LocalReply> {
        let mut known = self.known();
        let found = known
            .iter()
            .position(|places| Arc::ptr_eq(&places.route, route));
        let index = found.unwrap_or_else(|| {
            // A request that began before a reload brings its own route.
            known.insert(0, HeldSlots::of(route));
            0
        });
        let free = Arc::clone(&known[index].free);
        free.try_acquire_owned()
            .map_err(|_none| LocalReply::HeldRequests)
    }

    fn known(&self) -> MutexGuard<'_, Vec<HeldSlots>> {
        // No panic under the lock can leave the list in disorder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maps an error after which another attempt would not help to the response.
pub(crate) fn give_up(error: &DialError) -> LocalReply {
    match error {
        DialError::Shortage => LocalReply::OutOfDescriptors,
        DialError::Unreachable(_) | DialError::Tls(_) => {
            tracing::warn!(%error, "upstream cannot be used");
            LocalReply::BadGateway
        }
    }
}

/// Admission of one worker's held requests for a route to connecting: how many at a time, and
/// when.
#[derive(Debug)]
pub struct ConnectGate {
    retry: Retry,
    permits: Semaphore,
    /// All permits, acquired ones included.
    count: Cell<usize>,
    waiting: Cell<usize>,
    /// Notified when a request begins to wait.
    begun: Notify,
    backoff: RefCell<Backoff>,
    next_attempt: Cell<Instant>,
}

impl ConnectGate {
    /// Creates a gate at which no request waits.
    #[must_use]
    pub fn new(retry: &Retry) -> Self {
        Self {
            retry: retry.clone(),
            permits: Semaphore::new(1),
            count: Cell::new(1),
            waiting: Cell::new(0),
            begun: Notify::new(),
            backoff: RefCell::new(Backoff::new(retry)),
            next_attempt: Cell::new(Instant::now()),
        }
    }

    /// Returns whether requests wait already, so that a new one should not try ahead of them.
    #[must_use]
    pub fn is_anyone_waiting(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Waits until a request waits.
    pub async fn until_anyone_waits(&self) {
        // Nothing changes between the check and the registration: both are on one thread.
        while !self.is_anyone_waiting() {
            self.begun.notified().await;
        }
    }

    /// Connects when this request has a permit, repeatedly until that succeeds.
    ///
    /// # Errors
    ///
    /// The client has left, or another attempt would not help.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future passes the permit to the next request.
    pub async fn connect(
        &self,
        dial: impl AsyncFn() -> Result<Transport, DialError>,
        is_client_gone: impl Fn() -> bool,
    ) -> Result<Transport, LocalReply> {
        let _waiting = WaitingRequest::enter(&self.waiting);
        self.begun.notify_waiters();
        loop {
            let turn = self.turn(&is_client_gone).await?;
            // The back-off belongs to the gate, so that it survives a request that leaves.
            time::sleep_until(self.next_attempt.get()).await;
            // hyper notices a client that leaves, but not behind a body that it has not read.
            if is_client_gone() {
                return Err(LocalReply::ClientGone);
            }
            match while_here(dial(), &is_client_gone).await? {
                // The client may have left during a slow dial.
                Ok(_) if is_client_gone() => return Err(LocalReply::ClientGone),
                Ok(stream) => {
                    self.grow();
                    return Ok(stream);
                }
                Err(error @ DialError::Unreachable(_)) => {
                    tracing::trace!(%error, "upstream does not listen");
                    self.shrink(turn);
                    self.wait_longer();
                }
                Err(error) => return Err(give_up(&error)),
            }
        }
    }

    /// Notes that the upstream accepted and then closed a connection before anything was written,
    /// which counts as not listening.
    pub fn set_back(&self) {
        // All free permits but one; those in use are returned by their attempts.
        let kept = self.count.get() - self.permits.forget_permits(self.count.get() - 1);
        self.count.set(kept);
        self.wait_longer();
    }

    /// Notes a response of the upstream: the back-off begins again from its start.
    pub fn set_forward(&self) {
        *self.backoff.borrow_mut() = Backoff::new(&self.retry);
    }

    /// Waits for a permit, as long as the client is present.
    async fn turn(
        &self,
        is_client_gone: impl Fn() -> bool,
    ) -> Result<SemaphorePermit<'_>, LocalReply> {
        let turn = while_here(self.permits.acquire(), is_client_gone).await?;
        Ok(turn.expect("the semaphore is never closed"))
    }

    fn wait_longer(&self) {
        let wait = self.backoff.borrow_mut().next(rand::random());
        self.next_attempt.set(Instant::now() + wait);
    }

    fn grow(&self) {
        if self.count.get() < MAX_TURNS {
            self.count.set(self.count.get() + 1);
            self.permits.add_permits(1);
        }
    }

    fn shrink(&self, turn: SemaphorePermit<'_>) {
        if self.count.get() > 1 {
            self.count.set(self.count.get() - 1);
            // The permit of a failed attempt disappears, down to one attempt at a time.
            turn.forget();
        }
    }
}

/// Waits for an outcome, unless the client leaves.
pub(crate) async fn while_here<T>(
    waiting: impl Future<Output = T>,
    is_client_gone: impl Fn() -> bool,
) -> Result<T, LocalReply> {
    let mut waiting = pin!(waiting);
    loop {
        match time::timeout(LOOK_AFTER_CLIENT, waiting.as_mut()).await {
            Ok(outcome) => return Ok(outcome),
            Err(_) if is_client_gone() => return Err(LocalReply::ClientGone),
            Err(_) => {}
        }
    }
}

/// Counts a waiting request until it is dropped.
struct WaitingRequest<'a>(&'a Cell<usize>);

impl<'a> WaitingRequest<'a> {
    fn enter(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::future::join_all;
    use tokio::net::UnixStream;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    // However many requests wait, one attempt at a time is made; after the first success the
    // number doubles with each round.
    #[tokio::test(start_paused = true)]
    async fn one_request_tries_for_all_and_then_attempts_double() {
        let turns = ConnectGate::new(&Retry::default());
        let listens_at = Instant::now() + 10 * SECOND;
        let (refused, active, peak) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let dial = async || {
            active.set(active.get() + 1);
            peak.set(peak.get().max(active.get()));
            time::sleep(Duration::from_millis(10)).await;
            active.set(active.get() - 1);
            if Instant::now() < listens_at {
                refused.set(refused.get() + 1);
                assert_eq!(peak.get(), 1, "attempts at a time while nobody listens");
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
            }
            Ok(Transport::Unix(UnixStream::pair().unwrap().0))
        };

        let connected = join_all((0..500).map(|_| turns.connect(&dial, || false))).await;

        assert!(connected.iter().all(Result::is_ok));
        // Five shorter waits, then at least half a second each.
        assert!(refused.get() <= 6 + 20, "{}", refused.get());
        assert_eq!(peak.get(), MAX_TURNS);
        // All of them connect within the time of a few attempts.
        assert!(Instant::now() - listens_at < 2 * SECOND);
        assert!(!turns.is_anyone_waiting());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_behind_others_leaves_soon_after_its_client() {
        let turns = ConnectGate::new(&Retry::default());
        let never = async || std::future::pending().await;
        let first = turns.connect(never, || false);
        let second = turns.connect(never, || true);

        let started = Instant::now();
        let gone = tokio::select! {
            biased;
            _ = first => panic!("it never connects"),
            gone = second => gone,
        };

        assert!(matches!(gone, Err(LocalReply::ClientGone)));
        assert!(started.elapsed() <= LOOK_AFTER_CLIENT);
    }
}
