//! Messages between the demo's clients and backends, as JSON.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::session::rules::Priority;

/// Time over which a client sends before it waits for the backend.
const EARLY: Duration = Duration::from_secs(1);

/// Types of a client's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MessageKind {
    UserMessage,
    AgentRequest,
    Status,
    Typing,
}

impl MessageKind {
    const ALL: [Self; 4] = [
        Self::UserMessage,
        Self::AgentRequest,
        Self::Status,
        Self::Typing,
    ];

    /// Returns the priority that the demo's `proxy.toml` assigns.
    pub(super) const fn priority(self) -> Priority {
        match self {
            Self::UserMessage | Self::AgentRequest => Priority::Critical,
            Self::Status => Priority::Normal,
            Self::Typing => Priority::Low,
        }
    }
}

/// Message of a client to a backend.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClientMessage {
    #[serde(rename = "type")]
    pub(super) kind: MessageKind,
    /// Number of the message, from 0 in the order of sending.
    pub(super) n: u32,
}

/// Message of a backend to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Reply {
    /// The message handler is attached.
    ConnectionEstablished,
    /// The services have started.
    Ready,
    /// Message `n` was handled.
    Ack {
        n: u32,
        /// Time of arrival, in µs since the backend began to send its ready message.
        after_ready_us: u64,
    },
}

/// Messages of one client, with their times.
#[derive(Clone, Debug)]
pub(super) struct SendSchedule {
    kinds: Vec<MessageKind>,
    early: u32,
}

impl SendSchedule {
    /// Creates the schedule of the client with this number: `messages`, of which the first four in
    /// five are early.
    pub(super) fn new(messages: u32, seed: u64, client: u32) -> Self {
        let mut rng = dice(seed, "schedule", client);
        let kind = |_| MessageKind::ALL[rng.random_range(0..MessageKind::ALL.len())];
        Self {
            kinds: (0..messages).map(kind).collect(),
            early: early(messages),
        }
    }

    pub(super) fn kinds(&self) -> &[MessageKind] {
        &self.kinds
    }

    /// Returns the messages of the first second, each with its time after the client's handshake.
    pub(super) fn early(&self) -> impl Iterator<Item = (Duration, ClientMessage)> {
        let early = self.early;
        self.requests()
            .take_while(move |request| request.n < early)
            .map(move |request| (EARLY * request.n / early, request))
    }

    /// Returns the messages that are sent at once when the backend is ready.
    pub(super) fn late(&self) -> impl Iterator<Item = ClientMessage> {
        self.requests().filter(|request| request.n >= self.early)
    }

    fn requests(&self) -> impl Iterator<Item = ClientMessage> {
        (0..)
            .zip(&self.kinds)
            .map(|(n, &kind)| ClientMessage { kind, n })
    }
}

/// Returns a generator for `what` of `client`: independent of all others, and the same each time.
pub(super) fn dice(seed: u64, what: &str, client: u32) -> StdRng {
    let mut bytes = [0; 32];
    let name = what.bytes().take(16);
    // Fields of their own instead of a hash: distinct inputs cannot collide.
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..12].copy_from_slice(&client.to_le_bytes());
    bytes[12..]
        .iter_mut()
        .zip(name)
        .for_each(|(to, byte)| *to = byte);
    StdRng::from_seed(bytes)
}

/// Returns the number of early ones among `messages`.
pub(super) const fn early(messages: u32) -> u32 {
    messages - messages / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_depends_only_on_seed_and_client() {
        let kinds = |seed, client| SendSchedule::new(20, seed, client).kinds().to_vec();

        assert_eq!(kinds(1, 0), kinds(1, 0));
        assert_ne!(kinds(1, 0), kinds(1, 1));
        assert_ne!(kinds(1, 0), kinds(2, 0));
    }

    #[test]
    fn four_in_five_messages_are_spread_over_the_first_second() {
        let schedule = SendSchedule::new(10, 1, 0);

        let early: Vec<_> = schedule.early().map(|(at, it)| (at, it.n)).collect();
        let late: Vec<_> = schedule.late().map(|it| it.n).collect();

        assert_eq!(early[0], (Duration::ZERO, 0));
        assert_eq!(early[7], (Duration::from_millis(875), 7));
        assert_eq!(late, [8, 9]);
    }

    #[test]
    fn the_priorities_are_those_of_the_file() {
        let file = super::super::configuration("http://127.0.0.1:1").unwrap();
        let route = file.routes.find("any", "/").unwrap();

        for kind in MessageKind::ALL {
            let payload = serde_json::to_vec(&ClientMessage { kind, n: 0 }).unwrap();
            let class = route.session.rules.classify(&crate::matcher::Sample {
                is_text: true,
                payload: &payload,
                is_whole: true,
            });
            assert_eq!(class.priority, kind.priority(), "{kind:?}");
        }
    }
}
