//! All workers at one instant, as far as that exists.

use std::{cell::RefCell, collections::BTreeMap};

use futures_util::future::join_all;

use super::{Admin, Process};
use crate::telemetry::totals::RouteSnapshot;

/// What a worker, or all of them, have to say about each route, by its name.
pub(super) type Routes = BTreeMap<Box<str>, RouteSnapshot>;

/// What was last heard of each worker.
#[derive(Debug)]
pub(super) struct Heard(RefCell<Vec<Routes>>);

impl Heard {
    /// Nothing yet.
    pub(super) fn new(process: &Process) -> Self {
        Self(RefCell::new(vec![Routes::new(); process.workers.len()]))
    }
}

/// All workers together.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) routes: Routes,
    /// For each worker, in order, whether it has answered.
    pub(super) answered: Vec<bool>,
}

impl View {
    /// Asks all workers. Of one that does not answer there is what it said the last time, so
    /// that no counter goes back.
    pub(super) async fn gather(admin: &Admin) -> Self {
        let workers = &admin.process.workers;
        let asked = workers
            .iter()
            .map(|worker| worker.ask(|local| local.snapshot()));
        let answers = join_all(asked).await;
        let answered = answers.iter().map(Result::is_ok).collect();
        let mut heard = admin.heard.0.borrow_mut();
        for (last, answer) in heard.iter_mut().zip(answers) {
            if let Ok(routes) = answer {
                *last = routes;
            }
        }
        let mut all = Routes::new();
        for (label, snapshot) in heard.iter().flatten() {
            *all.entry(label.clone()).or_default() += snapshot;
        }
        Self {
            routes: all,
            answered,
        }
    }

    /// All routes together.
    pub(super) fn sum(&self) -> RouteSnapshot {
        let mut sum = RouteSnapshot::default();
        for snapshot in self.routes.values() {
            sum += snapshot;
        }
        sum
    }
}
