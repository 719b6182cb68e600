//! Connecting to the upstream: resolve, connect, opening handshake, try again.

use std::{cell::Cell, io, path::PathBuf, time::Duration};

/// Where the upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address (without brackets) and a port.
    Tcp {
        /// The name or address.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

/// How long to wait between attempts.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Before the second attempt; default 25 ms. Doubles with each further one.
    pub initial: Duration,
    /// The longest wait; default 1 s.
    pub max: Duration,
    /// The part of each wait that is random, 0 to 1; default 0.5.
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

/// How a route's upstream is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// How long one TCP connection attempt may take; default 1 s.
    pub timeout: Duration,
    /// How long the upstream may take to answer the opening handshake; default 5 s.
    pub handshake_timeout: Duration,
    /// The waits between attempts.
    pub retry: Retry,
}

impl Settings {
    /// The defaults for an upstream at `address`.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            retry: Retry::default(),
        }
    }
}

/// How often a session has tried to reach its upstream.
#[derive(Debug, Default)]
pub struct Attempts(Cell<u32>);

impl Attempts {
    /// Counts one more.
    pub fn count(&self) {
        self.0.set(self.0.get().saturating_add(1));
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.get()
    }
}

/// Why the upstream cannot be had, and trying again would not help.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It answered the opening handshake with this status.
    #[error("upstream refused the WebSocket with status {0}")]
    Refused(http::StatusCode),
    /// Its `101` is not one (RFC 6455 §4.1).
    #[error("upstream's opening handshake is broken: {0}")]
    Broken(&'static str),
    /// It cannot be reached at all.
    #[error("upstream unreachable")]
    Unreachable(#[source] io::Error),
}
