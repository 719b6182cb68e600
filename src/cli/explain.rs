//! `readygate explain`: the treatment of a request, shown without sending one.
//!
//! # Invariants
//!
//! * Every setting of the route and every limit that applies to the request is shown: those
//!   without a line of their own stand under `also`.

mod request;
mod settings;

use std::{fmt, path::PathBuf, sync::Arc};

use clap::Args;
use hyper::header;

use self::{request::ExplainedRequest, settings::Settings};
use super::{Exit, configuration, print, report};
use crate::{
    config_file::{Concerns, Config, address},
    local_reply::LocalReply,
    route::{Accept, Route},
};

const EXAMPLES: &str = "\
Examples:
  readygate explain ws://chat.example/room/7
      Which route does a WebSocket take, when is it answered, and what does it wait for?

  readygate explain /api --header 'Host: chat.example'
      The same for a path, with the host as a header.

  readygate explain wss://chat.example/ -H 'Origin: https://a.example' \\
      -H 'Sec-WebSocket-Protocol: v2, v1'
      May pages of this origin connect, and which subprotocol do they get?

Exit status:
  0   a route takes the request
  1   the request is refused
  2   the command line is wrong
  78  the configuration is wrong";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Explain {
    /// URL that a client requests: with ws, wss, http or https, or only /PATH
    // Parsed later: clap would show the value in its error, with any password in it.
    #[arg(value_name = "URL")]
    url: String,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(header::HeaderName, header::HeaderValue)>,
    /// Read the configuration from FILE [default: ./proxy.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "upstream")]
    config: Option<PathBuf>,
    /// As if everything went to URL, without a file
    #[arg(short, long, value_name = "URL", value_parser = address::upstream)]
    upstream: Option<address::Upstream>,
}

/// Parses a header field as it is on the wire.
fn header(text: &str) -> Result<(header::HeaderName, header::HeaderValue), String> {
    let expected = || format!("`{text}` is not a header: expected \"Name: value\"");
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name = name.trim().parse().map_err(|_| expected())?;
    let value = value.trim().parse().map_err(|_| expected())?;
    Ok((name, value))
}

impl Explain {
    pub(super) fn execute(self) -> Exit {
        let url = match request::url(&self.url) {
            Ok(url) => url,
            Err(mistake) => {
                report(&mistake.to_string());
                return Exit::Usage;
            }
        };
        let config = match configuration(self.config.as_deref(), self.upstream) {
            Ok(config) => config,
            Err(error) => return error.report(),
        };
        let request = ExplainedRequest::new(url, self.headers.into_iter().collect());
        // A path alone is ambiguous if any route is for a certain host.
        let is_for_any_host = config.routes.iter().all(|route| route.host.is_empty());
        if request.host().is_none() && !is_for_any_host {
            report(&format!(
                "which route it is depends on the host: write ws://HOST{}, or add --header 'Host: HOST'",
                request.path()
            ));
            return Exit::Usage;
        }
        let mut text = ExplainLines::default();
        text.line("request", &request);
        let is_taken = match request.route(&config) {
            Ok(route) => explain(&request, route, &config, &mut text),
            Err(refusal) => {
                text.refused(refusal);
                false
            }
        };
        print(&text.0);
        if is_taken {
            Exit::Success
        } else {
            Exit::Failure
        }
    }
}

/// Describes what `route` does with `request`; returns false if it rejects the request.
fn explain(
    request: &ExplainedRequest,
    route: &Arc<Route>,
    config: &Config,
    text: &mut ExplainLines,
) -> bool {
    let all: Vec<_> = config.routes.iter().collect();
    let index = all.iter().position(|it| Arc::ptr_eq(it, route));
    let index = index.unwrap_or_default();
    let settings = Settings::new(config, index);
    text.line(
        "route",
        format_args!("{} of {}: {}", index + 1, all.len(), scope(route)),
    );
    text.line("upstream", settings.of("upstream"));
    let is_websocket = request.may_be_websocket();
    let is_allowed = !is_websocket || explain_websocket(request, route, &settings, text);
    if request.may_be_plain() {
        explain_plain(&settings, text);
    }
    if is_allowed || request.may_be_plain() {
        explain_connections(&settings, text);
    }
    explain_limits(&settings, text);
    is_allowed
}

fn explain_websocket(
    request: &ExplainedRequest,
    route: &Route,
    settings: &Settings,
    text: &mut ExplainLines,
) -> bool {
    text.section("A WebSocket");
    explain_gate(route, settings, text);
    let origins = match settings.of("origins").as_str() {
        "[]" => "all".to_owned(),
        some => some.to_owned(),
    };
    text.line("origins", origins);
    let early_answer = match request.early_answer(route) {
        Ok(answer) => answer,
        Err(refusal) => {
            text.refused(refusal);
            return false;
        }
    };
    explain_answer(&early_answer, route, settings, text);
    explain_waiting(settings, text);
    text.line(
        "tunnel",
        format_args!(
            "closed after silence: {}; a ping after silence: {}; greatest age: {}",
            settings.of("tunnel.idle_timeout"),
            settings.of_or("tunnel.ping_interval", "none"),
            settings.of("tunnel.max_session_age"),
        ),
    );
    text.line(
        "closing",
        format_args!(
            "within {}; where the upstream refuses with {}or else: 1014",
            settings.of("tunnel.close_timeout"),
            settings.close_codes(),
        ),
    );
    text.also(&settings.rest_of_route(Concerns::WebSockets));
    true
}

/// Describes the conditions until which messages are held.
fn explain_gate(route: &Route, settings: &Settings, text: &mut ExplainLines) {
    let gate = |key: &str| settings.of(&format!("gate.{key}"));
    let ready = match gate("ready") {
        ready if route.session.gate.opens_on_upgrade() => {
            format!("{ready}: nothing is held once the upstream has answered with 101")
        }
        ready => ready,
    };
    text.line(
        "gate",
        format_args!(
            "opens at {ready}; after {} without: {}",
            gate("timeout"),
            gate("on_timeout"),
        ),
    );
    if !route.session.gate.services_ready.is_empty() {
        text.line(
            "",
            format_args!("before that, services_ready at {}", gate("services_ready")),
        );
    }
}

/// Describes the response to the client, and when it comes.
fn explain_answer(early: &str, route: &Route, settings: &Settings, text: &mut ExplainLines) {
    let timeout = settings.of("gate.timeout");
    match route.accept {
        Accept::Early => text.line("answer", early),
        Accept::AfterUpstream => text.line(
            "answer",
            format_args!("that of the upstream, or 504 after {timeout}"),
        ),
    }
    let breaker = |key: &str| settings.of(&format!("breaker.{key}"));
    let (failures, cooldown) = (breaker("failures"), breaker("cooldown"));
    let refusing = match failures.as_str() {
        "0" => "never: there is no 503, however many have failed".to_owned(),
        _ => format!("503 for {cooldown}, once so many have failed and none was ready: {failures}"),
    };
    text.line("breaker", refusing);
}

/// Describes the time until the upstream is ready.
fn explain_waiting(settings: &Settings, text: &mut ExplainLines) {
    let retry = |key: &str| settings.of(&format!("connect.retry.{key}"));
    text.line(
        "connecting",
        format_args!(
            "{} for an attempt, {} for the handshake; again after {}, later {}, until the gate's \
             timeout",
            settings.of("connect.timeout"),
            settings.of("connect.handshake_timeout"),
            retry("initial"),
            retry("max"),
        ),
    );
    for (index, rule) in (0..).map_while(|index| Some((index, settings.rule(index)?))) {
        text.line(if index == 0 { "messages" } else { "" }, rule);
    }
    text.line(
        "hold",
        format_args!(
            "{} messages or {}, then {}; delivered by {}",
            settings.of("hold.max_messages"),
            settings.of("hold.max_bytes"),
            settings.of("hold.overflow"),
            settings.of("hold.order"),
        ),
    );
    text.line(
        "",
        format_args!(
            "greatest age: {}; when the client leaves: {}",
            settings.of("hold.max_age"),
            settings.of("hold.on_client_gone"),
        ),
    );
    text.line(
        "",
        format_args!(
            "the upstream of one that has left is closed after {} of silence, {} at most",
            settings.of("hold.linger"),
            settings.of("hold.max_linger"),
        ),
    );
}

fn explain_plain(settings: &Settings, text: &mut ExplainLines) {
    text.section("A plain request");
    let http = |key: &str| settings.of(&format!("http.{key}"));
    text.line("upstream", format_args!("HTTP/{}", http("version")));
    text.line(
        "hold",
        format_args!(
            "{} while the upstream does not listen, {} requests at once",
            settings.of_or("http.hold_timeout", &settings.of("gate.timeout")),
            http("max_held_requests"),
        ),
    );
    text.line(
        "answer",
        format_args!("begins within: {}", http("response_timeout")),
    );
    text.line(
        "body",
        format_args!(
            "largest: {}; longest pause: {}",
            http("max_body_bytes"),
            http("body_timeout"),
        ),
    );
    text.also(&settings.rest_of_route(Concerns::PlainRequests));
}

/// Describes settings that apply to both kinds of requests.
fn explain_connections(settings: &Settings, text: &mut ExplainLines) {
    text.section("To the upstream");
    let http = |key: &str| settings.of(&format!("http.{key}"));
    text.line(
        "headers",
        format_args!("whose names have an underscore: {}", http("underscores")),
    );
    text.line(
        "values",
        format_args!("that are not ASCII: {}", http("non_ascii")),
    );
    text.also(&settings.rest_of_route(Concerns::All));
}

fn explain_limits(settings: &Settings, text: &mut ExplainLines) {
    text.section("Limits of the process");
    let limit = |key: &str| settings.value(&format!("limits.{key}"));
    text.line(
        "connections",
        format_args!(
            "{}, and {} from one address",
            limit("max_connections"),
            limit("max_connections_per_address"),
        ),
    );
    text.line(
        "new sessions",
        format_args!(
            "in a second: {}, and {} from one address",
            limit("session_rate"),
            limit("session_rate_per_address"),
        ),
    );
    text.line(
        "held",
        format_args!("{} by all sessions", limit("max_held_bytes")),
    );
    text.line(
        "memory",
        format_args!("{} in use", limit("max_memory_bytes")),
    );
    text.line(
        "header",
        format_args!(
            "{}, {} lines, within {}",
            limit("max_header_bytes"),
            limit("max_headers"),
            limit("header_timeout"),
        ),
    );
    text.line(
        "idle",
        format_args!(
            "closed {} after its last request",
            limit("keep_alive_timeout")
        ),
    );
    text.line(
        "path",
        format_args!("{} with the query", limit("max_uri_bytes")),
    );
    text.line(
        "drain",
        format_args!(
            "after {}, within {}; the ends of tunnels are spread over {}",
            settings.value("drain.delay"),
            settings.value("drain.grace"),
            settings.value("drain.spread"),
        ),
    );
    text.also(&settings.rest_of("limits"));
    text.also(&settings.rest_of("drain"));
}

/// Describes the requests that a route is for.
fn scope(route: &Route) -> String {
    let host = match route.host.strip_prefix("*.") {
        Some(name) => format!("every host below {name}"),
        None if route.host.is_empty() => "every host".to_owned(),
        None => format!("host {}", route.host),
    };
    let path = match route.path.strip_prefix('=') {
        Some(exact) => format!("{exact} alone"),
        None if route.path == "/" => "every path".to_owned(),
        None => format!("{} and all below it", route.path),
    };
    format!("{host}, {path}")
}

/// The output, one setting a line.
#[derive(Default)]
struct ExplainLines(String);

impl ExplainLines {
    fn line(&mut self, name: &str, value: impl fmt::Display) {
        // Everything behind the first heading is indented.
        let indent = if self.0.contains("\n\n") { "  " } else { "" };
        self.0.extend([format!("{indent}{name:<13}{value}\n")]);
    }

    /// Appends settings in the form of the configuration file.
    fn also(&mut self, settings: &[String]) {
        for (index, setting) in settings.iter().enumerate() {
            self.line(if index == 0 { "also" } else { "" }, setting);
        }
    }

    fn section(&mut self, name: &str) {
        self.0.extend(["\n", name, "\n"]);
    }

    fn refused(&mut self, refusal: LocalReply) {
        self.line("refused", format_args!("{}: {refusal}", refusal.status()));
    }
}
