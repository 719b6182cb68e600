//! Connecting for one request, which may have to be held for it.

use std::sync::Arc;

use tokio::{
    sync::SemaphorePermit,
    time::{self, Instant},
};

use super::{
    exchange::Connection,
    forward::Downstream,
    hold::{self, HeldRequests},
    multiplexed::Sender,
    pool::Pool,
    response::Refusal,
};
use crate::{
    route::Route,
    transport::Transport,
    upstream::{
        backoff::Backoff,
        dial::{DialError, dial},
    },
};

/// Connects for one request, and remembers for how long it has been held.
pub(super) struct Connecting<'a> {
    route: &'a Arc<Route>,
    downstream: Downstream<'a>,
    pool: &'a Pool,
    held: &'a HeldRequests,
    /// Until when it may be held, from the first attempt on.
    deadline: Option<Instant>,
    /// Where it is held.
    place: Option<SemaphorePermit<'a>>,
    /// Whether it has been sent again after a new connection that closed without an answer.
    is_repeated: bool,
}

impl<'a> Connecting<'a> {
    pub(super) const fn new(
        route: &'a Arc<Route>,
        downstream: Downstream<'a>,
        pool: &'a Pool,
        held: &'a HeldRequests,
    ) -> Self {
        Self {
            route,
            downstream,
            pool,
            held,
            deadline: None,
            place: None,
            is_repeated: false,
        }
    }

    /// A connection for this request alone, until it is in the pool.
    pub(super) async fn connect(&mut self) -> Result<Box<Connection>, Refusal> {
        let stream = self.dial().await?;
        let connection = Connection::new(stream).await;
        Ok(Box::new(connection.or(Err(Refusal::BadGateway))?))
    }

    /// The connection that all requests share, which somebody else may open meanwhile.
    pub(super) async fn share(&mut self) -> Result<Sender, Refusal> {
        let multiplexed = &self.pool.multiplexed;
        if self.pool.turns.is_anyone_waiting() {
            self.hold()?;
        }
        let _opening = time::timeout_at(self.deadline(), multiplexed.lock())
            .await
            .or(Err(Refusal::GatewayTimeout))?;
        if let Some(sender) = multiplexed.sender() {
            return Ok(sender);
        }
        let stream = self.dial().await?;
        let opened = multiplexed.open(stream).await;
        opened.or(Err(Refusal::BadGateway))
    }

    /// Notes that a new connection had ended before anything was written, as if the upstream
    /// did not listen: from now on the request counts as held.
    pub(super) fn set_back(&mut self) -> Result<(), Refusal> {
        self.pool.turns.set_back();
        self.hold()
    }

    /// Whether it may be sent once more after a new connection that closed without an answer;
    /// the next time it may not.
    pub(super) fn may_repeat(&mut self) -> bool {
        !std::mem::replace(&mut self.is_repeated, true)
    }

    /// Waits before that. Others do not wait with it: it may be only this request that the
    /// upstream does not survive.
    pub(super) async fn pause(&self) -> Result<(), Refusal> {
        let wait = Backoff::new(&self.route.upstream.retry).next(rand::random());
        time::sleep(wait).await;
        if (self.downstream.is_gone)() {
            return Err(Refusal::ClientGone);
        }
        Ok(())
    }

    /// Dials, and as long as the upstream does not listen holds the request.
    async fn dial(&mut self) -> Result<Transport, Refusal> {
        let deadline = self.deadline();
        let upstream = &self.route.upstream;
        let client = self.downstream.client;
        let preamble = upstream.preamble(client.source(), client.server);
        let dial = async || dial(upstream, self.route.http.version, &preamble).await;
        if self.place.is_none() && !self.pool.turns.is_anyone_waiting() {
            match dial().await {
                Ok(stream) => return Ok(stream),
                Err(DialError::Unreachable(_)) => {}
                Err(error @ DialError::Tls(_)) => return Err(hold::give_up(&error)),
            }
        }
        self.hold()?;
        let dialled = self.pool.turns.connect(dial, self.downstream.is_gone);
        time::timeout_at(deadline, dialled)
            .await
            .unwrap_or(Err(Refusal::GatewayTimeout))
    }

    fn deadline(&mut self) -> Instant {
        let hold_timeout = self.route.http.hold_timeout;
        *self
            .deadline
            .get_or_insert_with(|| Instant::now() + hold_timeout)
    }

    fn hold(&mut self) -> Result<(), Refusal> {
        if self.place.is_none() {
            self.place = Some(self.held.enter(self.route)?);
        }
        Ok(())
    }
}
