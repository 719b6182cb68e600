//! Looking at how much memory is in use.

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

use crate::http::Shared;

/// How often. Between two looks what is left above the bound has to do.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks now, and then on a thread of its own until what it returns is dropped: the kernel may
/// take its time to add up what a large cgroup uses.
///
/// # Errors
///
/// The thread cannot be started.
pub(super) fn watch(shared: &Arc<Shared>) -> io::Result<Sender<Infallible>> {
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
