//! `/metrics`: state and counts for Prometheus.
//!
//! Names are `readygate_…` in seconds and bytes, and `process_…` as in every client library of
//! Prometheus. Labels are from closed sets: configured routes, states, reasons, accounts; never
//! text from a client. Every series exists from the start.
//!
//! # Invariants
//!
//! * In each response, for each route: `messages_accepted_total = messages_settled_total over all
//!   accounts + messages_unconfirmed + messages_held`.
//! * No counter decreases while the process runs. Those of a removed route disappear: the breaker's
//!   at once, the others when the route is forgotten ([`aggregate`](super::aggregate)). Should the
//!   route return later, they begin at 0, which `rate()` takes for a reset.

mod certificates;
mod limits;
mod page;
mod process;

use std::fmt;

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{ACCEPT, HeaderValue, VARY},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

pub(super) use self::process::ProcessStatus;
use self::{
    certificates::Expiries,
    limits::LimitFigures,
    page::{Page, prometheus_text},
};
use super::{
    Admin,
    aggregate::View,
    response::{self, Body},
};
use crate::{
    observability::{
        self,
        histogram::Histogram,
        totals::{RouteSnapshot, RouteTotals},
    },
    session::{ledger::Account, rules::Priority, state::SessionState},
    state::worker::route_stats::UNROUTED,
    upstream::{
        Failure,
        breaker::{self, BreakerState},
    },
};

/// Text format that is older than `OpenMetrics`, and that every scraper reads.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Classes of HTTP statuses.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Responds to `/metrics`, in `OpenMetrics` for clients that accept it.
pub(super) async fn answer(admin: &Admin, headers: &HeaderMap) -> Response<Body> {
    let mut registry = Registry::default();
    // Made for each scrape: the counts live in the workers, and the registry only formats them.
    registry.register_collector(Box::new(Scrape::of(admin).await));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string takes everything");
    let (content_type, page) = if accepts_open_metrics(headers) {
        (OPEN_METRICS, page)
    } else {
        (PROMETHEUS, prometheus_text(&page))
    };
    let body = Box::pin(http_body_util::Full::from(page));
    let mut response = response::with(StatusCode::OK, content_type, body);
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().insert(VARY, vary);
    response
}

fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter();
    accepted.any(|value| {
        let value = value.to_str().unwrap_or_default();
        // No weights are compared: a scraper that names it prefers it.
        value.contains("application/openmetrics-text")
    })
}

/// All values at one instant.
#[derive(Debug)]
struct Scrape {
    view: View,
    is_draining: bool,
    reloads: [(&'static str, u64); 2],
    last_reload: u64,
    sha256: String,
    limits: LimitFigures,
    /// Status of the breakers, by route.
    breakers: Vec<(String, breaker::Status)>,
    rejections: Vec<(&'static str, u64)>,
    expiries: Expiries,
    log: observability::QueueFigures,
    process: Option<ProcessStatus>,
}

impl Scrape {
    async fn of(admin: &Admin) -> Self {
        let view = View::gather(admin).await;
        let shared = &admin.process.shared;
        Self {
            view,
            is_draining: shared.drain().is_announced(),
            reloads: shared.reloads().by_result(),
            last_reload: shared.reloads().last_success(),
            sha256: shared.config().sha256.clone().unwrap_or_default(),
            limits: LimitFigures::of(shared),
            breakers: shared.endpoints().statuses(),
            rejections: shared.rejections().by_reason(),
            expiries: Expiries::of(&shared.config()),
            log: observability::queue(),
            process: ProcessStatus::read(),
        }
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        self.encode_process(&mut page)?;
        self.limits.encode(&mut page)?;
        self.encode_sessions(&mut page)?;
        self.encode_messages(&mut page)?;
        self.encode_times(&mut page)?;
        self.encode_upstreams(&mut page)?;
        self.encode_http(&mut page)?;
        self.expiries.encode(&mut page)?;
        self.encode_log(&mut page)?;
        if let Some(process) = &self.process {
            process.encode(&mut page)?;
        }
        Ok(())
    }
}

type Labels = Vec<(&'static str, String)>;

impl Scrape {
    /// Returns the routes, without the row of requests that match none: those have no sessions.
    fn routes(&self) -> impl Iterator<Item = (&str, &RouteSnapshot)> + Clone {
        let all = self.view.routes.iter();
        all.map(|(route, snapshot)| (&**route, snapshot))
            .filter(|(route, _)| *route != UNROUTED)
    }

    /// Returns a series per route.
    fn by_route<'a, T>(
        &'a self,
        value: impl Fn(&RouteSnapshot) -> T + 'a,
    ) -> impl Iterator<Item = (Labels, T)> + 'a {
        let routes = self.routes();
        routes.map(move |(route, snapshot)| (labels(&[("route", route)]), value(snapshot)))
    }

    /// Returns a series per route and value of `values`.
    fn by_route_and<'a>(
        &'a self,
        label: &'static str,
        values: impl Fn(&RouteSnapshot) -> Vec<(&'static str, u64)> + 'a,
    ) -> impl Iterator<Item = (Labels, u64)> + 'a {
        self.routes().flat_map(move |(route, snapshot)| {
            let values = values(snapshot).into_iter();
            values.map(move |(name, value)| (labels(&[("route", route), (label, name)]), value))
        })
    }

    fn encode_process(&self, page: &mut Page<'_>) -> fmt::Result {
        let build = labels(&[
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("READYGATE_COMMIT")),
            ("rustc", env!("READYGATE_RUSTC")),
        ]);
        page.gauges(
            "readygate_build_info",
            "What the program was built from; always 1.",
            [(build, 1)],
        )?;
        page.gauge(
            "readygate_draining",
            "1 while the process drains, or is about to.",
            u64::from(self.is_draining),
        )?;
        page.gauge(
            "readygate_workers",
            "Threads that serve.",
            self.view.answered.len() as u64,
        )?;
        self.encode_reloads(page)?;
        let up = self.view.answered.iter().enumerate().map(|(index, is_up)| {
            let labels = labels(&[("worker", &index.to_string())]);
            (labels, u64::from(*is_up))
        });
        let help = "1 if the worker responded in time; otherwise its numbers are old.";
        page.gauges("readygate_worker_up", help, up)?;
        let rejections = self.rejections.iter();
        page.counters(
            "readygate_rejections",
            "Connections and requests that were not served, by reason.",
            rejections.map(|(reason, count)| (labels(&[("reason", reason)]), *count)),
        )
    }

    fn encode_reloads(&self, page: &mut Page<'_>) -> fmt::Result {
        let results = self.reloads.iter();
        page.counters(
            "readygate_config_reloads",
            "Reloads of the configuration, by result.",
            results.map(|(result, count)| (labels(&[("result", result)]), *count)),
        )?;
        page.gauge(
            "readygate_config_last_reload_success_timestamp_seconds",
            "Time at which the configuration in effect was read.",
            self.last_reload,
        )?;
        page.gauges(
            "readygate_config_info",
            "The SHA-256 of the configuration file in effect, empty without one; always 1.",
            [(labels(&[("sha256", &self.sha256)]), 1)],
        )
    }

    fn encode_log(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counters(
            "readygate_log_lines_dropped",
            "Lines of the log that were not read in time, or that standard output refused.",
            [(Labels::new(), self.log.dropped_lines)],
        )?;
        page.gauge(
            "readygate_log_queued_bytes",
            "Bytes of the log that wait to be written.",
            self.log.bytes as u64,
        )?;
        page.gauge(
            "readygate_log_queue_limit_bytes",
            "Most bytes of the log that may wait.",
            observability::MAX_QUEUED_BYTES as u64,
        )
    }

    fn encode_sessions(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauges(
            "readygate_sessions",
            "Live WebSocket sessions, by state.",
            self.by_route_and("state", |it| {
                named(SessionState::ALL.map(SessionState::name), it.sessions)
            }),
        )?;
        page.counters(
            "readygate_handshakes",
            "Opening handshakes of clients, by whether they became a session.",
            self.by_route_and("result", |it| {
                let totals = &it.totals;
                vec![
                    ("accepted", totals.handshakes_accepted),
                    ("refused", totals.handshakes_refused),
                ]
            }),
        )?;
        let ended = self.routes().flat_map(|(route, snapshot)| {
            let endings = snapshot.totals.ended.iter();
            endings.map(move |((initiator, reason), count)| {
                let initiator = ("initiator", initiator.name());
                (
                    labels(&[("route", route), initiator, ("reason", reason)]),
                    count,
                )
            })
        });
        page.counters(
            "readygate_sessions_ended",
            "WebSocket sessions that have ended, by who ended them and why.",
            ended,
        )?;
        page.counters(
            "readygate_close_timeouts",
            "Sides that were closed by force because they did not close in time.",
            self.by_route_and("side", |it| {
                named(["client", "upstream"], it.totals.close_timeouts)
            }),
        )
    }

    fn encode_messages(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counters(
            "readygate_messages_accepted",
            "Messages of clients that were accepted.",
            self.by_route(|it| it.totals.ledger.accepted()),
        )?;
        page.counters(
            "readygate_messages_settled",
            "Accepted messages whose end is decided, by account.",
            self.by_route_and("account", |it| {
                let of = |account| it.totals.ledger.of(account);
                named(Account::ALL.map(Account::name), Account::ALL.map(of))
            }),
        )?;
        page.gauges(
            "readygate_messages_unconfirmed",
            "Messages that are written to an upstream that has sent nothing since.",
            self.by_route(|it| it.totals.ledger.unconfirmed()),
        )?;
        page.gauges(
            "readygate_messages_held",
            "Accepted messages that are not written to an upstream.",
            self.by_route(|it| it.totals.ledger.held()),
        )?;
        page.gauges(
            "readygate_queued_messages",
            "Messages that wait in the hold queues of sessions, by priority.",
            self.by_route_and("priority", |it| {
                named(Priority::ALL.map(Priority::name), it.queued_messages)
            }),
        )?;
        page.gauges(
            "readygate_session_held_bytes",
            "Accounted bytes that the sessions of a route hold.",
            self.by_route(|it| it.held_bytes),
        )?;
        page.real_gauges(
            "readygate_fullest_queue_used_ratio",
            "Used share of the fullest hold queue of the route.",
            self.by_route(|it| it.fullest_queue),
        )?;
        page.counters(
            "readygate_relayed_messages",
            "Messages that came from the clients, and those from the upstream that went to them.",
            self.by_route_and("source", |it| {
                let RouteTotals {
                    ledger, traffic, ..
                } = &it.totals;
                vec![
                    ("client", ledger.accepted()),
                    ("upstream", traffic.upstream_messages),
                ]
            }),
        )?;
        page.counters(
            "readygate_relayed_bytes",
            "Bytes of WebSocket frames that were read from either side.",
            self.by_route_and("source", |it| {
                let traffic = &it.totals.traffic;
                vec![
                    ("client", traffic.client_bytes),
                    ("upstream", traffic.upstream_bytes),
                ]
            }),
        )
    }

    fn encode_times(&self, page: &mut Page<'_>) -> fmt::Result {
        type Of = fn(&RouteTotals) -> Histogram;
        let times: [(_, _, Of); 5] = [
            (
                "readygate_time_to_connect_seconds",
                "From a client's 101 to that of its upstream.",
                |it| it.connect_time,
            ),
            (
                "readygate_time_to_ready_seconds",
                "From a client's 101 to the ready message of its upstream.",
                |it| it.ready_time,
            ),
            (
                "readygate_hold_duration_seconds",
                "From a client's 101 to the opening of the gate, or to the end without it.",
                |it| it.hold_time,
            ),
            (
                "readygate_flush_duration_seconds",
                "Duration of the delivery of held messages.",
                |it| it.flush_time,
            ),
            (
                "readygate_session_duration_seconds",
                "Duration of ended sessions.",
                |it| it.length,
            ),
        ];
        for (name, help, of) in times {
            page.histograms(name, help, self.by_route(move |it| of(&it.totals)))?;
        }
        Ok(())
    }

    fn encode_upstreams(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counters(
            "readygate_upstream_attempts",
            "Attempts to connect a session to its upstream.",
            self.by_route(|it| it.totals.attempts),
        )?;
        page.counters(
            "readygate_upstream_attempt_failures",
            "Failed attempts to connect a session to its upstream, by reason.",
            self.by_route_and("reason", |it| {
                named(Failure::ALL.map(Failure::name), it.totals.failures)
            }),
        )?;
        page.gauges(
            "readygate_breaker_state",
            "1 for the present state of the route's breaker, else 0.",
            self.by_breaker(|it| BreakerState::ALL.map(|state| u64::from(it.state == state))),
        )?;
        page.counters(
            "readygate_breaker_transitions",
            "Transitions of the route's breaker into this state.",
            self.by_breaker(|it| it.transitions),
        )
    }

    /// Returns a series per route and state of its breaker.
    fn by_breaker<'a>(
        &'a self,
        values: impl Fn(&breaker::Status) -> [u64; BreakerState::ALL.len()] + 'a,
    ) -> impl Iterator<Item = (Labels, u64)> + 'a {
        self.breakers.iter().flat_map(move |(route, status)| {
            let values =
                named(BreakerState::ALL.map(BreakerState::name), values(status)).into_iter();
            values.map(move |(name, value)| (labels(&[("route", route), ("state", name)]), value))
        })
    }

    fn encode_http(&self, page: &mut Page<'_>) -> fmt::Result {
        let answers = self.view.routes.iter().flat_map(|(route, snapshot)| {
            let classes = CLASSES.into_iter().zip(snapshot.totals.answers);
            classes.map(move |(class, count)| (labels(&[("route", route), ("code", class)]), count))
        });
        page.counters(
            "readygate_http_requests",
            "Responses to plain HTTP requests, by class of the status.",
            answers,
        )?;
        let times = self.view.routes.iter();
        page.histograms(
            "readygate_http_request_duration_seconds",
            "From a plain HTTP request to the beginning of its response.",
            times.map(|(route, it)| (labels(&[("route", route)]), it.totals.answer_time)),
        )
    }
}

fn labels(pairs: &[(&'static str, &str)]) -> Labels {
    let own = |&(name, value): &(&'static str, &str)| (name, value.to_owned());
    pairs.iter().map(own).collect()
}

fn named<const N: usize>(names: [&'static str; N], counts: [u64; N]) -> Vec<(&'static str, u64)> {
    names.into_iter().zip(counts).collect()
}
