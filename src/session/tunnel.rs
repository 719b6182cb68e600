//! The tunnel: bytes go through verbatim, frame headers are read.

use std::time::Duration;

/// How the tunnel and the closing handshake behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A session without traffic for this long is called idle; default 10 s.
    pub idle_after: Duration,
    /// How long a closing handshake may take; default 5 s.
    pub close_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_after: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
        }
    }
}
