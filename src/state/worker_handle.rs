//! Access to a worker's state from another thread.
//!
//! A worker's state never leaves its thread and has no locks. Other threads send a closure, which
//! the worker runs between two polls of its tasks.
//!
//! # Invariants
//!
//! * No caller waits longer than [`ANSWER_TIMEOUT`] for a worker, whatever blocks it.
//! * At most 16 jobs wait for one worker.

use std::{
    fmt,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::worker::WorkerState;

/// Time limit of a worker's reply.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Time without a reply after which a busy worker counts as stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Maximum number of jobs that wait for one worker.
const MAX_WAITING: usize = 16;

/// Closure to be run on the thread of a worker.
pub struct Job(Box<dyn Task>);

trait Task: FnOnce(&Rc<WorkerState>) + Send {}

impl<T: FnOnce(&Rc<WorkerState>) + Send> Task for T {}

impl Job {
    /// Runs the job.
    pub fn pay(self, local: &Rc<WorkerState>) {
        (self.0)(local);
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Job")
    }
}

/// Handle to a worker for other threads.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    index: usize,
    visits: mpsc::Sender<Job>,
    silent_since: UnresponsiveSince,
}

/// Time since which a worker has had a job and finished none, not even too late.
#[derive(Clone, Debug, Default)]
struct UnresponsiveSince(Arc<Mutex<Option<Instant>>>);

impl UnresponsiveSince {
    fn get(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker did not reply in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {0} does not answer")]
pub struct Unresponsive(pub usize);

impl WorkerHandle {
    /// Creates the handle of a worker, and the receiver of its jobs.
    #[must_use]
    pub fn new(index: usize) -> (Self, mpsc::Receiver<Job>) {
        let (visits, received) = mpsc::channel(MAX_WAITING);
        let worker = Self {
            index,
            visits,
            silent_since: UnresponsiveSince::default(),
        };
        (worker, received)
    }

    /// Number of the worker, from 0.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Runs `question` on the worker's thread and returns its result.
    ///
    /// # Errors
    ///
    /// The worker does not reply within [`ANSWER_TIMEOUT`], or has ended.
    ///
    /// # Cancel safety
    ///
    /// The job is run in any case.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Rc<WorkerState>) -> T + Send + 'static,
    ) -> Result<T, Unresponsive> {
        let (answer, answered) = oneshot::channel();
        let silent_since = self.silent_since.clone();
        let visit = Job(Box::new(move |local| {
            *silent_since.get() = None;
            // The caller may have given up.
            let _ = answer.send(question(local));
        }));
        // Set before the job is sent, since only the worker clears it.
        self.silent_since.get().get_or_insert_with(Instant::now);
        let answered = match self.visits.try_send(visit) {
            Ok(()) => time::timeout(ANSWER_TIMEOUT, answered).await.ok(),
            Err(_full_or_ended) => None,
        };
        answered
            .and_then(Result::ok)
            .ok_or(Unresponsive(self.index))
    }

    /// Returns whether it has not replied for longer than [`STUCK_AFTER`].
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let since = *self.silent_since.get();
        since.is_some_and(|since| since.elapsed() >= STUCK_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config_file::Config, state::process::ProcessState};

    #[tokio::test(start_paused = true)]
    async fn an_unresponsive_worker_is_stuck_after_10_seconds() {
        let (worker, _visits) = WorkerHandle::new(3);

        assert_eq!(worker.ask(|_| ()).await, Err(Unresponsive(3)));
        assert!(!worker.is_stuck());
        time::advance(STUCK_AFTER).await;
        assert!(worker.is_stuck());
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_answers_too_late_is_not_stuck() {
        let (worker, mut visits) = WorkerHandle::new(0);
        let route = "[[route]]\nupstream = \"http://127.0.0.1:1\"";
        let config = Config::parse("test", route, &|_| None).unwrap();
        let local = WorkerState::new(Arc::new(ProcessState::new(Arc::new(config))));
        assert_eq!(worker.ask(|_| ()).await, Err(Unresponsive(0)));
        time::advance(STUCK_AFTER).await;
        assert!(worker.is_stuck());

        visits.try_recv().unwrap().pay(&local);

        assert!(!worker.is_stuck());
        // The full time without a reply starts over.
        assert_eq!(worker.ask(|_| ()).await, Err(Unresponsive(0)));
        assert!(!worker.is_stuck());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_for_a_stuck_worker_are_bounded() {
        let (worker, mut visits) = WorkerHandle::new(0);
        for _ in 0..2 * MAX_WAITING {
            worker.ask(|_| ()).await.unwrap_err();
        }

        let mut waiting = 0;
        while visits.try_recv().is_ok() {
            waiting += 1;
        }
        assert_eq!(waiting, MAX_WAITING);
    }

    #[tokio::test]
    async fn an_ended_worker_is_unresponsive_at_once() {
        let (worker, visits) = WorkerHandle::new(0);
        drop(visits);

        assert_eq!(worker.ask(|_| ()).await, Err(Unresponsive(0)));
    }
}
