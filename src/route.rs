//! Routes: host and path to upstream and settings.

use std::{sync::Arc, time::Duration};

use crate::{session, upstream};

/// How plain HTTP requests of a route behave.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How long a request waits for an upstream that does not listen yet; default 30 s.
    pub hold_timeout: Duration,
    /// How many requests may wait at once; default 500.
    pub max_held_requests: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            hold_timeout: Duration::from_secs(30),
            max_held_requests: 500,
        }
    }
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The host it applies to, in lower case; empty: any.
    pub host: String,
    /// The path prefix it applies to, on a segment boundary; `/` is every path.
    pub path: String,
    /// The subprotocols the upstream is known to speak; empty: the client's first offer.
    pub subprotocols: Vec<String>,
    /// Origins that may connect; empty: any.
    pub origins: Vec<String>,
    /// Where the requests go.
    pub upstream: upstream::Settings,
    /// How WebSocket sessions behave.
    pub session: session::Settings,
    /// How plain HTTP requests behave.
    pub http: HttpSettings,
}

impl Route {
    /// A route with default settings for everything to `upstream`.
    #[must_use]
    pub fn to(upstream: upstream::Address) -> Self {
        Self {
            host: String::new(),
            path: "/".to_owned(),
            subprotocols: Vec::new(),
            origins: Vec::new(),
            upstream: upstream::Settings::new(upstream),
            session: session::Settings::default(),
            http: HttpSettings::default(),
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

    /// The route for a request: the longest path prefix among those whose host matches;
    /// a route that names its host comes before one that does not.
    ///
    /// `host` is a `Host` header's value: its case and its port do not matter. `path` is
    /// without the query.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let host = without_port(host);
        self.0
            .iter()
            .filter(|route| route.host.is_empty() || route.host.eq_ignore_ascii_case(host))
            .filter(|route| is_prefix(&route.path, path))
            .max_by_key(|route| (!route.host.is_empty(), segments(&route.path).len()))
    }

    /// All of them, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter()
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
        routes
            .find(host, path)
            .map(|route| (route.host.as_str(), route.path.as_str()))
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
}
