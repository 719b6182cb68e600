//! `readygate explain`: what becomes of a request, without sending one.

use std::{fmt, path::PathBuf, sync::Arc};

use clap::Args;
use hyper::{HeaderMap, Uri, header, http::uri::Authority};

use super::{Exit, configuration, print};
use crate::{
    config::{Config, address},
    http::response::Refusal,
    route::{Accept, Route},
    websocket::handshake::list,
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
    /// What a client asks for: a URL with ws, wss, http or https, or only /PATH
    #[arg(value_name = "URL")]
    url: Uri,
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

/// A header as it is on the wire.
fn header(text: &str) -> Result<(header::HeaderName, header::HeaderValue), String> {
    let expected = || format!("`{text}` is no header: expected \"Name: value\"");
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name = name.trim().parse().map_err(|_| expected())?;
    let value = value.trim().parse().map_err(|_| expected())?;
    Ok((name, value))
}

impl Explain {
    pub(super) fn execute(self) -> Exit {
        let config = match configuration(self.config.as_deref(), self.upstream) {
            Ok(config) => config,
            Err(error) => return error.report(),
        };
        let asked = Asked::new(&self.url, self.headers.into_iter().collect());
        let mut text = Lines::default();
        text.line("request", &asked);
        let found = config.routes.find(&asked.host, asked.path());
        let is_taken = match found {
            Ok(route) => asked.explain(route, &config, &mut text),
            Err(unrouted) => {
                text.refused(unrouted.into());
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

/// A request that nobody has sent.
struct Asked {
    url: Uri,
    host: String,
    headers: HeaderMap,
}

impl fmt::Display for Asked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (self.may_be_websocket(), self.may_be_plain()) {
            (true, false) => "a WebSocket",
            (false, true) => "a plain request",
            _ => "a WebSocket or a plain request",
        };
        let (host, path) = (&self.host, self.path());
        write!(formatter, "{kind} for {path} on host {host}")
    }
}

impl Asked {
    fn new(url: &Uri, headers: HeaderMap) -> Self {
        let named = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = named.or_else(|| url.authority().map(Authority::as_str));
        Self {
            url: url.clone(),
            host: host.unwrap_or("localhost").to_owned(),
            headers,
        }
    }

    fn path(&self) -> &str {
        self.url.path()
    }

    fn may_be_websocket(&self) -> bool {
        self.has_scheme(&["ws", "wss"]) || self.asks_to_upgrade() || self.url.scheme().is_none()
    }

    fn may_be_plain(&self) -> bool {
        !self.has_scheme(&["ws", "wss"]) && !self.asks_to_upgrade()
    }

    fn has_scheme(&self, schemes: &[&str]) -> bool {
        let scheme = self.url.scheme_str();
        scheme.is_some_and(|scheme| schemes.contains(&scheme.to_ascii_lowercase().as_str()))
    }

    fn asks_to_upgrade(&self) -> bool {
        let mut protocols = list(self.headers.get_all(header::UPGRADE));
        protocols.any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
    }

    /// Says what `route` does with it; `false`: it refuses it.
    fn explain(&self, route: &Arc<Route>, config: &Config, text: &mut Lines) -> bool {
        let all: Vec<_> = config.routes.iter().collect();
        let index = all.iter().position(|it| Arc::ptr_eq(it, route));
        let index = index.unwrap_or_default();
        let settings = Settings { config, index };
        text.line(
            "route",
            format_args!("{} of {}: {}", index + 1, all.len(), scope(route)),
        );
        text.line("upstream", settings.of("upstream"));
        let is_allowed = !self.may_be_websocket() || self.explain_websocket(route, &settings, text);
        if self.may_be_plain() {
            explain_plain(&settings, text);
        }
        explain_limits(&settings, text);
        is_allowed
    }

    fn explain_websocket(&self, route: &Route, settings: &Settings<'_>, text: &mut Lines) -> bool {
        text.section("A WebSocket");
        let origin = self.headers.get(header::ORIGIN);
        let is_allowed = route.allows_origin(origin.map(header::HeaderValue::as_bytes));
        if !is_allowed {
            text.line("origins", settings.of("origins"));
            text.refused(Refusal::OriginNotAllowed);
            return false;
        }
        let gate = |key: &str| settings.of(&format!("gate.{key}"));
        match route.accept {
            Accept::Early => {
                let offers = list(self.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL));
                let subprotocol = match route.choose_subprotocol(offers) {
                    Some(subprotocol) => format!("with the subprotocol {subprotocol}"),
                    None => "without a subprotocol".to_owned(),
                };
                text.line("answer", format_args!("101 at once, {subprotocol}"));
            }
            Accept::AfterUpstream => {
                let timeout = gate("timeout");
                text.line(
                    "answer",
                    format_args!("that of the upstream, or 504 after {timeout}"),
                );
            }
        }
        text.line(
            "connecting",
            format_args!(
                "{} for an attempt, {} for the handshake; again until the gate's timeout",
                settings.of("connect.timeout"),
                settings.of("connect.handshake_timeout"),
            ),
        );
        text.line(
            "gate",
            format_args!(
                "opens at {}; after {} without: {}",
                gate("ready"),
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
        true
    }
}

fn explain_plain(settings: &Settings<'_>, text: &mut Lines) {
    text.section("A plain request");
    let http = |key: &str| settings.of(&format!("http.{key}"));
    text.line("upstream", format_args!("HTTP/{}", http("version")));
    text.line(
        "hold",
        format_args!(
            "{} while the upstream does not listen, {} requests at once",
            http("hold_timeout"),
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
}

fn explain_limits(settings: &Settings<'_>, text: &mut Lines) {
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
        "header",
        format_args!(
            "{}, {} lines, within {}",
            limit("max_header_bytes"),
            limit("max_headers"),
            limit("header_timeout"),
        ),
    );
    text.line(
        "path",
        format_args!("{} with the query", limit("max_uri_bytes")),
    );
}

/// Which requests a route is for.
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

/// The settings that are in effect for one route.
struct Settings<'a> {
    config: &'a Config,
    index: usize,
}

impl Settings<'_> {
    fn of(&self, key: &str) -> String {
        self.value(&format!("route[{}].{key}", self.index))
    }

    /// Words and numbers as they are, and what is `""` as nothing.
    fn value(&self, key: &str) -> String {
        let written = self.config.effective.written(key).unwrap_or_default();
        let bare = written
            .strip_prefix('"')
            .and_then(|it| it.strip_suffix('"'));
        match bare {
            Some("") => "no limit".to_owned(),
            Some(bare) if !bare.contains('"') => bare.to_owned(),
            _ => written,
        }
    }

    /// The rule for some messages.
    fn rule(&self, index: usize) -> Option<String> {
        let key = |key: &str| format!("route[{}].message[{index}].{key}", self.index);
        let matching = self.config.effective.written(&key("match"))?;
        let (priority, release) = (self.value(&key("priority")), self.value(&key("release")));
        Some(format!("{matching}: {priority}, held until {release}"))
    }
}

/// What is said, one thing a line.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, value: impl fmt::Display) {
        let indent = if self.0.contains("\n\n") { "  " } else { "" };
        self.0.extend([format!("{indent}{name:<13}{value}\n")]);
    }

    fn section(&mut self, name: &str) {
        self.0.extend(["\n", name, "\n"]);
    }

    fn refused(&mut self, refusal: Refusal) {
        self.line("refused", format_args!("{}: {refusal}", refusal.status()));
    }
}
