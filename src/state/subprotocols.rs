//! Choices of upstreams among the subprotocols that clients offer, for clients that receive one
//! before their upstream has chosen.
//!
//! ```text
//!  the route's `subprotocols` ──► else what was named before ──► else the first offer
//!                                         │                          │
//!                                         └── in doubt, a token ─────┴── a token ──► wait
//! ```
//!
//! A client that received another one than its upstream names is closed, and receives the right
//! one when it reconnects. It never learns from here that the upstream names none: browsers fail
//! a handshake that leaves their offers unanswered.
//!
//! # Invariants
//!
//! * A choice belongs to one route, one path and one list of offers, in which all offers that
//!   look like tokens are equal: no token is kept, and a choice learned with one token applies to
//!   all.
//! * Choices are learned only from an upstream's own `101`, and only of offers made to it. Where
//!   it chooses by something else, such as a cookie, a client may receive the choice made for
//!   another one: once that shows, clients with these offers [wait](DOUBT) for the upstream.
//! * A route keeps at most [`MAX_CHOICES`], those used most recently, and only those that differ
//!   from the choice made without them.
//! * All workers share them. A reload keeps those of a route that has the same name, the same
//!   upstream and the same `subprotocols`.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::recent::{Keys, RecentKey, RecentMap};
use crate::{
    route::{Route, Routes, Subprotocol},
    upstream::{Mismatch, OpeningRequest},
    websocket::subprotocol::{ShownOffers, is_token_like},
};

/// Number of choices that are kept for one route.
const MAX_CHOICES: usize = 256;

/// Time for which clients wait for an upstream that has changed its choice.
const DOUBT: Duration = Duration::from_mins(5);

/// Placeholder for each offer that looks like a token; not a valid offer itself.
const ANY_TOKEN: &str = "\0";

/// Choices of all upstreams.
#[derive(Debug)]
pub(crate) struct Subprotocols {
    keys: Keys,
    routes: ArcSwap<Vec<(Arc<Route>, Arc<Choices>)>>,
}

/// Choices of the upstream of one route.
#[derive(Debug)]
struct Choices {
    known: Mutex<RecentMap<Choice>>,
    /// Set with the first choice.
    has_any: AtomicBool,
    /// Set once the warning has been logged.
    has_warned: AtomicBool,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            known: Mutex::new(RecentMap::new(MAX_CHOICES)),
            has_any: AtomicBool::default(),
            has_warned: AtomicBool::default(),
        }
    }
}

#[derive(Debug)]
struct Choice {
    /// [`ANY_TOKEN`], or the chosen offer.
    named: Box<str>,
    in_doubt_until: Option<Instant>,
}

impl Subprotocols {
    /// Creates the table for `routes`, without choices.
    pub(crate) fn new(routes: &Routes) -> Self {
        let none = routes
            .iter()
            .map(|route| (Arc::clone(route), Arc::default()));
        Self {
            keys: Keys::default(),
            routes: ArcSwap::from_pointee(none.collect()),
        }
    }

    /// Replaces the routes and keeps the choices of the ones that are the same.
    pub(crate) fn set_routes(&self, routes: &Routes) {
        let known = self.routes.load();
        let choices = |route: &Arc<Route>| {
            let same = known.iter().find(|(known, _)| is_same(known, route));
            let choices = same.map(|(_, choices)| Arc::clone(choices));
            (Arc::clone(route), choices.unwrap_or_default())
        };
        let choices = routes.iter().map(choices).collect();
        self.routes.store(Arc::new(choices));
    }

    /// Returns the subprotocol for a client that requests `path` and does not wait for the
    /// upstream.
    pub(crate) fn choose<'a>(
        &self,
        route: &Arc<Route>,
        path: &str,
        offers: &[&'a str],
    ) -> Subprotocol<'a> {
        let chosen = route.choose_subprotocol(offers.iter().copied());
        if !is_to_learn(route, offers) {
            return chosen;
        }
        let known = self.of(route).and_then(|choices| {
            let key = || self.key(path, offers);
            // While nothing was learned, no key is hashed.
            choices.has_any().then(|| choices.recall(key(), offers))?
        });
        known.unwrap_or(chosen)
    }

    /// Records that the upstream has named `named` of the offers in `request`.
    pub(crate) fn learn(&self, route: &Arc<Route>, request: &OpeningRequest, named: &str) {
        let offers: Vec<_> = request.offers().collect();
        if !is_to_learn(route, &offers) {
            return;
        }
        let path = request.target().split('?').next().unwrap_or_default();
        let chosen = route.choose_subprotocol(offers.iter().copied());
        if let Some(choices) = self.of(route) {
            choices.learn(self.key(path, &offers), named, chosen);
        }
    }

    /// Records that the upstream has named another one than its client received, and warns once.
    pub(crate) fn learn_mismatch(
        &self,
        route: &Arc<Route>,
        request: &OpeningRequest,
        mismatch: &Mismatch,
    ) {
        // A subprotocol that was never offered is an error of the upstream, not a choice.
        if !mismatch.is_offered {
            return;
        }
        self.learn(route, request, &mismatch.chosen);
        let choices = self.of(route);
        if choices.is_some_and(|choices| !choices.has_warned.swap(true, Ordering::Relaxed)) {
            warn(route, mismatch);
        }
    }

    /// Choices of a route; `None` if a reload has just removed it.
    fn of(&self, route: &Arc<Route>) -> Option<Arc<Choices>> {
        let all = self.routes.load();
        let mut all = all.iter();
        let found = all.find(|(known, _)| Arc::ptr_eq(known, route));
        found.map(|(_, choices)| Arc::clone(choices))
    }

    fn key(&self, path: &str, offers: &[&str]) -> RecentKey {
        self.keys.of(|feed| {
            feed(path.as_bytes());
            for offer in offers {
                feed(without_token(offer).as_bytes());
            }
        })
    }
}

/// Returns whether there is a choice, and the configuration leaves it to the upstream.
fn is_to_learn(route: &Route, offers: &[&str]) -> bool {
    route.subprotocols.is_empty() && offers.len() > 1
}

/// Returns whether the choices of `one` are those of `other`.
fn is_same(one: &Route, other: &Route) -> bool {
    one.host == other.host
        && one.path == other.path
        && one.upstream == other.upstream
        && one.subprotocols == other.subprotocols
}

fn without_token(offer: &str) -> &str {
    if is_token_like(offer) {
        ANY_TOKEN
    } else {
        offer
    }
}

impl Choices {
    fn known(&self) -> MutexGuard<'_, RecentMap<Choice>> {
        let known = self.known.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Relaxed)
    }

    /// Returns the subprotocol for a client with these `offers`, if the choice is known.
    fn recall<'a>(&self, key: RecentKey, offers: &[&'a str]) -> Option<Subprotocol<'a>> {
        let mut known = self.known();
        let choice = known.recall(key)?;
        let is_in_doubt = choice.in_doubt_until.is_some_and(|it| Instant::now() < it);
        if is_in_doubt || &*choice.named == ANY_TOKEN {
            return Some(Subprotocol::Upstreams);
        }
        let named = offers.iter().find(|offer| **offer == &*choice.named);
        named.copied().map(Subprotocol::Named)
    }

    /// Records that the upstream has `named` one, where `chosen` is the choice without that
    /// knowledge.
    fn learn(&self, key: RecentKey, named: &str, chosen: Subprotocol<'_>) {
        let named = without_token(named);
        let mut known = self.known();
        match known.recall(key) {
            Some(choice) if &*choice.named == named => {}
            Some(choice) => {
                choice.named = named.into();
                choice.in_doubt_until = Some(Instant::now() + DOUBT);
            }
            None => {
                // The usual upstream takes the first offer, which needs no memory.
                let is_told_anyway = match chosen {
                    Subprotocol::Named(chosen) => chosen == named,
                    Subprotocol::None | Subprotocol::Upstreams => true,
                };
                if !is_told_anyway {
                    let choice = Choice {
                        named: named.into(),
                        in_doubt_until: None,
                    };
                    known.note(key, choice);
                    self.has_any.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Logs the setting with which no client receives a wrong subprotocol.
fn warn(route: &Route, mismatch: &Mismatch) {
    let Mismatch { told, chosen, .. } = mismatch;
    let label = route.label();
    let told = told.as_deref().map(ShownOffers);
    let told = told.map_or_else(|| "none".to_owned(), |told| told.to_string());
    let advice = if is_token_like(chosen) {
        "accept = \"after-upstream\"".to_owned()
    } else {
        let others = route.subprotocols.iter().filter(|it| *it != chosen);
        let names: Vec<_> = std::iter::once(chosen).chain(others).collect();
        format!("subprotocols = {names:?}")
    };
    tracing::warn!(
        route = label,
        told,
        chosen = %ShownOffers(chosen),
        advice,
        "upstream chose another subprotocol than its client was told, and the client was closed: \
         say in the route what the upstream chooses"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Address;

    const OFFERS: [&str; 3] = ["a", "b", "c"];

    fn routes(upstream: &str, subprotocols: &[&str]) -> Routes {
        let mut route = Route::to(Address::Unix(upstream.into()));
        route.subprotocols = subprotocols.iter().map(ToString::to_string).collect();
        Routes::new(vec![route])
    }

    fn request(target: &str, offers: &[&str]) -> OpeningRequest {
        let mut headers = http::HeaderMap::new();
        let offers = offers.join(", ").parse().unwrap();
        headers.insert(http::header::SEC_WEBSOCKET_PROTOCOL, offers);
        OpeningRequest::new(target, &headers, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_choice_that_changes_is_in_doubt_for_a_while() {
        let routes = routes("/one", &[]);
        let route = routes.iter().next().unwrap();
        let subprotocols = Subprotocols::new(&routes);
        let told = || subprotocols.choose(route, "/", &OFFERS);
        let learn = |named| subprotocols.learn(route, &request("/?a=b", &OFFERS), named);

        assert_eq!(told(), Subprotocol::Named("a"));
        learn("b");
        learn("b");
        assert_eq!(told(), Subprotocol::Named("b"));
        learn("c");
        learn("c");
        assert_eq!(told(), Subprotocol::Upstreams);
        tokio::time::advance(DOUBT).await;
        assert_eq!(told(), Subprotocol::Named("c"));
    }

    #[test]
    fn a_choice_made_anyway_takes_no_room() {
        let routes = routes("/one", &[]);
        let route = routes.iter().next().unwrap();
        let subprotocols = Subprotocols::new(&routes);
        let token = "jwt.eyJhbGciOiJIUzI1NiJ9";
        for (offers, named) in [
            (&OFFERS[..], "a"),
            (&["b"], "b"),
            (&[token, token], token),
            (&[], "a"),
        ] {
            subprotocols.learn(route, &request("/", offers), named);
        }

        assert!(!subprotocols.of(route).unwrap().has_any());
    }

    #[test]
    fn the_choices_of_a_route_are_bounded_and_those_in_use_stay() {
        let routes = routes("/one", &[]);
        let route = routes.iter().next().unwrap();
        let subprotocols = Subprotocols::new(&routes);
        let learn = |path: &str| subprotocols.learn(route, &request(path, &OFFERS), "b");
        let is_known = |path: &str| {
            let told = subprotocols.choose(route, path, &OFFERS);
            told == Subprotocol::Named("b")
        };
        learn("/used");
        for number in 0..2 * MAX_CHOICES {
            learn(&format!("/{number}"));
            assert!(is_known("/used"), "{number}");
        }

        let known = (0..2 * MAX_CHOICES).filter(|number| is_known(&format!("/{number}")));
        assert_eq!(known.count(), MAX_CHOICES - 1);
        assert_eq!(subprotocols.of(route).unwrap().known().len(), MAX_CHOICES);
    }

    #[test]
    fn choices_survive_a_reload_but_not_another_upstream() {
        let before = routes("/one", &[]);
        let subprotocols = Subprotocols::new(&before);
        let learned = request("/", &OFFERS);
        subprotocols.learn(before.iter().next().unwrap(), &learned, "b");
        let told_after = |routes: &Routes| {
            subprotocols.set_routes(routes);
            subprotocols.choose(routes.iter().next().unwrap(), "/", &OFFERS)
        };

        assert_eq!(told_after(&routes("/one", &[])), Subprotocol::Named("b"));
        assert_eq!(told_after(&routes("/two", &[])), Subprotocol::Named("a"));
        subprotocols.learn(before.iter().next().unwrap(), &learned, "c");
        assert_eq!(told_after(&routes("/two", &[])), Subprotocol::Named("a"));
    }

    #[test]
    fn no_token_is_kept() {
        let routes = routes("/one", &[]);
        let route = routes.iter().next().unwrap();
        let subprotocols = Subprotocols::new(&routes);
        let token = "jwt.eyJhbGciOiJIUzI1NiJ9";
        subprotocols.learn(route, &request("/", &["chat", token]), token);

        let told = subprotocols.choose(route, "/", &["chat", "jwt.ZXlKaGJHY2lPaUpTVXpJMU5pSjk"]);

        assert_eq!(told, Subprotocol::Upstreams);
        let kept = format!("{:?}", subprotocols.of(route));
        assert!(kept.contains("known") && !kept.contains("eyJ"), "{kept}");
    }
}
