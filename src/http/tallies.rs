//! What one worker has counted for each route.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use super::Local;
use crate::{
    route::Route,
    telemetry::totals::{RouteSnapshot, RouteTotals},
};

/// The label of what has no route.
pub const UNROUTED: &str = "none";

/// The tallies of one worker, one for each route that has been asked for.
#[derive(Debug)]
pub(super) struct Tallies {
    routes: RefCell<Vec<Rc<Tally>>>,
    unrouted: Rc<Tally>,
}

impl Default for Tallies {
    fn default() -> Self {
        Self {
            routes: RefCell::default(),
            unrouted: Rc::new(Tally::new(None, RouteTotals::default())),
        }
    }
}

/// What one worker has counted for one route.
#[derive(Debug)]
pub(super) struct Tally {
    /// `None`: requests without one.
    route: Option<Arc<Route>>,
    label: Box<str>,
    totals: RefCell<RouteTotals>,
}

impl Tally {
    fn new(route: Option<&Arc<Route>>, totals: RouteTotals) -> Self {
        Self {
            label: route.map_or(UNROUTED.into(), |route| route.label().into()),
            route: route.map(Arc::clone),
            totals: RefCell::new(totals),
        }
    }

    /// The name of the route.
    #[must_use]
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Counts something.
    pub(super) fn change(&self, change: impl FnOnce(&mut RouteTotals)) {
        change(&mut self.totals.borrow_mut());
    }

    fn is_of(&self, route: &Arc<Route>) -> bool {
        self.route.as_ref().is_some_and(|it| Arc::ptr_eq(it, route))
    }
}

impl Tallies {
    /// The tally of requests that have no route, or whose route is not known yet.
    pub(super) fn unrouted(&self) -> Rc<Tally> {
        Rc::clone(&self.unrouted)
    }

    /// The tally of `route`.
    pub(super) fn of(&self, route: &Arc<Route>) -> Rc<Tally> {
        let mut routes = self.routes.borrow_mut();
        if let Some(known) = routes.iter().find(|tally| tally.is_of(route)) {
            return Rc::clone(known);
        }
        let mut totals = RouteTotals::default();
        let label = route.label();
        // What was counted for routes of the same name that nobody uses any more goes on here.
        routes.retain(|tally| {
            let is_followed = *tally.label == *label && Rc::strong_count(tally) == 1;
            if is_followed {
                totals += &tally.totals.borrow();
            }
            !is_followed
        });
        let tally = Rc::new(Tally::new(Some(route), totals));
        routes.push(Rc::clone(&tally));
        tally
    }
}

impl Local {
    /// What there is on this worker for each route, by the route's name, and what has
    /// happened: every configured one, and what had none.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Box<str>, RouteSnapshot> {
        let mut routes: BTreeMap<Box<str>, RouteSnapshot> = BTreeMap::new();
        for route in self.config().routes.iter() {
            routes.entry(route.label().into()).or_default();
        }
        let tallies = self.tallies.routes.borrow();
        for tally in tallies.iter().chain([&self.tallies.unrouted]) {
            let snapshot = routes.entry(tally.label.clone()).or_default();
            snapshot.totals += &tally.totals.borrow();
        }
        self.sessions.for_each(|running| {
            let idle_after = running.route().session.tunnel.idle_after;
            let snapshot = match routes.get_mut(running.route_label()) {
                Some(snapshot) => snapshot,
                None => routes.entry(running.route_label().into()).or_default(),
            };
            snapshot.add_session(running.record(), idle_after);
        });
        routes
    }
}
