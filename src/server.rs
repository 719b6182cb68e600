//! The server: listeners, workers, limits, drain.
//!
//! ```text
//!  listeners ──► acceptor (on worker 0) ──► the worker with the fewest connections
//!                                               └── one task for each connection
//! ```
//!
//! # Invariants
//!
//! * Each worker is one thread with a runtime of its own, and a connection never leaves the
//!   worker that it was given to.
//! * A connection counts against the limits from when it is accepted to when its task ends,
//!   in whatever way.
//! * [`run`] returns only when no worker is left.

mod acceptor;
mod admin;
mod descriptors;
pub mod listener;
mod memory;
mod pacer;
mod places;
mod proxy_protocol;
mod renewal;
pub mod service;
pub mod tls;
mod worker;

use std::{
    convert::Infallible, fmt, future, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};

use tokio::{sync::mpsc, time};
use tracing::field::debug;

use self::{admin::AdminThread, service::Service, worker::Workers};
pub use self::{
    descriptors::raise_descriptor_limit,
    listener::{BindError, DEFAULT_ADMIN, Listener, Listeners, bind},
    tls::Tls,
};
use crate::{
    admin::Process,
    config::{
        Config,
        reload::{self, Source, Trigger},
    },
    http::{self, visit},
    memory::Bound,
};

/// How long it may take to write the last lines once nothing is waited for any more.
const CUT_OFF_TIME: Duration = Duration::from_secs(1);

/// Serves until `shutdown` resolves and everything under way has ended, or
/// `config.drain.grace` is over.
///
/// The admin listener answers from before the first connection is accepted until the last one
/// has ended.
///
/// On shutdown, or `config.drain.delay` later, the listeners close at once, idle connections
/// close, and sessions are asked to end. What is left after the grace period is dropped.
///
/// # Errors
///
/// A thread that cannot be started, or a worker that ended by itself.
///
/// # Cancel safety
///
/// Dropping the future starts the drain; the workers end by themselves.
pub async fn run(
    listeners: impl Into<Listeners>,
    config: Arc<Config>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let nowhere = || Err("there is no file to read again".to_owned());
    let source = reload::source(None, nowhere);
    let service = Service::default();
    let (stop, stops) = mpsc::unbounded_channel();
    let stopping = async {
        shutdown.await;
        let _ = stop.send(());
        future::pending().await
    };
    tokio::select! {
        ended = run_from(listeners, config, source, &service, stops) => ended.map(drop),
        never = stopping => match never {},
    }
}

/// How [`run_from`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With the drain.
    Drained,
    /// With what was left then, for it was told once more to stop.
    CutOff,
}

/// [`run`] with a configuration that can be read again, for a service manager, and told to stop
/// as often as something comes from `stops`: the first time the drain is announced, during its
/// delay it begins at once, and after that nothing is waited for.
///
/// # Errors
///
/// As [`run`].
///
/// # Cancel safety
///
/// As [`run`].
pub async fn run_from(
    listeners: impl Into<Listeners>,
    config: Arc<Config>,
    (trigger, source): (Trigger, Source),
    service: &Service,
    stops: mpsc::UnboundedReceiver<()>,
) -> io::Result<Ended> {
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    let Listeners { traffic, admin } = listeners.into();
    let mut addresses = Vec::new();
    for listener in &traffic {
        tracing::info!(address = %listener.settings(), "listening");
        addresses.push(listener.settings().to_string());
    }
    let shared = Arc::new(http::Shared::new(Arc::clone(&config)));
    let drain = shared.drain().clone();
    let _drain_on_drop = drain.begin_on_drop();
    let (workers, visits): (Vec<_>, Vec<_>) =
        (0..config.workers.get()).map(visit::Worker::new).unzip();
    let watched = workers.clone();
    let admin = if let Some(listener) = admin {
        tracing::info!(address = %listener.address(), "listening for admin requests");
        let process = Process {
            shared: Arc::clone(&shared),
            workers,
            reload: trigger.clone(),
        };
        Some(AdminThread::start(listener, process).await?)
    } else {
        drop(workers);
        None
    };
    let workers = Workers::start(traffic, &config, &shared, &alive, visits)?;
    drop(alive);
    let _renewal = renewal::watch(&shared, trigger, source)?;
    let _memory = memory::watch(&shared)?;

    service.ready(&format!("listening on {}", addresses.join(", ")));
    let draining = async {
        drain.announced().await;
        let settings = drain.settings();
        let delay = (!settings.delay.is_zero()).then(|| debug(settings.delay));
        tracing::info!(delay, grace = ?settings.grace, "draining");
        service.stopping();
        drain.begin_late().await;
        ended.recv().await;
    };
    let how = tokio::select! {
        never = service.watch(&watched) => match never {},
        () = draining => Ended::Drained,
        () = drain.told(stops) => Ended::CutOff,
    };
    if how == Ended::CutOff {
        tracing::warn!("cut off: told once more to stop");
        drain.cut_off();
        // A worker that is stuck is not waited for.
        if time::timeout(CUT_OFF_TIME, ended.recv()).await.is_err() {
            return Ok(how);
        }
    }
    // The workers answer until nobody can ask any more.
    if let Some(admin) = admin {
        admin.stop();
    }
    drop(watched);
    workers.join().map(|()| how)
}

/// One listener as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// Where it listens.
    pub address: ListenAddress,
    /// Whether every connection begins with a header of the PROXY protocol; then it comes
    /// from a trusted proxy, or is closed.
    pub proxy_protocol: bool,
    /// Present: clients have to speak TLS.
    pub tls: Option<Arc<Tls>>,
    /// Whether clients may speak HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3);
    /// default no.
    pub h2c: bool,
}

impl fmt::Display for ListenSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.tls) {
            (ListenAddress::Tcp(address), Some(_)) => write!(formatter, "https://{address}"),
            (address @ ListenAddress::Unix(_), Some(_)) => write!(formatter, "{address} (TLS)"),
            (address, None) => address.fmt(formatter),
        }
    }
}

impl From<ListenAddress> for ListenSettings {
    /// The defaults for a listener at `address`.
    fn from(address: ListenAddress) -> Self {
        Self {
            address,
            proxy_protocol: false,
            tls: None,
            h2c: false,
        }
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "http://{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Bounds of the process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at once; default 10000.
    pub max_connections: usize,
    /// Client connections of one public address at once; default 1000.
    pub max_connections_per_address: Option<usize>,
    /// New WebSocket sessions in a second; default no limit.
    pub session_rate: Option<u32>,
    /// New WebSocket sessions of one public address in a second; default 100.
    pub session_rate_per_address: Option<u32>,
    /// Accounted bytes that all sessions may hold; default a quarter of the cgroup's memory.
    pub max_held_bytes: usize,
    /// What may be in use before nothing new is taken in; by default 85 % of the cgroup's limit,
    /// if that has one.
    pub max_memory: Option<Bound>,
    /// The longest header section of a request in bytes; default 32 KiB.
    pub max_header_bytes: usize,
    /// The most header lines of a request; default 100, and never more.
    pub max_headers: usize,
    /// The longest path and query of a request in bytes; default 8 KiB.
    pub max_uri_bytes: usize,
    /// How long a client may take to send its header section, and from its connection on to its
    /// first request; default 10 s.
    pub header_timeout: Duration,
    /// How long a connection may wait for another request; default 75 s, which is more than
    /// what most load balancers keep theirs for.
    pub keep_alive_timeout: Duration,
    /// Requests and sessions at once on one HTTP/2 connection; default 100.
    pub max_streams: u32,
    /// How long a client may take nothing of an answer that is there for it, and less than
    /// 16 KiB over HTTP/2; default 60 s.
    pub write_timeout: Duration,
}

impl Limits {
    /// The defaults beside `max_held_bytes`, whose own depends on the machine.
    #[must_use]
    pub const fn new(max_held_bytes: usize) -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: Some(1000),
            session_rate: None,
            session_rate_per_address: Some(100),
            max_held_bytes,
            max_memory: None,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_uri_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            max_streams: 100,
            write_timeout: Duration::from_mins(1),
        }
    }
}
