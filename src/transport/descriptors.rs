//! File descriptors, of which a process has a limited number.
//!
//! A few of the last ones are reserved for what operators need when all others are in use. The
//! kernel allocates the lowest free number, so a socket with a high one means that few are left.
//! Connections of clients and to upstreams must do without those.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

use rustix::{
    io::{Errno, fcntl_dupfd_cloexec},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Upper bound on the reserve; of a low limit, an eighth is reserved.
const MAX_RESERVE: u32 = 32;

/// Lowest descriptor in the reserve. A static, as the limit is the process's; nothing is reserved
/// before [`raise_limit`].
static RESERVED_FROM: AtomicI32 = AtomicI32::new(RawFd::MAX);

/// Number of descriptors in the reserve.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// Raises the process's soft limit to the hard limit, sets the reserve, and returns the limit;
/// `None` if there is none.
///
/// The soft limit is low by default for the sake of programs that use `select`, which fails with
/// high descriptors; nothing here does.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // Some systems enforce a bound of their own below an unlimited hard limit.
    let limit = setrlimit(Resource::Nofile, raised).map_or(current, |()| maximum);
    let reserved = limit.map_or(0, |limit| u64::from(MAX_RESERVE).min(limit / 8));
    let reserved_from = limit.and_then(|limit| RawFd::try_from(limit - reserved).ok());
    RESERVED_FROM.store(reserved_from.unwrap_or(RawFd::MAX), Ordering::Relaxed);
    RESERVED.store(usize::try_from(reserved).unwrap_or(0), Ordering::Relaxed);
    limit
}

/// Returns the number of descriptors in the reserve.
pub fn reserved() -> usize {
    RESERVED.load(Ordering::Relaxed)
}

/// Checks that a new socket is not from the reserve.
///
/// # Errors
///
/// `EMFILE` for a socket from the reserve, an [`is_shortage`] error.
pub fn check(socket: &impl AsFd) -> io::Result<()> {
    if socket.as_fd().as_raw_fd() < RESERVED_FROM.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err(Errno::MFILE.into())
    }
}

/// Returns whether descriptors outside the reserve are left, by duplicating `any` for a moment.
pub fn are_left(any: &impl AsFd) -> bool {
    fcntl_dupfd_cloexec(any, 0).is_ok_and(|copy| check(&copy).is_ok())
}

/// Returns whether the process (`EMFILE`) or the machine (`ENFILE`) is out of descriptors.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}
