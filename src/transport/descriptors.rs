//! File descriptors, of which a process has only so many.
//!
//! A few of the last ones are kept back for what operators need when there are no others: the
//! kernel gives out the lowest number that is free, so that a socket with a high one tells that
//! few are left. Connections of clients and to upstreams do without those.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::{
    io::{Errno, fcntl_dupfd_cloexec},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// How many are kept back at most; of a low limit, an eighth.
const MAX_RESERVE: u64 = 32;

/// The lowest number that is kept back. The limit is that of the process, and so is this; none
/// is before [`raise_limit`].
static RESERVED_FROM: AtomicI32 = AtomicI32::new(RawFd::MAX);

/// Raises the limit of the process as far as it may, keeps some back, and returns the limit;
/// `None`: there is none.
///
/// The limit that a process starts with is low for the sake of programs that use `select`,
/// which fails with high descriptors; nothing here does.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // Some systems have a bound of their own below a hard limit that is none.
    let limit = setrlimit(Resource::Nofile, raised).map_or(current, |()| maximum);
    let reserved_from = limit.map(|limit| limit - MAX_RESERVE.min(limit / 8));
    let reserved_from = reserved_from.and_then(|from| RawFd::try_from(from).ok());
    RESERVED_FROM.store(reserved_from.unwrap_or(RawFd::MAX), Ordering::Relaxed);
    limit
}

/// Checks that a new socket is not one of the last ones.
///
/// # Errors
///
/// It is, which [`is_shortage`] of.
pub fn check(socket: &impl AsFd) -> io::Result<()> {
    if socket.as_fd().as_raw_fd() < RESERVED_FROM.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err(Errno::MFILE.into())
    }
}

/// Whether there are others than the last ones; asked with any descriptor, which is copied for
/// a moment.
pub fn are_left(any: &impl AsFd) -> bool {
    fcntl_dupfd_cloexec(any, 0).is_ok_and(|copy| check(&copy).is_ok())
}

/// Whether the process (`EMFILE`) or the machine (`ENFILE`) has too few.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}
