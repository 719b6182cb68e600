//! Keeping a timer near while a worker is busy.
//!
//! A runtime whose next timer is an hour away has told the kernel to wait for an hour. When a
//! timer is set that is due before that, tokio wakes itself up to wait for less, although it is
//! not waiting: a system call, and one more pass of its loop. Every connection sets timers of
//! seconds, which are cancelled within milliseconds. While another one is due before all of
//! these, none of that happens.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::{task, time};

use super::places::Count;

/// Shorter than the timers that every connection sets, and rarely enough not to be noticed.
const PACE: Duration = Duration::from_millis(500);

/// The timer of one worker; it runs while there are connections.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    count: Arc<Count>,
    is_running: Rc<Cell<bool>>,
}

impl Pacer {
    /// The timer of the worker with the connections that `count` counts.
    pub(super) fn new(count: Arc<Count>) -> Self {
        Self {
            count,
            is_running: Rc::default(),
        }
    }

    /// Sees to it that the timer runs, for a connection that is in the count.
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
    use crate::{server::places::Place, telemetry::connections::Connections};

    #[tokio::test(start_paused = true)]
    async fn it_runs_for_as_long_as_there_are_connections_and_again_for_the_next() {
        let process = Arc::new(Connections::default());
        let count = Arc::new(Count::default());
        let pacer = Pacer::new(Arc::clone(&count));
        let scenario = async {
            for _ in 0..2 {
                let (place, _) = Place::take(&process, 1, &count).unwrap();
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
