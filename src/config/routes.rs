//! Routes as they are written, and what their settings have to do with each other.

use std::{cell::OnceCell, net::Ipv6Addr, ops::Range, time::Duration};

use http::Uri;
use toml::de::DeValue;

use super::{
    cautions::{self, Gated},
    reader::{Table, Value, override_with},
    report::{Mistake, Problem},
    tls::{self, SystemRoots},
    values::{
        address::{self, Upstream},
        matchers, origins, units,
    },
};
use crate::{
    route::{self, Accept, HttpSettings, NonAscii, Route, Underscores, path::Passes},
    session::{
        self,
        close::CloseCodes,
        gate::{self, OnTimeout, Trigger},
        hold::{self, OnClientGone, Order, Overflow},
        rules::{Priority, Release, Rule, Rules},
        tunnel,
    },
    upstream::{Address, Retry, Settings, breaker, dial::Protocol, proxy_protocol},
    websocket::CloseCode,
};

/// All `[[route]]`s; each has an upstream, and no two are the same.
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

/// One route; `None` when there is a problem.
fn route(table: &mut Table<'_>, system_roots: &SystemRoots) -> Option<Route> {
    let host = table.take("host", |value| one_each(value)?.parse(host));
    let path = table.take("path", |value| {
        cautions::of_path(value);
        one_each(value)?.parse(path)
    });
    let passes = table.take("path_checks", path_checks);
    let accept = accept(table);
    let subprotocols = table.take("subprotocols", |value| subprotocols(value, accept));
    let origins = table.take("origins", |value| list(value, origins::origin));
    let upstream = upstream(table, system_roots);
    let (session, rule) = session(table);
    let http = table.table("http", http);
    let breaker = table.table("breaker", breaker);
    shared_connection(table, upstream.as_ref(), &http);
    if !table.is_sound() {
        return None;
    }
    let host = host.unwrap_or_default();
    let path = path.unwrap_or_else(|| "/".to_owned());
    let gated = Gated {
        host: &host,
        path: &path,
        accept,
        gate: &session.gate,
        rule,
    };
    cautions::of_gate(table, &gated);
    Some(Route {
        host,
        path,
        passes: passes.unwrap_or_default(),
        subprotocols: subprotocols.unwrap_or_default(),
        origins: origins.unwrap_or_default(),
        accept,
        upstream: upstream?,
        session,
        http,
        breaker,
    })
}

/// A value of which a route has one.
fn one_each(value: Value<'_>) -> Option<Value<'_>> {
    value.alone("expected one", "write one [[route]] for each")
}

/// How strictly paths are checked: a word, or a list of what passes all the same.
fn path_checks(value: Value<'_>) -> Option<Passes> {
    if !matches!(value.content(), DeValue::Array(_)) {
        return value.choice(&[("strict", Passes::default())]);
    }
    let passes = list(value, |text| match text {
        "\\" => Ok((true, false)),
        _ if text.eq_ignore_ascii_case("%5C") => Ok((false, true)),
        _ => {
            let what = format!("`{text}` is nothing that could pass");
            Err(Mistake::new(what, "expected `%5C` or `\\`"))
        }
    });
    let passes = passes?.into_iter();
    Some(
        passes.fold(Passes::default(), |all, (backslash, encoded)| Passes {
            backslash: all.backslash || backslash,
            encoded_backslash: all.encoded_backslash || encoded,
        }),
    )
}

fn accept(table: &mut Table<'_>) -> Accept {
    let choices = [
        ("early", Accept::Early),
        ("after-upstream", Accept::AfterUpstream),
    ];
    let accept = table.take("accept", |value| value.choice(&choices));
    accept.unwrap_or_default()
}

/// The subprotocols among which the proxy chooses, if it is the one who chooses.
fn subprotocols(value: Value<'_>, accept: Accept) -> Option<Vec<String>> {
    let subprotocols = list(value, subprotocol)?;
    if accept == Accept::AfterUpstream && !subprotocols.is_empty() {
        let what = "with accept = \"after-upstream\" the upstream chooses the subprotocol";
        let mistake = Mistake::new(what, "has no effect");
        return value.problem(mistake.help("leave the key out"));
    }
    Some(subprotocols)
}

/// A route with default settings for everything to `upstream`; `None` when there is a problem.
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

fn upstream(table: &mut Table<'_>, system_roots: &SystemRoots) -> Option<Settings> {
    let is_missing = table.lookup("upstream").is_none();
    let upstream: Option<Upstream> = table.take("upstream", |value| {
        let expected = "expected one address, such as \"http://127.0.0.1:8081\"";
        let help = "where a name has several addresses, they are tried in turn";
        value.alone(expected, help)?.measure(address::upstream)
    });
    if is_missing {
        let expected = "expected upstream = \"http://127.0.0.1:8081\"";
        let mistake = Mistake::new("this route has no upstream", expected);
        table.lacks("upstream", mistake);
    }
    // The rest is read in any case, for its problems.
    let placeholder = || Address::Unix("/".into());
    let address = upstream.as_ref().map(|upstream| upstream.address.clone());
    let mut settings = Settings::new(address.unwrap_or_else(placeholder));
    settings.tls = tls::upstream(table, upstream.as_ref(), system_roots);
    let versions = [
        ("", None),
        ("v1", Some(proxy_protocol::Version::V1)),
        ("v2", Some(proxy_protocol::Version::V2)),
    ];
    override_with(
        &mut settings.proxy_protocol,
        table.take("proxy_protocol", |value| value.choice(&versions)),
    );
    table.table("connect", |connect| {
        override_with(&mut settings.timeout, connect.some_time("timeout"));
        override_with(
            &mut settings.handshake_timeout,
            connect.measure("handshake_timeout", units::optional_time),
        );
        settings.retry = connect.table("retry", retry);
    });
    upstream.map(|_| settings)
}

fn retry(table: &mut Table<'_>) -> Retry {
    let mut retry = Retry::default();
    override_with(&mut retry.initial, table.some_time("initial"));
    override_with(&mut retry.max, table.some_time("max"));
    override_with(&mut retry.jitter, table.measure("jitter", units::fraction));
    if table.is_sound() && retry.initial > retry.max {
        let what = "the first wait is longer than the longest";
        let expected = format!("`initial` is {:?}, `max` is {:?}", retry.initial, retry.max);
        table.problem_at(table.span(), Mistake::new(what, expected));
    }
    retry
}

/// The settings of sessions, and where the first message rule is.
fn session(table: &mut Table<'_>) -> (session::Settings, Option<Range<usize>>) {
    let gate = table.table("gate", gate);
    let is_gate_sound = table.is_sound();
    let mut rules: Vec<(Rule, Range<usize>)> = Vec::new();
    table.tables("message", |message| {
        if let Some(rule) = rule(message, is_gate_sound.then_some(&gate)) {
            cautions::of_rule(message, &rule, &rules);
            rules.push((rule, message.span()));
        }
    });
    let first = rules.first().map(|(_, place)| place.clone());
    let settings = session::Settings {
        rules: Rules::new(rules.into_iter().map(|(rule, _)| rule).collect()),
        gate,
        hold: table.table("hold", hold),
        tunnel: table.table("tunnel", tunnel),
        close_codes: table.table("close_codes", close_codes),
    };
    (settings, first)
}

fn gate(table: &mut Table<'_>) -> gate::Settings {
    let mut gate = gate::Settings::default();
    override_with(&mut gate.authenticated, needed(table, "authenticated"));
    override_with(
        &mut gate.services_ready,
        table.take("services_ready", matchers::triggers),
    );
    override_with(&mut gate.ready, needed(table, "ready"));
    override_with(&mut gate.settle, table.duration("settle"));
    override_with(&mut gate.timeout, table.some_time("timeout"));
    let on_timeout = [OnTimeout::Close, OnTimeout::Open].map(|it| (it.name(), it));
    override_with(
        &mut gate.on_timeout,
        table.take("on_timeout", |value| value.choice(&on_timeout)),
    );
    override_with(
        &mut gate.forward_ready,
        table.measure("forward_ready", units::truth),
    );
    override_with(
        &mut gate.inspect_bytes,
        table.measure("inspect_bytes", units::size),
    );
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

/// Triggers of a state that every session has to reach.
fn needed(table: &mut Table<'_>, key: &'static str) -> Option<Vec<Trigger>> {
    table.take(key, |value| {
        if is_empty_list(value) {
            let what = format!("no session could become `{key}`");
            let mistake = Mistake::new(what, "expected at least one matcher");
            return value.problem(mistake.help("leave the key out for the default"));
        }
        matchers::triggers(value)
    })
}

/// One message rule; `gate` is the route's, if that has no problem.
fn rule(table: &mut Table<'_>, gate: Option<&gate::Settings>) -> Option<Rule> {
    let matching = table.value("match");
    if matching.is_none() {
        let expected = "expected match = { json = { \"/type\" = \"…\" } }";
        table.lacks("match", Mistake::new("this rule matches nothing", expected));
    }
    let matchers = matching.and_then(|value| {
        if is_empty_list(value) {
            let what = "this rule matches nothing";
            return value.problem(Mistake::new(what, "expected at least one matcher"));
        }
        matchers::content(value)
    });
    let priorities = [
        ("critical", Priority::Critical),
        ("high", Priority::High),
        ("normal", Priority::Normal),
        ("low", Priority::Low),
    ];
    let priority = table.take("priority", |value| value.choice(&priorities));
    let release = table.take("release", |value| release(value, gate));
    Some(Rule {
        matchers: matchers?,
        priority: priority.unwrap_or_default(),
        release: release.unwrap_or_default(),
    })
}

fn release(value: Value<'_>, gate: Option<&gate::Settings>) -> Option<Release> {
    let release = value.choice(&[
        ("authenticated", Release::Authenticated),
        ("services_ready", Release::ServicesReady),
        ("ready", Release::Ready),
    ])?;
    let gate = gate?;
    let mistake = match release {
        Release::Authenticated | Release::ServicesReady if gate.opens_on_upgrade() => Mistake::new(
            "this route's gate opens as soon as the upstream is connected",
            "has no effect: nothing is held after that",
        )
        .help("say in [route.gate] which message makes the session `ready`"),
        Release::ServicesReady if gate.services_ready.is_empty() => Mistake::new(
            "no session of this route becomes `services_ready`",
            "has no effect: the message is held until the gate opens",
        )
        .help("say in [route.gate] which message makes it `services_ready`"),
        _ => return Some(release),
    };
    value.problem(mistake)
}

fn hold(table: &mut Table<'_>) -> hold::Settings {
    let mut hold = hold::Settings::default();
    override_with(
        &mut hold.max_messages,
        table.measure("max_messages", units::some),
    );
    override_with(&mut hold.max_bytes, table.measure("max_bytes", queue_bytes));
    let overflow = [
        ("backpressure", Overflow::Backpressure),
        ("shed", Overflow::Shed),
        ("close", Overflow::Close),
    ];
    override_with(
        &mut hold.overflow,
        table.take("overflow", |value| value.choice(&overflow)),
    );
    let order = [("priority", Order::Priority), ("arrival", Order::Arrival)];
    override_with(
        &mut hold.order,
        table.take("order", |value| value.choice(&order)),
    );
    override_with(
        &mut hold.max_age,
        table.measure("max_age", units::optional_time),
    );
    let on_client_gone = [
        ("deliver", OnClientGone::Deliver),
        ("discard", OnClientGone::Discard),
    ];
    override_with(
        &mut hold.on_client_gone,
        table.take("on_client_gone", |value| value.choice(&on_client_gone)),
    );
    override_with(&mut hold.linger, table.duration("linger"));
    override_with(&mut hold.max_linger, table.duration("max_linger"));
    hold
}

/// The size of a queue: one that no message fits into is a mistake.
fn queue_bytes(text: &str) -> Result<usize, Mistake> {
    match units::size(text)? {
        ..1024 => Err(Mistake::new(
            "this queue is too small for a message",
            "expected at least \"1KiB\"",
        )),
        bytes => Ok(bytes),
    }
}

fn tunnel(table: &mut Table<'_>) -> tunnel::Settings {
    let mut tunnel = tunnel::Settings::default();
    override_with(&mut tunnel.idle_after, table.some_time("idle_after"));
    override_with(
        &mut tunnel.idle_timeout,
        table.measure("idle_timeout", units::optional_time),
    );
    override_with(
        &mut tunnel.ping_interval,
        table.measure("ping_interval", units::optional_time),
    );
    override_with(
        &mut tunnel.max_session_age,
        table.measure("max_session_age", units::optional_time),
    );
    override_with(&mut tunnel.close_timeout, table.some_time("close_timeout"));
    tunnel
}

fn http(table: &mut Table<'_>) -> HttpSettings {
    let mut http = HttpSettings::default();
    let versions = [("1.1", Protocol::Http1), ("2", Protocol::Http2)];
    override_with(
        &mut http.version,
        table.take("version", |value| value.choice(&versions)),
    );
    override_with(
        &mut http.hold_timeout,
        table.measure("hold_timeout", hold_timeout),
    );
    override_with(
        &mut http.max_body_bytes,
        table.measure("max_body_bytes", units::optional_size),
    );
    override_with(
        &mut http.max_held_requests,
        table.measure("max_held_requests", units::count),
    );
    let non_ascii = [("pass", NonAscii::Pass), ("refuse", NonAscii::Refuse)];
    override_with(
        &mut http.non_ascii,
        table.take("non_ascii", |value| value.choice(&non_ascii)),
    );
    let underscores = [("drop", Underscores::Drop), ("pass", Underscores::Pass)];
    override_with(
        &mut http.underscores,
        table.take("underscores", |value| value.choice(&underscores)),
    );
    override_with(
        &mut http.max_idle_connections,
        table.measure("max_idle_connections", units::count),
    );
    override_with(&mut http.idle_timeout, table.some_time("idle_timeout"));
    override_with(
        &mut http.response_timeout,
        table.measure("response_timeout", units::optional_time),
    );
    override_with(
        &mut http.body_timeout,
        table.measure("body_timeout", units::optional_time),
    );
    override_with(
        &mut http.response_limits.max_header_bytes,
        table.measure("max_response_header_bytes", response_header_bytes),
    );
    override_with(
        &mut http.response_limits.max_headers,
        table.measure("max_response_headers", response_headers),
    );
    http
}

fn response_header_bytes(text: &str) -> Result<u32, Mistake> {
    /// hyper reads at least this much at once.
    const MIN: usize = 8 * 1024;
    /// hyper's buffer has room for some more.
    const MAX: usize = 256 * 1024;
    match units::size(text)? {
        bytes @ MIN..=MAX => Ok(u32::try_from(bytes).unwrap_or(u32::MAX)),
        _ => Err(Mistake::new(
            "no header section can be bounded by that",
            "expected \"8KiB\" to \"256KiB\"",
        )),
    }
}

fn response_headers(text: &str) -> Result<u16, Mistake> {
    /// Each takes room for some more bytes than it has.
    const MAX: usize = 1000;
    match units::some(text)? {
        count @ ..=MAX => Ok(u16::try_from(count).unwrap_or(u16::MAX)),
        _ => Err(Mistake::new(
            "no answer may have so many headers",
            format!("expected at most {MAX}"),
        )),
    }
}

/// A duration, zero included, or `""` for that of the gate.
fn hold_timeout(text: &str) -> Result<Option<Duration>, Mistake> {
    match text {
        "" => Ok(None),
        text => units::duration(text).map(Some),
    }
}

fn breaker(table: &mut Table<'_>) -> breaker::Settings {
    let mut breaker = breaker::Settings::default();
    override_with(
        &mut breaker.failures,
        table.measure("failures", units::small_count),
    );
    override_with(&mut breaker.cooldown, table.measure("cooldown", cooldown));
    breaker
}

fn cooldown(text: &str) -> Result<Duration, Mistake> {
    /// Far beyond what makes sense.
    const MAX: Duration = Duration::from_hours(24);
    let cooldown = units::some_time(text)?;
    if cooldown > MAX {
        let what = "nobody would be let through for too long";
        return Err(Mistake::new(what, "expected at most \"24h\""));
    }
    Ok(cooldown)
}

/// Checks that no connection which all clients share begins with the address of one.
fn shared_connection(table: &mut Table<'_>, upstream: Option<&Settings>, http: &HttpSettings) {
    let is_for_one = upstream.is_some_and(|upstream| !upstream.may_share_connections());
    if is_for_one && http.version == Protocol::Http2 {
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
        codes.extend(status.zip(value.measure(close_code)));
    }
    CloseCodes::new(codes)
}

fn close_code(text: &str) -> Result<CloseCode, Mistake> {
    let code = text.parse::<u16>().ok();
    let code = code.and_then(|code| CloseCode::try_from(code).ok());
    code.ok_or_else(|| {
        let what = format!("`{text}` is not a close code that may be sent");
        Mistake::new(what, "expected 1000 to 1003, 1007 to 1014 or 3000 to 4999")
    })
}

/// The host in lower case, without a port; or `*.` and a name.
fn host(text: &str) -> Result<String, Mistake> {
    let host = text.to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        // `*.` needs a name behind it; a route without a host has an empty one.
        None if name.is_empty() => host.is_empty(),
        None => name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if is_host {
        return Ok(host);
    }
    let mistake = Mistake::new(
        format!("`{text}` is not the name of a host"),
        "expected a name or an IP address, without scheme, port and path",
    );
    Err(if host.contains('*') {
        mistake.help("\"*.example.com\" is every host below example.com, \"\" is every host")
    } else {
        mistake
    })
}

/// A prefix without a slash at its end, since it ends on a segment boundary anyway; or `=`
/// and an exact path, as it is. Both normalized.
fn path(text: &str) -> Result<String, Mistake> {
    let (sign, path) = match text.strip_prefix('=') {
        Some(exact) => ("=", exact.trim_start()),
        None => ("", text),
    };
    let mistake = || {
        let what = format!("`{text}` is not the path of a request");
        let expected = "expected a path such as \"/\" or \"/chat\", or exactly one: \"=/chat\"";
        Mistake::new(what, expected)
    };
    let is_path = path.starts_with('/')
        && !path.contains('?')
        && path.parse::<Uri>().is_ok_and(|uri| uri.path() == path);
    if !is_path {
        return Err(mistake());
    }
    let path = route::path::of_route(path).map_err(|problem| mistake().help(problem))?;
    Ok(match path.trim_end_matches('/') {
        _ if sign == "=" => format!("={path}"),
        "" => "/".to_owned(),
        prefix => prefix.to_owned(),
    })
}

fn subprotocol(text: &str) -> Result<String, Mistake> {
    // RFC 6455 §4.1 point 10: a token of RFC 9110 §5.6.2, as the name of a header is.
    let is_token = http::HeaderName::from_bytes(text.as_bytes()).is_ok();
    if !is_token {
        let what = format!("`{text}` is not the name of a subprotocol");
        return Err(Mistake::new(
            what,
            "expected a name without spaces and separators",
        ));
    }
    Ok(text.to_owned())
}

fn is_empty_list(value: Value<'_>) -> bool {
    value
        .content()
        .as_array()
        .is_some_and(|list| list.is_empty())
}

fn list<T>(value: Value<'_>, parse: fn(&str) -> Result<T, Mistake>) -> Option<Vec<T>> {
    Some(
        value
            .list()?
            .filter_map(|element| element.parse(parse))
            .collect(),
    )
}
