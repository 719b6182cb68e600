//! Routes: host and path to upstream and settings.
//!
//! Of the routes whose host and path match, a request takes the most specific one:
//!
//! | | first | then | last |
//! |---|---|---|---|
//! | by host | `chat.example` | `*.chat.example`, the longest one | `""`: any |
//! | then by path | `=/chat`: exact | `/chat`: a prefix, the longest one | |
//!
//! A host that no route has is told apart from a path that none has. In the first case the request
//! is not meant for this server at all, as when a page points its own name at the proxy (DNS
//! rebinding). To have such requests refused, name the host in every route.
//!
//! Paths are read as described in [`path`].

pub mod origin;
pub mod path;

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use self::{
    origin::OriginPattern,
    path::{Passes, Path},
};
use crate::{
    config::BreakerSettings,
    session,
    upstream::{self, ResponseLimits, protocol::Protocol},
    websocket::subprotocol::is_token_like,
};

/// Treatment of client headers whose names contain an underscore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    /// Remove them.
    Drop,
    /// Forward them.
    Pass,
}

impl Underscores {
    /// Returns whether a header with this name is forwarded.
    #[must_use]
    pub fn allow(self, name: &str) -> bool {
        self == Self::Pass || !name.contains('_')
    }
}

/// Treatment of client header values with bytes outside ASCII (`obs-text`, RFC 9110 §5.5), which
/// have no agreed meaning; many applications send them nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonAscii {
    /// Forward them, byte for byte.
    Pass,
    /// Refuse the request.
    Refuse,
}

impl NonAscii {
    /// Returns whether a request with these header values is accepted.
    #[must_use]
    pub fn allows<'a>(self, values: impl IntoIterator<Item = &'a HeaderValue>) -> bool {
        self == Self::Pass || values.into_iter().all(|value| value.as_bytes().is_ascii())
    }
}

/// Settings for the plain HTTP requests of a route.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// HTTP version spoken to the upstream; default HTTP/1.1. The opening handshake of a session
    /// uses HTTP/1.1 whatever it is.
    pub version: Protocol,
    /// Longest time for which a request is held while the upstream does not listen yet; default
    /// `None`: the gate's timeout, as requests and sessions wait for the same start.
    pub hold_timeout: Option<Duration>,
    /// Number of requests that may be held at once; default 500.
    pub max_held_requests: usize,
    /// Largest request body in bytes; default no limit.
    pub max_body_bytes: Option<u64>,
    /// Treatment of names with an underscore, also in opening handshakes; default: removed.
    pub underscores: Underscores,
    /// Treatment of values with bytes outside ASCII, also in opening handshakes; default:
    /// forwarded.
    pub non_ascii: NonAscii,
    /// Idle connections to the upstream that each worker keeps; default 128, 0: none.
    pub max_idle_connections: usize,
    /// Longest time for which a connection is kept idle; default 4 s, because common servers close
    /// theirs after as little as 5 s.
    pub idle_timeout: Duration,
    /// Longest time from a request to the head of its response; default 5 min, `None`: unlimited.
    /// The rest of the response is not bounded.
    pub response_timeout: Option<Duration>,
    /// Longest pause in a request's body before the upstream responds; default 60 s, `None`:
    /// unlimited.
    pub body_timeout: Option<Duration>,
    /// Limits on the header section of a response, also of one to an opening handshake; default 64
    /// KiB and 100 lines.
    pub response_limits: ResponseLimits,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            version: Protocol::Http1,
            hold_timeout: None,
            max_held_requests: 500,
            max_body_bytes: None,
            underscores: Underscores::Drop,
            non_ascii: NonAscii::Pass,
            max_idle_connections: 128,
            idle_timeout: Duration::from_secs(4),
            response_timeout: Some(Duration::from_mins(5)),
            body_timeout: Some(Duration::from_mins(1)),
            response_limits: ResponseLimits::default(),
        }
    }
}

/// Time at which an opening handshake is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// At once, by the proxy itself.
    #[default]
    Early,
    /// After the upstream's answer, which is forwarded.
    AfterUpstream,
}

/// Subprotocol to announce to a client before the upstream has chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol<'a> {
    /// No subprotocol: the client offers none, or none that the route names.
    None,
    /// This one of the client's offers.
    Named(&'a str),
    /// Unknown before the upstream answers: every offer looks like a token, and only the upstream
    /// knows which one it accepts, if any.
    Upstreams,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Host that the route applies to, in lower case; `*.` and a name for every host below that
    /// name; empty: any.
    pub host: String,
    /// Path prefix that the route applies to, on a segment boundary, `/` being every path; or `=`
    /// and a path, for that path alone. Normalized by [`path::of_route`].
    pub path: String,
    /// Characters allowed in a request's path although servers interpret them differently; default:
    /// none.
    pub passes: Passes,
    /// Subprotocols that the upstream speaks; empty: one it has selected before, or the client's
    /// first offer.
    pub subprotocols: Vec<String>,
    /// Origins that may connect; empty: any.
    pub origins: Vec<OriginPattern>,
    /// Time at which an opening handshake is answered.
    pub accept: Accept,
    /// Upstream of the route.
    pub upstream: upstream::Settings,
    /// Settings for WebSocket sessions.
    pub session: session::Settings,
    /// Settings for plain HTTP requests.
    pub http: HttpSettings,
    /// Settings of the circuit breaker, which refuses new sessions after failed ones.
    pub breaker: BreakerSettings,
}

impl Route {
    /// Name in metrics: host and path as configured.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}{}", self.host, self.path)
    }

    /// Longest time for which a plain request is held while the upstream does not listen yet.
    #[must_use]
    pub fn hold_timeout(&self) -> Duration {
        let of_its_own = self.http.hold_timeout;
        of_its_own.unwrap_or(self.session.gate.timeout)
    }

    /// Returns whether a page of `origin` may open a WebSocket.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&[u8]>) -> bool {
        let is_allowed = |origin| self.origins.iter().any(|allowed| allowed.allows(origin));
        self.origins.is_empty() || origin.is_some_and(is_allowed)
    }

    /// Selects the subprotocol for a client with these `offers` before the upstream has: the first
    /// one of the route that is offered or, when the route names none, the first offer that does
    /// not look like a token.
    pub fn choose_subprotocol<'a>(
        &self,
        offers: impl IntoIterator<Item = &'a str>,
    ) -> Subprotocol<'a> {
        let mut offers = offers.into_iter().peekable();
        if self.subprotocols.is_empty() {
            if offers.peek().is_none() {
                return Subprotocol::None;
            }
            let named = offers.find(|offer| !is_token_like(offer));
            return named.map_or(Subprotocol::Upstreams, Subprotocol::Named);
        }
        let offers: Vec<_> = offers.collect();
        // The route's order of preference counts, not the client's.
        let mut known = self.subprotocols.iter();
        let chosen = known.find_map(|known| offers.iter().copied().find(|offer| offer == known));
        chosen.map_or(Subprotocol::None, Subprotocol::Named)
    }

    /// Creates a route with default settings that sends everything to `upstream`.
    #[must_use]
    pub fn to(upstream: upstream::Address) -> Self {
        Self {
            host: String::new(),
            path: "/".to_owned(),
            passes: Passes::default(),
            subprotocols: Vec::new(),
            origins: Vec::new(),
            accept: Accept::default(),
            upstream: upstream::Settings::new(upstream),
            session: session::Settings::default(),
            http: HttpSettings::default(),
            breaker: BreakerSettings::default(),
        }
    }
}

/// All routes of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Arc<Route>>);

impl Routes {
    /// Creates a set of routes, in any order.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes.into_iter().map(Arc::new).collect())
    }

    /// Finds the route for a request; see the [module](self).
    ///
    /// `host` is the value of a `Host` header: its case, port and trailing dot do not matter.
    /// `path` is as the client sent it, without the query.
    ///
    /// # Errors
    ///
    /// No route matches, or the match depends on how the path is read.
    pub fn find(&self, host: &str, path: &str) -> Result<&Arc<Route>, Unrouted> {
        let path = Path::read(path).map_err(Unrouted::IllegalPath)?;
        let host = without_port(host);
        // A trailing dot marks an absolute name, which is the same host.
        let host = host.strip_suffix('.').unwrap_or(host);
        let found = self.best(host, &path.strict);
        let passes = found.map_or_else(Passes::default, |route| route.passes);
        // Only the route that was found can allow what the path needs.
        if !path.needs.is_within(passes) {
            return Err(Unrouted::IllegalPath(path::BACKSLASH));
        }
        // Both readings must lead to the same route, or a request could slip past the settings of
        // one.
        if let Some(lenient) = &path.lenient
            && self.best(host, lenient).map(Arc::as_ptr) != found.map(Arc::as_ptr)
        {
            return Err(Unrouted::AmbiguousPath);
        }
        found.ok_or_else(|| {
            if self
                .iter()
                .any(|route| host_rank(&route.host, host).is_some())
            {
                Unrouted::Path
            } else {
                Unrouted::Host
            }
        })
    }

    fn best(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let ranked = self.0.iter().filter_map(|route| {
            let rank = (host_rank(&route.host, host)?, path_rank(&route.path, path)?);
            Some((rank, route))
        });
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, route)| route)
    }

    /// Iterates over the routes in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter()
    }
}

/// Reason why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrouted {
    /// The path is refused whatever the routes are.
    IllegalPath(&'static str),
    /// The path has two readings that lead to different routes.
    AmbiguousPath,
    /// No route has this host.
    Host,
    /// A route has this host, but none this path.
    Path,
}

/// Specificity of `pattern`, a route's host, for `host`: higher is better; `None`: it does not
/// match.
fn host_rank(pattern: &str, host: &str) -> Option<usize> {
    if pattern.is_empty() {
        return Some(0);
    }
    let Some(below) = pattern.strip_prefix('*') else {
        return pattern.eq_ignore_ascii_case(host).then_some(usize::MAX);
    };
    // At least one label stands below the name: `*.a.example` is not `a.example`.
    let labels = host.len().checked_sub(below.len()).filter(|it| *it > 0)?;
    // A cut inside a character cannot be a match.
    let ending = host.get(labels..)?;
    ending.eq_ignore_ascii_case(below).then_some(below.len())
}

/// Specificity of `pattern`, a route's path, for `path`, like [`host_rank`].
fn path_rank(pattern: &str, path: &str) -> Option<usize> {
    match pattern.strip_prefix('=') {
        Some(exact) => (exact == path).then_some(usize::MAX),
        None => is_prefix(pattern, path).then(|| segments(pattern).len()),
    }
}

/// Strips `:port`; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Strips a prefix's trailing slash, so that `/ws/` and `/ws` are equal and `/` is empty.
fn segments(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Returns whether `prefix` is all of `path` or ends at a segment boundary of it.
fn is_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(segments(prefix))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || segments(prefix).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(hosts_and_paths: &[(&str, &str)]) -> Routes {
        let address = upstream::Address::Unix("/unused".into());
        Routes::new(
            hosts_and_paths
                .iter()
                .map(|&(host, path)| Route {
                    host: host.to_owned(),
                    path: path.to_owned(),
                    ..Route::to(address.clone())
                })
                .collect(),
        )
    }

    fn found<'a>(routes: &'a Routes, host: &str, path: &str) -> Option<(&'a str, &'a str)> {
        let route = routes.find(host, path).ok()?;
        Some((&route.host, &route.path))
    }

    #[test]
    fn a_prefix_matches_on_a_segment_boundary_only() {
        let routes = routes(&[("", "/ws")]);

        assert_eq!(found(&routes, "any", "/ws"), Some(("", "/ws")));
        assert_eq!(found(&routes, "any", "/ws/"), Some(("", "/ws")));
        assert_eq!(found(&routes, "any", "/ws/x"), Some(("", "/ws")));
        assert_eq!(found(&routes, "any", "/wsx"), None);
        assert_eq!(found(&routes, "any", "/"), None);
    }

    #[test]
    fn a_trailing_slash_of_the_prefix_makes_no_difference() {
        let routes = routes(&[("", "/ws/")]);

        assert_eq!(found(&routes, "any", "/ws"), Some(("", "/ws/")));
        assert_eq!(found(&routes, "any", "/wsx"), None);
    }

    #[test]
    fn the_longest_path_wins() {
        let routes = routes(&[("", "/"), ("", "/a/b"), ("", "/a")]);

        assert_eq!(found(&routes, "any", "/a/b/c"), Some(("", "/a/b")));
        assert_eq!(found(&routes, "any", "/a/c"), Some(("", "/a")));
        assert_eq!(found(&routes, "any", "/c"), Some(("", "/")));
        assert_eq!(found(&routes, "any", "*"), Some(("", "/")));
    }

    #[test]
    fn a_route_that_names_the_host_beats_a_longer_path() {
        let routes = routes(&[("", "/a/b"), ("chat.example", "/")]);

        assert_eq!(
            found(&routes, "chat.example", "/a/b"),
            Some(("chat.example", "/"))
        );
        assert_eq!(found(&routes, "other.example", "/a/b"), Some(("", "/a/b")));
    }

    #[test]
    fn case_and_port_of_the_host_do_not_matter() {
        let routes = routes(&[("chat.example", "/"), ("[::1]", "/")]);

        assert_eq!(
            found(&routes, "Chat.Example:8080", "/"),
            Some(("chat.example", "/"))
        );
        assert_eq!(found(&routes, "[::1]:80", "/"), Some(("[::1]", "/")));
        assert_eq!(found(&routes, "[::1]", "/"), Some(("[::1]", "/")));
        assert_eq!(found(&routes, "chat.example.evil", "/"), None);
    }

    #[test]
    fn an_exact_path_matches_nothing_below_and_beats_a_prefix() {
        let routes = routes(&[("", "/a"), ("", "=/a"), ("", "=/b")]);

        assert_eq!(found(&routes, "any", "/a"), Some(("", "=/a")));
        assert_eq!(found(&routes, "any", "/a/"), Some(("", "/a")));
        assert_eq!(found(&routes, "any", "/b"), Some(("", "=/b")));
        assert_eq!(found(&routes, "any", "/b/c"), None);
    }

    #[test]
    fn a_wildcard_is_every_host_below_and_the_longest_one_wins() {
        let routes = routes(&[
            ("", "/"),
            ("*.example", "/"),
            ("*.chat.example", "/"),
            ("a.chat.example", "/"),
        ]);
        let host = |host: &str| found(&routes, host, "/").map(|(host, _)| host.to_owned());

        for (asked, expected) in [
            ("b.example", "*.example"),
            ("chat.example", "*.example"),
            ("x.Chat.Example:8080", "*.chat.example"),
            ("x.y.chat.example", "*.chat.example"),
            ("a.chat.example", "a.chat.example"),
            ("a.chat.example.", "a.chat.example"),
            ("example", ""),
            (".example", ""),
            ("évil", ""),
        ] {
            assert_eq!(host(asked).as_deref(), Some(expected), "{asked}");
        }
    }

    #[test]
    fn a_path_goes_by_what_it_means_and_not_by_how_it_is_encoded() {
        let routes = routes(&[("", "/"), ("", "/ws")]);

        assert_eq!(found(&routes, "any", "/%77s"), Some(("", "/ws")));
        assert_eq!(found(&routes, "any", "/%57s"), Some(("", "/")));
    }

    #[test]
    fn a_path_whose_readings_take_different_routes_is_refused() {
        let two = routes(&[("", "/"), ("", "/ws")]);
        let one = routes(&[("", "/ws")]);
        for path in ["//ws", "/ws;x", "/ws%2Fadmin", "/x%2f..", "/ws/..", "/;/ws"] {
            assert!(
                matches!(
                    two.find("any", path),
                    Err(Unrouted::AmbiguousPath | Unrouted::IllegalPath(_))
                ),
                "{path}"
            );
        }
        assert_eq!(one.find("any", "//ws").err(), Some(Unrouted::AmbiguousPath));

        for path in ["/ws//x", "/ws/x;y", "/ws/a%2Fb"] {
            assert_eq!(found(&two, "any", path), Some(("", "/ws")), "{path}");
        }
        for path in ["//x", "/x;y", "/a%2Fb"] {
            assert_eq!(found(&two, "any", path), Some(("", "/")), "{path}");
        }
    }

    #[test]
    fn a_backslash_passes_only_where_no_other_route_would_match() {
        let mut routes = routes(&[("", "/"), ("", "/ws"), ("", "/strict")]);
        for route in &mut routes.0[..2] {
            Arc::get_mut(route).unwrap().passes.encoded_backslash = true;
        }

        for (path, expected) in [("/ws/A%5Cb", "/ws"), ("/A%5cb", "/")] {
            assert_eq!(found(&routes, "any", path), Some(("", expected)), "{path}");
        }
        let illegal = Some(Unrouted::IllegalPath(path::BACKSLASH));
        for path in ["/ws/A\\b", "/strict/A%5Cb", "/ws/A%5C\\b"] {
            assert_eq!(routes.find("any", path).err(), illegal, "{path}");
        }
        for path in ["/ws%5Cb", "/a%5C..%5Cws"] {
            let error = routes.find("any", path).err().unwrap();
            let is_refused = matches!(error, Unrouted::AmbiguousPath | Unrouted::IllegalPath(_));
            assert!(is_refused, "{path}: {error:?}");
        }
    }

    #[test]
    fn a_host_without_a_route_is_told_from_a_path_without_one() {
        let routes = routes(&[("a.example", "/ws"), ("*.b.example", "/ws")]);
        let error = |host: &str, path: &str| routes.find(host, path).err();

        assert_eq!(error("a.example", "/"), Some(Unrouted::Path));
        assert_eq!(error("x.b.example", "/"), Some(Unrouted::Path));
        assert_eq!(error("rebound.example", "/ws"), Some(Unrouted::Host));
        assert_eq!(error("rebound.example", "/"), Some(Unrouted::Host));
    }
}
