//! Counts of client connections.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Client connections of the process.
#[derive(Debug, Default)]
pub struct Connections {
    accepted: AtomicU64,
    /// Open connections, and sessions that share one.
    taken: AtomicUsize,
}

impl Connections {
    /// Open connections and sessions that share one; the number that the limit applies to.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Connections accepted so far, including those that were closed at once.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts a new connection; returns the number that was open before.
    pub fn enter(&self) -> usize {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.taken.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a closed connection.
    pub fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Acquires a slot for a session that shares its connection, and counts as much as a
    /// connection; `None` when `max` slots are taken.
    #[must_use]
    pub fn admit_session(self: &Arc<Self>, max: usize) -> Option<SessionPlace> {
        let next = |taken| (taken < max).then_some(taken + 1);
        // Checked and taken in one step, since workers race for the last slot.
        let entered = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.is_ok().then(|| SessionPlace(Arc::clone(self)))
    }
}

/// Slot of a session that counts like a connection; released when dropped.
#[derive(Debug)]
pub struct SessionPlace(Arc<Connections>);

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
