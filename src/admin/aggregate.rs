//! Aggregate of all workers' counts, as close to one instant as possible.
//!
//! A route that was removed and is no longer used stays for a while, so that its last numbers are
//! scraped, and is then forgotten by all workers together. If one worker forgot it alone, its
//! counts would be missing from the route's, which would decrease.
//!
//! # Invariants
//!
//! * Counts of a route only grow until the route is forgotten; the sum over all routes always
//!   grows.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Admin, Process};
use crate::{
    observability::totals::RouteSnapshot,
    state::{
        worker::route_stats::{REMOVED, UNROUTED},
        worker_handle::WorkerHandle,
    },
};

/// Time for which an unused, removed route is kept, for scrapers with long intervals.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Snapshot of each route by its name, of one worker or of all.
pub(super) type Routes = BTreeMap<Box<str>, RouteSnapshot>;

/// Latest snapshots of all workers.
#[derive(Debug)]
pub(super) struct WorkerReports(RefCell<RouteMemory>);

#[derive(Debug, Default)]
struct RouteMemory {
    workers: Vec<LastHeard>,
    /// Times since when removed routes are unused.
    unused: BTreeMap<Box<str>, Instant>,
}

/// Latest snapshot of one worker.
#[derive(Clone, Debug, Default)]
struct LastHeard {
    routes: Routes,
    /// Routes that are forgotten here but not yet on the worker.
    forgotten: BTreeSet<Box<str>>,
}

impl WorkerReports {
    /// Creates an empty state.
    pub(super) fn new(process: &Process) -> Self {
        Self(RefCell::new(RouteMemory::new(process.workers.len())))
    }
}

/// A worker's snapshot, if it responded, and the routes that it was told to forget first.
type Answer = (Option<Routes>, BTreeSet<Box<str>>);

impl RouteMemory {
    fn new(workers: usize) -> Self {
        Self {
            workers: vec![LastHeard::default(); workers],
            unused: BTreeMap::new(),
        }
    }

    /// Adopts the snapshots of the workers, in order, and returns their sum.
    fn hear(&mut self, answers: Vec<Answer>, configured: &BTreeSet<String>) -> Routes {
        for (worker, (routes, told)) in self.workers.iter_mut().zip(answers) {
            if let Some(routes) = routes {
                worker.hear(routes, &told);
            }
        }
        self.forget_unused(&self.sum(), configured);
        // Summed again, because forgetting has moved counts to another row.
        self.sum()
    }

    /// Sums over all workers.
    fn sum(&self) -> Routes {
        let mut all = Routes::new();
        for (label, snapshot) in self.workers.iter().flat_map(|worker| &worker.routes) {
            *all.entry(label.clone()).or_default() += snapshot;
        }
        all
    }

    /// Forgets the routes in `all` that are not `configured` and have been unused for a while.
    fn forget_unused(&mut self, all: &Routes, configured: &BTreeSet<String>) {
        let is_unused = |label: &str| {
            let is_route = ![UNROUTED, REMOVED].contains(&label);
            let is_in_use = all.get(label).is_none_or(|snapshot| snapshot.is_in_use);
            is_route && !is_in_use && !configured.contains(label)
        };
        let now = Instant::now();
        for label in all.keys().filter(|label| is_unused(label)) {
            self.unused.entry(label.clone()).or_insert(now);
        }
        let mut forgotten = Vec::new();
        // A route that is in use again leaves the list, so that its time starts over.
        self.unused.retain(|label, since| {
            let is_due = since.elapsed() >= REMEMBERED;
            if is_due && is_unused(label) {
                forgotten.push(label.clone());
            }
            !is_due && is_unused(label)
        });
        for worker in &mut self.workers {
            worker.forget(&forgotten);
        }
    }
}

impl LastHeard {
    fn forget(&mut self, labels: &[Box<str>]) {
        for label in labels {
            if let Some(snapshot) = self.routes.remove(label) {
                // Its counts move to a common row instead of disappearing, so that sums over all
                // routes do not decrease.
                *self.routes.entry(REMOVED.into()).or_default() += &snapshot;
            }
            self.forgotten.insert(label.clone());
        }
    }

    /// Adopts a snapshot, unless the worker was told to forget other routes than it has to by now,
    /// because a concurrent request changed them meanwhile.
    fn hear(&mut self, routes: Routes, told: &BTreeSet<Box<str>>) {
        if self.forgotten == *told {
            self.routes = routes;
            self.forgotten.clear();
        }
    }
}

/// Sum over all workers.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Routes that are not forgotten.
    pub(super) routes: Routes,
    /// Sum over the forgotten routes.
    removed: RouteSnapshot,
    /// True for each worker, in order, that responded.
    pub(super) answered: Vec<bool>,
}

impl View {
    /// Queries all workers. One that does not respond counts with its previous snapshot, so that no
    /// counter decreases.
    pub(super) async fn gather(admin: &Admin) -> Self {
        let ask = async |(index, worker): (usize, &WorkerHandle)| {
            let told = admin.heard.0.borrow().workers[index].forgotten.clone();
            // Copied before the await: meanwhile a concurrent request may add to the worker's set.
            let forgotten = told.clone();
            let answer = worker.ask(move |local| {
                local.forget(&forgotten);
                local.snapshot()
            });
            (answer.await.ok(), told)
        };
        let workers = admin.process.workers.iter().enumerate();
        let answers = join_all(workers.map(ask)).await;
        let answered = answers.iter().map(|(routes, _)| routes.is_some()).collect();
        let config = admin.process.shared.config();
        let configured = config.routes.iter().map(|route| route.label()).collect();
        // Never borrowed across an await, so that concurrent requests cannot collide here.
        let mut routes = admin.heard.0.borrow_mut().hear(answers, &configured);
        let removed = routes.remove(REMOVED).unwrap_or_default();
        Self {
            routes,
            removed,
            answered,
        }
    }

    /// Returns the sum over all routes, including forgotten ones.
    pub(super) fn sum(&self) -> RouteSnapshot {
        let mut sum = self.removed.clone();
        for snapshot in self.routes.values() {
            sum += snapshot;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, sync::Arc};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
        sync::mpsc,
        time,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        client_addr::{ClientAddr, Endpoints},
        config_file::{Config, reload},
        downstream::{self, HttpVersions},
        limits::connections::Admission,
        state::{process::ProcessState, worker::WorkerState, worker_handle::Job},
        transport::Transport,
    };

    /// Workers that count attempts.
    #[derive(Default)]
    struct Workers(Vec<Routes>);

    impl Workers {
        fn new(count: usize) -> (Self, RouteMemory) {
            (Self(vec![Routes::new(); count]), RouteMemory::new(count))
        }

        fn count(&mut self, worker: usize, label: &str) {
            let snapshot = self.0[worker].entry(label.into()).or_default();
            snapshot.totals.attempts += 1;
        }

        fn set_in_use(&mut self, worker: usize, label: &str, is_in_use: bool) {
            let snapshot = self.0[worker].entry(label.into()).or_default();
            snapshot.is_in_use = is_in_use;
        }

        /// Queries the workers that are `awake`.
        fn ask(&mut self, state: &mut RouteMemory, awake: &[usize], configured: &[&str]) -> Counts {
            let mut answers = Vec::new();
            for (index, routes) in self.0.iter_mut().enumerate() {
                let told = state.workers[index].forgotten.clone();
                let is_awake = awake.contains(&index);
                for label in told.iter().filter(|_| is_awake) {
                    if let Some(snapshot) = routes.remove(label) {
                        *routes.entry(REMOVED.into()).or_default() += &snapshot;
                    }
                }
                answers.push((is_awake.then(|| routes.clone()), told));
            }
            let configured = configured.iter().copied().map(str::to_owned).collect();
            let routes = state.hear(answers, &configured).into_iter();
            let attempts = routes.map(|(label, it)| (label.into_string(), it.totals.attempts));
            Counts(attempts.collect())
        }
    }

    struct Counts(BTreeMap<String, u64>);

    impl Counts {
        fn of(&self, label: &str) -> Option<u64> {
            self.0.get(label).copied()
        }

        fn sum(&self) -> u64 {
            self.0.values().sum()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_route_is_forgotten_once_it_is_long_unused() {
        let (mut workers, mut state) = Workers::new(2);
        workers.count(0, "/a");
        workers.count(1, "/a");
        workers.set_in_use(1, "/a", true);

        for _ in 0..3 {
            assert_eq!(workers.ask(&mut state, &[0, 1], &[]).of("/a"), Some(2));
            time::advance(REMEMBERED).await;
        }
        workers.set_in_use(1, "/a", false);
        assert_eq!(workers.ask(&mut state, &[0, 1], &[]).of("/a"), Some(2));
        time::advance(REMEMBERED).await;
        let counts = workers.ask(&mut state, &[0, 1], &[]);
        assert_eq!((counts.of("/a"), counts.sum()), (None, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_worker_does_not_bring_a_forgotten_route_back() {
        let (mut workers, mut state) = Workers::new(2);
        workers.count(0, "/a");
        workers.count(1, "/a");
        workers.ask(&mut state, &[0, 1], &[]);
        time::advance(REMEMBERED).await;
        workers.ask(&mut state, &[0, 1], &[]);

        // The route returns, and is used before the worker wakes up.
        for awake in [&[0][..], &[0], &[0, 1], &[1], &[0, 1]] {
            let counts = workers.ask(&mut state, awake, &["/a"]);
            assert_eq!((counts.of("/a").unwrap_or(0), counts.sum()), (0, 2));
        }
        workers.count(0, "/a");
        let counts = workers.ask(&mut state, &[0, 1], &["/a"]);
        assert_eq!((counts.of("/a"), counts.sum()), (Some(1), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_snapshot_does_not_bring_a_forgotten_route_back() {
        let (mut workers, mut state) = Workers::new(1);
        workers.count(0, "/a");
        workers.ask(&mut state, &[0], &[]);
        time::advance(REMEMBERED).await;
        let late = vec![(Some(workers.0[0].clone()), BTreeSet::new())];
        workers.ask(&mut state, &[0], &[]);

        let routes = state.hear(late, &BTreeSet::new());

        assert!(!routes.contains_key("/a"), "{routes:?}");
        assert_eq!(routes[REMOVED].totals.attempts, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_with_new_routes_leave_few_and_the_sum_only_grows() {
        let (mut workers, mut state) = Workers::new(2);
        let mut before = 0;
        for number in 0..50 {
            let label = format!("/{number}");
            workers.count(number % 2, &label);
            let counts = workers.ask(&mut state, &[0, 1], &[&label]);
            assert_eq!(counts.sum(), before + 1);
            before = counts.sum();
            assert!(counts.0.len() <= 4, "{:?}", counts.0);
            time::advance(REMEMBERED / 2).await;
        }
    }
    /// Runs the workers' jobs on the thread of the test.
    struct Desk {
        local: Rc<WorkerState>,
        visits: mpsc::Receiver<Job>,
    }

    impl Desk {
        async fn answer(&mut self) {
            while let Some(visit) = self.visits.recv().await {
                visit.pay(&self.local);
            }
        }

        /// Refuses the opening handshake of a client, which names no version.
        async fn refuse_handshake(&self, path: &str) {
            let (mut client, socket) = UnixStream::pair().unwrap();
            let ends = Endpoints {
                client: ClientAddr::Unix,
                server: None,
                is_known: true,
            };
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\n\
                 Upgrade: websocket\r\n\r\n"
            );
            let socket = Transport::Unix(socket);
            let (protocol, admission) = (HttpVersions::Http1, Admission::Admitted);
            let ask = async move {
                let mut response = String::new();
                client.write_all(request.as_bytes()).await.unwrap();
                client.read_to_string(&mut response).await.unwrap();
                response
            };
            let served = downstream::serve(socket, protocol, ends, admission, &self.local);
            let (session, response) = tokio::join!(served, ask);
            assert!(session.is_none());
            assert!(response.starts_with("HTTP/1.1 426 "), "{response}");
        }
    }

    #[tokio::test]
    async fn workers_forget_what_is_forgotten_and_keep_its_sum() {
        let config = |path: &str| {
            let route = format!("[[route]]\npath = \"{path}\"\nupstream = \"http://127.0.0.1:1\"");
            Arc::new(Config::parse("test", &route, &|_| None).unwrap())
        };
        let shared = Arc::new(ProcessState::new(config("/a")));
        let (workers, mut desks): (Vec<_>, Vec<_>) = (0..2)
            .map(|index| {
                let (worker, visits) = WorkerHandle::new(index);
                let local = WorkerState::new(Arc::clone(&shared));
                (worker, Desk { local, visits })
            })
            .unzip();
        let (reload, _source) = reload::source(None, || Err(String::new()));
        let process = Process {
            shared: Arc::clone(&shared),
            workers,
            reload,
        };
        let admin = Admin::new(process, CancellationToken::new());
        for desk in &desks {
            desk.refuse_handshake("/a").await;
        }
        shared.reconfigure(config("/b"));
        // Only now, for a socket is no event to a paused clock.
        time::pause();

        let mut refused = Vec::new();
        for wait in [Duration::ZERO, REMEMBERED, Duration::ZERO] {
            time::advance(wait).await;
            let view = tokio::select! {
                view = View::gather(&admin) => view,
                _ = join_all(desks.iter_mut().map(Desk::answer)) => unreachable!(),
            };
            let of_route = view.routes.get("/a");
            refused.push((
                of_route.map(|it| it.totals.handshakes_refused),
                view.sum().totals.handshakes_refused,
            ));
        }

        assert_eq!(refused, [(Some(2), 2), (None, 2), (None, 2)]);
        for desk in &desks {
            let known = desk.local.snapshot();
            assert!(!known.contains_key("/a"), "{known:?}");
            assert_eq!(known[REMOVED].totals.handshakes_refused, 1);
        }
    }
}
