//! Memory in use, compared with the bound at which new work is refused.
//!
//! # Invariants
//!
//! * Without a [`Bound`] memory is never short.
//! * Hysteresis: once memory is short, it stays so until 5 % of the bound is free again, so that
//!   the state does not change with every session.
//! * A value that cannot be read counts as zero: nothing is refused because of it.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

pub use crate::config::{Bound, Usage};

/// One part in `RELIEF` of the bound must be free again before memory is no longer short.
const RELIEF: u64 = 20;

/// With less than one part in `NEAR` of the bound left, usage is checked after every piece taken
/// in.
const NEAR: u64 = 4;

/// Bytes that may be taken in between two checks before that: 16 bytes on the wire may become 500
/// in memory.
const LOOK_BYTES: u64 = 16 * 1024;

impl Usage {
    /// Usage of the version 2 cgroup in this directory.
    pub(crate) fn version_2(cgroup: &Path) -> Self {
        Self::Cgroup {
            total: cgroup.join("memory.current"),
            details: cgroup.join("memory.stat"),
            reclaimable: "inactive_file",
        }
    }

    /// Usage of the version 1 cgroup in this directory.
    pub(crate) fn version_1(cgroup: &Path) -> Self {
        Self::Cgroup {
            total: cgroup.join("memory.usage_in_bytes"),
            details: cgroup.join("memory.stat"),
            reclaimable: "total_inactive_file",
        }
    }

    /// Usage of this process, read from the files below `root`.
    #[must_use]
    pub fn of_process(root: &Path) -> Self {
        Self::Process {
            statm: root.join("proc/self/statm"),
        }
    }

    /// Reads the bytes in use; `None` when they cannot be read.
    #[must_use]
    pub fn read(&self) -> Option<u64> {
        match self {
            Self::Cgroup {
                total,
                details,
                reclaimable,
            } => {
                let total: u64 = fs::read_to_string(total).ok()?.trim().parse().ok()?;
                // Without the breakdown everything counts: rather too much than too little.
                let details = fs::read_to_string(details).unwrap_or_default();
                let reclaimable = details.lines().find_map(|line| {
                    let (name, bytes) = line.split_once(' ')?;
                    (name == *reclaimable).then(|| bytes.trim().parse().ok())?
                });
                Some(total.saturating_sub(reclaimable.unwrap_or(0)))
            }
            Self::Process { statm } => {
                let statm = fs::read_to_string(statm).ok()?;
                // The second field is the resident set, in pages (proc_pid_statm(5)).
                let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
                pages.checked_mul(rustix::param::page_size() as u64)
            }
        }
    }
}

/// Memory in use as of the last [check](Self::look).
#[derive(Debug)]
pub struct Pressure {
    bound: Mutex<Option<Bound>>,
    used_bytes: AtomicU64,
    is_high: AtomicBool,
    /// This process alone, which is quick to read.
    process: Usage,
    /// Its bytes at the last check.
    process_bytes: AtomicU64,
    /// Set when less than a quarter of the bound was left at the last check.
    is_near: AtomicBool,
    /// Bytes taken in since the last check.
    unlooked_bytes: AtomicU64,
}

impl Pressure {
    /// Creates a state that is not high until the first check.
    #[must_use]
    pub fn new(bound: Option<Bound>) -> Self {
        Self {
            bound: Mutex::new(bound),
            used_bytes: AtomicU64::new(0),
            is_high: AtomicBool::new(false),
            process: Usage::of_process(Path::new("/")),
            process_bytes: AtomicU64::new(0),
            is_near: AtomicBool::new(false),
            unlooked_bytes: AtomicU64::new(0),
        }
    }

    /// Changes the bound from the next check on.
    pub fn set_bound(&self, bound: Option<Bound>) {
        *self.bound() = bound;
    }

    /// Returns whether new work is to be refused.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.is_high.load(Ordering::Relaxed)
    }

    /// Bytes in use at the last check, and the bound; `None` without a bound.
    #[must_use]
    pub fn used_and_max_bytes(&self) -> Option<(u64, u64)> {
        let max_bytes = self.bound().as_ref()?.max_bytes;
        Some((self.used_bytes.load(Ordering::Relaxed), max_bytes))
    }

    /// Reads the usage and compares it with the bound.
    pub fn look(&self) {
        let bound = self.bound().clone();
        match bound {
            Some(bound) => {
                let process_bytes = self.process.read().unwrap_or(0);
                self.process_bytes.store(process_bytes, Ordering::Relaxed);
                self.note(bound.usage.read(), bound.max_bytes);
            }
            None => self.note(None, u64::MAX),
        }
    }

    /// Records bytes that were taken in and may occupy much more memory than that.
    pub fn take_in(&self, bytes: usize) {
        self.unlooked_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns whether less than a quarter of the bound was left at the last check.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.is_near.load(Ordering::Relaxed)
    }

    /// Returns whether there is room to [take in](Self::take_in) more.
    ///
    /// Checks the usage first when it is due, more often the less is left: that costs a few
    /// microseconds.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let unlooked_bytes = self.unlooked_bytes.load(Ordering::Relaxed);
        let is_due = unlooked_bytes >= LOOK_BYTES || unlooked_bytes > 0 && self.is_near();
        if is_due && !self.is_high() {
            // Bytes that another thread adds meanwhile may get lost, which only delays its next
            // check.
            self.unlooked_bytes.store(0, Ordering::Relaxed);
            self.look_if_grown();
        }
        !self.is_high()
    }

    /// Checks again if this process has grown since the last check by more than was left then.
    // `statm` is read much faster than the `memory.stat` of a cgroup.
    fn look_if_grown(&self) {
        let Some((used_bytes, max_bytes)) = self.used_and_max_bytes() else {
            return;
        };
        let before = self.process_bytes.load(Ordering::Relaxed);
        let grown = self.process.read().unwrap_or(0).saturating_sub(before);
        let used_bytes = used_bytes.saturating_add(grown);
        self.note_near(used_bytes, max_bytes);
        if used_bytes > max_bytes {
            self.look();
        }
    }

    fn note_near(&self, used_bytes: u64, max_bytes: u64) {
        let is_near = used_bytes > max_bytes - max_bytes / NEAR;
        self.is_near.store(is_near, Ordering::Relaxed);
    }

    fn bound(&self) -> MutexGuard<'_, Option<Bound>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, used: Option<u64>, max_bytes: u64) {
        let used_bytes = used.unwrap_or(0);
        self.note_near(used_bytes, max_bytes);
        self.used_bytes.store(used_bytes, Ordering::Relaxed);
        let was_high = self.is_high();
        // The lower bound on the way down keeps the state from flapping.
        let bound = if was_high {
            max_bytes - max_bytes / RELIEF
        } else {
            max_bytes
        };
        let is_high = used_bytes > bound;
        let was_high = self.is_high.swap(is_high, Ordering::Relaxed);
        match (was_high, is_high) {
            (false, true) => tracing::warn!(
                used_bytes,
                max_bytes,
                "memory is short: new sessions and requests that would be held are refused, and HTTP/2 \
                 connections on which something waits to be read are not read"
            ),
            (true, false) => tracing::info!(used_bytes, max_bytes, "memory is no longer short"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_stays_high_until_5_percent_of_the_bound_is_free() {
        let pressure = Pressure::new(None);
        let is_high = |used| {
            pressure.note(used, 1000);
            pressure.is_high()
        };

        for (used, expected) in [
            (0, false),
            (1000, false),
            (1001, true),
            (951, true),
            (1000, true),
            (950, false),
            (1000, false),
            (2000, true),
        ] {
            assert_eq!(is_high(Some(used)), expected, "{used}");
        }
        assert!(!is_high(None), "what cannot be read");
    }

    #[test]
    fn inactive_file_pages_do_not_count() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text).unwrap();
        write("memory.current", "1000\n");
        write(
            "memory.stat",
            "anon 400\nfile 600\ninactive_file 250\nactive_file 350\n",
        );
        assert_eq!(Usage::version_2(root.path()).read(), Some(750));

        write("memory.usage_in_bytes", "2000\n");
        write("memory.stat", "inactive_file 1\ntotal_inactive_file 500\n");
        assert_eq!(Usage::version_1(root.path()).read(), Some(1500));

        write("memory.stat", "");
        assert_eq!(Usage::version_1(root.path()).read(), Some(2000));
        fs::remove_file(root.path().join("memory.current")).unwrap();
        assert_eq!(Usage::version_2(root.path()).read(), None);
    }

    #[test]
    fn usage_is_checked_more_often_the_less_is_left() {
        let root = tempfile::tempdir().unwrap();
        let page = rustix::param::page_size() as u64;
        let file = root.path().join("statm");
        let set = |pages: u64| fs::write(&file, format!("0 {pages}")).unwrap();
        let statm = file.clone();
        let mut pressure = Pressure::new(Some(Bound {
            max_bytes: 100 * page,
            usage: Usage::Process { statm },
        }));
        pressure.process = Usage::Process {
            statm: file.clone(),
        };
        set(10);
        pressure.look();

        set(80);
        pressure.take_in(1);
        assert!(pressure.has_room());
        assert_eq!(pressure.used_and_max_bytes(), Some((10 * page, 100 * page)));
        pressure.take_in(16 * 1024);
        assert!(pressure.has_room(), "little is left now");
        set(101);
        assert!(pressure.has_room(), "nothing has been taken in");
        pressure.take_in(1);
        assert!(!pressure.has_room());

        assert_eq!(
            pressure.used_and_max_bytes(),
            Some((101 * page, 100 * page))
        );
        set(90);
        pressure.look();
        assert!(pressure.has_room());
    }

    #[test]
    fn this_process_has_something_resident() {
        let usage = Usage::of_process(Path::new("/"));

        assert!(usage.read().is_some_and(|bytes| bytes > 100_000));
    }

    #[test]
    fn without_a_bound_there_is_nothing_to_look_at() {
        let pressure = Pressure::new(None);
        pressure.look();

        assert!(!pressure.is_high());
        assert_eq!(pressure.used_and_max_bytes(), None);
    }

    #[test]
    fn a_bound_that_is_lifted_is_no_longer_exceeded() {
        let bound = Bound {
            max_bytes: 1,
            usage: Usage::of_process(Path::new("/")),
        };
        let pressure = Pressure::new(Some(bound));
        pressure.look();
        assert!(pressure.is_high());

        pressure.set_bound(None);
        pressure.look();

        assert!(!pressure.is_high());
    }
}
