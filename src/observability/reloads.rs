//! Counts of configuration reloads, by result.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Reloads since the start of the process, whose own configuration is the first success.
#[derive(Debug)]
pub struct Reloads {
    applied: AtomicU64,
    rejected: AtomicU64,
    last_success: AtomicU64,
}

impl Default for Reloads {
    fn default() -> Self {
        Self {
            applied: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            last_success: AtomicU64::new(now()),
        }
    }
}

impl Reloads {
    /// Counts a configuration that took effect.
    pub fn count_applied(&self) {
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.last_success.store(now(), Ordering::Relaxed);
    }

    /// Counts a configuration that was rejected.
    pub fn count_rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of reloads by result.
    #[must_use]
    pub fn by_result(&self) -> [(&'static str, u64); 2] {
        [
            ("success", self.applied.load(Ordering::Relaxed)),
            ("rejected", self.rejected.load(Ordering::Relaxed)),
        ]
    }

    /// Time at which the current configuration was read, in seconds since 1970.
    #[must_use]
    pub fn last_success(&self) -> u64 {
        self.last_success.load(Ordering::Relaxed)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
