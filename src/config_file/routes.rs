//! Routes, and checks across several of their keys.

use std::{cell::OnceCell, ops::Range};

use super::{
    cautions, keys,
    reader::Table,
    report::{Mistake, Problem},
    tls::{self, SystemRoots},
    values::{address::Upstream, bounds},
};
use crate::{
    config::Retry,
    route::{Accept, Route},
    session::{
        self, gate,
        rules::{Priority, Release, Rule, Rules},
        termination::CloseCodes,
    },
    upstream::{self, Address, protocol::Protocol},
};

/// Reads all `[[route]]`s; each has an upstream, and no two the same host and path.
pub(super) fn read(top: &mut Table<'_>) -> Vec<Route> {
    let mut seen: Vec<((String, String), Range<usize>)> = Vec::new();
    let system_roots = OnceCell::new();
    let routes = top.tables("route", |table| {
        let route = route(table, &system_roots)?;
        let key = (route.host.clone(), route.path.clone());
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == key) {
            let mistake = Mistake::new(
                "two routes are for the same host and path",
                "expected another host or path",
            );
            let problem = Problem::at(table.span(), mistake);
            table
                .file()
                .report(problem.context(first.clone(), "the first of them"));
        }
        seen.push((key, table.span()));
        Some(route)
    });
    if routes.is_empty() && top.is_sound() && !top.has_like("route") {
        let example = "[[route]] with upstream = \"http://127.0.0.1:8081\"";
        let mistake = Mistake::new("there is no route", format!("expected {example}"));
        top.file().report(Problem::nowhere(mistake).absence());
    }
    routes.into_iter().flatten().collect()
}

/// A route being read.
pub(super) struct Draft {
    pub(super) route: Route,
    /// Upstream as written.
    pub(super) upstream: Option<Upstream>,
}

impl Default for Draft {
    fn default() -> Self {
        // The address is replaced by that of the upstream.
        let nowhere = Address::Unix("/".into());
        Self {
            route: Route::to(nowhere),
            upstream: None,
        }
    }
}

/// Reads one route; `None` when it has a problem.
fn route(table: &mut Table<'_>, system_roots: &SystemRoots) -> Option<Route> {
    let mut draft = Draft::default();
    keys::ROUTE.read(table, &mut draft);
    let Draft {
        mut route,
        upstream,
    } = draft;
    ineffective_subprotocols(table, &route);
    connection(table, upstream.as_ref(), system_roots, &mut route.upstream);
    let first_rule = session(table, &mut route.session);
    route.http = keys::HTTP.table(table);
    route.breaker = keys::BREAKER.table(table);
    shared_connection(table, &route);
    if !table.is_sound() {
        return None;
    }
    cautions::of_gate(table, &route, first_rule);
    upstream.map(|_| route)
}

/// Reports `subprotocols` of a route whose upstream chooses the subprotocol.
fn ineffective_subprotocols(table: &mut Table<'_>, route: &Route) {
    if route.accept == Accept::AfterUpstream
        && !route.subprotocols.is_empty()
        && let Some(value) = table.lookup("subprotocols")
    {
        let what = "with accept = \"after-upstream\" the upstream chooses the subprotocol";
        let mistake = Mistake::new(what, "has no effect");
        value.report(mistake.help("leave the key out"));
    }
}

/// Returns a route for every request to `upstream`, with default settings; `None` when it has a
/// problem.
pub(super) fn to_everything(top: &Table<'_>, upstream: Upstream) -> Option<Route> {
    let mut route = Route::to(upstream.address);
    if upstream.is_tls {
        route.upstream.tls = match tls::to(&route.upstream.address) {
            Ok(tls) => Some(tls),
            Err(mistake) => {
                top.file().report(Problem::nowhere(mistake));
                return None;
            }
        };
    }
    Some(route)
}

/// Reads the settings of connections to `upstream`.
fn connection(
    table: &mut Table<'_>,
    upstream: Option<&Upstream>,
    system_roots: &SystemRoots,
    settings: &mut upstream::Settings,
) {
    if table.lookup("upstream").is_none() {
        let expected = "expected upstream = \"http://127.0.0.1:8081\"";
        let mistake = Mistake::new("this route has no upstream", expected);
        table.lacks("upstream", mistake);
    }
    // The rest is read in any case, for its problems.
    if let Some(upstream) = upstream {
        settings.address = upstream.address.clone();
    }
    settings.tls = tls::upstream(table, upstream, system_roots);
    table.table("connect", |connect| {
        keys::CONNECT.read(connect, settings);
        settings.retry = connect.table("retry", retry);
    });
}

fn retry(table: &mut Table<'_>) -> Retry {
    let mut retry = Retry::default();
    keys::RETRY.read(table, &mut retry);
    if table.is_sound() && retry.initial > retry.max {
        let what = "the first wait is longer than the longest";
        let expected = format!("`initial` is {:?}, `max` is {:?}", retry.initial, retry.max);
        table.problem_at(table.span(), Mistake::new(what, expected));
    }
    retry
}

/// Reads the settings of sessions; returns the span of the first message rule.
fn session(table: &mut Table<'_>, session: &mut session::Settings) -> Option<Range<usize>> {
    session.gate = table.table("gate", gate);
    let is_gate_sound = table.is_sound();
    let mut rules: Vec<(Rule, Range<usize>)> = Vec::new();
    table.tables("message", |message| {
        if let Some(rule) = rule(message, is_gate_sound.then_some(&session.gate)) {
            cautions::of_rule(message, &rule, &rules);
            rules.push((rule, message.span()));
        }
    });
    let first = rules.first().map(|(_, place)| place.clone());
    session.rules = Rules::new(rules.into_iter().map(|(rule, _)| rule).collect());
    session.hold = keys::HOLD.table(table);
    session.tunnel = keys::TUNNEL.table(table);
    session.close_codes = table.table(keys::CLOSE_CODES.key(), close_codes);
    first
}

fn gate(table: &mut Table<'_>) -> gate::Settings {
    let mut gate = gate::Settings::default();
    keys::GATE.read(table, &mut gate);
    if table.is_sound() && gate.settle >= gate.timeout {
        let what = "the gate's timeout is over before it has settled";
        let expected = format!(
            "`settle` is {:?}, `timeout` is {:?}",
            gate.settle, gate.timeout
        );
        table.problem_at(table.span(), Mistake::new(what, expected));
    }
    gate
}

/// Reads one message rule; `gate` is that of the route if it has no problem.
fn rule(table: &mut Table<'_>, gate: Option<&gate::Settings>) -> Option<Rule> {
    if table.lookup("match").is_none() {
        let expected = "expected match = { json = { \"/type\" = \"…\" } }";
        table.lacks("match", Mistake::new("this rule matches nothing", expected));
    }
    let mut rule = Rule {
        matchers: Vec::new(),
        priority: Priority::default(),
        release: Release::default(),
    };
    keys::MESSAGE.read(table, &mut rule);
    if let Some((value, gate)) = table.lookup("release").zip(gate)
        && let Some(mistake) = ineffective_release(rule.release, gate)
    {
        value.report(mistake);
    }
    // Without a matcher there is a problem.
    (!rule.matchers.is_empty()).then_some(rule)
}

/// Mistake of a `release` without effect.
fn ineffective_release(release: Release, gate: &gate::Settings) -> Option<Mistake> {
    match release {
        Release::Authenticated | Release::ServicesReady if gate.opens_on_upgrade() => Some(
            Mistake::new(
                "this route's gate opens as soon as the upstream is connected",
                "has no effect: nothing is held after that",
            )
            .help("say in [route.gate] which message makes the session `ready`"),
        ),
        Release::ServicesReady if gate.services_ready.is_empty() => Some(
            Mistake::new(
                "no session of this route becomes `services_ready`",
                "has no effect: the message is held until the gate opens",
            )
            .help("say in [route.gate] which message makes it `services_ready`"),
        ),
        _ => None,
    }
}

/// Reports a PROXY protocol header on a connection that all clients share.
fn shared_connection(table: &mut Table<'_>, route: &Route) {
    if !route.upstream.may_share_connections() && route.http.version == Protocol::Http2 {
        let what = "with HTTP/2 all clients share a connection, which cannot begin with a header \
                    of the PROXY protocol";
        let expected = "expected only one of `proxy_protocol` and `http.version = \"2\"`";
        table.problem_at(table.span(), Mistake::new(what, expected));
    }
}

fn close_codes(table: &mut Table<'_>) -> CloseCodes {
    let mut codes = Vec::new();
    for (span, key, value) in table.entries() {
        // 101 is no refusal, and nothing below 200 is a final answer.
        let status = key
            .parse()
            .ok()
            .filter(|status| (200..=599).contains(status));
        if status.is_none() {
            let what = format!("`{key}` is not the status of a refusal");
            table.problem_at(span, Mistake::new(what, "expected 200 to 599"));
        }
        codes.extend(status.zip(value.measure(bounds::close_code)));
    }
    CloseCodes::new(codes)
}
