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
//! * After the `101` nothing of HTTP is left: the session gets the transport and the bytes
//!   that were read beyond the head, and the connection is closed when it ends.
//! * What goes upstream is written anew from the parsed request; raw header bytes of a
//!   client never are.

mod ask;
pub mod body;
pub mod exchange;
pub mod forward;
pub mod forwarded;
pub mod framing;
pub mod headers;
pub mod hold;
mod http1;
pub mod pool;
mod replay;
pub mod response;
pub mod target;
pub mod upgrade;
pub mod upload;
mod watchdog;
mod watched;

use std::{rc::Rc, sync::Arc};

use hyper::{HeaderMap, Request};
use tokio_util::sync::CancellationToken;

use self::{hold::HeldRequests, pool::Pools, response::Refusal};
pub use crate::client::{Client, ClientAddr, Endpoints};
use crate::{
    config::Config,
    route::Route,
    session::{self, Budget},
    transport::Transport,
};

/// Whether the process has room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Admitted,
    /// It is over the limit: it only gets a `503`.
    OverLimit,
}

/// What all connections of the process share.
#[derive(Debug)]
pub struct Shared {
    config: Arc<Config>,
    session: session::Context,
    held: HeldRequests,
}

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Local {
    shared: Arc<Shared>,
    pools: Pools,
}

impl Local {
    /// The state of a worker that has served nothing yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            pools: Pools::default(),
        })
    }

    /// The configuration of the process.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Cancelled when the process drains.
    #[must_use]
    pub fn drain(&self) -> &CancellationToken {
        &self.shared.session.drain
    }
}

impl Shared {
    /// The shared state of a process that runs `config` until `drain` is cancelled.
    #[must_use]
    pub fn new(config: Arc<Config>, drain: CancellationToken) -> Self {
        Self {
            session: session::Context {
                budget: Arc::new(Budget::new(config.limits.max_held_bytes)),
                drain,
                drain_grace: config.drain_grace,
            },
            held: HeldRequests::new(&config.routes),
            config,
        }
    }
}

/// Serves one connection to its end.
///
/// HTTP is served in a box of its own which is gone before a session starts: a session,
/// which may last for hours, does not carry hyper's buffers.
pub fn serve(
    stream: Transport,
    ends: Endpoints,
    admission: Admission,
    local: &Rc<Local>,
) -> impl Future<Output = ()> + use<> {
    let trusted = &local.shared.config.trusted_proxies;
    let connection = Connection {
        client: Client {
            address: ends.client,
            peer: ends.client,
            server: ends.server,
            is_trusted: trusted.trusts(ends.client),
            is_tls: stream.is_tls(),
        },
        admission,
        local: Rc::clone(local),
    };
    let http = Box::pin(http1::serve(stream, connection));
    async move {
        if let Some(session) = http.await {
            session.await;
        }
    }
}

/// What the requests of one connection share, whatever their version.
struct Connection {
    /// Before any of its headers is known.
    client: Client,
    admission: Admission,
    local: Rc<Local>,
}

impl Connection {
    /// The client that sent a request with these headers.
    fn client(&self, headers: &HeaderMap) -> Client {
        let trusted = &self.local.shared.config.trusted_proxies;
        forwarded::client(self.client, headers, trusted)
    }

    /// The route of a request that may be served at all.
    fn route<B>(&self, request: &Request<B>) -> Result<&Arc<Route>, Refusal> {
        if self.admission == Admission::OverLimit {
            return Err(Refusal::Unavailable("too many connections"));
        }
        let host = target::host(request)?;
        let routes = &self.local.shared.config.routes;
        Ok(routes.find(host, request.uri().path())?)
    }
}
