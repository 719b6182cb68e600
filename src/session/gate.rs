//! The gate: shut until readiness, then open for good.
//!
//! Pure: it is told what the upstream did and says how far the session is with it. It only
//! ever moves forward, until the upstream connection is replaced.

use std::time::Duration;

use crate::matcher::{Matcher, Sample};

/// What advances a session to its next state: any one of the list does.
pub type Triggers = Vec<Trigger>;

/// One thing that can advance a session.
#[derive(Clone, Debug, PartialEq)]
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

impl OnTimeout {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Open => "open",
        }
    }
}

/// When the gate opens.
#[derive(Clone, Debug, PartialEq)]
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

impl Settings {
    /// Whether the gate opens as soon as the upstream has accepted the handshake.
    #[must_use]
    pub fn opens_on_upgrade(&self) -> bool {
        self.ready.contains(&Trigger::Upgrade)
    }

    /// Whether a pong to the proxy's own ping would advance a session.
    #[must_use]
    pub fn wants_pong(&self) -> bool {
        self.triggers()
            .any(|trigger| matches!(trigger, Trigger::Pong))
    }

    /// Whether the upstream's messages could advance a session.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.triggers()
            .any(|trigger| matches!(trigger, Trigger::First | Trigger::Message(_)))
    }

    /// Whether a message of the upstream may be kept from the client.
    #[must_use]
    pub fn withholds_messages(&self) -> bool {
        !self.forward_ready && self.wants_messages()
    }

    /// Whether what the upstream's messages say could advance a session.
    #[must_use]
    pub fn reads_messages(&self) -> bool {
        self.triggers()
            .any(|trigger| matches!(trigger, Trigger::Message(_)))
    }

    fn triggers(&self) -> impl Iterator<Item = &Trigger> {
        self.authenticated
            .iter()
            .chain(&self.services_ready)
            .chain(&self.ready)
    }
}

/// What the upstream did.
#[derive(Clone, Copy, Debug)]
pub enum Signal<'a> {
    /// It answered the opening handshake with a valid `101`.
    Upgrade,
    /// It answered the proxy's own ping.
    Pong,
    /// It sent a data message.
    Message(Sample<'a>),
}

/// How far the upstream is with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It accepted the client's credentials.
    Authenticated,
    /// The intermediate message came.
    ServicesReady,
    /// The application is ready.
    Ready,
}

/// The gate of one session.
#[derive(Debug)]
pub struct Gate<'s> {
    settings: &'s Settings,
    stage: Option<Stage>,
    has_seen_message: bool,
}

impl<'s> Gate<'s> {
    /// A shut gate.
    #[must_use]
    pub const fn new(settings: &'s Settings) -> Self {
        Self {
            settings,
            stage: None,
            has_seen_message: false,
        }
    }

    /// The furthest stage reached.
    #[must_use]
    pub const fn stage(&self) -> Option<Stage> {
        self.stage
    }

    /// Whether the readiness signal has come.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stage == Some(Stage::Ready)
    }

    /// What the gate says about a message before it is complete, without remembering it.
    #[must_use]
    pub fn would_make_ready(&self, sample: Sample<'_>) -> bool {
        !self.is_ready() && self.fires(&self.settings.ready, &Signal::Message(sample))
    }

    /// Takes note of `signal`; returns the stage when it is further than before.
    ///
    /// A signal that fits several stages counts for the furthest, and stages in between
    /// are skipped.
    pub fn observe(&mut self, signal: &Signal<'_>) -> Option<Stage> {
        let stages = [
            (Stage::Ready, &self.settings.ready),
            (Stage::ServicesReady, &self.settings.services_ready),
            (Stage::Authenticated, &self.settings.authenticated),
        ];
        let reached = stages
            .into_iter()
            .find(|(stage, triggers)| Some(*stage) > self.stage && self.fires(triggers, signal))
            .map(|(stage, _)| stage);
        if matches!(signal, Signal::Message(_)) {
            self.has_seen_message = true;
        }
        if reached.is_some() {
            self.stage = reached;
        }
        reached
    }

    fn fires(&self, triggers: &Triggers, signal: &Signal<'_>) -> bool {
        triggers.iter().any(|trigger| match (trigger, signal) {
            (Trigger::Upgrade, Signal::Upgrade) | (Trigger::Pong, Signal::Pong) => true,
            (Trigger::First, Signal::Message(_)) => !self.has_seen_message,
            (Trigger::Message(matcher), Signal::Message(sample)) => matcher.matches(sample),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(payload: &str) -> Signal<'_> {
        Signal::Message(Sample {
            is_text: true,
            payload: payload.as_bytes(),
            is_whole: true,
        })
    }

    fn on_message(payload: &str) -> Triggers {
        vec![Trigger::Message(Matcher::Text(payload.to_owned()))]
    }

    #[test]
    fn by_default_the_upgrade_opens_the_gate() {
        let settings = Settings::default();
        let mut gate = Gate::new(&settings);

        assert_eq!(gate.observe(&Signal::Upgrade), Some(Stage::Ready));
        assert!(gate.is_ready());
    }

    #[test]
    fn stages_are_reached_one_after_the_other_and_never_left() {
        let settings = Settings {
            services_ready: on_message("services"),
            ready: on_message("ready"),
            ..Settings::default()
        };
        let mut gate = Gate::new(&settings);

        assert_eq!(gate.observe(&text("services")), Some(Stage::ServicesReady));
        assert_eq!(gate.observe(&Signal::Upgrade), None);
        assert_eq!(gate.observe(&text("other")), None);
        assert_eq!(gate.observe(&text("ready")), Some(Stage::Ready));
        assert_eq!(gate.observe(&text("ready")), None);
    }

    #[test]
    fn first_is_the_first_message_only() {
        let settings = Settings {
            ready: vec![Trigger::First],
            ..Settings::default()
        };
        let mut gate = Gate::new(&settings);

        assert_eq!(gate.observe(&Signal::Upgrade), Some(Stage::Authenticated));
        assert_eq!(gate.observe(&text("anything")), Some(Stage::Ready));
    }

    #[test]
    fn any_of_a_list_will_do() {
        let settings = Settings {
            ready: vec![
                Trigger::Pong,
                Trigger::Message(Matcher::Text("ready".to_owned())),
            ],
            ..Settings::default()
        };

        assert_eq!(
            Gate::new(&settings).observe(&Signal::Pong),
            Some(Stage::Ready)
        );
        assert_eq!(
            Gate::new(&settings).observe(&text("ready")),
            Some(Stage::Ready)
        );
    }
}
