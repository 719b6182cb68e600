//! Connecting to the upstream on behalf of one request, which may have to be held meanwhile.

use std::{pin::pin, sync::Arc};

use tokio::{
    sync::{MutexGuard, OwnedSemaphorePermit},
    time::{self, Instant},
};

use super::client_side::Downstream;
use crate::{
    client_addr::Client,
    http_client::{
        http1::Http1Connection,
        http2::StreamSlot,
        pending::{self, while_here},
        pool::Pool,
    },
    local_reply::LocalReply,
    route::Route,
    state::process::ProcessState,
    transport::Transport,
    upstream::{Endpoint, Waiting, backoff::Backoff, dial::DialError},
};

/// The attempts of one request to get a connection, and the time for which it has been held.
pub(crate) struct Connecting<'a> {
    route: &'a Arc<Route>,
    downstream: Downstream<'a>,
    pool: &'a Pool,
    shared: &'a ProcessState,
    /// Deadline of the hold, from the first attempt on.
    deadline: Option<Instant>,
    /// Slot among the held requests; `None` until it is held.
    place: Option<OwnedSemaphorePermit>,
    /// Counts the request as waiting, for the log, until it has a connection.
    waiting: Option<Waiting>,
    /// Set once the request was repeated after a new connection that closed without a response.
    is_repeated: bool,
    /// Times that the upstream refused to process the request.
    refusals: u32,
}

/// Number of times that a request is repeated after the upstream refused to process it.
const MAX_REFUSALS: u32 = 3;

impl<'a> Connecting<'a> {
    pub(crate) const fn new(
        route: &'a Arc<Route>,
        downstream: Downstream<'a>,
        pool: &'a Pool,
        shared: &'a ProcessState,
    ) -> Self {
        Self {
            route,
            downstream,
            pool,
            shared,
            deadline: None,
            place: None,
            waiting: None,
            is_repeated: false,
            refusals: 0,
        }
    }

    /// Connects for this request alone; the connection may go to the pool afterwards.
    pub(crate) async fn connect(&mut self) -> Result<Box<Http1Connection>, LocalReply> {
        let stream = self.dial().await?;
        self.go_on();
        let connection = Http1Connection::new(stream, self.route.http.response_limits).await;
        Ok(Box::new(connection.or(Err(LocalReply::BadGateway))?))
    }

    /// Acquires a stream on a shared connection, which another request may open meanwhile.
    pub(crate) async fn share(&mut self) -> Result<StreamSlot, LocalReply> {
        let stream = self.share_held().await?;
        self.go_on();
        Ok(stream)
    }

    /// Notes that the request has its connection.
    fn go_on(&mut self) {
        (self.downstream.set_held)(false);
        self.waiting = None;
    }

    async fn share_held(&mut self) -> Result<StreamSlot, LocalReply> {
        let multiplexed = &self.pool.multiplexed;
        let deadline = self.deadline();
        let _opening = self.opening(deadline).await?;
        // Another request may have opened one while this one waited for the lock.
        if let Some(stream) = multiplexed.stream() {
            return Ok(stream);
        }
        // All streams are taken: one more connection, or else a wait in h2.
        if let Some(waiting) = multiplexed.waiting_stream() {
            let another = self.share_another(deadline).await;
            return Ok(another.unwrap_or(waiting));
        }
        let stream = self.dial().await?;
        let opened = multiplexed.open(stream, &self.route.http);
        opened.await.or(Err(LocalReply::BadGateway))
    }

    /// Waits for the turn to open a connection.
    ///
    /// The request is held from when the one that has the turn is: that may take until the upstream
    /// listens. Before, nobody needs a slot, as where the upstream listens more requests may come
    /// during the first attempt than there are slots.
    async fn opening(&mut self, deadline: Instant) -> Result<MutexGuard<'a, ()>, LocalReply> {
        let Pool {
            multiplexed, turns, ..
        } = self.pool;
        let mut turn = pin!(multiplexed.lock());
        self.count();
        if self.place.is_none() {
            let unheld = async {
                tokio::select! {
                    // Whoever has the turn asks itself if it is to be held.
                    biased;
                    turn = turn.as_mut() => Some(turn),
                    () = turns.until_anyone_waits() => None,
                }
            };
            if let Some(turn) = self.in_time(deadline, unheld).await? {
                return Ok(turn);
            }
        }
        self.hold()?;
        let is_gone = self.downstream.is_gone;
        let turn = self.in_time(deadline, while_here(turn, is_gone)).await??;
        // It may have left just before.
        if is_gone() {
            return Err(LocalReply::ClientGone);
        }
        Ok(turn)
    }

    /// Opens a stream on another connection, when the streams of all are used up; `None` when the
    /// upstream does not accept one more.
    async fn share_another(&self, deadline: Instant) -> Option<StreamSlot> {
        let multiplexed = &self.pool.multiplexed;
        if !multiplexed.may_open() {
            return None;
        }
        let endpoint = self.shared.endpoints.of(self.route);
        let dialled = dial_at_once(&endpoint, self.route, self.downstream.client);
        let opened = match time::timeout_at(deadline, dialled).await {
            Ok(Ok(stream)) => {
                let opened = multiplexed.open(stream, &self.route.http);
                opened.await.ok()
            }
            Ok(Err(_)) | Err(_) => None,
        };
        if opened.is_none() {
            multiplexed.set_refused();
        }
        opened
    }

    /// Notes that a new connection ended before anything was written, as if the upstream did not
    /// listen: the request counts as held from now on.
    pub(crate) fn set_back(&mut self) -> Result<(), LocalReply> {
        self.pool.turns.set_back();
        self.hold()
    }

    /// Returns whether the request may be repeated after a new connection that closed without a
    /// response: true the first time only.
    pub(crate) fn may_repeat(&mut self) -> bool {
        !std::mem::replace(&mut self.is_repeated, true)
    }

    /// Waits before that repetition, held like a request whose upstream does not listen. Others
    /// do not wait with it: the upstream may fail at this request only.
    pub(crate) async fn pause(&self) -> Result<(), LocalReply> {
        (self.downstream.set_held)(true);
        let wait = Backoff::new(&self.route.upstream.retry).next(rand::random());
        time::sleep(wait).await;
        if (self.downstream.is_gone)() {
            return Err(LocalReply::ClientGone);
        }
        Ok(())
    }

    /// Returns whether the request may be repeated after the upstream refused to process it: the
    /// upstream is there, but at a limit of the connection or of its requests.
    pub(crate) const fn may_insist(&mut self) -> bool {
        self.refusals += 1;
        self.refusals <= MAX_REFUSALS
    }

    /// Dials, and holds the request as long as the upstream does not listen.
    async fn dial(&mut self) -> Result<Transport, LocalReply> {
        let deadline = self.deadline();
        let (route, client) = (self.route, self.downstream.client);
        let endpoint = self.shared.endpoints.of(route);
        self.count();
        // One attempt without a slot; once others are held, behind them.
        if self.place.is_none() && !self.pool.turns.is_anyone_waiting() {
            let dialled = dial_at_once(&endpoint, route, client);
            match self.in_time(deadline, dialled).await? {
                Ok(stream) => return Ok(stream),
                Err(DialError::Unreachable(_)) => {}
                Err(error) => return Err(pending::give_up(&error)),
            }
        }
        self.hold()?;
        let dial = || dial_in_turn(&endpoint, route, client);
        let dialled = self.pool.turns.connect(dial, self.downstream.is_gone);
        self.in_time(deadline, dialled).await?
    }

    /// Waits for an outcome until `deadline`; a held request also ends when the process drains,
    /// for nothing of it is lost and another process may serve it.
    async fn in_time<T>(
        &self,
        deadline: Instant,
        waiting: impl Future<Output = T>,
    ) -> Result<T, LocalReply> {
        let is_held = self.place.is_some();
        tokio::select! {
            outcome = time::timeout_at(deadline, waiting) => {
                outcome.or(Err(LocalReply::GatewayTimeout))
            }
            () = self.shared.session.drain.begun(), if is_held => {
                Err(LocalReply::Draining)
            }
        }
    }

    fn deadline(&mut self) -> Instant {
        let hold_timeout = self.route.hold_timeout();
        *self
            .deadline
            .get_or_insert_with(|| Instant::now() + hold_timeout)
    }

    fn hold(&mut self) -> Result<(), LocalReply> {
        if self.place.is_none() {
            if self.shared.memory.is_high() {
                return Err(LocalReply::Memory);
            }
            self.place = Some(self.shared.held.enter(self.route)?);
        }
        (self.downstream.set_held)(true);
        self.count();
        Ok(())
    }

    /// Counts the request as waiting for its upstream.
    fn count(&mut self) {
        let endpoints = &self.shared.endpoints;
        self.waiting
            .get_or_insert_with(|| endpoints.of(self.route).wait());
    }
}

/// Dials once, unless the endpoint is known not to listen.
async fn dial_at_once(
    endpoint: &Endpoint,
    route: &Route,
    client: Client,
) -> Result<Transport, DialError> {
    let preamble = route.upstream.preamble(client.source(), client.server);
    endpoint.dial_at_once(route.http.version, &preamble).await
}

/// Dials as soon as the endpoint listens.
async fn dial_in_turn(
    endpoint: &Endpoint,
    route: &Route,
    client: Client,
) -> Result<Transport, DialError> {
    let preamble = route.upstream.preamble(client.source(), client.server);
    endpoint.dial(route.http.version, &preamble).await
}
