//! The twelve states of a session, the one table of their transitions, and the audit
//! trail.
//!
//! The state is a label beside the session's code, not its engine: the phases run in order by
//! themselves and record their progress here.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// The client's opening handshake is being checked.
    Connecting,
    /// The client has its `101`; the upstream is being connected.
    Accepted,
    /// The upstream was lost and is being replaced; messages are held again.
    Reconnecting,
    /// The upstream accepted the client's credentials.
    Authenticated,
    /// The configured intermediate message matched.
    ServicesReady,
    /// The ready message matched: the gate is open, the queue is being flushed.
    ProcessingReady,
    /// Readiness did not come in time, and the route opens the gate anyway.
    Degraded,
    /// The tunnel, with traffic.
    Processing,
    /// The tunnel, without traffic for `idle_after`.
    Idle,
    /// A closing handshake is under way.
    Closing,
    /// Ended by a closing handshake.
    Closed,
    /// Ended by an error.
    Failed,
}

impl SessionState {
    /// Every state, in the order of a session's life.
    pub const ALL: [Self; 12] = [
        Self::Connecting,
        Self::Accepted,
        Self::Reconnecting,
        Self::Authenticated,
        Self::ServicesReady,
        Self::ProcessingReady,
        Self::Degraded,
        Self::Processing,
        Self::Idle,
        Self::Closing,
        Self::Closed,
        Self::Failed,
    ];

    /// Name in logs and in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Accepted => "accepted",
            Self::Reconnecting => "reconnecting",
            Self::Authenticated => "authenticated",
            Self::ServicesReady => "services_ready",
            Self::ProcessingReady => "processing_ready",
            Self::Degraded => "degraded",
            Self::Processing => "processing",
            Self::Idle => "idle",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }

    /// States that may follow this one: the whole table.
    #[must_use]
    pub const fn successors(self) -> &'static [Self] {
        use SessionState::{
            Accepted, Authenticated, Closed, Closing, Degraded, Failed, Idle, Processing,
            ProcessingReady, Reconnecting, ServicesReady,
        };
        match self {
            Self::Connecting => &[Accepted, Failed],
            Self::Accepted => &[
                Authenticated,
                ServicesReady,
                ProcessingReady,
                Degraded,
                Reconnecting,
                Closing,
                Closed,
                Failed,
            ],
            Self::Reconnecting => &[
                Authenticated,
                ServicesReady,
                ProcessingReady,
                Degraded,
                Closing,
                Closed,
                Failed,
            ],
            Self::Authenticated => &[
                ServicesReady,
                ProcessingReady,
                Degraded,
                Reconnecting,
                Closing,
                Closed,
                Failed,
            ],
            Self::ServicesReady => &[
                ProcessingReady,
                Degraded,
                Reconnecting,
                Closing,
                Closed,
                Failed,
            ],
            // From here on, the session never returns to holding.
            Self::ProcessingReady | Self::Degraded | Self::Idle => {
                &[Processing, Closing, Closed, Failed]
            }
            Self::Processing => &[Idle, Closing, Closed, Failed],
            Self::Closing => &[Closed, Failed],
            Self::Closed | Self::Failed => &[],
        }
    }

    /// Returns whether the session is over.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.successors().is_empty()
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One step of the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state entered.
    pub to: SessionState,
    /// Reason of the transition.
    pub reason: &'static str,
    after_micros: u64,
}

impl Transition {
    /// Time from the client's `101` to the transition, in microseconds.
    #[must_use]
    pub const fn after(&self) -> Duration {
        Duration::from_micros(self.after_micros)
    }
}

/// Number of transitions that a trail keeps; an upstream that is lost repeatedly would otherwise
/// make it grow without bound.
const MAX_TRANSITIONS: usize = 64;

/// State of one session, and the transitions that led to it.
#[derive(Clone, Debug)]
pub struct Trail {
    state: SessionState,
    started: Instant,
    transitions: Vec<Transition>,
    omitted: u64,
}

impl Trail {
    /// Creates the trail of a session whose client has just received its `101`.
    #[must_use]
    pub fn accepted() -> Self {
        let accepted = Transition {
            to: SessionState::Accepted,
            reason: "client accepted",
            after_micros: 0,
        };
        Self {
            state: SessionState::Accepted,
            started: Instant::now(),
            transitions: Self::started_with(accepted),
            omitted: 0,
        }
    }

    /// Allocates for five transitions, which suffice for most sessions.
    fn started_with(accepted: Transition) -> Vec<Transition> {
        let mut transitions = Vec::with_capacity(5);
        transitions.push(accepted);
        transitions
    }

    /// Current state.
    #[must_use]
    pub const fn state(&self) -> SessionState {
        self.state
    }

    /// Time at which the client received its `101`.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Transitions so far, oldest first; at most the first 64.
    #[must_use]
    pub fn transitions(&self) -> &[Transition] {
        &self.transitions
    }

    /// Number of transitions that are missing from [`transitions`](Self::transitions).
    #[must_use]
    pub const fn omitted(&self) -> u64 {
        self.omitted
    }

    /// Time from the client's `101` to the first transition to `state`.
    #[must_use]
    pub fn entered(&self, state: SessionState) -> Option<Duration> {
        self.transitions
            .iter()
            .find(|transition| transition.to == state)
            .map(Transition::after)
    }

    /// Enters `to`. A transition that is not in the table is refused and logged.
    ///
    /// # Panics
    ///
    /// In a debug build, on such a transition, which is a bug.
    pub fn enter(&mut self, to: SessionState, reason: &'static str) {
        self.enter_at(to, reason, Instant::now());
    }

    /// Like [`enter`](Self::enter), for a state entered at `at`, before it was noticed.
    pub(super) fn enter_at(&mut self, to: SessionState, reason: &'static str, at: Instant) {
        if !self.state.successors().contains(&to) {
            debug_assert!(false, "illegal transition from {} to {to}", self.state);
            tracing::error!(from = %self.state, %to, reason, "illegal state transition refused");
            return;
        }
        self.state = to;
        let after = at.saturating_duration_since(self.started);
        let transition = Transition {
            to,
            reason,
            after_micros: u64::try_from(after.as_micros()).unwrap_or(u64::MAX),
        };
        if self.transitions.len() < MAX_TRANSITIONS {
            self.transitions.push(transition);
        } else {
            self.omitted += 1;
        }
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, transition) in self.transitions.iter().enumerate() {
            let Transition { to, reason, .. } = transition;
            let separator = if index == 0 { "" } else { ", " };
            let after = transition.after().as_millis();
            write!(formatter, "{separator}{to} +{after}ms ({reason})")?;
        }
        if self.omitted > 0 {
            write!(formatter, ", {} more", self.omitted)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_can_be_reached_and_every_life_can_end() {
        for state in SessionState::ALL {
            let reachable = state == SessionState::Connecting
                || SessionState::ALL
                    .iter()
                    .any(|from| from.successors().contains(&state));
            assert!(reachable, "{state}");
            let ends = state.is_final() || state.successors().contains(&SessionState::Failed);
            assert!(ends, "{state}");
        }
    }

    #[test]
    fn nothing_follows_the_end_and_nothing_returns_behind_the_gate() {
        use SessionState::{Closed, Closing, Failed, Idle, Processing};
        for late in [Processing, Idle, Closing, Closed, Failed] {
            for successor in late.successors() {
                assert!(*successor >= Processing, "{late} to {successor}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_trail_says_when_and_why() {
        let mut trail = Trail::accepted();
        tokio::time::advance(Duration::from_millis(1500)).await;
        trail.enter(SessionState::Authenticated, "upstream connected");
        trail.enter(SessionState::ProcessingReady, "ready message");

        assert_eq!(
            trail.entered(SessionState::Authenticated),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(
            trail.to_string(),
            "accepted +0ms (client accepted), authenticated +1500ms (upstream connected), \
             processing_ready +1500ms (ready message)"
        );
    }

    #[tokio::test]
    async fn an_endless_trail_stays_bounded() {
        let mut trail = Trail::accepted();
        for _ in 0..100 {
            trail.enter(SessionState::Reconnecting, "upstream lost");
            trail.enter(SessionState::Authenticated, "upstream connected");
        }

        assert_eq!(trail.transitions().len(), MAX_TRANSITIONS);
        assert_eq!(trail.omitted(), 201 - MAX_TRANSITIONS as u64);
    }

    #[test]
    #[should_panic(expected = "illegal transition from accepted to idle")]
    fn an_illegal_transition_is_a_bug_that_a_debug_build_shows() {
        Trail::accepted().enter(SessionState::Idle, "test");
    }
}
