//! The gate: shut until readiness, then open for good.
//!
//! Pure: it is told the upstream's signals and returns the stage that the session has reached.
//! The stage only moves forward, until the upstream connection is replaced.

pub(super) mod inspector;

use std::time::Duration;

use crate::matcher::{Matcher, Sample};

/// Alternatives that advance a session to its next state: any one of them suffices.
pub type Triggers = Vec<Trigger>;

/// Signal that advances a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Trigger {
    /// The upstream's validated `101`.
    Upgrade,
    /// The upstream's pong to the proxy's own ping.
    Pong,
    /// The upstream's first data message, whatever its content.
    First,
    /// An upstream message that matches.
    Message(Matcher),
}

/// Action when readiness does not come in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// Close the client with 1013.
    #[default]
    Close,
    /// Open the gate anyway; the session is then `degraded`.
    Open,
}

impl OnTimeout {
    /// Name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Open => "open",
        }
    }
}

/// Conditions under which the gate opens.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Triggers of the state `authenticated`.
    pub authenticated: Triggers,
    /// Triggers of the state `services_ready`; if empty, that state is skipped.
    pub services_ready: Triggers,
    /// Triggers that open the gate.
    pub ready: Triggers,
    /// Time between `ready` and the opening of the gate; default 0.
    pub settle: Duration,
    /// Time limit for readiness, counted from the client's `101`; default 30 s.
    pub timeout: Duration,
    /// Action when the time limit expires.
    pub on_timeout: OnTimeout,
    /// Whether the ready message is forwarded to the client; default true.
    pub forward_ready: bool,
    /// Length of a message's beginning that matchers inspect, in bytes; default 64 KiB.
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
    /// Returns whether the gate opens as soon as the upstream has accepted the handshake.
    #[must_use]
    pub fn opens_on_upgrade(&self) -> bool {
        self.ready.contains(&Trigger::Upgrade)
    }

    /// Returns whether a pong to the proxy's own ping would advance a session.
    #[must_use]
    pub fn wants_pong(&self) -> bool {
        self.triggers()
            .any(|trigger| matches!(trigger, Trigger::Pong))
    }

    /// Returns whether messages of the upstream could advance a session.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.triggers()
            .any(|trigger| matches!(trigger, Trigger::First | Trigger::Message(_)))
    }

    /// Returns whether a message of the upstream may be withheld from the client.
    #[must_use]
    pub fn withholds_messages(&self) -> bool {
        !self.forward_ready && self.wants_messages()
    }

    /// Returns whether the content of the upstream's messages could advance a session.
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

/// Signal of the upstream.
#[derive(Clone, Copy, Debug)]
pub enum Signal<'a> {
    /// Valid `101` to the opening handshake.
    Upgrade,
    /// Pong to the proxy's own ping.
    Pong,
    /// Data message.
    Message(Sample<'a>),
}

/// Progress of the upstream with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The upstream accepted the client's credentials.
    Authenticated,
    /// The intermediate message arrived.
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

    /// Furthest stage reached.
    #[must_use]
    pub const fn stage(&self) -> Option<Stage> {
        self.stage
    }

    /// Returns whether the readiness signal has come.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stage == Some(Stage::Ready)
    }

    /// Returns whether a message, judged before it is complete, would open the gate; records
    /// nothing.
    #[must_use]
    pub fn would_make_ready(&self, sample: Sample<'_>) -> bool {
        !self.is_ready() && self.fires(&self.settings.ready, &Signal::Message(sample))
    }

    /// Records `signal`; returns the stage if it advances the session.
    ///
    /// A signal that fits several stages counts for the furthest, and stages in between
    /// are skipped.
    pub fn observe(&mut self, signal: &Signal<'_>) -> Option<Stage> {
        // The furthest stage first: one message may be the trigger of several.
        let stages = [
            (Stage::Ready, &self.settings.ready),
            (Stage::ServicesReady, &self.settings.services_ready),
            (Stage::Authenticated, &self.settings.authenticated),
        ];
        let reached = stages
            .into_iter()
            .find(|(stage, triggers)| Some(*stage) > self.stage && self.fires(triggers, signal))
            .map(|(stage, _)| stage);
        // Recorded after the triggers were tried, so that the first message itself can be
        // `First`.
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
