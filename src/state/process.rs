//! State of the process that all connections share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::{ArcSwap, Guard};
use hyper::Version;
use tokio::time::Instant;

use super::{endpoints::RouteEndpoints, recent_refusals::Refusals, subprotocols::Subprotocols};
use crate::{
    client_addr::Client,
    config_file::Config,
    http_client::pending::HeldRequests,
    limits::{
        drain::Drain,
        held_bytes::Budget,
        open_connections::Connections,
        overload::Pressure,
        per_ip::{AddressPlace, Addresses, Gcra},
    },
    local_reply::{LocalReply, rejections::Rejections},
    observability::reloads::Reloads,
    session,
};

/// Source of session ids.
#[derive(Debug, Default)]
pub struct SessionIds(AtomicU64);

impl SessionIds {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// State that all connections of the process share.
#[derive(Debug)]
pub struct ProcessState {
    pub(crate) config: ArcSwap<Config>,
    pub(crate) session: session::Context,
    pub(crate) held: HeldRequests,
    pub(crate) memory: Pressure,
    pub(crate) endpoints: RouteEndpoints,
    pub(crate) refusals: Refusals,
    pub(crate) subprotocols: Subprotocols,
    pub(crate) addresses: Arc<Addresses>,
    /// Virtual time of the process-wide session rate (GCRA): the sessions that began are paid for
    /// by then.
    pub(crate) next_session: Mutex<Option<Instant>>,
    pub(crate) rejections: Rejections,
    pub(crate) reloads: Reloads,
    pub(crate) connections: Arc<Connections>,
    pub(crate) session_ids: SessionIds,
}

impl ProcessState {
    /// Creates the state of a process that runs `config`.
    #[must_use]
    pub fn new(config: Arc<Config>) -> Self {
        let limits = &config.limits;
        Self {
            addresses: Addresses::new(
                limits.max_connections_per_address,
                limits.session_rate_per_address,
            ),
            next_session: Mutex::default(),
            rejections: Rejections::default(),
            connections: Arc::default(),
            session_ids: SessionIds::default(),
            session: session::Context {
                budget: Arc::new(Budget::new(config.limits.max_held_bytes)),
                drain: Drain::new(config.drain),
            },
            held: HeldRequests::new(&config.routes),
            memory: Pressure::new(config.limits.max_memory.clone()),
            endpoints: RouteEndpoints::new(&config.routes),
            refusals: Refusals::default(),
            subprotocols: Subprotocols::new(&config.routes),
            reloads: Reloads::default(),
            config: ArcSwap::new(config),
        }
    }

    /// Current configuration; not to be kept for long, since it may be replaced.
    #[must_use]
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// Replaces the configuration for new connections, sessions and requests. Existing ones
    /// continue with the one that they began with.
    pub fn reconfigure(&self, config: Arc<Config>) {
        let limits = &config.limits;
        self.addresses.set_limits(
            limits.max_connections_per_address,
            limits.session_rate_per_address,
        );
        self.session.budget.set_max_bytes(limits.max_held_bytes);
        self.session.drain.set(config.drain);
        self.held.set_routes(&config.routes);
        self.endpoints.set_routes(&config.routes);
        self.subprotocols.set_routes(&config.routes);
        self.memory.set_bound(limits.max_memory.clone());
        self.config.store(config);
    }

    /// Counts of configuration reloads.
    #[must_use]
    pub const fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// Requests and connections that were rejected, by reason.
    #[must_use]
    pub const fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// Connections of the process.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Budget for the bytes that all sessions together may hold.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.session.budget
    }

    /// Requests that wait for their upstream.
    #[must_use]
    pub const fn held(&self) -> &HeldRequests {
        &self.held
    }

    /// Memory in use, and the limit on it.
    #[must_use]
    pub const fn memory(&self) -> &Pressure {
        &self.memory
    }

    /// State of the upstreams of each route.
    #[must_use]
    pub const fn endpoints(&self) -> &RouteEndpoints {
        &self.endpoints
    }

    /// Drain of the process.
    #[must_use]
    pub const fn drain(&self) -> &Drain {
        &self.session.drain
    }

    /// Fraction of the process's session rate that is used up, from 0 to 1; `None` without a
    /// limit.
    #[must_use]
    pub fn session_rate_used(&self) -> Option<f64> {
        self.config().limits.session_rate?;
        let next = self.next_session.lock();
        let next = *next.unwrap_or_else(PoisonError::into_inner);
        Some(Gcra::used(next, Instant::now()))
    }

    /// Open connections and sessions of each client address.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Admits one more session of `client`. Returns an address slot for the session where its
    /// connection has none: it is a trusted proxy's, or carries other requests too (HTTP/2).
    ///
    /// The rate of the process is checked last: an address over its own limits would otherwise
    /// use it up for all others.
    pub(crate) fn admit_session(
        &self,
        client: Client,
        version: Version,
    ) -> Result<Option<AddressPlace>, LocalReply> {
        let place = self.admit_to_address(client, version)?;
        if let Some(rate) = self.config().limits.session_rate {
            let next = self.next_session.lock();
            let mut next = next.unwrap_or_else(PoisonError::into_inner);
            if !Gcra::per_second(rate).admit(&mut next, Instant::now()) {
                return Err(LocalReply::SessionRate);
            }
        }
        Ok(place)
    }

    /// Admits one more session of the client's address, unless that is the address of a trusted
    /// proxy, which stands for every client behind it that is not named.
    fn admit_to_address(
        &self,
        client: Client,
        version: Version,
    ) -> Result<Option<AddressPlace>, LocalReply> {
        if self.config().trusted_proxies.trusts(client.address) {
            return Ok(None);
        }
        // A connection over HTTP/1.1 has a slot already, and carries nothing but this session.
        let place = if client.is_trusted || version == Version::HTTP_2 {
            match self.addresses.enter(client.address) {
                Some((place, true)) => Some(place),
                _ => return Err(LocalReply::AddressConnections),
            }
        } else {
            None
        };
        if self.addresses.admit_session(client.address) {
            Ok(place)
        } else {
            Err(LocalReply::AddressSessionRate)
        }
    }
}
