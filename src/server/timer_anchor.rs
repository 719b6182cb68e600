//! A near timer, which spares a busy worker system calls.
//!
//! A runtime whose next timer is an hour away has told the kernel to wait for an hour. When a timer
//! is set that is due earlier, tokio wakes itself up to wait for less, although it is not waiting:
//! a system call, and another pass of its loop. Every connection sets timers of seconds, which are
//! cancelled within milliseconds. While another timer is due before all of these, none of that
//! happens.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::{task, time};

use crate::limits::connections::WorkerConnections;

/// Period of the timer: shorter than any that connections set, and long enough to cost nothing.
const PACE: Duration = Duration::from_millis(500);

/// Near timer of one worker; it runs while there are connections.
#[derive(Clone, Debug)]
pub(super) struct TimerAnchor {
    count: Arc<WorkerConnections>,
    is_running: Rc<Cell<bool>>,
}

impl TimerAnchor {
    /// Creates the timer of the worker whose connections `count` counts.
    pub(super) fn new(count: Arc<WorkerConnections>) -> Self {
        Self {
            count,
            is_running: Rc::default(),
        }
    }

    /// Starts the timer unless it runs; the caller's connection must be in the count.
    pub(super) fn start(&self) {
        if self.is_running.replace(true) {
            return;
        }
        let Self { count, is_running } = self.clone();
        task::spawn_local(async move {
            while count.get() > 0 {
                time::sleep(PACE).await;
            }
            is_running.set(false);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::{task::LocalSet, time::Instant};

    use super::*;
    use crate::limits::{connections::ConnectionSlot, open_connections::Connections};

    #[tokio::test(start_paused = true)]
    async fn it_runs_while_there_are_connections_and_again_for_the_next() {
        let process = Arc::new(Connections::default());
        let count = Arc::new(WorkerConnections::default());
        let pacer = TimerAnchor::new(Arc::clone(&count));
        let scenario = async {
            for _ in 0..2 {
                let (place, _) = ConnectionSlot::take(&process, 1, &count).unwrap();
                pacer.start();
                pacer.start();
                time::sleep(10 * PACE).await;
                assert!(pacer.is_running.get());

                drop(place);
                let left = Instant::now();
                while pacer.is_running.get() {
                    time::sleep(PACE / 10).await;
                }
                assert!(left.elapsed() <= 2 * PACE);
            }
        };
        LocalSet::new().run_until(scenario).await;
    }
}
