//! The breakers of all routes.
//!
//! They are for WebSocket sessions. Plain requests neither open a breaker nor are refused by
//! one: an upstream that fails one of them says so itself, and those that are held are bounded
//! and take turns ([`hold`](super::hold)).

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::response::Refusal;
use crate::{
    route::{Route, Routes},
    upstream::breaker::{Breaker, Refused, Status, Trial},
};

/// The breaker of each route, for all workers.
#[derive(Debug)]
pub struct Breakers(ArcSwap<Vec<(Arc<Route>, Arc<Breaker>)>>);

impl Breakers {
    /// Closed ones for `routes`.
    #[must_use]
    pub fn new(routes: &Routes) -> Self {
        let breaker = |route: &Arc<Route>| {
            let breaker = Breaker::new(route.breaker, &route.label());
            (Arc::clone(route), breaker)
        };
        Self(ArcSwap::from_pointee(routes.iter().map(breaker).collect()))
    }

    /// They are for `routes` from now on. What is known of a route stays known as long as it has
    /// the same name and nothing was changed that its sessions fail or succeed by: whoever has
    /// just mended it does not wait for a cooldown.
    pub fn set_routes(&self, routes: &Routes) {
        let known = self.0.load();
        let breaker = |route: &Arc<Route>| {
            let label = route.label();
            let breaker = match known.iter().find(|(known, _)| known.label() == label) {
                Some((known, breaker)) if is_same(known, route) => Arc::clone(breaker),
                Some((_, breaker)) => breaker.follow(route.breaker),
                None => Breaker::new(route.breaker, &label),
            };
            (Arc::clone(route), breaker)
        };
        let breakers = routes.iter().map(breaker).collect();
        self.0.store(Arc::new(breakers));
    }

    /// The name of each route, and how its breaker is.
    #[must_use]
    pub fn statuses(&self) -> Vec<(String, Status)> {
        let all = self.0.load();
        let all = all.iter();
        all.map(|(route, breaker)| (route.label(), breaker.status()))
            .collect()
    }

    /// Lets one more session of `route` through.
    ///
    /// # Errors
    ///
    /// Its breaker is open.
    pub(super) fn admit(&self, route: &Arc<Route>) -> Result<Trial, Refusal> {
        let known = self.0.load();
        let known = known.iter().find(|(known, _)| Arc::ptr_eq(known, route));
        // Or the configuration has just changed.
        let Some((_, breaker)) = known else {
            return Ok(Trial::default());
        };
        breaker.admit().map_err(Refusal::from)
    }
}

/// Whether a session that fails in `one` would fail in `other` for all that is known: how the
/// upstream is reached, what it is told in the opening handshake, and what opens the gate. A
/// queue that is full may keep the upstream from a message that it waits for.
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

impl From<Refused> for Refusal {
    fn from(Refused { retry_after }: Refused) -> Self {
        // Whoever comes a moment too early comes in vain.
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
        config::Config,
        upstream::{Address, breaker::State},
    };

    #[test]
    fn what_sessions_fail_or_succeed_by_is_compared_and_nothing_else() {
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
    async fn what_is_known_of_an_upstream_outlives_a_reload_unless_it_is_another_one() {
        let before = routes("/one");
        let breakers = Breakers::new(&before);
        let status = || breakers.statuses()[0].1;
        let old = before.iter().next().unwrap();
        let waiting = breakers.admit(old).unwrap();
        breakers.admit(old).unwrap().fail();
        assert_eq!(status().state, State::Open);

        let same = routes("/one");
        breakers.set_routes(&same);
        assert_eq!(status().state, State::Open);
        assert!(breakers.admit(same.iter().next().unwrap()).is_err());

        let other = routes("/other");
        breakers.set_routes(&other);
        assert_eq!(status().state, State::Closed);
        assert_eq!(status().transitions, [1, 1, 0], "no count goes back");
        breakers.admit(other.iter().next().unwrap()).unwrap().fail();
        waiting.succeed();
        assert_eq!(
            status().state,
            State::Open,
            "the old one does not speak for it"
        );
    }

    #[test]
    fn clients_are_told_whole_seconds_that_are_enough() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (5499, 6)] {
            let retry_after = Duration::from_millis(millis);
            let expected = Refusal::BreakerOpen {
                retry_after_seconds: seconds,
            };
            assert_eq!(Refusal::from(Refused { retry_after }), expected, "{millis}");
        }
    }
}
