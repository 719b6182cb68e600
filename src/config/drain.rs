//! Settings of the drain.

use std::time::Duration;

/// Durations of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSettings {
    /// Time between the announcement and the beginning, during which no client is turned away;
    /// default none. A second stop signal ends it.
    pub delay: Duration,
    /// Time limit of the whole drain; default 8 s, since Cloud Run kills after 10 s.
    pub grace: Duration,
    /// Time over which the ends of tunnels are spread, so that not all clients reconnect at once;
    /// default 5 s, and at most three quarters of the grace period: the rest is for the closing
    /// handshakes.
    pub spread: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            grace: Duration::from_secs(8),
            spread: Duration::from_secs(5),
        }
    }
}
