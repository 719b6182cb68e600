//! One downstream connection: find the route, then upgrade or forward.
//!
//! ```text
//!  request ──► strict framing, host, route ──┬── WebSocket? ──► 101 ──► session
//!                 └── Refusal ◄──────────────┴── else ────────► forward
//! ```
//!
//! # Invariants
//!
//! * hyper's parser is lenient; what it lets pass and two parsers may read differently is
//!   refused by [`framing`], never repaired.
//! * After the `101` nothing of HTTP/1.1 is left: the session gets the transport and the
//!   bytes that were read beyond the head, and the connection is closed when it ends. Over
//!   HTTP/2 the transport is one stream, and the connection goes on beside it.
//! * What goes upstream is written anew from the parsed request; raw header bytes of a
//!   client never are.

pub mod addresses;
mod ask;
pub mod binding;
pub mod body;
mod causes;
mod connecting;
pub mod endpoints;
pub mod exchange;
pub mod forward;
pub mod forwarded;
pub mod framing;
mod head;
pub mod headers;
pub mod hold;
mod http1;
mod http2;
mod identity;
mod meter;
pub mod multiplexed;
mod patience;
pub mod pool;
mod recent;
mod refusals;
mod replay;
pub mod response;
pub mod sessions;
mod sniff;
mod spelled;
mod subprotocols;
mod tallies;
pub mod target;
pub mod upgrade;
pub mod upload;
pub mod visit;
mod watchdog;
mod watched;

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use hyper::{Request, Response, Version};
use tokio::time::Instant;

pub use self::tallies::{REMOVED, UNROUTED};
use self::{
    addresses::{AddressPlace, Addresses, Rate},
    body::Body,
    endpoints::RouteEndpoints,
    hold::HeldRequests,
    identity::Identity,
    meter::Meter,
    pool::Pools,
    refusals::Refusals,
    response::{Refusal, Shortage},
    sessions::Sessions,
    sniff::{Spoken, Unknown},
    subprotocols::Subprotocols,
    tallies::Tallies,
};
pub use crate::client::{Client, ClientAddr, Endpoints};
use crate::{
    config::Config,
    memory::Pressure,
    route::Route,
    session::{self, Budget, Drain},
    telemetry::{connections::Connections, rejections::Rejections, reloads::Reloads},
    transport::Transport,
};

/// Whether the process has room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Admitted,
    /// It is over the limit: it only gets a `503`.
    OverLimit,
    /// It is over the limit of its address: it only gets a `429`.
    OverAddressLimit,
}

/// What all connections of the process share.
#[derive(Debug)]
pub struct Shared {
    config: ArcSwap<Config>,
    session: session::Context,
    held: HeldRequests,
    memory: Pressure,
    endpoints: RouteEndpoints,
    refusals: Refusals,
    subprotocols: Subprotocols,
    addresses: Arc<Addresses>,
    /// When all sessions that began are paid for, where their rate is limited.
    next_session: Mutex<Option<Instant>>,
    rejections: Rejections,
    reloads: Reloads,
    connections: Arc<Connections>,
    session_ids: sessions::Ids,
}

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Local {
    shared: Arc<Shared>,
    pools: Pools,
    sessions: Sessions,
    tallies: Tallies,
    request_ids: identity::Ids,
    /// Whether what is still under way is dropped.
    is_cut_off: Rc<Cell<bool>>,
}

impl Local {
    /// The state of a worker that has served nothing yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            pools: Pools::default(),
            sessions: Sessions::default(),
            tallies: Tallies::default(),
            request_ids: identity::Ids::default(),
            is_cut_off: Rc::default(),
        })
    }

    /// Takes note that what is still under way is about to be dropped.
    pub fn cut_off(&self) {
        self.is_cut_off.set(true);
    }

    /// The configuration of the process at this instant.
    #[must_use]
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.shared.config()
    }

    /// What the clients of each address have open.
    #[must_use]
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.shared.addresses
    }

    /// What was not served, and why.
    #[must_use]
    pub fn rejections(&self) -> &Rejections {
        &self.shared.rejections
    }

    /// The connections of the process.
    #[must_use]
    pub fn connections(&self) -> &Arc<Connections> {
        &self.shared.connections
    }

    /// The sessions that run on this worker.
    #[must_use]
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The drain of the process.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.shared.session.drain
    }
}

impl Shared {
    /// The shared state of a process that runs `config`.
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
            session_ids: sessions::Ids::default(),
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

    /// The configuration of the process at this instant; not to be kept for long, for it may
    /// be replaced.
    #[must_use]
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// Replaces the configuration: for new connections, sessions and requests. What has begun
    /// goes on with its own.
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

    /// How often the configuration was read again.
    #[must_use]
    pub const fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// What was not served, and why.
    #[must_use]
    pub const fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// The connections of the process.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// What all sessions together may hold.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.session.budget
    }

    /// The requests that wait for their upstream.
    #[must_use]
    pub const fn held(&self) -> &HeldRequests {
        &self.held
    }

    /// How much memory is in use.
    #[must_use]
    pub const fn memory(&self) -> &Pressure {
        &self.memory
    }

    /// What is known of the upstream of each route.
    #[must_use]
    pub const fn endpoints(&self) -> &RouteEndpoints {
        &self.endpoints
    }

    /// The drain of the process, for whoever starts it.
    #[must_use]
    pub const fn drain(&self) -> &Drain {
        &self.session.drain
    }

    /// How much of the rate of sessions of the process is used up, from 0 to 1; `None`: there is
    /// no limit.
    #[must_use]
    pub fn session_rate_used(&self) -> Option<f64> {
        self.config().limits.session_rate?;
        let next = self.next_session.lock();
        let next = *next.unwrap_or_else(PoisonError::into_inner);
        Some(Rate::used(next, Instant::now()))
    }

    /// What the clients of each address have open.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Counts one more session of `client`; the place that it has then is its own where its
    /// connection has none, for it is a trusted proxy's, or is not its alone (HTTP/2).
    ///
    /// The rate of the process is asked last: an address that is over its own limits would
    /// use it up for all others.
    fn admit_session(
        &self,
        client: Client,
        version: Version,
    ) -> Result<Option<AddressPlace>, Refusal> {
        let place = self
            .admit_to_address(client, version)
            .map_err(Refusal::Unavailable)?;
        if let Some(rate) = self.config().limits.session_rate {
            let next = self.next_session.lock();
            let mut next = next.unwrap_or_else(PoisonError::into_inner);
            if !Rate::per_second(rate).admit(&mut next, Instant::now()) {
                return Err(Refusal::Unavailable(Shortage::SessionRate));
            }
        }
        Ok(place)
    }

    /// Counts one more session of the client's address, unless that is a trusted proxy's, with
    /// everybody behind it who is not named.
    fn admit_to_address(
        &self,
        client: Client,
        version: Version,
    ) -> Result<Option<AddressPlace>, Shortage> {
        if self.config().trusted_proxies.trusts(client.address) {
            return Ok(None);
        }
        let place = if client.is_trusted || version == Version::HTTP_2 {
            match self.addresses.enter(client.address) {
                Some((place, true)) => Some(place),
                _ => return Err(Shortage::AddressConnections),
            }
        } else {
            None
        };
        if self.addresses.admit_session(client.address) {
            Ok(place)
        } else {
            Err(Shortage::AddressSessionRate)
        }
    }
}

/// The route of a request that is within the limits, and for one host or, where its client does
/// not say, for any.
///
/// # Errors
///
/// It is not, or there is none.
pub fn find_route<'a, B>(
    request: &Request<B>,
    config: &'a Config,
) -> Result<&'a Arc<Route>, Refusal> {
    let Config { limits, routes, .. } = config;
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > limits.max_uri_bytes) {
        return Err(Refusal::TargetTooLong);
    }
    if request.headers().len() > limits.max_headers {
        return Err(Refusal::HeadersTooLarge);
    }
    let host = target::host(request)?.unwrap_or_default();
    let route = routes.find(host, request.uri().path())?;
    if !route.http.non_ascii.allows(request.headers().values()) {
        return Err(Refusal::BadRequest("header value is not ASCII"));
    }
    Ok(route)
}

/// Which versions of HTTP a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, as was agreed in the TLS handshake.
    Http2,
    /// Either: the first bytes of the client tell (RFC 9113 §3.3).
    Either,
}

/// Serves one connection to its end, or until it becomes that of a session, which is returned.
///
/// The session is to be run in a task of its own: that has nothing of hyper's for hours, and a
/// message has less to go through in it.
pub fn serve(
    stream: Transport,
    protocol: Protocol,
    ends: Endpoints,
    admission: Admission,
    local: &Rc<Local>,
) -> Pin<Box<impl Future<Output = Option<impl Future<Output = ()> + use<>>> + use<>>> {
    let config = local.config();
    let trusted = &config.trusted_proxies;
    let connection = Connection {
        client: Client {
            address: ends.client,
            peer: ends.client,
            server: ends.server,
            is_trusted: ends.is_known && trusted.trusts(ends.client),
            is_tls: stream.is_tls(),
        },
        admission,
        local: Rc::clone(local),
    };
    Box::pin(connection.serve(stream, protocol))
}

/// What the requests of one connection share, whatever their version.
struct Connection {
    /// Before any of its headers is known.
    client: Client,
    admission: Admission,
    local: Rc<Local>,
}

impl Connection {
    /// Serves requests until the connection ends, or becomes that of one session, which is
    /// returned.
    async fn serve(
        self,
        stream: Transport,
        protocol: Protocol,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let (spoken, stream) = match protocol {
            Protocol::Http1 => (Spoken::Http1, stream.into()),
            Protocol::Http2 => (Spoken::Http2, stream.into()),
            Protocol::Either => {
                let timeout = self.local.config().limits.header_timeout;
                let drained = self.local.drain().begun();
                match sniff::sniff(stream, timeout, drained).await {
                    Ok(sniffed) => sniffed,
                    Err(Unknown::Silent) => return None,
                    Err(Unknown::Slow(stream)) => {
                        http1::end_unknown(stream, self.client, &self.local).await;
                        return None;
                    }
                }
            }
        };
        match spoken {
            Spoken::Http1 => http1::serve(stream, self).await,
            Spoken::Http2 => {
                Box::pin(http2::serve(stream, self)).await;
                None
            }
        }
    }

    /// Counts a request that has come, and knows from then on who has sent it.
    fn meter<B>(&self, request: &Request<B>) -> Meter {
        let config = self.local.config();
        let headers = request.headers();
        let client = forwarded::client(self.client, headers, &config.trusted_proxies);
        let identity = Identity::of(headers, client.is_trusted, &self.local.request_ids);
        let requests = config.log.requests;
        Meter::start(request, client, identity, requests, &self.local)
    }

    /// The answer to a request that is not served.
    fn refuse(&self, refusal: Refusal, meter: &Meter) -> Response<Body> {
        self.local.shared.rejections.count(refusal.into());
        meter.set_refused(refusal);
        refusal.into_response(meter.identity())
    }

    /// The route of a request that may be served at all, and has its id from then on.
    fn route<B>(&self, request: &mut Request<B>, meter: &Meter) -> Result<Arc<Route>, Refusal> {
        match self.admission {
            Admission::Admitted => {}
            Admission::OverLimit => return Err(Refusal::Unavailable(Shortage::Connections)),
            Admission::OverAddressLimit => {
                return Err(Refusal::Unavailable(Shortage::AddressConnections));
            }
        }
        let config = self.local.config();
        let route = find_route(request, &config)?;
        meter.set_route(route, &self.local);
        target::settle_host(request)?;
        meter.identity().tag(request.headers_mut());
        Ok(Arc::clone(route))
    }
}
