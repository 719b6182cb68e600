//! Connecting for one request, which may have to be held for it.

use std::sync::Arc;

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};

use super::forward::Downstream;
use crate::{
    client_addr::Client,
    http_client::{http1::Http1Connection, http2::StreamSlot, pending, pool::Pool},
    local_reply::{Refusal, Shortage},
    route::Route,
    state::process::ProcessState,
    transport::Transport,
    upstream::{Endpoint, Waiting, backoff::Backoff, dial::DialError},
};

/// Connects for one request, and remembers for how long it has been held.
pub(crate) struct Connecting<'a> {
    route: &'a Arc<Route>,
    downstream: Downstream<'a>,
    pool: &'a Pool,
    shared: &'a ProcessState,
    /// Until when it may be held, from the first attempt on.
    deadline: Option<Instant>,
    /// Where it is held.
    place: Option<OwnedSemaphorePermit>,
    /// Counts it for the log until it has a connection.
    waiting: Option<Waiting>,
    /// Whether it has been sent again after a new connection that closed without an answer.
    is_repeated: bool,
    /// How often the upstream has refused to process it.
    refusals: u32,
}

/// How often a request that the upstream refuses to process is sent again.
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

    /// A connection for this request alone, until it is in the pool.
    pub(crate) async fn connect(&mut self) -> Result<Box<Http1Connection>, Refusal> {
        let stream = self.dial().await?;
        self.go_on();
        let connection = Http1Connection::new(stream, self.route.http.response_limits).await;
        Ok(Box::new(connection.or(Err(Refusal::BadGateway))?))
    }

    /// A stream on a connection that is shared, which somebody else may open meanwhile.
    pub(crate) async fn share(&mut self) -> Result<StreamSlot, Refusal> {
        let stream = self.share_held().await?;
        self.go_on();
        Ok(stream)
    }

    /// Notes that there is a connection.
    fn go_on(&mut self) {
        (self.downstream.set_held)(false);
        self.waiting = None;
    }

    async fn share_held(&mut self) -> Result<StreamSlot, Refusal> {
        let multiplexed = &self.pool.multiplexed;
        if self.pool.turns.is_anyone_waiting() {
            self.hold()?;
        }
        let deadline = self.deadline();
        let _opening = self.in_time(deadline, multiplexed.lock()).await?;
        if let Some(stream) = multiplexed.stream() {
            return Ok(stream);
        }
        if let Some(waiting) = multiplexed.waiting_stream() {
            let another = self.share_another(deadline).await;
            return Ok(another.unwrap_or(waiting));
        }
        let stream = self.dial().await?;
        let opened = multiplexed.open(stream, &self.route.http);
        opened.await.or(Err(Refusal::BadGateway))
    }

    /// A stream on another connection, as all have as many as they may have, if the upstream
    /// takes one.
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

    /// Notes that a new connection had ended before anything was written, as if the upstream
    /// did not listen: from now on the request counts as held.
    pub(crate) fn set_back(&mut self) -> Result<(), Refusal> {
        self.pool.turns.set_back();
        self.hold()
    }

    /// Whether it may be sent once more after a new connection that closed without an answer;
    /// the next time it may not.
    pub(crate) fn may_repeat(&mut self) -> bool {
        !std::mem::replace(&mut self.is_repeated, true)
    }

    /// Waits before that, held like one whose upstream does not listen. Others do not wait with it:
    /// it may be only this request that the upstream does not survive.
    pub(crate) async fn pause(&self) -> Result<(), Refusal> {
        (self.downstream.set_held)(true);
        let wait = Backoff::new(&self.route.upstream.retry).next(rand::random());
        time::sleep(wait).await;
        if (self.downstream.is_gone)() {
            return Err(Refusal::ClientGone);
        }
        Ok(())
    }

    /// Whether it may be sent again after the upstream has refused to process it: the upstream
    /// is there, and has had enough of the connection, or of requests.
    pub(crate) const fn may_insist(&mut self) -> bool {
        self.refusals += 1;
        self.refusals <= MAX_REFUSALS
    }

    /// Dials, and as long as the upstream does not listen holds the request.
    async fn dial(&mut self) -> Result<Transport, Refusal> {
        let deadline = self.deadline();
        let (route, client) = (self.route, self.downstream.client);
        let endpoint = self.shared.endpoints.of(route);
        self.waiting.get_or_insert_with(|| endpoint.wait());
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

    /// What comes of `waiting`, unless it takes too long, or the process drains and the
    /// request is held: nothing of it is lost then, and another process may serve it.
    async fn in_time<T>(
        &self,
        deadline: Instant,
        waiting: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let is_held = self.place.is_some();
        tokio::select! {
            outcome = time::timeout_at(deadline, waiting) => {
                outcome.or(Err(Refusal::GatewayTimeout))
            }
            () = self.shared.session.drain.begun(), if is_held => {
                Err(Refusal::Unavailable(Shortage::Draining))
            }
        }
    }

    fn deadline(&mut self) -> Instant {
        let hold_timeout = self.route.hold_timeout();
        *self
            .deadline
            .get_or_insert_with(|| Instant::now() + hold_timeout)
    }

    fn hold(&mut self) -> Result<(), Refusal> {
        if self.place.is_none() {
            if self.shared.memory.is_high() {
                return Err(Refusal::Unavailable(Shortage::Memory));
            }
            self.place = Some(self.shared.held.enter(self.route)?);
        }
        (self.downstream.set_held)(true);
        let endpoints = &self.shared.endpoints;
        self.waiting
            .get_or_insert_with(|| endpoints.of(self.route).wait());
        Ok(())
    }
}

/// Dials once, if that may be of any use.
async fn dial_at_once(
    endpoint: &Endpoint,
    route: &Route,
    client: Client,
) -> Result<Transport, DialError> {
    let preamble = route.upstream.preamble(client.source(), client.server);
    endpoint.dial_at_once(route.http.version, &preamble).await
}

/// Dials as soon as somebody listens.
async fn dial_in_turn(
    endpoint: &Endpoint,
    route: &Route,
    client: Client,
) -> Result<Transport, DialError> {
    let preamble = route.upstream.preamble(client.source(), client.server);
    endpoint.dial(route.http.version, &preamble).await
}
