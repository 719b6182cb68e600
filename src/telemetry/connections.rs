//! How many connections of clients there are, and were.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// The connections of the process.
#[derive(Debug, Default)]
pub struct Connections {
    accepted: AtomicU64,
    /// Connections that are open, and sessions that share one.
    taken: AtomicUsize,
}

impl Connections {
    /// How many count: those that are open, and sessions that share one. It is what the limit is
    /// compared with.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many there were, those that were closed at once included.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts one more; returns how many places were taken before.
    pub fn enter(&self) -> usize {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.taken.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts one less.
    pub fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// A place for a session that shares its connection, which takes as much as one of its
    /// own; `None` when `max` are taken.
    #[must_use]
    pub fn admit_session(self: &Arc<Self>, max: usize) -> Option<SessionPlace> {
        let next = |taken| (taken < max).then_some(taken + 1);
        let entered = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.is_ok().then(|| SessionPlace(Arc::clone(self)))
    }
}

/// A session that counts like a connection, until it is dropped.
#[derive(Debug)]
pub struct SessionPlace(Arc<Connections>);

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
