//! The gate: shut until readiness, then open for good.

use std::time::Duration;

use crate::matcher::Matcher;

/// What advances a session to its next state: any one of the list does.
pub type Triggers = Vec<Trigger>;

/// One thing that can advance a session.
#[derive(Clone, Debug)]
pub enum Trigger {
    /// The upstream's validated `101`.
    Upgrade,
    /// The upstream's pong to the proxy's own ping.
    Pong,
    /// The upstream's first data message, whatever it says.
    First,
    /// An upstream message that matches.
    Message(Matcher),
}

/// What to do when readiness does not come in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// Close the client with 1013.
    #[default]
    Close,
    /// Open the gate anyway; the session is then `degraded`.
    Open,
}

/// When the gate opens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What makes a session `authenticated`.
    pub authenticated: Triggers,
    /// What makes a session `services_ready`; empty: that state is skipped.
    pub services_ready: Triggers,
    /// What opens the gate.
    pub ready: Triggers,
    /// How long to wait after `ready` before opening; default 0.
    pub settle: Duration,
    /// How long after the client's `101` readiness may take; default 30 s.
    pub timeout: Duration,
    /// What to do then.
    pub on_timeout: OnTimeout,
    /// Whether the client sees the ready message; default true.
    pub forward_ready: bool,
    /// How much of a message matchers see, in bytes; default 64 KiB.
    pub inspect_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authenticated: vec![Trigger::Upgrade],
            services_ready: Vec::new(),
            ready: vec![Trigger::Upgrade],
            settle: Duration::ZERO,
            timeout: Duration::from_secs(30),
            on_timeout: OnTimeout::default(),
            forward_ready: true,
            inspect_bytes: 64 * 1024,
        }
    }
}
