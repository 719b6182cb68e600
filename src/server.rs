//! Listeners, workers, limits and the drain of the process.
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
//! * A connection counts against the limits from its `accept` until its task ends, even by a panic.
//! * [`run`] returns only when no worker is left.

mod acceptor;
mod admin;
mod descriptors;
pub mod listener;
mod memory_sampler;
mod proxy_protocol;
mod reloader;
pub mod systemd;
mod timer_anchor;
mod tls;
mod worker;

use std::{convert::Infallible, future, io, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time};
use tracing::field::debug;

use self::{admin::AdminThread, systemd::Service, worker::Workers};
pub use self::{
    descriptors::raise_descriptor_limit,
    listener::{BindError, Listener, Listeners, bind},
};
use crate::{
    admin::Process,
    config_file::{
        Config,
        reload::{self, Source, Trigger},
    },
    state::{process::ProcessState, worker_handle},
};

/// Time left for writing the last log lines after the drain was cut short.
const CUT_OFF_TIME: Duration = Duration::from_secs(1);

/// Serves until `shutdown` resolves and everything in flight has ended, or `config.drain.grace` is
/// over.
///
/// The admin listener serves from before the first client connection is accepted until after the
/// last one has ended.
///
/// On shutdown, or `config.drain.delay` after it, the listeners and idle connections close at once,
/// and sessions get a close frame. Whatever is left after the grace period is dropped.
///
/// # Errors
///
/// A thread cannot be started, or a worker ended by itself.
///
/// # Cancel safety
///
/// Dropping the future starts the drain; the workers then end by themselves.
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

/// Outcome of [`run_from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEnded {
    /// Everything in flight has ended, or the grace period is over.
    Drained,
    /// A further stop signal closed the remaining connections.
    CutOff,
}

/// Runs like [`run`], with a configuration that can be reloaded and a service manager to notify.
///
/// Each item of `stops` hastens the end: the first one announces the drain, one during the delay
/// ends the delay, and the next one closes everything that is still open.
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
) -> io::Result<WorkerEnded> {
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    let Listeners { traffic, admin } = listeners.into();
    let mut addresses = Vec::new();
    for listener in &traffic {
        tracing::info!(address = %listener.settings(), "listening");
        addresses.push(listener.settings().to_string());
    }
    let shared = Arc::new(ProcessState::new(Arc::clone(&config)));
    let drain = shared.drain().clone();
    let _drain_on_drop = drain.begin_on_drop();
    let (workers, visits): (Vec<_>, Vec<_>) =
        // A worker's thread ends when its last handle is dropped: until then its counts can be read.
        (0..config.workers.get()).map(worker_handle::WorkerHandle::new).unzip();
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
    // The drain is over when the receiver sees the last sender dropped, so none may stay here.
    drop(alive);
    let _renewal = reloader::watch(&shared, trigger, source)?;
    let _memory = memory_sampler::watch(&shared)?;

    // Only here, when everything is bound and running, may a supervisor send clients.
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
        () = draining => WorkerEnded::Drained,
        () = drain.told(stops) => WorkerEnded::CutOff,
    };
    // Whoever would have told in a second may end before.
    shared.endpoints().log_refused();
    if how == WorkerEnded::CutOff {
        tracing::warn!("forcibly closed: stopped again during the drain");
        drain.cut_off();
        // A worker that is stuck is not waited for.
        if time::timeout(CUT_OFF_TIME, ended.recv()).await.is_err() {
            return Ok(how);
        }
    }
    // A worker's thread ends only once its last handle is gone, and the admin thread holds handles.
    if let Some(admin) = admin {
        admin.stop();
    }
    drop(watched);
    workers.join().map(|()| how)
}
