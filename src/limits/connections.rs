//! Counts of open connections, in the process and per worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::sync::Notify;

use super::open_connections::Connections;

/// Result of the check against the limit on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Within the limits: the connection is served.
    Admitted,
    /// Over the limit of the process: the only response is a `503`.
    OverLimit,
    /// Over the limit of its address: the only response is a `429`.
    OverAddressLimit,
}

/// Connections over the limit that still get a `503`; further ones are closed without a response.
const MAX_OVER_LIMIT: usize = 256;

/// Open connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerConnections {
    open: AtomicUsize,
    changed: Notify,
}

impl WorkerConnections {
    pub(crate) fn get(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Resolves when no connection is open.
    ///
    /// Only one task may wait.
    pub(crate) async fn emptied(&self) {
        while self.get() > 0 {
            self.changed.notified().await;
        }
    }

    fn leave(&self) {
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.changed.notify_one();
        }
    }
}

/// Slot of one connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    process: Arc<Connections>,
    worker: Arc<WorkerConnections>,
}

impl ConnectionSlot {
    /// Acquires a slot on `worker` in a process for at most `max_connections`; `None` when the
    /// excess over it is too large even for a `503`.
    pub(crate) fn take(
        process: &Arc<Connections>,
        max_connections: usize,
        worker: &Arc<WorkerConnections>,
    ) -> Option<(Self, Admission)> {
        let others = process.enter();
        worker.open.fetch_add(1, Ordering::Relaxed);
        let place = Self {
            process: Arc::clone(process),
            worker: Arc::clone(worker),
        };
        if others < max_connections {
            Some((place, Admission::Admitted))
        } else if others - max_connections < MAX_OVER_LIMIT {
            Some((place, Admission::OverLimit))
        } else {
            None
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        // tokio contains a panic in its task; this at least logs it.
        if thread::panicking() {
            tracing::error!("the task of a connection panicked");
        }
        self.process.leave();
        self.worker.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_over_the_limit_get_a_few_refusals() {
        let process = Arc::new(Connections::default());
        let worker = Arc::new(WorkerConnections::default());
        let take = || ConnectionSlot::take(&process, 2, &worker);

        let mut taken: Vec<_> = (0..2).map(|_| take().unwrap()).collect();
        assert!(
            taken
                .iter()
                .all(|(_, admission)| *admission == Admission::Admitted)
        );

        taken.extend((0..MAX_OVER_LIMIT).map(|_| take().unwrap()));
        assert!(
            taken[2..]
                .iter()
                .all(|(_, admission)| *admission == Admission::OverLimit)
        );

        assert!(take().is_none());
        assert_eq!(process.taken(), taken.len());
        taken.truncate(1);
        assert_eq!(take().unwrap().1, Admission::Admitted);
        drop(taken);
        assert_eq!((process.taken(), worker.get()), (0, 0));
    }

    #[tokio::test]
    async fn emptied_resolves_when_the_last_place_is_left() {
        let process = Arc::new(Connections::default());
        let worker = Arc::new(WorkerConnections::default());
        let (place, _) = ConnectionSlot::take(&process, 1, &worker).unwrap();

        tokio::join!(worker.emptied(), async { drop(place) });
    }
}
