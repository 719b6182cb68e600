//! Holding: the hold queue, its bounds, and the phase that fills it.

use std::time::Duration;

/// What happens when the hold queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Stop reading the client.
    #[default]
    Backpressure,
    /// Give up the oldest message of the lowest priority.
    Shed,
    /// Close the client with 1013.
    Close,
}

/// In which order held messages are flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By priority, and by arrival within a priority.
    #[default]
    Priority,
    /// By arrival; priorities only decide what is shed.
    Arrival,
}

/// What becomes of held messages when the client has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClientGone {
    /// They are still delivered once the gate opens.
    #[default]
    Deliver,
    /// They are discarded, and the upstream is closed.
    Discard,
}

/// The bounds and the policy of a route's hold queues.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Messages in one session's queue; default 1000.
    pub max_messages: usize,
    /// Accounted bytes in one session's queue, payload plus overhead; default 1 MiB.
    pub max_bytes: usize,
    /// What happens at a bound.
    pub overflow: Overflow,
    /// The order of the flush.
    pub order: Order,
    /// Messages held longer than this are dropped at the flush; default none.
    pub max_age: Option<Duration>,
    /// What becomes of the queue when the client has gone.
    pub on_client_gone: OnClientGone,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_messages: 1000,
            max_bytes: 1024 * 1024,
            overflow: Overflow::default(),
            order: Order::default(),
            max_age: None,
            on_client_gone: OnClientGone::default(),
        }
    }
}

/// The accounted bytes that all sessions of the process together may hold.
#[derive(Debug)]
pub struct Budget {
    max_bytes: usize,
}

impl Budget {
    /// A budget of `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes }
    }

    /// Whether nothing is left, so that no new session should be accepted.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.max_bytes == 0
    }
}
