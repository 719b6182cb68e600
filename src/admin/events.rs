//! `/events`: what the page for people shows, once a second, as server-sent events.
//!
//! Each event is one line of JSON:
//!
//! ```json
//! { "time_unix_ms": 1, "version": "0.1.0", "uptime_s": 1, "is_draining": false,
//!   "workers": [ { "worker": 0, "has_answered": true } ],
//!   "connections": { "open": 1, "limit": 10000 },
//!   "sessions": { "total": 2, "by_state": { "accepted": 1, "…": 0 } },
//!   "held": { "messages": 4, "bytes": 600, "bytes_limit": 1000,
//!     "by_priority": { "low": 0, "normal": 4, "high": 0, "critical": 0 } },
//!   "waiting": [ "as in /sessions?sort=waiting&limit=10" ],
//!   "ledger": { "accepted": 4, "held": 4, "delivered": 0, "…": 0 },
//!   "time_to_ready": { "count": 1, "sum_s": 0.5, "le_s": [0.005, "…", null], "counts": [0, 1] },
//!   "routes": [ { "route": "/", "sessions": 2, "held_messages": 4 } ],
//!   "attempt_failures": { "unreachable": 2, "…": 0 },
//!   "ended": { "client_closed": 1, "…": 0 },
//!   "rejections": { "connections": 0, "…": 0 },
//!   "totals": { "client_messages": 4, "…": 0 },
//!   "rates": { "client_messages": 1.5, "…": 0.0 } }
//! ```
//!
//! `totals` has `client_messages`, `upstream_messages`, `client_bytes`, `upstream_bytes`,
//! `sessions_started`, `sessions_ended`, `attempts`, `attempt_failures`, `shed`, `lost` (expired,
//! discarded or unknown), `http_requests`, `rejections` and `connections`; `rates` is how much each
//! has grown in a second, `null` in the first event. The `counts` of `time_to_ready` are those of
//! each bucket alone.
//!
//! # Invariants
//!
//! * Nothing is asked of the workers while nobody listens, and once a second however many do.
//! * A listener that does not read misses events; nothing is kept for it but the latest.

use std::{
    cell::Cell,
    collections::BTreeMap,
    convert::Infallible,
    rc::Rc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::{Response, StatusCode, body::Frame};
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    task,
    time::{self, Instant, MissedTickBehavior},
};

use super::{
    Admin,
    answer::{self, Body},
    sessions::{self, Filter, List},
    unix_millis,
    view::View,
};
use crate::{
    session::{ledger::Account, rules::Priority},
    telemetry::{histogram::Histogram, rejections::Rejection, totals::RouteSnapshot},
    upstream::Failure,
};

/// How often there is an event.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many may listen at once: they must not take all connections.
const MAX_LISTENERS: usize = 16;

/// How many of the sessions that wait are shown.
const MAX_WAITING: usize = 10;

/// What a browser does when the connection is lost.
const RETRY: &[u8] = b"retry: 2000\n\n";

/// Who listens, and what they get.
#[derive(Debug)]
pub(super) struct Events {
    latest: watch::Sender<Bytes>,
    is_publishing: Cell<bool>,
}

impl Default for Events {
    fn default() -> Self {
        let (latest, _) = watch::channel(Bytes::from_static(RETRY));
        Self {
            latest,
            is_publishing: Cell::new(false),
        }
    }
}

/// `/events`.
pub(super) fn listen(admin: &Rc<Admin>) -> Response<Body> {
    let Events {
        latest,
        is_publishing,
    } = &admin.events;
    if latest.receiver_count() >= MAX_LISTENERS {
        let text = format!("{MAX_LISTENERS} others listen already");
        return answer::text(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let mut listener = latest.subscribe();
    listener.mark_changed();
    if !is_publishing.replace(true) {
        task::spawn_local(publish(Rc::clone(admin)));
    }
    let stop = admin.stop.clone();
    let events = stream::unfold((listener, stop), |(mut listener, stop)| async {
        stop.run_until_cancelled(listener.changed()).await?.ok()?;
        let event = listener.borrow_and_update().clone();
        let frame = Ok::<_, Infallible>(Frame::data(event));
        Some((frame, (listener, stop)))
    });
    let body = Box::pin(StreamBody::new(events));
    answer::with(StatusCode::OK, "text/event-stream", body)
}

/// Makes an event every second until nobody listens.
async fn publish(admin: Rc<Admin>) {
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        if admin.events.latest.receiver_count() == 0 {
            break;
        }
        let (snapshot, totals) = snapshot(&admin, before.as_ref()).await;
        before = Some(totals);
        let event = Bytes::from(format!("data: {snapshot}\n\n"));
        admin.events.latest.send_replace(event);
    }
    // Whoever comes next begins anew.
    let retry = Bytes::from_static(RETRY);
    admin.events.latest.send_replace(retry);
    admin.events.is_publishing.set(false);
}

/// What only grows, at one time.
struct Totals {
    at: Instant,
    counts: BTreeMap<&'static str, u64>,
}

async fn snapshot(admin: &Admin, before: Option<&Totals>) -> (Value, Totals) {
    let view = View::gather(admin).await;
    let waiting = List::gather(admin, &Filter::longest_waiting(MAX_WAITING)).await;
    let shared = &admin.process.shared;
    let sum = view.sum();
    let totals = Totals::of(admin, &sum);
    let workers = view.answered.iter().enumerate();
    let routes = view.routes.iter();
    let value = json!({
        "time_unix_ms": unix_millis(SystemTime::now()),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": admin.started.elapsed().as_secs(),
        "is_draining": shared.drain().is_cancelled(),
        "workers": workers
            .map(|(index, answered)| json!({ "worker": index, "has_answered": answered }))
            .collect::<Vec<_>>(),
        "connections": {
            "open": shared.connections().open(),
            "limit": shared.config().limits.max_connections,
        },
        "sessions": {
            "total": sum.sessions.iter().sum::<u64>(),
            "by_state": sessions::by_state(&sum.sessions),
        },
        "held": {
            "messages": sum.queued_messages.iter().sum::<u64>(),
            "bytes": shared.budget().used_bytes(),
            "bytes_limit": shared.budget().max_bytes(),
            "by_priority": object(Priority::ALL.map(Priority::name), sum.queued_messages),
        },
        "waiting": waiting.sessions,
        "ledger": sessions::ledger(&sum.totals.ledger),
        "time_to_ready": histogram(&sum.totals.ready_time),
        "routes": routes
            .map(|(route, it)| json!({
                "route": route,
                "sessions": it.sessions.iter().sum::<u64>(),
                "held_messages": it.queued_messages.iter().sum::<u64>(),
            }))
            .collect::<Vec<_>>(),
        "attempt_failures": object(Failure::ALL.map(Failure::name), sum.totals.failures),
        "ended": object_of(sum.totals.ended.iter().map(|((_, name), count)| (name, count))),
        "rejections": object_of(
            Rejection::ALL.map(|it| (it.name(), shared.rejections().of(it))),
        ),
        "totals": totals.counts,
        "rates": before.map(|before| totals.rates(before)),
    });
    (value, totals)
}

impl Totals {
    fn of(admin: &Admin, sum: &RouteSnapshot) -> Self {
        let shared = &admin.process.shared;
        let totals = &sum.totals;
        let settled = |accounts: &[Account]| -> u64 {
            let accounts = accounts.iter();
            accounts.map(|account| totals.ledger.of(*account)).sum()
        };
        let rejections = Rejection::ALL.into_iter();
        let counts = [
            ("client_messages", totals.ledger.accepted()),
            ("upstream_messages", totals.traffic.upstream_messages),
            ("client_bytes", totals.traffic.client_bytes),
            ("upstream_bytes", totals.traffic.upstream_bytes),
            ("sessions_started", totals.handshakes_accepted),
            ("sessions_ended", totals.length.count()),
            ("attempts", totals.attempts),
            ("attempt_failures", totals.failures.iter().sum()),
            ("shed", settled(&[Account::Shed])),
            (
                "lost",
                settled(&[Account::Expired, Account::Discarded, Account::Unknown]),
            ),
            ("http_requests", totals.answers.iter().sum()),
            (
                "rejections",
                rejections.map(|it| shared.rejections().of(it)).sum(),
            ),
            ("connections", shared.connections().accepted()),
        ];
        Self {
            at: Instant::now(),
            counts: counts.into(),
        }
    }

    /// How much of each has come in a second since `before`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "what comes in a second is far below 2^52"
    )]
    fn rates(&self, before: &Self) -> BTreeMap<&'static str, f64> {
        let seconds = (self.at - before.at).as_secs_f64();
        let rate = |(name, count): (&&'static str, &u64)| {
            let grown = count.saturating_sub(before.counts[name]);
            (*name, grown as f64 / seconds)
        };
        self.counts.iter().map(rate).collect()
    }
}

fn histogram(histogram: &Histogram) -> Value {
    let (bounds, counts): (Vec<_>, Vec<_>) = histogram.buckets().unzip();
    json!({
        "count": histogram.count(),
        "sum_s": histogram.sum_seconds(),
        // JSON has no infinity: the last one is `null`.
        "le_s": bounds,
        "counts": counts,
    })
}

fn object<const N: usize>(names: [&'static str; N], counts: [u64; N]) -> Value {
    object_of(names.into_iter().zip(counts))
}

fn object_of(pairs: impl IntoIterator<Item = (&'static str, u64)>) -> Value {
    let pairs = pairs.into_iter();
    pairs
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect::<Map<_, _>>()
        .into()
}
