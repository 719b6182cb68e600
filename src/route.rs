//! Routes: host and path to upstream and settings.
//!
//! Of the routes whose host and path match, a request takes the one that says the most:
//!
//! | | first | then | last |
//! |---|---|---|---|
//! | the host | `chat.example` | `*.chat.example`, the longest one | `""`: any |
//! | among those the path | `=/chat`: exactly | `/chat`: a prefix, the longest one | |
//!
//! A host that no route has is told apart from a path that none has: then the request is
//! not for this server at all, as when a page has its own name point to the proxy (DNS
//! rebinding). To have that refused, name the host in every route.
//!
//! How a path is read is in [`path`].

pub mod origin;
pub mod path;

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use self::{
    origin::Origin,
    path::{Passes, Path},
};
use crate::{
    session,
    upstream::{self, ResponseLimits, breaker, dial::Protocol},
    websocket::subprotocol::is_token_like,
};

/// What becomes of headers of a client whose names have an underscore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    /// They are removed.
    Drop,
    /// They pass.
    Pass,
}

impl Underscores {
    /// Whether a header with this name passes.
    #[must_use]
    pub fn allow(self, name: &str) -> bool {
        self == Self::Pass || !name.contains('_')
    }
}

/// What becomes of a client's header values with bytes outside ASCII (`obs-text`, RFC 9110 §5.5):
/// they have no agreed meaning, and many applications send them all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonAscii {
    /// They pass, byte for byte.
    Pass,
    /// The request is refused.
    Refuse,
}

impl NonAscii {
    /// Whether a request with these header values may pass.
    #[must_use]
    pub fn allows<'a>(self, values: impl IntoIterator<Item = &'a HeaderValue>) -> bool {
        self == Self::Pass || values.into_iter().all(|value| value.as_bytes().is_ascii())
    }
}

/// How plain HTTP requests of a route behave.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// What the upstream speaks with them; default HTTP/1.1. A session is opened with that in
    /// any case.
    pub version: Protocol,
    /// How long a request waits for an upstream that does not listen yet; default `None`: as
    /// long as a session waits for its gate, for both wait for the same start.
    pub hold_timeout: Option<Duration>,
    /// How many requests may wait at once; default 500.
    pub max_held_requests: usize,
    /// The largest body of a request in bytes; default no limit.
    pub max_body_bytes: Option<u64>,
    /// What becomes of names with an underscore, in opening handshakes, too; default: they
    /// are removed.
    pub underscores: Underscores,
    /// What becomes of values with bytes outside ASCII, in opening handshakes, too; default: they
    /// pass.
    pub non_ascii: NonAscii,
    /// How many connections to the upstream each worker keeps for further requests; default
    /// 128, 0: none.
    pub max_idle_connections: usize,
    /// How long a connection may wait for another request; default 4 s, for the applications
    /// that close the soonest do so after 5 s.
    pub idle_timeout: Duration,
    /// How long the upstream may take from a request to the head of its answer; default
    /// 5 min, `None`: for ever. An answer that has begun may take any time.
    pub response_timeout: Option<Duration>,
    /// How long a client may send nothing of a request's body before the upstream answers;
    /// default 60 s, `None`: for ever.
    pub body_timeout: Option<Duration>,
    /// How long the header section of an answer may be, of one to an opening handshake, too;
    /// default 64 KiB and 100 lines.
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

/// When a client that opens a WebSocket gets its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// At once: the answer is the proxy's own.
    #[default]
    Early,
    /// When the upstream has given its answer, which is passed on.
    AfterUpstream,
}

/// The subprotocol that a client is told before the upstream has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol<'a> {
    /// None: the client offers none, or none that the route names.
    None,
    /// This one of its offers.
    Named(&'a str),
    /// Unknown before the upstream has answered: every offer is like a token, and only the
    /// upstream knows with which one it answers, if with any.
    Upstreams,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The host it applies to, in lower case, `*.` and a name for every host below that name;
    /// empty: any.
    pub host: String,
    /// The path prefix it applies to, on a segment boundary, `/` being every path; or `=` and
    /// a path, and it applies to that path alone. Normalized as [`path::of_route`] does.
    pub path: String,
    /// What may be in the path of a request, though servers read it in different ways; default:
    /// nothing.
    pub passes: Passes,
    /// The subprotocols the upstream is known to speak; empty: what it has named before, or the
    /// client's first offer.
    pub subprotocols: Vec<String>,
    /// Origins that may connect; empty: any.
    pub origins: Vec<Origin>,
    /// When a client that opens a WebSocket gets its answer.
    pub accept: Accept,
    /// Where the requests go.
    pub upstream: upstream::Settings,
    /// How WebSocket sessions behave.
    pub session: session::Settings,
    /// How plain HTTP requests behave.
    pub http: HttpSettings,
    /// When new sessions are refused because those before failed.
    pub breaker: breaker::Settings,
}

impl Route {
    /// Its name in metrics: host and path, as they are configured.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}{}", self.host, self.path)
    }

    /// How long a plain request waits for an upstream that does not listen yet.
    #[must_use]
    pub fn hold_timeout(&self) -> Duration {
        let of_its_own = self.http.hold_timeout;
        of_its_own.unwrap_or(self.session.gate.timeout)
    }

    /// Whether a page of `origin` may open a WebSocket.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&[u8]>) -> bool {
        let is_allowed = |origin| self.origins.iter().any(|allowed| allowed.allows(origin));
        self.origins.is_empty() || origin.is_some_and(is_allowed)
    }

    /// The subprotocol of a client with these `offers` that does not wait for the upstream: the
    /// first of the route's that is among them; when the route names none, the first offer that
    /// is not like a token.
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
        let mut known = self.subprotocols.iter();
        let chosen = known.find_map(|known| offers.iter().copied().find(|offer| offer == known));
        chosen.map_or(Subprotocol::None, Subprotocol::Named)
    }

    /// A route with default settings for everything to `upstream`.
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
            breaker: breaker::Settings::default(),
        }
    }
}

/// All routes of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Arc<Route>>);

impl Routes {
    /// Routes in any order.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes.into_iter().map(Arc::new).collect())
    }

    /// The route for a request; see the [module](self).
    ///
    /// `host` is a `Host` header's value: its case, its port and a dot at its end do not
    /// matter. `path` is as the client sent it, without the query.
    ///
    /// # Errors
    ///
    /// There is none, or it depends on how the path is read.
    pub fn find(&self, host: &str, path: &str) -> Result<&Arc<Route>, Unrouted> {
        let path = Path::read(path).map_err(Unrouted::IllegalPath)?;
        let host = without_port(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        let found = self.best(host, &path.strict);
        let passes = found.map_or_else(Passes::default, |route| route.passes);
        if !path.needs.is_within(passes) {
            return Err(Unrouted::IllegalPath(path::BACKSLASH));
        }
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

    /// All of them, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter()
    }
}

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrouted {
    /// No server should be asked for this path.
    IllegalPath(&'static str),
    /// The path can be read in two ways that do not take the same route.
    AmbiguousPath,
    /// No route is for this host.
    Host,
    /// There are routes for this host, but none for this path.
    Path,
}

/// How much `pattern`, a route's host, says about `host`: more is better; `None`: it is not
/// for it.
fn host_rank(pattern: &str, host: &str) -> Option<usize> {
    if pattern.is_empty() {
        return Some(0);
    }
    let Some(below) = pattern.strip_prefix('*') else {
        return pattern.eq_ignore_ascii_case(host).then_some(usize::MAX);
    };
    let labels = host.len().checked_sub(below.len()).filter(|it| *it > 0)?;
    let ending = host.get(labels..)?;
    ending.eq_ignore_ascii_case(below).then_some(below.len())
}

/// How much `pattern`, a route's path, says about `path`, like [`host_rank`].
fn path_rank(pattern: &str, path: &str) -> Option<usize> {
    match pattern.strip_prefix('=') {
        Some(exact) => (exact == path).then_some(usize::MAX),
        None => is_prefix(pattern, path).then(|| segments(pattern).len()),
    }
}

/// `host` without `:port`; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// A prefix without its trailing slash, so that `/ws/` and `/ws` are the same and `/` is
/// empty.
fn segments(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Whether `prefix` is all of `path` or ends where one of its segments ends.
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
    fn a_backslash_passes_only_where_the_route_says_so_and_no_other_would_be_taken() {
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
