//! Settings of connections to upstreams.

use std::time::Duration;

/// Settings of the backoff.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Wait before the second attempt; default 25 ms. Doubles with each further one.
    pub initial: Duration,
    /// Longest wait; default 1 s.
    pub max: Duration,
    /// Random share of each wait, 0 to 1; default 0.5.
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(25),
            max: Duration::from_secs(1),
            jitter: 0.5,
        }
    }
}

/// Settings of a route's breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failed sessions, with none becoming ready in between, that open the breaker; default 5, 0:
    /// never.
    pub failures: u32,
    /// Time from opening to half-open; default 5 s.
    pub cooldown: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            cooldown: Duration::from_secs(5),
        }
    }
}
