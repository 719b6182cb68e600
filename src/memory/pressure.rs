//! How much memory is in use, against the bound at which nothing new is taken in.
//!
//! # Invariants
//!
//! * Without a [`Bound`] it is never high.
//! * Once it is high, it stays so until a twentieth of the bound is free again: it does not
//!   change its mind with every session.
//! * What cannot be read is not held against anybody.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Which part of the bound has to become free until all is well again.
const RELIEF: u64 = 20;

/// When less than this part of the bound is left, every piece that is taken in is looked after.
const NEAR: u64 = 4;

/// Before that, how much may be taken in until somebody looks: 16 bytes on the wire may become
/// 500 in memory.
const LOOK_BYTES: u64 = 16 * 1024;

/// The most memory that may be in use before nothing new is taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// In bytes.
    pub max_bytes: u64,
    /// What is in use.
    pub usage: Usage,
}

/// Where it is to be read what is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Of a cgroup, by version 1 or 2: all that counts against its limit, but for what the
    /// kernel takes back first when it needs memory, which is the pages of files that nobody
    /// has used for a while. Kubernetes calls this the working set.
    Cgroup {
        /// The file that says how much in all.
        total: PathBuf,
        /// The file that says of what.
        details: PathBuf,
        /// Its line about those pages.
        reclaimable: &'static str,
    },
    /// Of this process: what is resident. Nothing else is known where no cgroup has a limit,
    /// and other processes are none of its business.
    Process {
        /// `/proc/self/statm`.
        statm: PathBuf,
    },
}

impl Usage {
    /// Of the cgroup in this directory, by version 2.
    pub(super) fn version_2(cgroup: &Path) -> Self {
        Self::Cgroup {
            total: cgroup.join("memory.current"),
            details: cgroup.join("memory.stat"),
            reclaimable: "inactive_file",
        }
    }

    /// Of the cgroup in this directory, by version 1.
    pub(super) fn version_1(cgroup: &Path) -> Self {
        Self::Cgroup {
            total: cgroup.join("memory.usage_in_bytes"),
            details: cgroup.join("memory.stat"),
            reclaimable: "total_inactive_file",
        }
    }

    /// Of this process, as the files below `root` tell.
    #[must_use]
    pub fn of_process(root: &Path) -> Self {
        Self::Process {
            statm: root.join("proc/self/statm"),
        }
    }

    /// Bytes in use; `None` when they cannot be read.
    #[must_use]
    pub fn read(&self) -> Option<u64> {
        match self {
            Self::Cgroup {
                total,
                details,
                reclaimable,
            } => {
                let total: u64 = fs::read_to_string(total).ok()?.trim().parse().ok()?;
                let details = fs::read_to_string(details).unwrap_or_default();
                let reclaimable = details.lines().find_map(|line| {
                    let (name, bytes) = line.split_once(' ')?;
                    (name == *reclaimable).then(|| bytes.trim().parse().ok())?
                });
                Some(total.saturating_sub(reclaimable.unwrap_or(0)))
            }
            Self::Process { statm } => {
                let statm = fs::read_to_string(statm).ok()?;
                let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
                pages.checked_mul(rustix::param::page_size() as u64)
            }
        }
    }
}

/// How much is in use, as of the last [look](Self::look).
#[derive(Debug)]
pub struct Pressure {
    bound: Mutex<Option<Bound>>,
    used_bytes: AtomicU64,
    is_high: AtomicBool,
    /// This process alone, which is quickly read.
    process: Usage,
    /// What it had at the last look, in bytes.
    process_bytes: AtomicU64,
    /// Whether little was left when somebody last looked.
    is_near: AtomicBool,
    /// What has been taken in since.
    unlooked_bytes: AtomicU64,
}

impl Pressure {
    /// Not high, until somebody looks.
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

    /// Changes the bound, from the next look on.
    pub fn set_bound(&self, bound: Option<Bound>) {
        *self.bound() = bound;
    }

    /// Whether nothing new is to be taken in.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.is_high.load(Ordering::Relaxed)
    }

    /// What was in use at the last look, and the most that may be; `None` without a bound.
    #[must_use]
    pub fn used_and_max_bytes(&self) -> Option<(u64, u64)> {
        let max_bytes = self.bound().as_ref()?.max_bytes;
        Some((self.used_bytes.load(Ordering::Relaxed), max_bytes))
    }

    /// Reads what is in use.
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

    /// Takes note of bytes that have been taken in and may take much more memory than that.
    pub fn take_in(&self, bytes: usize) {
        self.unlooked_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether less than a quarter of the bound was left when somebody last looked.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.is_near.load(Ordering::Relaxed)
    }

    /// Whether there is room to [take in](Self::take_in) more.
    ///
    /// Looks for itself, the more often the less is left: that costs a few microseconds.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let unlooked_bytes = self.unlooked_bytes.load(Ordering::Relaxed);
        let is_due = unlooked_bytes >= LOOK_BYTES || unlooked_bytes > 0 && self.is_near();
        if is_due && !self.is_high() {
            self.unlooked_bytes.store(0, Ordering::Relaxed);
            self.look_if_grown();
        }
        !self.is_high()
    }

    /// Looks again if this process has grown since the last look by what was left then.
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
    fn it_is_high_above_the_bound_and_until_a_twentieth_is_free_again() {
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
    fn what_the_kernel_takes_back_first_does_not_count() {
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
    fn whoever_takes_in_much_looks_for_itself_before_the_bound_is_exceeded() {
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
