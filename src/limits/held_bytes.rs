//! Budget of the bytes that all sessions of the process together may hold.
//!
//! # Invariants
//!
//! * Charged bytes are released, at the latest when their [`Charge`] is dropped.
//! * While the budget is used up, a session with more than its reserve of 4 KiB does not read its
//!   client, and no session keeps more than 4 KiB of an upstream's message. So the budget is
//!   exceeded by at most these reserves for each session and one read for each worker thread.
//!
//! # Memory that an upstream can fill
//!
//! An upstream is trusted with memory no more than a client. This table lists every buffer for
//! its data, the bound, which is for each session or request unless another unit is given, and
//! the test that checks it:
//!
//! | buffer | bound | counts in the budget | test |
//! |---|---|---|---|
//! | the head of its response to an opening handshake | 32 KiB and one read, 100 headers, 10 interim responses one after the other | no | `upstream::handshake`: `an_endless_head_is_broken_at_the_limit` |
//! | the body of a rejection that is kept for a waiting client | 64 KiB | no | `ask`: `a_kept_answer_whose_body_is_too_long_is_passed_on_without_it` |
//! | data read and not yet processed | 16 KiB, and the data that came with the `101` | no | `budget`: `an_upstream_is_not_read_while_its_client_does_not_read` |
//! | a withheld message that may be the ready one | twice `inspect_bytes`, 1 KiB and one read of 16 KiB; 4 KiB and one read once the budget is used up; none while closing | yes | `withheld` |
//! | the sample of a message for matchers | `inspect_bytes`; 4 KiB and one read once the budget is used up | yes | `withheld`, `budget`: `the_kept_part_of_a_possible_ready_message_is_charged` |
//! | the inflater for compressed messages | 44 KiB | yes | `compression`: `between_messages_that_stand_alone_nothing_is_kept` |
//! | the write buffer of a client that does not read | 64 KiB and one read: 16 KiB, in the tunnel 64 KiB; and a withheld message that is forwarded after all, as above | no | `budget`: `an_upstream_is_not_read_while_its_client_does_not_read` |
//! | the same for a client that has left inside a frame | 128 KiB and one read; then it is dropped | no | `closing_handshake`: `a_close_inside_an_upstream_frame_does_not_block_the_gate` |
//! | a large frame between two sockets | a pipe of the kernel of 256 KiB, only while it moves | no | `large_frames`: `a_slow_reader_gets_every_byte_of_a_large_frame` |
//! | pongs to its pings, once the client has left | 33 pongs | yes | `write_buffer`: `a_flood_of_pings_leaves_33_pongs_with_the_latest` |
//! | pings of the gate that it does not read | one | yes | `gate_pings`: `a_backend_that_does_not_read_is_owed_one_ping` |
//! | its last close frame before it restarted | 125 bytes | no | `restarts`: `at_the_deadline_the_client_gets_the_last_restart_s_words` |
//! | the head of a plain response, interim ones included | 64 KiB each, 100 headers, 10 interim responses | no | `headers::framing::responses` |
//! | the body of a plain response | what hyper reads ahead; from an upstream of HTTP/2 256 KiB for each stream, 1 GiB for each connection | no | `multiplexed`: `answers_that_nobody_reads_do_not_stop_the_others` |
//!
//! The total of the buffers that do not count is bounded by `limits.max_connections`, and by the
//! limit on memory, which is measured. The largest of them is the write buffer of a client that
//! does not read: while a session is held, the upstream is not read beyond it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Accounted bytes that all sessions of the process together may hold.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max_bytes: AtomicUsize,
    freed: Notify,
}

impl Budget {
    /// Creates a budget of `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            max_bytes: AtomicUsize::new(max_bytes),
            freed: Notify::new(),
        }
    }

    /// Accounted bytes held at present.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Limit in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Sets the limit. Bytes held beyond a lower one stay held.
    pub fn set_max_bytes(&self, max_bytes: usize) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// Returns whether the budget is used up: sessions stop reading, and new ones should be
    /// refused.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.used_bytes() >= self.max_bytes()
    }

    /// Resolves when bytes may have been released.
    ///
    /// One waiter at a time is woken; each that finds room wakes the next.
    ///
    /// # Cancel safety
    ///
    /// A wake-up is passed on to the next waiter when this future is dropped before it resolves.
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

/// Share of one session in the budget.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Creates a charge of 0 bytes.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// The budget charged.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Charged bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the charge to `bytes`.
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
    fn charged_bytes_are_released() {
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
    async fn every_waiter_is_woken_when_there_is_room() {
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
