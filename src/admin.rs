//! The admin listener: operators, monitoring and the dashboard.
//!
//! It has a thread of its own, so that it responds while the workers are busy, and runs a job on
//! each worker to read its state ([`worker_handle`](crate::state::worker_handle)). No endpoint of it
//! is reachable through a client listener.
//!
//! | request | response |
//! |---|---|
//! | `GET /` | for browsers the dashboard, otherwise this list |
//! | `GET /livez` | `200` unless a worker is stuck; `?verbose`: a line for each check |
//! | `GET /readyz` | `200`, or `503` while draining or without capacity for clients; `?backend=1`: only if all upstreams accept a connection, tested at most once a second |
//! | `GET /metrics` | for Prometheus, as `OpenMetrics` where `Accept` says so |
//! | `GET /sessions` | live sessions as JSON: see below |
//! | `GET /sessions/{id}` | one of them, with its audit trail and ledger |
//! | `GET /events` | a snapshot per second as server-sent events: see below |
//! | `GET /config` | every value in effect, with its key and its origin |
//! | `GET /build` | version, commit, compiler |
//! | `POST /drain` | as on SIGTERM; only from this machine |
//! | `POST /reload` | as on SIGHUP, with the changes or the problems in the response; only from this machine |
//! | `POST /log?level=debug` | changes the level of the log; only from this machine |
//!
//! # `/sessions`
//!
//! `?state=` (a state's name), `?route=` (a route's host and path), `?min_age=30s`, `?sort=newest`
//! (the default) or `waiting` (only those whose gate is shut, the longest wait first), `?limit=` (1
//! to 1000, default 100). All times are numbers, in the unit that the name ends with; `null` is an
//! event that has not happened.
//!
//! ```json
//! { "time_unix_ms": 1, "total": 2, "by_state": { "connecting": 0, "accepted": 1, "…": 0 },
//!   "matching": 2, "silent_workers": [],
//!   "sessions": [ { "id": 7, "worker": 0, "client": "192.0.2.1:5000", "path": "/chat",
//!     "route": "chat.example/", "http": "1.1", "state": "accepted", "started_unix_ms": 1,
//!     "age_ms": 1, "gate_timeout_ms": 30000, "on_timeout": "close",
//!     "upstream_address": null, "attempts": 3, "last_connect_error": "connection refused",
//!     "connected_ms": null, "ready_ms": null, "accepted": 4, "delivered": 0,
//!     "queue": { "messages": 4, "messages_limit": 1000, "bytes": 600, "bytes_limit": 1048576,
//!       "by_priority": { "low": 0, "normal": 4, "high": 0, "critical": 0 } } } ] }
//! ```
//!
//! `total` and `by_state` count all sessions, `matching` those that pass the filter. Workers that
//! did not respond in time are named in `silent_workers`; their sessions are missing.
//!
//! # `/sessions/{id}`
//!
//! The same fields and
//!
//! ```json
//! { "flush_us": null,
//!   "failed_attempts": { "unreachable": 2, "…": 0 },
//!   "ledger": { "accepted": 4, "held": 4, "unconfirmed": 0, "delivered": 0, "shed": 0,
//!     "expired": 0, "discarded": 0, "unknown": 0 },
//!   "traffic": { "client_bytes": 1, "upstream_bytes": 1, "upstream_messages": 1 },
//!   "trail": [ { "state": "accepted", "reason": "client accepted", "after_ms": 0 } ],
//!   "trail_omitted": 0 }
//! ```
//!
//! # `/events`
//!
//! Every event is one JSON object; its fields are in the documentation of `admin/snapshot.rs`.
//!
//! # Invariants
//!
//! * No header, query string, subprotocol or payload of a client is in any response.
//! * Every response is sent within a few seconds, whatever the workers do. A client that does not
//!   read it within a few seconds loses its connection, and gets no other response until then.
//! * Health checks are served whatever other clients request or leave unread: see
//!   `admin/slots.rs` and `admin/turns.rs`.

mod aggregate;
mod connection;
mod dashboard;
mod events;
mod guard;
mod health;
mod metrics;
mod query;
mod response;
mod sessions;
mod slots;
mod snapshot;
mod turns;

use std::{
    convert::Infallible,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::slots::Visitor;
use self::{
    aggregate::WorkerReports,
    connection::AdminConnection,
    events::Events,
    guard::Access,
    query::Query,
    response::Body,
    slots::{AdminSlot, AdminSlots},
    turns::ResponseTurns,
};
use crate::{
    client_addr::ClientAddr,
    config_file::reload::{Outcome, Trigger},
    observability,
    state::{process::ProcessState, worker_handle::WorkerHandle},
    transport::{Transport, descriptors},
};

/// Time for a request's header section, and idle time of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest header section in bytes; no request to this listener needs more.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// State that the listener reports and controls.
#[derive(Debug)]
pub struct Process {
    /// State shared by all connections.
    pub shared: Arc<ProcessState>,
    /// Handles of the workers, in order.
    pub workers: Vec<WorkerHandle>,
    /// Trigger of a reload.
    pub reload: Trigger,
}

/// State of the listener.
#[derive(Debug)]
pub struct Admin {
    process: Process,
    heard: WorkerReports,
    events: Events,
    backends: health::Backends,
    room: health::Room,
    places: AdminSlots,
    turns: ResponseTurns,
    started: Instant,
    stop: CancellationToken,
}

impl Admin {
    /// Creates the listener of `process`, which ends when `stop` is cancelled.
    #[must_use]
    pub fn new(process: Process, stop: CancellationToken) -> Rc<Self> {
        Rc::new(Self {
            heard: WorkerReports::new(&process),
            process,
            events: Events::default(),
            backends: health::Backends::default(),
            room: health::Room::default(),
            places: AdminSlots::default(),
            turns: ResponseTurns::default(),
            started: Instant::now(),
            stop,
        })
    }

    /// Acquires a slot for a further connection, within 50 ms.
    pub async fn welcome(&self) -> Rc<Visitor> {
        self.places.welcome().await
    }

    /// Has connections go that wait for nothing, for the process has only its last descriptors.
    pub fn make_room(&self) {
        self.places.leave(descriptors::reserved() / 2);
    }

    /// Has a connection go that waits for nothing, for the process has no descriptor left; returns
    /// whether one goes.
    pub fn free_a_descriptor(&self) -> bool {
        self.make_room();
        self.places.free_one()
    }
}

/// Serves a connection of `peer` to its end. When the listener stops, that is after the response in
/// flight; when the slot of `visitor` goes to another connection, at once.
pub async fn serve(stream: Transport, peer: ClientAddr, admin: Rc<Admin>, visitor: Rc<Visitor>) {
    let respond = |request: Request<Incoming>| {
        let (admin, visitor) = (Rc::clone(&admin), Rc::clone(&visitor));
        async move {
            // Backpressure: a client that does not read must not pile up responses.
            visitor.activity.read().await;
            let place = place_of(request.uri().path());
            admin.places.seat(&visitor, place);
            if place != AdminSlot::Health {
                admin.turns.next().await;
            }
            let response = admin.respond(&request, peer).await;
            visitor.answered();
            if request.method() == Method::GET && events::is_stream(&response) {
                visitor.activity.expect_no_end();
                // Streams compete only with each other, for they are never done.
                admin.places.seat(&visitor, AdminSlot::Stream);
            }
            Ok::<_, Infallible>(response)
        }
    };
    let activity = &visitor.activity;
    let connection = AdminConnection::new(stream, Rc::clone(activity));
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(MAX_HEADER_BYTES)
        // A client may send no more (RFC 9112 §9.6). One that is gone looks the same, and costs
        // an answer at most, or the next event or two: nothing here waits for long.
        .half_close(true)
        .serve_connection(TokioIo::new(connection), service_fn(respond));
    let mut http = pin!(http);
    let ended = tokio::select! {
        biased;
        // Checked first, so that a connection that has lost its slot does nothing more.
        () = activity.closed() => return tracing::debug!(%peer, "admin connection closed"),
        () = admin.stop.cancelled() => {
            // hyper finishes the response in flight and closes instead of reading another request.
            http.as_mut().graceful_shutdown();
            http.await
        }
        ended = &mut http => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "admin connection ended");
    }
}

/// Endpoints of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AdminEndpoint {
    Page,
    Livez,
    Readyz,
    Metrics,
    Events,
    Log,
    Config,
    Sessions,
    Session,
    Build,
    Drain,
    Reload,
}

/// All endpoints, with method, path and the access that they need.
const ENDPOINTS: [(&str, &str, Access, AdminEndpoint); 12] = [
    ("GET", "/", Access::Look, AdminEndpoint::Page),
    ("GET", "/livez", Access::Monitor, AdminEndpoint::Livez),
    ("GET", "/readyz", Access::Monitor, AdminEndpoint::Readyz),
    ("GET", "/metrics", Access::Monitor, AdminEndpoint::Metrics),
    ("GET", "/sessions", Access::Look, AdminEndpoint::Sessions),
    (
        "GET",
        "/sessions/{id}",
        Access::Look,
        AdminEndpoint::Session,
    ),
    ("GET", "/events", Access::Look, AdminEndpoint::Events),
    ("GET", "/config", Access::Look, AdminEndpoint::Config),
    ("GET", "/build", Access::Monitor, AdminEndpoint::Build),
    ("POST", "/drain", Access::Change, AdminEndpoint::Drain),
    ("POST", "/reload", Access::Change, AdminEndpoint::Reload),
    ("POST", "/log", Access::Change, AdminEndpoint::Log),
];

impl Admin {
    async fn respond(
        self: &Rc<Self>,
        request: &Request<Incoming>,
        peer: ClientAddr,
    ) -> Response<Body> {
        let path = request.uri().path();
        let Some((method, access, endpoint)) = find(path) else {
            let text = format!("there is no {path:?}; expected\n{}", list());
            return response::text(StatusCode::NOT_FOUND, text);
        };
        // Every `GET` endpoint also answers `HEAD`, without a body (RFC 9110 §9.3.2).
        let is_method = request.method().as_str() == method
            || request.method() == Method::HEAD && method == "GET";
        if !is_method {
            let text = format!("use {method} for this; expected\n{}", list());
            let mut response = response::text(StatusCode::METHOD_NOT_ALLOWED, text);
            let allow = header::HeaderValue::from_static(method);
            response.headers_mut().insert(header::ALLOW, allow);
            return response;
        }
        if let Err(reason) = guard::check(access, peer, request.headers()) {
            return response::text(StatusCode::FORBIDDEN, reason);
        }
        let query = Query::read(request.uri().query().unwrap_or_default());
        let answer = match query {
            Ok(query) => self.answer(endpoint, request, query).await,
            Err(problem) => Err(problem),
        };
        answer.unwrap_or_else(|problem| response::text(StatusCode::BAD_REQUEST, problem))
    }

    /// Returns the response, or the problem of the request.
    async fn answer(
        self: &Rc<Self>,
        endpoint: AdminEndpoint,
        request: &Request<Incoming>,
        query: Query,
    ) -> Result<Response<Body>, String> {
        match endpoint {
            AdminEndpoint::Page => {
                query.finish("")?;
                Ok(dashboard::answer(request.headers()))
            }
            AdminEndpoint::Livez => health::livez(self, query).await,
            AdminEndpoint::Readyz => health::readyz(self, query).await,
            AdminEndpoint::Metrics => {
                query.finish("")?;
                Ok(metrics::answer(self, request.headers()).await)
            }
            AdminEndpoint::Sessions => sessions::list(self, query).await,
            AdminEndpoint::Session => {
                query.finish("")?;
                let id = request.uri().path().rsplit('/').next().unwrap_or_default();
                sessions::one(self, id).await
            }
            AdminEndpoint::Build => {
                query.finish("")?;
                Ok(build())
            }
            AdminEndpoint::Events => {
                query.finish("")?;
                Ok(events::listen(self))
            }
            AdminEndpoint::Log => log(query),
            AdminEndpoint::Config => {
                query.finish("")?;
                Ok(self.config())
            }
            AdminEndpoint::Drain => {
                query.finish("")?;
                Ok(self.drain())
            }
            AdminEndpoint::Reload => {
                query.finish("")?;
                Ok(self.reload().await)
            }
        }
    }

    /// Returns the effective settings, with those that the machine determines.
    fn config(&self) -> Response<Body> {
        let config = self.process.shared.config();
        let value = json!({
            "workers": config.workers,
            "max_held_bytes": config.limits.max_held_bytes,
            "log_level": observability::level(),
            "settings": config.effective.settings(),
        });
        response::json(StatusCode::OK, &value)
    }

    /// Reloads the configuration, and returns the changes or the problems.
    async fn reload(&self) -> Response<Body> {
        match self.process.reload.reload().await {
            Outcome::Applied(changes) if changes.is_empty() => {
                response::text(StatusCode::OK, "reloaded; no setting is different")
            }
            Outcome::Applied(changes) => {
                let text = format!("reloaded\n{}", changes.join("\n"));
                response::text(StatusCode::OK, text)
            }
            Outcome::Refused(problems) => {
                let text = format!("{problems}\nnot reloaded");
                response::text(StatusCode::UNPROCESSABLE_ENTITY, text)
            }
        }
    }

    fn drain(&self) -> Response<Body> {
        tracing::info!("drain requested");
        self.process.shared.drain().announce();
        // Accepted, not done: the drain outlasts this response.
        response::text(StatusCode::ACCEPTED, "draining")
    }
}

/// Sets the level of the log.
fn log(mut query: Query) -> Result<Response<Body>, String> {
    let asked = query.take("level").unwrap_or_default();
    // Checked before the change, so that a mistyped parameter changes nothing.
    query.finish("level")?;
    let mut known = observability::LEVELS.into_iter();
    let Some((name, level)) = known.find(|(name, _)| *name == asked) else {
        let names = observability::LEVELS.map(|(name, _)| name).join(", ");
        return Err(format!("level cannot be {asked:?}; expected {names}"));
    };
    Ok(match observability::set_level(level) {
        Ok(()) => response::text(StatusCode::OK, format!("logging from {name} on")),
        Err(error) => response::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}

fn find(path: &str) -> Option<(&'static str, Access, AdminEndpoint)> {
    let is_asked = |known: &str| match known.strip_suffix("{id}") {
        Some(above) => path
            .strip_prefix(above)
            .is_some_and(|id| !id.is_empty() && !id.contains('/')),
        None => path == known,
    };
    ENDPOINTS
        .into_iter()
        .find(|(_, known, _, _)| is_asked(known))
        .map(|(method, _, access, endpoint)| (method, access, endpoint))
}

/// Returns the class of slots in which requests for `path` are served.
fn place_of(path: &str) -> AdminSlot {
    match find(path) {
        Some((_, _, AdminEndpoint::Livez | AdminEndpoint::Readyz)) => AdminSlot::Health,
        _ => AdminSlot::Other,
    }
}

/// Lists the endpoints, one per line.
fn list() -> String {
    ENDPOINTS
        .map(|(method, path, _, _)| format!("  {method:4} {path}"))
        .join("\n")
}

fn build() -> Response<Body> {
    let value = json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "commit": env!("READYGATE_COMMIT"),
        "rustc": env!("READYGATE_RUSTC"),
        "target": env!("READYGATE_TARGET"),
        "profile": env!("READYGATE_PROFILE"),
    });
    response::json(StatusCode::OK, &value)
}

fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
