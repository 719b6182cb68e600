//! Final rejections by the upstream whose clients had already received a `101`.
//!
//! A client takes a `101` for success and resets its backoff: accepted and then closed, over and
//! over, it hammers an upstream that will not accept it. So the next handshake like one that was
//! rejected waits for the upstream's own response, which the client then receives.
//!
//! # Invariants
//!
//! * A handshake is like another one if it is for the same route at the same upstream, and has
//!   the same path, query, `Authorization`, `Cookie` and subprotocols: no client makes another
//!   one wait without having all its credentials, and only the upstream's answer does so.
//! * At most [`MAX_REFUSALS`] are kept, the latest ones, for [`LIFETIME`] each.
//! * All workers share them. While there are none, a handshake costs one relaxed load.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::header;
use tokio::time::Instant;

use super::recent::{Keys, RecentKey, RecentMap};
use crate::{
    route::Route,
    upstream::{Address, OpeningRequest},
};

/// Number of refusals that are kept.
const MAX_REFUSALS: usize = 4096;

/// Time for which a refusal is kept.
const LIFETIME: Duration = Duration::from_secs(30);

/// Refusals of all routes.
#[derive(Debug)]
pub(crate) struct Refusals {
    keys: Keys,
    has_any: AtomicBool,
    /// Time at which each expires.
    recent: Mutex<RecentMap<Instant>>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            has_any: AtomicBool::default(),
            recent: Mutex::new(RecentMap::new(MAX_REFUSALS)),
        }
    }
}

impl Refusals {
    /// Returns whether a handshake like `request` was refused recently.
    pub(crate) fn include(&self, route: &Route, request: &OpeningRequest) -> bool {
        if !self.has_any.load(Ordering::Relaxed) {
            return false;
        }
        let key = self.key(route, request);
        self.recent().get(key).is_some()
    }

    /// Records that the upstream has refused `request` for good.
    pub(crate) fn note(&self, route: &Route, request: &OpeningRequest) {
        let key = self.key(route, request);
        let mut recent = self.recent();
        recent.note(key, Instant::now() + LIFETIME);
        self.has_any.store(true, Ordering::Relaxed);
    }

    /// Removes the refusal of `request`, since the upstream has accepted it.
    pub(crate) fn forget(&self, route: &Route, request: &OpeningRequest) {
        if self.has_any.load(Ordering::Relaxed) {
            let key = self.key(route, request);
            let mut recent = self.recent();
            recent.forget(key);
            self.has_any.store(recent.len() > 0, Ordering::Relaxed);
        }
    }

    /// Removes expired refusals and returns the rest.
    fn recent(&self) -> MutexGuard<'_, RecentMap<Instant>> {
        let recent = self.recent.lock();
        let mut recent = recent.unwrap_or_else(PoisonError::into_inner);
        if recent.len() > 0 {
            let now = Instant::now();
            while recent.forget_oldest_if(|end| *end <= now) {}
            self.has_any.store(recent.len() > 0, Ordering::Relaxed);
        }
        recent
    }

    fn key(&self, route: &Route, request: &OpeningRequest) -> RecentKey {
        let names = [
            header::AUTHORIZATION,
            header::COOKIE,
            header::SEC_WEBSOCKET_PROTOCOL,
        ];
        self.keys.of(|feed| {
            feed(route.host.as_bytes());
            feed(route.path.as_bytes());
            match &route.upstream.address {
                Address::Tcp { host, port } => {
                    feed(host.as_bytes());
                    feed(&port.to_be_bytes());
                }
                Address::Unix(path) => feed(path.as_os_str().as_encoded_bytes()),
            }
            feed(request.target().as_bytes());
            for name in names {
                request.values_of(&name).for_each(&mut *feed);
                // Separates the values of one name from those of the next; no header value is a
                // line feed.
                feed(b"\n");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, header::HeaderName};

    use super::*;

    fn route(upstream: &str) -> Route {
        Route::to(Address::Unix(upstream.into()))
    }

    fn request(target: &str, lines: &[(&'static str, &str)]) -> OpeningRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        OpeningRequest::new(target, &headers, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_known_for_30_seconds_after_it_was_last_seen() {
        let (refusals, route, refused) = (Refusals::default(), route("/a"), request("/", &[]));
        refusals.note(&route, &refused);
        tokio::time::advance(LIFETIME * 9 / 10).await;
        assert!(refusals.include(&route, &refused));
        refusals.note(&route, &refused);
        tokio::time::advance(LIFETIME * 9 / 10).await;
        assert!(refusals.include(&route, &refused));
        tokio::time::advance(LIFETIME / 10).await;

        assert!(!refusals.include(&route, &refused));

        assert!(!refusals.has_any.load(Ordering::Relaxed));
    }

    #[test]
    fn whatever_a_client_can_be_refused_for_tells_handshakes_apart() {
        let refusals = Refusals::default();
        let all = [
            ("authorization", "Bearer a"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("sec-websocket-protocol", "a, b"),
            ("user-agent", "one"),
        ];
        let refused = request("/api?a=1", &all);
        refusals.note(&route("/a"), &refused);

        assert!(refusals.include(&route("/a"), &refused));
        let mut other_agent = all;
        other_agent[4] = ("user-agent", "other");
        assert!(refusals.include(&route("/a"), &request("/api?a=1", &other_agent)));
        let mut others = vec![request("/api?a=2", &all), request("/ap?a=1", &all)];
        for index in 0..4 {
            let mut lines = all.to_vec();
            lines[index].1 = "x";
            others.push(request("/api?a=1", &lines));
            lines.remove(index);
            others.push(request("/api?a=1", &lines));
        }
        for other in others {
            assert!(!refusals.include(&route("/a"), &other), "{other:?}");
        }
        assert!(!refusals.include(&route("/b"), &refused), "a reload");
        let mut elsewhere = route("/a");
        elsewhere.path = "/api".to_owned();
        assert!(!refusals.include(&elsewhere, &refused));
        refusals.forget(&route("/a"), &refused);
        assert!(!refusals.include(&route("/a"), &refused));
    }

    #[test]
    fn only_the_latest_refusals_are_kept() {
        let (refusals, route) = (Refusals::default(), route("/a"));
        let numbered = |number: usize| request(&format!("/{number}"), &[]);
        for number in 0..=MAX_REFUSALS {
            refusals.note(&route, &numbered(number));
        }

        assert!(!refusals.include(&route, &numbered(0)));
        assert!(refusals.include(&route, &numbered(1)));
        assert!(refusals.include(&route, &numbered(MAX_REFUSALS)));
        assert_eq!(refusals.recent().len(), MAX_REFUSALS);
    }
}
