//! What all sessions of the process together may hold.
//!
//! # Invariants
//!
//! * What is charged is given back, at the latest when its [`Charge`] is dropped.
//! * Nobody who has more than a reserve of 4 KiB reads more from a client while the budget is
//!   used up, so that it is exceeded by at most that reserve for each session and one read
//!   for each worker thread.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// The accounted bytes that all sessions of the process together may hold.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max_bytes: AtomicUsize,
    freed: Notify,
}

impl Budget {
    /// A budget of `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            max_bytes: AtomicUsize::new(max_bytes),
            freed: Notify::new(),
        }
    }

    /// The accounted bytes that are held at this instant.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Sets the limit. What is held beyond a lower one stays held.
    pub fn set_max_bytes(&self, max_bytes: usize) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// Whether nothing is left, so that nobody may take more and no new session should be
    /// accepted.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.used_bytes() >= self.max_bytes()
    }

    /// Resolves when something may have been given back.
    ///
    /// One waiter at a time is woken; each that finds room wakes the next.
    ///
    /// # Cancel safety
    ///
    /// A wake-up is passed on to the next waiter when this is dropped before it resolves.
    pub async fn freed(&self) {
        loop {
            let freed = self.freed.notified();
            if !self.is_exhausted() {
                break;
            }
            freed.await;
        }
        self.freed.notify_one();
    }
}

/// One session's part of the budget.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// A charge of nothing.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// The budget that is charged.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What is charged.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the charge `bytes`, more or less than before.
    pub fn set(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.budget
                .used
                .fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.budget
                .used
                .fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.budget.freed.notify_one();
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_is_given_back() {
        let budget = Arc::new(Budget::new(100));
        let mut first = Charge::new(budget.clone());
        let mut second = Charge::new(budget.clone());

        first.set(60);
        second.set(40);
        assert!(budget.is_exhausted());

        first.set(10);
        assert_eq!(budget.used_bytes(), 50);
        drop(second);
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn everybody_who_waits_is_woken_when_there_is_room() {
        let budget = Arc::new(Budget::new(1));
        let mut charge = Charge::new(budget.clone());
        charge.set(1);
        let waiters: Vec<_> = (0..5)
            .map(|_| {
                let budget = budget.clone();
                tokio::spawn(async move { budget.freed().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));

        charge.set(0);

        for waiter in waiters {
            waiter.await.unwrap();
        }
    }
}
