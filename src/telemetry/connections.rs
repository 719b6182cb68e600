//! How many connections of clients there are, and were.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The connections of the process.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    accepted: AtomicU64,
}

impl Connections {
    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many there were, those that were closed at once included.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts one more; returns how many were open before.
    pub fn enter(&self) -> usize {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts one less.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
