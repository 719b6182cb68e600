//! Upstream endpoints of all routes, and their health.
//!
//! The circuit breakers are for WebSocket sessions. Plain requests neither open a breaker nor are
//! refused by one: their upstream's error is a response, and the requests that are held are
//! bounded and take turns ([`pending`](crate::http_client::pending)).

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    local_reply::LocalReply,
    route::{Route, Routes},
    upstream::{
        Endpoint,
        breaker::{Status, Unhealthy},
        dns::Names,
    },
};

/// Upstream of each route, for all workers.
#[derive(Debug)]
pub struct RouteEndpoints {
    names: Names,
    known: ArcSwap<Vec<(Arc<Route>, Arc<Endpoint>)>>,
}

impl RouteEndpoints {
    /// Creates the endpoints of `routes`, of unknown health.
    #[must_use]
    pub fn new(routes: &Routes) -> Self {
        let names = Names::default();
        let known = routes.iter().map(|route| {
            let endpoint = endpoint(route, &names);
            (Arc::clone(route), endpoint)
        });
        Self {
            known: ArcSwap::from_pointee(known.collect()),
            names,
        }
    }

    /// Replaces the routes. The health of an upstream is kept while its route has the same name
    /// and it is reached in the same way. Its breaker closes if any setting changed that sessions
    /// depend on: an operator who has just fixed it should not wait for a cooldown.
    pub fn set_routes(&self, routes: &Routes) {
        let known = self.known.load();
        let endpoint = |route: &Arc<Route>| {
            let label = route.label();
            let endpoint = match known.iter().find(|(known, _)| known.label() == label) {
                Some((known, endpoint)) if known.upstream == route.upstream => {
                    if !is_same(known, route) {
                        endpoint.forget(route.breaker);
                    }
                    Arc::clone(endpoint)
                }
                Some((_, endpoint)) => endpoint.follow(&route.upstream, route.breaker, &self.names),
                None => endpoint(route, &self.names),
            };
            (Arc::clone(route), endpoint)
        };
        let endpoints = routes.iter().map(endpoint).collect();
        self.known.store(Arc::new(endpoints));
    }

    /// Name of each route, and the status of its breaker.
    #[must_use]
    pub fn statuses(&self) -> Vec<(String, Status)> {
        let all = self.known.load();
        let all = all.iter();
        all.map(|(route, endpoint)| (route.label(), endpoint.status()))
            .collect()
    }

    /// Logs for each upstream the sessions that its breaker has refused and that are not in the log
    /// yet.
    pub fn log_refused(&self) {
        for (_, endpoint) in self.known.load().iter() {
            endpoint.log_refused();
        }
    }

    /// Upstream of `route`. A route that a reload has replaced shares the upstream of its
    /// successor, if that has the same name and reaches it in the same way; otherwise the upstream
    /// is a new one, of unknown health.
    #[must_use]
    pub fn of(&self, route: &Arc<Route>) -> Arc<Endpoint> {
        let known = self.known.load();
        let same = known.iter().find(|(known, _)| Arc::ptr_eq(known, route));
        let replaced = || {
            let label = route.label();
            let mut known = known.iter();
            known.find(|(known, _)| known.label() == label && known.upstream == route.upstream)
        };
        same.or_else(replaced).map_or_else(
            || endpoint(route, &self.names),
            |(_, endpoint)| Arc::clone(endpoint),
        )
    }
}

fn endpoint(route: &Route, names: &Names) -> Arc<Endpoint> {
    Endpoint::new(&route.label(), &route.upstream, route.breaker, names)
}

/// Returns whether a session that fails in `one` is expected to fail in `other`: both reach the
/// upstream in the same way, send it the same opening handshake, and open the gate alike. The
/// limits of the queue count too, since a full queue may keep the upstream from a message that it
/// waits for.
fn is_same(one: &Route, other: &Route) -> bool {
    let (session, others) = (&one.session, &other.session);
    one.breaker == other.breaker
        && one.upstream == other.upstream
        && one.accept == other.accept
        && one.subprotocols == other.subprotocols
        && one.http.underscores == other.http.underscores
        && one.http.non_ascii == other.http.non_ascii
        && session.gate == others.gate
        && session.rules == others.rules
        && session.hold == others.hold
}

impl From<Unhealthy> for LocalReply {
    fn from(Unhealthy { retry_after }: Unhealthy) -> Self {
        // Rounded up, since a client that returns too early is refused again.
        let seconds = retry_after.as_millis().div_ceil(1000).max(1);
        Self::BreakerOpen {
            retry_after_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config_file::Config,
        upstream::{Address, breaker::BreakerState},
    };

    #[test]
    fn only_settings_that_sessions_depend_on_are_compared() {
        let route = |text: &str| {
            let text = format!("[[route]]\n{text}\n");
            let config = Config::parse("proxy.toml", &text, &|_| None).unwrap();
            Arc::clone(config.routes.iter().next().unwrap())
        };
        let base =
            "upstream = \"http://a\"\ngate.ready = [{ regex = \"a\" }, { json = { \"/a\" = 1 } }]";
        let is_same_with = |from: &str, to: &str| {
            let changed = base.replacen(from, to, 1);
            assert!(changed != base || from == to);
            is_same(&route(base), &route(&changed))
        };

        assert!(is_same_with("", ""));
        for unrelated in [
            "origins = [\"https://a.example\"]",
            "http.idle_timeout = \"3s\"",
            "tunnel.idle_after = \"1s\"",
            "close_codes.401 = 4401",
        ] {
            assert!(
                is_same_with("gate", &format!("{unrelated}\ngate")),
                "{unrelated}"
            );
        }
        for (from, to) in [
            ("//a", "//b"),
            ("regex = \"a\"", "regex = \"b\""),
            ("regex = \"a\"", "text = \"a\""),
            ("\"/a\" = 1", "\"/a\" = 2"),
            ("\"/a\" = 1", "\"/b\" = 1"),
        ] {
            assert!(!is_same_with(from, to), "{to}");
        }
        for related in [
            "accept = \"after-upstream\"",
            "subprotocols = [\"chat\"]",
            "http.underscores = \"pass\"",
            "http.non_ascii = \"refuse\"",
            "connect.timeout = \"2s\"",
            "connect.retry.max = \"2s\"",
            "breaker.failures = 7",
            "gate.timeout = \"31s\"",
            "hold.max_messages = 7",
            "hold.overflow = \"shed\"",
            "message = [{ match = { prefix = \"a\" }, release = \"authenticated\" }]",
        ] {
            assert!(
                !is_same_with("gate", &format!("{related}\ngate")),
                "{related}"
            );
        }
    }

    fn routes(upstream: &str) -> Routes {
        let mut route = Route::to(Address::Unix(upstream.into()));
        route.breaker.failures = 1;
        Routes::new(vec![route])
    }

    #[tokio::test(start_paused = true)]
    async fn health_survives_a_reload_unless_the_upstream_changes() {
        let before = routes("/one");
        let endpoints = RouteEndpoints::new(&before);
        let status = || endpoints.statuses()[0].1;
        let admit = |routes: &Routes| endpoints.of(routes.iter().next().unwrap()).admit();
        let waiting = admit(&before).unwrap();
        admit(&before).unwrap().fail();
        assert_eq!(status().state, BreakerState::Open);

        let same = routes("/one");
        endpoints.set_routes(&same);
        assert_eq!(status().state, BreakerState::Open);
        assert!(admit(&same).is_err());
        assert!(admit(&before).is_err(), "the upstream is the same one");

        let other = routes("/other");
        endpoints.set_routes(&other);
        assert_eq!(status().state, BreakerState::Closed);
        assert_eq!(status().transitions, [1, 1, 0], "no count goes back");
        admit(&other).unwrap().fail();
        waiting.succeed();
        assert_eq!(
            status().state,
            BreakerState::Open,
            "the old one does not speak for it"
        );
        assert!(admit(&before).is_ok(), "nothing is known of it");
    }

    #[test]
    fn retry_after_is_rounded_up_to_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (5499, 6)] {
            let retry_after = Duration::from_millis(millis);
            let expected = LocalReply::BreakerOpen {
                retry_after_seconds: seconds,
            };
            assert_eq!(
                LocalReply::from(Unhealthy { retry_after }),
                expected,
                "{millis}"
            );
        }
    }
}
