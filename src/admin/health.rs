//! Liveness of the process, and its readiness for clients.

mod capacity;

use std::{fmt::Write, sync::Arc, time::Duration};

use futures_util::future::join_all;
use hyper::{Response, StatusCode};
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};

pub(super) use self::capacity::Room;
use super::{
    Admin,
    query::Query,
    response::{self, Body},
};
use crate::{route::Route, state::worker_handle::WorkerHandle, upstream::protocol::Protocol};

/// Time for all upstreams together to accept a connection.
const BACKEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Age up to which a result for the upstreams is reused.
const FRESH: Duration = Duration::from_secs(1);

/// Latest results for the upstreams, with their time; locked during a check, so that upstreams get
/// one connection per second for any number of requests.
#[derive(Debug, Default)]
pub(super) struct Backends(Mutex<Option<(Instant, Vec<HealthCheck>)>>);

impl Backends {
    /// Returns recent results, or those of a new check.
    async fn checks(&self, check: impl AsyncFnOnce() -> Vec<HealthCheck>) -> Vec<HealthCheck> {
        // Held across the check: concurrent requests wait for its result instead of starting
        // theirs.
        let mut latest = self.0.lock().await;
        if let Some((when, checks)) = &*latest
            && when.elapsed() < FRESH
        {
            return checks.clone();
        }
        let checks = check().await;
        *latest = Some((Instant::now(), checks.clone()));
        checks
    }
}

/// Result of one check.
#[derive(Clone, Debug)]
struct HealthCheck {
    name: String,
    problem: Option<String>,
}

/// Responds `200` unless a worker is stuck; depends on nothing outside the process.
///
/// A supervisor kills a process that fails this check, and with it all sessions; a busy worker is
/// no reason for that.
pub(super) async fn livez(admin: &Admin, mut query: Query) -> Result<Response<Body>, String> {
    let is_verbose = query.take_switch("verbose")?;
    query.finish("verbose")?;
    Ok(report(&workers(admin).await, is_verbose))
}

/// Responds `200` if new clients are welcome: the process does not drain and has capacity.
pub(super) async fn readyz(admin: &Admin, mut query: Query) -> Result<Response<Body>, String> {
    let is_verbose = query.take_switch("verbose")?;
    let asks_backend = query.take_switch("backend")?;
    query.finish("verbose, backend")?;
    let mut checks = workers(admin).await;
    let is_draining = admin.process.shared.drain().is_announced();
    checks.push(HealthCheck {
        name: "drain".to_owned(),
        // The announcement counts, not the begin: load balancers need the delay between to notice.
        problem: is_draining.then(|| "draining".to_owned()),
    });
    checks.extend(admin.room.checks(&admin.process.shared));
    if asks_backend {
        checks.extend(admin.backends.checks(async || backends(admin).await).await);
    }
    Ok(report(&checks, is_verbose))
}

async fn workers(admin: &Admin) -> Vec<HealthCheck> {
    let check = async |worker: &WorkerHandle| {
        let answered = worker.ask(|_| ()).await;
        // Silence alone means a busy worker; `is_stuck` is the judgement over a longer time.
        let problem = answered.err().filter(|_| worker.is_stuck());
        HealthCheck {
            name: format!("worker {}", worker.index()),
            problem: problem.map(|silent| silent.to_string()),
        }
    };
    join_all(admin.process.workers.iter().map(check)).await
}

/// Checks that the upstream of each route accepts a connection; nothing is sent.
async fn backends(admin: &Admin) -> Vec<HealthCheck> {
    let check = async |route: &Arc<Route>| {
        let endpoint = admin.process.shared.endpoints().of(route);
        // A check of its own, which neither reports to the circuit breaker nor waits for it.
        let dialled = endpoint.check(Protocol::Http1);
        let problem = match time::timeout(BACKEND_TIMEOUT, dialled).await {
            Ok(Ok(_connection)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_elapsed) => Some("does not answer".to_owned()),
        };
        HealthCheck {
            name: format!("upstream of route {}", route.label()),
            problem,
        }
    };
    // Cloned, because a reload may replace the configuration during the check.
    let routes = admin.process.shared.config().routes.clone();
    join_all(routes.iter().map(check)).await
}

/// Formats every check as a line when verbose, otherwise only the failed ones.
fn report(checks: &[HealthCheck], is_verbose: bool) -> Response<Body> {
    let mut lines = String::new();
    for HealthCheck { name, problem } in checks {
        let written = match problem {
            Some(problem) => writeln!(lines, "[-] {name}: {problem}"),
            None if is_verbose => writeln!(lines, "[+] {name}: ok"),
            None => Ok(()),
        };
        written.expect("a string takes everything");
    }
    if checks.iter().all(|check| check.problem.is_none()) {
        response::text(StatusCode::OK, lines + "ok")
    } else {
        response::text(StatusCode::SERVICE_UNAVAILABLE, lines + "not ok")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{cell::Cell, future, rc::Rc, sync::Arc};

    use http_body_util::BodyExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        admin::Process,
        config_file::{Config, reload},
        state::{process::ProcessState, worker::WorkerState, worker_handle::STUCK_AFTER},
    };

    /// The listener of a process with these workers.
    pub(in crate::admin) fn admin(workers: Vec<WorkerHandle>) -> Rc<Admin> {
        let route = "[[route]]\nupstream = \"http://127.0.0.1:1\"";
        let config = Config::parse("test", route, &|_| None).unwrap();
        let (reload, _source) = reload::source(None, || Err(String::new()));
        let process = Process {
            shared: Arc::new(ProcessState::new(Arc::new(config))),
            workers,
            reload,
        };
        Admin::new(process, CancellationToken::new())
    }

    /// Returns liveness and readiness: the status, and the problems.
    async fn said(admin: &Admin) -> [(u16, String); 2] {
        let query = || Query::read("").unwrap();
        let answers = [livez(admin, query()).await, readyz(admin, query()).await];
        let said = answers.map(async |answer| {
            let (head, body) = answer.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            (head.status.as_u16(), text)
        });
        let [livez, readyz] = said;
        [livez.await, readyz.await]
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_with_a_stuck_worker_is_neither_alive_nor_ready() {
        let (well, mut inbox) = WorkerHandle::new(0);
        let (stuck, _unread) = WorkerHandle::new(1);
        let admin = admin(vec![well, stuck]);
        let local = WorkerState::new(Arc::clone(&admin.process.shared));
        let working = async {
            while let Some(visit) = inbox.recv().await {
                visit.pay(&local);
            }
            future::pending::<()>().await;
        };
        let asking = async {
            for (status, text) in said(&admin).await {
                assert_eq!(status, 200, "{text}");
            }
            time::advance(STUCK_AFTER).await;
            for (status, text) in said(&admin).await {
                assert_eq!(status, 503, "{text}");
                assert!(text.contains("[-] worker 1: "), "{text}");
                assert!(!text.contains("worker 0"), "{text}");
            }
        };

        tokio::select! {
            () = asking => {}
            () = working => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn upstreams_are_asked_once_a_second_however_many_ask() {
        let backends = Backends::default();
        let asked = Cell::new(0);
        let ask = async || {
            let check = async || {
                asked.set(asked.get() + 1);
                time::sleep(BACKEND_TIMEOUT).await;
                Vec::new()
            };
            backends.checks(check).await
        };

        join_all((0..9).map(|_| ask())).await;
        assert_eq!(asked.get(), 1);
        time::advance(FRESH).await;
        ask().await;
        assert_eq!(asked.get(), 2);
    }
}
