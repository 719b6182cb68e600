//! Periodic check of the memory in use.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::state::process::ProcessState;

/// Interval of the checks; the headroom above the limit has to last that long.
const INTERVAL: Duration = Duration::from_secs(1);

/// Checks now, and then on a thread of its own until the returned sender is dropped: the kernel may
/// take its time to sum up the use of a large cgroup.
///
/// # Errors
///
/// The thread cannot be started.
pub(super) fn watch(shared: &Arc<ProcessState>) -> io::Result<Sender<Infallible>> {
    shared.memory().look();
    let shared = Arc::clone(shared);
    let (alive, ended) = mpsc::channel::<Infallible>();
    thread::Builder::new()
        .name("memory".to_owned())
        .spawn(move || {
            loop {
                match ended.recv_timeout(INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => shared.memory().look(),
                    Err(RecvTimeoutError::Disconnected) => return,
                    Ok(never) => match never {},
                }
            }
        })?;
    Ok(alive)
}
