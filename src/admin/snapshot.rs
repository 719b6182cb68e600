//! Snapshot of the process, as JSON:
//!
//! ```json
//! { "time_unix_ms": 1, "version": "0.1.0", "uptime_s": 1, "is_draining": false,
//!   "listen": [ "http://0.0.0.0:8080" ],
//!   "workers": [ { "worker": 0, "has_answered": true } ],
//!   "connections": { "open": 1, "limit": 10000 },
//!   "busiest_address": { "connections": { "open": 1, "limit": 1000 }, "session_rate_used": 0.1 },
//!   "session_rate_used": 0.1,
//!   "memory": { "bytes": 1, "bytes_limit": 1000 },
//!   "files": { "open": 20, "limit": 1024 }, "resident_bytes": 1,
//!   "sessions": { "total": 2, "by_state": { "accepted": 1, "…": 0 } },
//!   "held": { "messages": 4, "bytes": 600, "bytes_limit": 1000,
//!     "by_priority": { "low": 0, "normal": 4, "high": 0, "critical": 0 } },
//!   "fullest_queue": 0.1,
//!   "held_requests": { "open": 0, "limit": 500 },
//!   "waiting": [ "as in /sessions?sort=waiting&limit=10" ], "waiting_total": 1,
//!   "ledger": { "accepted": 4, "held": 4, "unconfirmed": 0, "delivered": 0, "…": 0 },
//!   "time_to_ready": { "count": 1, "sum_s": 0.5, "le_s": [0.005, "…", null], "counts": [0, 1] },
//!   "routes": [ { "route": "/", "sessions": 2, "waiting": 1, "held_messages": 4,
//!     "held_bytes": 600, "attempts": 3, "attempt_failures": 2, "ready": 1, "ready_sum_s": 0.5,
//!     "shed": 0, "lost": 0,
//!     "breaker": { "state": "open", "failures": 0, "probe_in_ms": 3500 } } ],
//!   "attempt_failures": { "unreachable": 2, "…": 0 },
//!   "ended": { "client_closed": 1, "…": 0 },
//!   "rejections": { "connections": 0, "…": 0 },
//!   "totals": { "client_messages": 4, "…": 0 },
//!   "rates": { "client_messages": 1.5, "…": 0.0 } }
//! ```
//!
//! `totals` has `client_messages`, `upstream_messages`, `client_bytes`, `upstream_bytes`,
//! `sessions_started`, `sessions_ended`, `attempts`, `attempt_failures`, `shed`, `lost` (expired,
//! discarded or unknown), `http_requests`, `rejections` and `connections`; `rates` is their growth
//! per second, `null` in the first event. The `counts` of `time_to_ready` are per bucket, not
//! cumulative. `fullest_queue` and `session_rate_used` are from 0 to 1, where 1 is full. `files`
//! and `resident_bytes` are `null` where the system does not provide them; `memory`, a `limit` and
//! the used part of one are `null` where there is no limit. A route's `breaker` is `closed`, `open`
//! or `half_open`; `failures` counts the sessions that failed since one became ready while it is
//! closed, and `probe_in_ms` is the time until the next attempt at the upstream while it is open,
//! else `null`.
//!

use std::{collections::BTreeMap, time::SystemTime};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    Admin,
    aggregate::View,
    metrics::ProcessStatus,
    sessions::{self, Filter, List},
    unix_millis,
};
use crate::{
    observability::{histogram::Histogram, totals::RouteSnapshot},
    session::{
        ledger::{Account, Ledger},
        rules::Priority,
        state::SessionState,
    },
    state::worker::route_stats::UNROUTED,
    upstream::{Failure, breaker::Status},
};

/// Waiting sessions that are shown.
const MAX_WAITING: usize = 10;

/// Counters at one instant.
pub(super) struct Totals {
    at: Instant,
    counts: BTreeMap<&'static str, u64>,
}

/// Takes a snapshot, and returns it with the counters that the next one needs as `before`.
pub(super) async fn take(admin: &Admin, before: Option<&Totals>) -> (Value, Totals) {
    let view = View::gather(admin).await;
    let waiting = List::gather(admin, &Filter::longest_waiting(MAX_WAITING)).await;
    let sum = view.sum();
    let totals = Totals::of(admin, &sum);
    let all = [
        process(admin, &view),
        limits(admin, &sum),
        running(&sum, &waiting),
        happened(admin, &sum),
        json!({
            "routes": routes(admin, &view),
            "totals": totals.counts,
            "rates": before.map(|before| totals.rates(before)),
        }),
    ];
    // The parts only group the code; the fields are in one flat object.
    let fields = all.into_iter().filter_map(|part| match part {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    (Value::Object(fields.flatten().collect()), totals)
}

fn process(admin: &Admin, view: &View) -> Value {
    let shared = &admin.process.shared;
    let config = shared.config();
    let listen = config.listen.iter();
    let workers = view.answered.iter().enumerate();
    json!({
        "time_unix_ms": unix_millis(SystemTime::now()),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": admin.started.elapsed().as_secs(),
        "is_draining": shared.drain().is_announced(),
        "listen": listen.map(ToString::to_string).collect::<Vec<_>>(),
        "workers": workers
            .map(|(index, answered)| json!({ "worker": index, "has_answered": answered }))
            .collect::<Vec<_>>(),
    })
}

/// Formats the limits of the process and their use.
fn limits(admin: &Admin, sum: &RouteSnapshot) -> Value {
    let shared = &admin.process.shared;
    // Read once, so that all figures of the process are of one instant.
    let status = ProcessStatus::read();
    let busiest = shared.addresses().busiest();
    let (held_requests, max_held_requests) = shared
        .held()
        .usage()
        .into_iter()
        .fold((0, 0), |(held, max), (_, more, limit)| {
            (held + more, max + limit)
        });
    json!({
        "connections": {
            "open": shared.connections().taken(),
            "limit": shared.config().limits.max_connections,
        },
        "busiest_address": {
            "connections": busiest.connections.map(|(open, limit)| json!({
                "open": open,
                "limit": limit,
            })),
            "session_rate_used": busiest.session_rate,
        },
        "session_rate_used": shared.session_rate_used(),
        "memory": shared.memory().used_and_max_bytes().map(|(bytes, limit)| json!({
            "bytes": bytes,
            "bytes_limit": limit,
        })),
        "files": status.map(|it| json!({
            "open": it.open_files(),
            "limit": it.max_files(),
        })),
        "resident_bytes": status.map(|it| it.resident_bytes()),
        "held": {
            "messages": sum.queued_messages.iter().sum::<u64>(),
            "bytes": shared.budget().used_bytes(),
            "bytes_limit": shared.budget().max_bytes(),
            "by_priority": object(Priority::ALL.map(Priority::name), sum.queued_messages),
        },
        "fullest_queue": sum.fullest_queue,
        "held_requests": { "open": held_requests, "limit": max_held_requests },
    })
}

fn running(sum: &RouteSnapshot, waiting: &List) -> Value {
    json!({
        "sessions": {
            "total": sum.sessions.iter().sum::<u64>(),
            "by_state": sessions::by_state(&sum.sessions),
        },
        "waiting": waiting.sessions,
        "waiting_total": waiting.matching,
    })
}

/// Formats the events since the start.
fn happened(admin: &Admin, sum: &RouteSnapshot) -> Value {
    let rejections = admin.process.shared.rejections();
    let ended = sum.totals.ended.iter();
    json!({
        "ledger": sessions::ledger(&sum.totals.ledger),
        "time_to_ready": histogram(&sum.totals.ready_time),
        "attempt_failures": object(Failure::ALL.map(Failure::name), sum.totals.failures),
        "ended": object_of(ended.map(|((_, name), count)| (name, count))),
        "rejections": object_of(rejections.by_reason()),
    })
}

/// Formats the routes that sessions can have.
fn routes(admin: &Admin, view: &View) -> Vec<Value> {
    let breakers: BTreeMap<_, _> = admin
        .process
        .shared
        .endpoints()
        .statuses()
        .into_iter()
        .collect();
    let all = view.routes.iter();
    all.filter(|(label, _)| ***label != *UNROUTED)
        .map(|(label, snapshot)| route(label, snapshot, breakers.get(&**label)))
        .collect()
}

fn route(label: &str, it: &RouteSnapshot, breaker: Option<&Status>) -> Value {
    let states = SessionState::ALL.into_iter().zip(it.sessions);
    // States are ordered as in a session's life; the gate opens with this one.
    let waiting = states.filter(|(state, _)| *state < SessionState::ProcessingReady);
    json!({
        "route": label,
        "sessions": it.sessions.iter().sum::<u64>(),
        "waiting": waiting.map(|(_, count)| count).sum::<u64>(),
        "held_messages": it.queued_messages.iter().sum::<u64>(),
        "held_bytes": it.held_bytes,
        "attempts": it.totals.attempts,
        "attempt_failures": it.totals.failures.iter().sum::<u64>(),
        "ready": it.totals.ready_time.count(),
        "ready_sum_s": it.totals.ready_time.sum_seconds(),
        "shed": it.totals.ledger.of(Account::Shed),
        "lost": lost(&it.totals.ledger),
        "breaker": breaker.map(|it| json!({
            "state": it.state.name(),
            "failures": it.failures,
            "probe_in_ms": it.probe_in.map(|it| u64::try_from(it.as_millis()).ok()),
        })),
    })
}

/// Returns the messages that were lost for another reason than to make room.
fn lost(ledger: &Ledger) -> u64 {
    let accounts = [Account::Expired, Account::Discarded, Account::Unknown];
    accounts.map(|account| ledger.of(account)).iter().sum()
}

impl Totals {
    fn of(admin: &Admin, sum: &RouteSnapshot) -> Self {
        let shared = &admin.process.shared;
        let totals = &sum.totals;
        let rejections = shared.rejections().by_reason();
        let counts = [
            ("client_messages", totals.ledger.accepted()),
            ("upstream_messages", totals.traffic.upstream_messages),
            ("client_bytes", totals.traffic.client_bytes),
            ("upstream_bytes", totals.traffic.upstream_bytes),
            ("sessions_started", totals.handshakes_accepted),
            ("sessions_ended", totals.length.count()),
            ("attempts", totals.attempts),
            ("attempt_failures", totals.failures.iter().sum()),
            ("shed", totals.ledger.of(Account::Shed)),
            ("lost", lost(&totals.ledger)),
            ("http_requests", totals.answers.iter().sum()),
            (
                "rejections",
                rejections.iter().map(|(_, count)| count).sum(),
            ),
            ("connections", shared.connections().accepted()),
        ];
        Self {
            at: Instant::now(),
            counts: counts.into(),
        }
    }

    /// Returns the growth per second since `before`.
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
        // JSON has no infinity: the last bound is `null`.
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
