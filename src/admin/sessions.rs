//! Live sessions and recently ended ones, as JSON.

use std::{
    cmp::Reverse,
    rc::Rc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    Admin,
    query::Query,
    response::{self, Body},
    unix_millis,
};
use crate::{
    config_file::units,
    session::{
        ledger::{Account, Ledger},
        rules::Priority,
        state::{SessionState, Transition},
    },
    state::worker::{
        WorkerState,
        sessions::{EndedSession, LiveSession, MAX_REMEMBERED},
    },
    websocket::CloseCode,
};

/// Sessions listed by default.
const DEFAULT_LIMIT: usize = 100;

/// Most sessions that can be requested.
const MAX_LIMIT: usize = 1000;

const PARAMETERS: &str = "ended, state, route, min_age, sort, limit";

/// Selection of sessions.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// Selects recently ended sessions instead of live ones.
    has_ended: bool,
    state: Option<SessionState>,
    route: Option<String>,
    min_age: Duration,
    sort: Sort,
    limit: usize,
}

/// Order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// Newest first; of ended sessions, the one that ended last.
    Newest,
    /// Only those whose gate is shut, the longest wait first.
    Waiting,
}

impl Filter {
    /// Selects the sessions that have waited the longest for their upstream.
    pub(super) const fn longest_waiting(limit: usize) -> Self {
        Self {
            has_ended: false,
            state: None,
            route: None,
            min_age: Duration::ZERO,
            sort: Sort::Waiting,
            limit,
        }
    }

    fn read(mut query: Query) -> Result<Self, String> {
        let has_ended = match query.take("ended").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(format!("ended cannot be {other:?}; expected true or false"));
            }
        };
        let state = query.take("state").map(|name| state(&name));
        let route = query.take("route");
        let min_age = query
            .take("min_age")
            .map(|age| units::duration(&age).map_err(|mistake| format!("min_age: {mistake}")));
        let sort = match query.take("sort").as_deref() {
            None | Some("newest") => Sort::Newest,
            Some("waiting") => Sort::Waiting,
            Some(other) => {
                return Err(format!(
                    "sort cannot be {other:?}; expected newest or waiting"
                ));
            }
        };
        let limit = query.take("limit").map(|limit| match limit.parse() {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
            _ => Err(format!(
                "limit cannot be {limit:?}; expected 1 to {MAX_LIMIT}"
            )),
        });
        query.finish(PARAMETERS)?;
        Ok(Self {
            has_ended,
            state: state.transpose()?,
            route,
            min_age: min_age.transpose()?.unwrap_or_default(),
            sort,
            limit: limit.transpose()?.unwrap_or(DEFAULT_LIMIT),
        })
    }

    fn matches(&self, seen: &Seen) -> bool {
        let state = seen.state();
        let was_opened = seen.session().record().opened_after().is_some();
        // States are ordered as in a session's life, so these have not begun to close.
        let is_waiting = || !was_opened && state < SessionState::Closing;
        self.state.is_none_or(|wanted| wanted == state)
            && (self.route.as_ref()).is_none_or(|wanted| wanted == seen.session().route_label())
            && seen.age() >= self.min_age
            && (self.sort == Sort::Newest || is_waiting())
    }

    /// Returns the sort key; ids ascend in the order of time, across workers.
    fn rank(&self, id: u64, ended_at: Option<Instant>) -> impl Ord + use<> {
        match self.sort {
            Sort::Newest => (ended_at.map(Reverse), 0, Reverse(id)),
            Sort::Waiting => (None, id, Reverse(0)),
        }
    }
}

fn state(name: &str) -> Result<SessionState, String> {
    let states = SessionState::ALL;
    let state = states.into_iter().find(|state| state.name() == name);
    state.ok_or_else(|| {
        let names = states.map(SessionState::name).join(", ");
        format!("state cannot be {name:?}; expected {names}")
    })
}

/// A live or an ended session.
enum Seen {
    Running(Rc<LiveSession>),
    Ended(Rc<EndedSession>),
}

impl Seen {
    fn session(&self) -> &LiveSession {
        match self {
            Self::Running(running) => running,
            Self::Ended(ended) => ended.session(),
        }
    }

    fn state(&self) -> SessionState {
        let idle_after = self.session().route().session.tunnel.idle_after;
        self.session().record().state(idle_after)
    }

    /// Returns the age, or the whole duration.
    fn age(&self) -> Duration {
        match self {
            Self::Running(running) => running.record().started().elapsed(),
            Self::Ended(ended) => ended.report().duration,
        }
    }

    fn ended_at(&self) -> Option<Instant> {
        match self {
            Self::Running(_) => None,
            Self::Ended(ended) => Some(ended.at()),
        }
    }

    /// Describes the end.
    fn end(&self) -> Option<Value> {
        let Self::Ended(ended) = self else {
            return None;
        };
        let report = ended.report();
        Some(json!({
            "unix_ms": unix_millis(SystemTime::now() - ended.at().elapsed()),
            "by": report.cause.initiator().name(),
            "reason": report.cause.name(),
            "detail": report.cause.to_string(),
            "client_code": report.client_code.map(CloseCode::get),
            "upstream_code": report.upstream_code.map(CloseCode::get),
        }))
    }
}

/// Sessions of one worker, or of all.
#[derive(Debug, Default)]
pub(super) struct List {
    total: usize,
    pub(super) matching: usize,
    by_state: [u64; SessionState::ALL.len()],
    pub(super) sessions: Vec<Summary>,
    silent_workers: Vec<usize>,
}

impl List {
    /// Selects the sessions of one worker.
    fn of(local: &WorkerState, worker: usize, filter: &Filter) -> Self {
        let mut by_state = [0; SessionState::ALL.len()];
        let (mut total, mut matching) = (0, Vec::new());
        let mut look = |seen: Seen| {
            // Counted before the filter: `total` and `by_state` are of all sessions.
            total += 1;
            by_state[seen.state() as usize] += 1;
            if filter.matches(&seen) {
                matching.push(seen);
            }
        };
        let sessions = local.sessions();
        if filter.has_ended {
            sessions.for_each_ended(|ended| look(Seen::Ended(Rc::clone(ended))));
        } else {
            sessions.for_each(|running| look(Seen::Running(Rc::clone(running))));
        }
        matching.sort_unstable_by_key(|seen| filter.rank(seen.session().id(), seen.ended_at()));
        // Each worker's share of the first `limit` is at most all of it; the caller merges.
        let shown = matching.iter().take(filter.limit);
        Self {
            total,
            matching: matching.len(),
            by_state,
            sessions: shown.map(|it| Summary::of(it, worker)).collect(),
            silent_workers: Vec::new(),
        }
    }

    /// Selects the sessions of all workers.
    pub(super) async fn gather(admin: &Admin, filter: &Filter) -> Self {
        let asked = admin.process.workers.iter().map(|worker| {
            let (index, filter) = (worker.index(), filter.clone());
            worker.ask(move |local| Self::of(local, index, &filter))
        });
        let mut all = Self::default();
        for answer in join_all(asked).await {
            match answer {
                Ok(list) => all.add(list),
                Err(silent) => all.silent_workers.push(silent.0),
            }
        }
        // Each worker sent its first `limit`, among which are the first `limit` of all.
        all.sessions
            .sort_unstable_by_key(|summary| filter.rank(summary.id, summary.ended_at));
        all.sessions.truncate(filter.limit);
        all
    }

    fn add(&mut self, list: Self) {
        self.total += list.total;
        self.matching += list.matching;
        for (count, more) in self.by_state.iter_mut().zip(list.by_state) {
            *count += more;
        }
        self.sessions.extend(list.sessions);
    }
}

/// A session in a list.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    id: u64,
    worker: usize,
    client: String,
    path: String,
    route: String,
    http: &'static str,
    request_id: String,
    trace_id: Option<String>,
    state: &'static str,
    started_unix_ms: u64,
    age_ms: u64,
    gate_timeout_ms: u64,
    on_timeout: &'static str,
    queue: Value,
    upstream_address: Option<String>,
    attempts: u32,
    last_connect_error: Option<String>,
    connected_ms: Option<u64>,
    ready_ms: Option<u64>,
    accepted: u64,
    delivered: u64,
    end: Option<Value>,
    #[serde(skip)]
    ended_at: Option<Instant>,
}

impl Summary {
    fn of(seen: &Seen, worker: usize) -> Self {
        let running = seen.session();
        let record = running.record();
        let ledger = record.ledger();
        let gate = &running.route().session.gate;
        Self {
            id: running.id(),
            worker,
            client: running.client().to_string(),
            path: running.path().to_owned(),
            route: running.route_label().to_owned(),
            http: if running.is_http2() { "2" } else { "1.1" },
            request_id: running.request_id().to_owned(),
            trace_id: running.trace().map(|trace| trace.id()),
            state: seen.state().name(),
            // An `Instant` has no date, so the date is counted back from now.
            started_unix_ms: unix_millis(SystemTime::now() - record.started().elapsed()),
            age_ms: millis(seen.age()),
            gate_timeout_ms: millis(gate.timeout),
            on_timeout: gate.on_timeout.name(),
            queue: queue(running),
            upstream_address: running.upstream_address(),
            attempts: record.attempts().get(),
            last_connect_error: record.attempts().last_error(),
            connected_ms: record.connected_after().map(millis),
            ready_ms: record.opened_after().map(millis),
            accepted: ledger.accepted(),
            delivered: ledger.of(Account::Delivered),
            end: seen.end(),
            ended_at: seen.ended_at(),
        }
    }
}

fn queue(running: &LiveSession) -> Value {
    let queued = running.record().queued();
    let hold = &running.route().session.hold;
    let by_priority = Priority::ALL.map(Priority::name).into_iter();
    let by_priority: Map<_, _> = by_priority
        .zip(queued.messages)
        .map(|(name, messages)| (name.to_owned(), messages.into()))
        .collect();
    json!({
        "messages": queued.messages.iter().sum::<u32>(),
        "messages_limit": hold.max_messages,
        "bytes": queued.bytes,
        "bytes_limit": hold.max_bytes,
        "by_priority": by_priority,
    })
}

/// All facts about one session.
#[derive(Debug, Serialize)]
struct Detail {
    #[serde(flatten)]
    summary: Summary,
    flush_us: Option<u64>,
    failed_attempts: Map<String, Value>,
    ledger: Value,
    traffic: Value,
    trail: Vec<Value>,
    trail_omitted: u64,
}

impl Detail {
    fn of(seen: &Seen, worker: usize) -> Self {
        let record = seen.session().record();
        let traffic = record.traffic();
        let trail = record.trail();
        let failures = crate::upstream::Failure::ALL.into_iter();
        let failures = failures.zip(record.attempts().failures());
        Self {
            summary: Summary::of(seen, worker),
            flush_us: record.flush_time().map(micros),
            failed_attempts: failures
                .map(|(failure, count)| (failure.name().to_owned(), count.into()))
                .collect(),
            ledger: ledger(&record.ledger()),
            traffic: json!({
                "client_bytes": traffic.client_bytes,
                "upstream_bytes": traffic.upstream_bytes,
                "upstream_messages": traffic.upstream_messages,
            }),
            trail: trail.transitions().iter().map(transition).collect(),
            trail_omitted: trail.omitted(),
        }
    }
}

fn transition(transition: &Transition) -> Value {
    json!({
        "state": transition.to.name(),
        "reason": transition.reason,
        "after_ms": millis(transition.after()),
    })
}

/// Formats a ledger with every account, and the messages that are in none yet.
pub(super) fn ledger(ledger: &Ledger) -> Value {
    let accounts = Account::ALL.map(|account| (account.name().to_owned(), ledger.of(account)));
    let sums = [
        ("accepted", ledger.accepted()),
        ("held", ledger.held()),
        ("unconfirmed", ledger.unconfirmed()),
    ];
    let sums = sums.map(|(name, messages)| (name.to_owned(), messages));
    let all = sums.into_iter().chain(accounts);
    all.map(|(name, messages)| (name, messages.into()))
        .collect::<Map<_, _>>()
        .into()
}

/// Formats numbers by the state of sessions.
pub(super) fn by_state(counts: &[u64; SessionState::ALL.len()]) -> Value {
    let states = SessionState::ALL.into_iter().zip(counts);
    states
        .map(|(state, count)| (state.name().to_owned(), (*count).into()))
        .collect::<Map<_, _>>()
        .into()
}

/// Responds to `/sessions`.
pub(super) async fn list(admin: &Admin, query: Query) -> Result<Response<Body>, String> {
    let filter = Filter::read(query)?;
    let list = List::gather(admin, &filter).await;
    let value = json!({
        "time_unix_ms": unix_millis(SystemTime::now()),
        "total": list.total,
        "by_state": by_state(&list.by_state),
        "matching": list.matching,
        "sessions": list.sessions,
        "silent_workers": list.silent_workers,
    });
    Ok(response::json(StatusCode::OK, &value))
}

/// Responds to `/sessions/{id}`.
pub(super) async fn one(admin: &Admin, id: &str) -> Result<Response<Body>, String> {
    let Ok(id) = id.parse::<u64>() else {
        return Err(format!("{id:?} is no id of a session; expected a number"));
    };
    // The id does not tell the worker, so all are queried.
    let asked = admin.process.workers.iter().map(|worker| {
        let index = worker.index();
        worker.ask(move |local| {
            let sessions = local.sessions();
            let running = sessions.find(id).map(Seen::Running);
            let found = running.or_else(|| sessions.find_ended(id).map(Seen::Ended));
            found.map(|seen| Detail::of(&seen, index))
        })
    });
    let answers = join_all(asked).await;
    let silent = answers.iter().find_map(|answer| answer.as_ref().err());
    Ok(match (answers.iter().flatten().flatten().next(), silent) {
        (Some(detail), _) => response::json(StatusCode::OK, detail),
        // The silent worker may have it, so a `404` could be wrong.
        (None, Some(silent)) => response::text(StatusCode::SERVICE_UNAVAILABLE, silent.to_string()),
        (None, None) => {
            let text = format!(
                "session {id} ended before the last {MAX_REMEMBERED} of its worker, or there never \
                 was one"
            );
            response::text(StatusCode::NOT_FOUND, text)
        }
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Filter, String> {
        Filter::read(Query::read(query).unwrap())
    }

    #[test]
    fn without_parameters_the_newest_hundred_are_shown() {
        let filter = read("").unwrap();

        assert_eq!(filter.limit, 100);
        assert!(filter.rank(2, None) < filter.rank(1, None));
    }

    #[test]
    fn of_those_that_have_ended_the_last_one_to_end_is_the_first() {
        let filter = read("ended=true").unwrap();
        let now = Instant::now();
        let earlier = now.checked_sub(Duration::from_secs(1));

        assert!(filter.rank(1, Some(now)) < filter.rank(2, earlier));
    }

    #[test]
    fn what_is_wrong_with_a_filter_is_said() {
        for (query, reason) in [
            ("state=ready", "expected connecting, accepted"),
            ("min_age=5", "min_age: "),
            ("limit=0", "expected 1 to 1000"),
            ("limit=1001", "expected 1 to 1000"),
            ("sort=oldest", "expected newest or waiting"),
            (
                "states=idle",
                "expected ended, state, route, min_age, sort, limit",
            ),
            ("ended=yes", "expected true or false"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(reason), "{query}: {error}");
        }
    }
}
