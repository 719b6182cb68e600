//! Counters of one worker for each route.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    mem,
    rc::Rc,
    sync::Arc,
};

use super::WorkerState;
use crate::{
    observability::totals::{RouteSnapshot, RouteTotals},
    route::Route,
};

/// Label of requests without a route.
pub const UNROUTED: &str = "none";

/// Label of the sum over routes that are [forgotten](WorkerState::forget).
pub const REMOVED: &str = "(removed)";

/// Counters of one worker, for each route that has been used.
#[derive(Debug)]
pub(crate) struct WorkerRouteStats {
    routes: RefCell<Vec<Rc<RouteStats>>>,
    unrouted: Rc<RouteStats>,
    /// Sum over forgotten routes.
    removed: RefCell<RouteTotals>,
}

impl Default for WorkerRouteStats {
    fn default() -> Self {
        Self {
            routes: RefCell::default(),
            unrouted: Rc::new(RouteStats::new(None, RouteTotals::default())),
            removed: RefCell::default(),
        }
    }
}

/// Counters of one worker for one route.
#[derive(Debug)]
pub(crate) struct RouteStats {
    /// `None` for requests without a route.
    route: Option<Arc<Route>>,
    label: Rc<str>,
    totals: RefCell<RouteTotals>,
}

impl RouteStats {
    fn new(route: Option<&Arc<Route>>, totals: RouteTotals) -> Self {
        Self {
            label: route.map_or(UNROUTED.into(), |route| route.label().into()),
            route: route.map(Arc::clone),
            totals: RefCell::new(totals),
        }
    }

    /// Name of the route.
    #[must_use]
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Name of the route, for a caller that keeps it longer than the counters.
    pub(crate) fn shared_label(&self) -> Rc<str> {
        Rc::clone(&self.label)
    }

    /// Updates the counters.
    pub(crate) fn change(&self, change: impl FnOnce(&mut RouteTotals)) {
        change(&mut self.totals.borrow_mut());
    }

    fn is_of(&self, route: &Arc<Route>) -> bool {
        self.route.as_ref().is_some_and(|it| Arc::ptr_eq(it, route))
    }
}

impl WorkerRouteStats {
    /// Counters of requests that have no route, or whose route is not known yet.
    pub(crate) fn unrouted(&self) -> Rc<RouteStats> {
        Rc::clone(&self.unrouted)
    }

    /// Counters of `route`.
    pub(crate) fn of(&self, route: &Arc<Route>) -> Rc<RouteStats> {
        let mut routes = self.routes.borrow_mut();
        if let Some(known) = routes.iter().find(|tally| tally.is_of(route)) {
            return Rc::clone(known);
        }
        let mut totals = RouteTotals::default();
        let label = route.label();
        // The counts of a replaced route of the same name, which is no longer in use, continue
        // here.
        routes.retain(|tally| {
            let is_followed = *tally.label == *label && Rc::strong_count(tally) == 1;
            if is_followed {
                totals += &tally.totals.borrow();
            }
            !is_followed
        });
        let tally = Rc::new(RouteStats::new(Some(route), totals));
        routes.push(Rc::clone(&tally));
        tally
    }
}

impl WorkerState {
    /// Moves the counts of the routes with these names to the common sum. A route that is still
    /// in use starts from zero.
    pub fn forget(&self, labels: &BTreeSet<Box<str>>) {
        let mut removed = self.tallies.removed.borrow_mut();
        let mut routes = self.tallies.routes.borrow_mut();
        routes.retain(|tally| {
            let is_forgotten = labels.contains(&*tally.label);
            if is_forgotten {
                *removed += &mem::take(&mut *tally.totals.borrow_mut());
            }
            // A tally in use stays in the list, or its next counts would be lost.
            !is_forgotten || Rc::strong_count(tally) > 1
        });
    }

    /// Counts and current sessions of this worker, by the route's name: every configured route,
    /// requests without a route, and the sum of the forgotten ones.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Box<str>, RouteSnapshot> {
        let mut routes: BTreeMap<Box<str>, RouteSnapshot> = BTreeMap::new();
        for route in self.config().routes.iter() {
            routes.entry(route.label().into()).or_default();
        }
        let tallies = self.tallies.routes.borrow();
        for tally in tallies.iter().chain([&self.tallies.unrouted]) {
            let snapshot = routes.entry((*tally.label).into()).or_default();
            snapshot.totals += &tally.totals.borrow();
            snapshot.is_in_use |= Rc::strong_count(tally) > 1;
        }
        let removed = routes.entry(REMOVED.into()).or_default();
        removed.totals += &self.tallies.removed.borrow();
        self.sessions.for_each(|running| {
            let snapshot = match routes.get_mut(running.route_label()) {
                Some(snapshot) => snapshot,
                None => routes.entry(running.route_label().into()).or_default(),
            };
            snapshot.add_session(running.record(), &running.route().session);
        });
        routes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config_file::Config, state::process::ProcessState};

    #[test]
    fn forgotten_counts_stay_in_the_sum_and_start_from_zero() {
        let text = "[[route]]\npath = \"/a\"\nupstream = \"http://127.0.0.1:1\"\n\
                    [[route]]\npath = \"/b\"\nupstream = \"http://127.0.0.1:1\"\n";
        let config = Arc::new(Config::parse("test", text, &|_| None).unwrap());
        let local = WorkerState::new(Arc::new(ProcessState::new(Arc::clone(&config))));
        let routes: Vec<_> = config.routes.iter().collect();
        let count = |tally: &RouteStats| tally.change(|totals| totals.attempts += 1);
        let attempts = |label: &str| local.snapshot()[label].totals.attempts;
        let of_a = local.tallies.of(routes[0]);
        count(&of_a);
        count(&local.tallies.of(routes[1]));
        let is_in_use = |label: &str| local.snapshot()[label].is_in_use;
        assert!(is_in_use("/a") && !is_in_use("/b"));

        local.forget(&["/a".into(), "/b".into(), "/c".into()].into());
        count(&of_a);

        assert_eq!(
            [attempts("/a"), attempts("/b"), attempts(REMOVED)],
            [1, 0, 2]
        );
        assert_eq!(local.tallies.routes.borrow().len(), 1);
    }
}
