//! Idle HTTP/1.1 connections to the upstreams.
//!
//! # Invariants
//!
//! * No client has logged in on any of them ([`binding`](crate::proxy::binding)).
//! * A connection never leaves its thread: each worker has its own [`Pools`].
//! * The most recently used one is used next, so that the others reach the idle timeout.
//! * A connection that is idle for longer than the route's `idle_timeout`, or is closed by the
//!   upstream meanwhile, is dropped within a second, and is never used.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task,
    time::{self, Instant},
};

use super::{http1::Http1Connection, http2::Multiplexed, pending::ConnectGate};
use crate::route::{Route, Routes};

/// Interval at which idle connections are checked.
const TICK: Duration = Duration::from_secs(1);

/// Pools of one worker, one for each route that has been requested.
#[derive(Debug, Default)]
pub struct Pools(RefCell<Vec<Rc<Pool>>>);

impl Pools {
    /// Returns the pool of `route`, which is one of `routes` or predates a reload.
    pub fn of(&self, route: &Arc<Route>, routes: impl FnOnce() -> Routes) -> Rc<Pool> {
        let mut pools = self.0.borrow_mut();
        if let Some(known) = pools.iter().find(|pool| Arc::ptr_eq(&pool.route, route)) {
            return Rc::clone(known);
        }
        let pool = Rc::new(Pool {
            route: Arc::clone(route),
            turns: ConnectGate::new(&route.upstream.retry),
            multiplexed: Multiplexed::default(),
            idle: RefCell::default(),
            is_swept: Cell::new(false),
        });
        // Pools of routes that a reload removed are dropped, with their idle connections.
        let routes = routes();
        pools.retain(|pool| routes.iter().any(|route| Arc::ptr_eq(&pool.route, route)));
        pools.push(Rc::clone(&pool));
        pool
    }
}

/// Connections of one worker to the upstream of one route.
pub struct Pool {
    route: Arc<Route>,
    /// Admission to connecting while the upstream does not listen.
    pub turns: ConnectGate,
    /// Connections of a route whose upstream speaks HTTP/2.
    pub multiplexed: Multiplexed,
    idle: RefCell<VecDeque<Idle>>,
    is_swept: Cell<bool>,
}

struct Idle {
    connection: Box<Http1Connection>,
    since: Instant,
}

impl Pool {
    /// Takes the most recently used connection that is still open.
    pub fn take(&self) -> Option<Box<Http1Connection>> {
        let timeout = self.route.http.idle_timeout;
        loop {
            let mut idle = self.idle.borrow_mut().pop_back()?;
            // The sweeper runs once a second, so the timeout may have passed.
            if idle.since.elapsed() < timeout && idle.connection.is_open() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection for another request, if it can carry one.
    pub fn put(self: &Rc<Self>, connection: Box<Http1Connection>) {
        let max_idle = self.route.http.max_idle_connections;
        // A PROXY preamble ties a connection to one client's address.
        let is_shared = self.route.upstream.may_share_connections();
        if max_idle == 0 || !is_shared || !connection.is_reusable() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() == max_idle {
            idle.pop_front();
        }
        let since = Instant::now();
        idle.push_back(Idle { connection, since });
        drop(idle);
        if !self.is_swept.replace(true) {
            task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Drops connections that have been idle for too long or were closed; the others wake the
    /// sweeper when they are closed.
    fn drop_useless(&self, context: &mut Context<'_>) {
        let timeout = self.route.http.idle_timeout;
        self.idle
            .borrow_mut()
            .retain_mut(|idle| idle.since.elapsed() < timeout && idle.connection.drive(context));
    }
}

/// Checks the idle connections of a pool until none is left.
async fn sweep(pool: Weak<Pool>) {
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    poll_fn(|context| {
        let Some(pool) = pool.upgrade() else {
            return Poll::Ready(());
        };
        // A tick only wakes; polling it to pending registers the next one.
        while ticks.poll_tick(context).is_ready() {}
        pool.drop_useless(context);
        if pool.idle.borrow().is_empty() {
            pool.is_swept.set(false);
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pool")
            .field("idle", &self.idle.borrow().len())
            .finish_non_exhaustive()
    }
}
