//! The proxy's own pings, and the messages that the upstream's pongs to them confirm.
//!
//! # Invariants
//!
//! * The payloads are random: no other ping has them, and those for one side are useless on the
//!   other. A client cannot answer for the upstream, nor make it answer.
//! * A pong stands for all pings up to the one that it answers, since a peer need only answer the
//!   latest one (RFC 6455 §5.5.3). A pong that answers none, or the same one again, confirms
//!   nothing.
//! * Only pings that may confirm something are remembered, at most [`MAX_UNANSWERED`]. A ping for
//!   which there is no room confirms the same messages as the last one remembered.

use std::{collections::VecDeque, sync::LazyLock};

use crate::websocket::{Control, Opcode, frame::control_frame};

/// Maximum number of pings that are remembered.
const MAX_UNANSWERED: usize = 8;

/// Leading bytes of the payload of the proxy's pings.
type Mark = [u8; 8];

static TO_CLIENT: LazyLock<Mark> = LazyLock::new(rand::random);
static TO_UPSTREAM: LazyLock<Mark> = LazyLock::new(rand::random);

/// Number of every ping to a client; these pings confirm nothing.
const NO_NUMBER: u32 = 0;

/// Builds a ping for the client.
pub(super) fn ping_for_client() -> Vec<u8> {
    control_frame(Opcode::Ping, &payload(*TO_CLIENT, NO_NUMBER), None)
}

/// Builds the ping for the upstream with this number.
pub(super) fn ping_for_upstream(number: u32) -> Vec<u8> {
    let payload = payload(*TO_UPSTREAM, number);
    control_frame(Opcode::Ping, &payload, Some(rand::random()))
}

fn payload(mark: Mark, number: u32) -> [u8; 12] {
    let mut payload = [0; 12];
    payload[..8].copy_from_slice(&mark);
    payload[8..].copy_from_slice(&number.to_be_bytes());
    payload
}

/// Returns the number of the proxy's ping that `control` answers, if it answers one; 0 for a ping
/// to the client.
pub(super) fn own_pong(control: &Control) -> Option<u32> {
    if control.opcode != Opcode::Pong {
        return None;
    }
    let (mark, number) = control.payload.split_first_chunk()?;
    let number = u32::from_be_bytes(number.try_into().ok()?);
    match mark {
        mark if *mark == *TO_UPSTREAM => Some(number),
        mark if *mark == *TO_CLIENT => Some(NO_NUMBER),
        _ => None,
    }
}

/// Pings sent to the upstream.
#[derive(Debug, Default)]
pub(super) struct Pings {
    /// Number of the latest ping.
    last: u32,
    /// Pings that may confirm something, the oldest first.
    unanswered: VecDeque<NumberedPing>,
}

#[derive(Clone, Copy, Debug)]
struct NumberedPing {
    number: u32,
    /// Messages of the client in front of it in the stream.
    messages: u64,
}

impl Pings {
    /// Numbers the next ping, which is sent after `messages` in total, of which `known` are
    /// delivered or given up.
    pub(super) fn number(&mut self, messages: u64, known: u64) -> u32 {
        self.last += 1;
        // Data of the upstream confirms messages, too; a pong to these pings then confirms no more.
        while let Some(_known) = self.unanswered.pop_front_if(|ping| ping.messages <= known) {}
        let before = self.unanswered.back().map_or(known, |ping| ping.messages);
        if messages > before && self.unanswered.len() < MAX_UNANSWERED {
            self.unanswered.push_back(NumberedPing {
                number: self.last,
                messages,
            });
        }
        self.last
    }

    /// Returns the number of messages that a pong to the ping with this `number` confirms, if
    /// any.
    pub(super) fn answer(&mut self, number: u32) -> Option<u64> {
        // The upstream has seen the mark, and may make up a number.
        if number > self.last {
            return None;
        }
        let mut confirmed = None;
        while let Some(ping) = self.unanswered.pop_front_if(|ping| ping.number <= number) {
            confirmed = Some(ping.messages);
        }
        if self.unanswered.is_empty() {
            // Most of the time nothing is remembered, and no memory is kept.
            self.unanswered = VecDeque::new();
        }
        confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_that_confirm_nothing_more_are_not_remembered() {
        let mut pings = Pings::default();
        assert_eq!(pings.number(3, 3), 1);
        assert_eq!(pings.number(5, 3), 2);
        assert_eq!(pings.number(5, 3), 3);
        assert_eq!(pings.unanswered.len(), 1);

        assert_eq!(pings.answer(1), None);
        assert_eq!(pings.answer(3), Some(5));
        assert_eq!(pings.answer(2), None);
        assert_eq!(pings.unanswered.capacity(), 0);
    }

    // An upstream that answers no ping, but each message.
    #[test]
    fn pings_whose_messages_are_known_make_room_for_others() {
        let mut pings = Pings::default();
        let most = MAX_UNANSWERED as u64;
        for messages in 1..=most {
            pings.number(messages, messages - 1);
            assert_eq!(pings.unanswered.len(), 1);
        }

        let ninth = pings.number(most + 1, most);
        assert_eq!(pings.answer(ninth), Some(most + 1));
        let tenth = pings.number(most + 2, most + 1);
        pings.number(most + 2, most + 2);
        assert_eq!(pings.unanswered.len(), 0, "the messages are known");
        assert_eq!(pings.answer(tenth), None);
    }

    #[test]
    fn a_ping_without_room_confirms_what_the_one_before_does() {
        let mut pings = Pings::default();
        let most = MAX_UNANSWERED as u64;
        for messages in 1..=most + 3 {
            pings.number(messages, 0);
        }
        assert_eq!(pings.unanswered.len(), MAX_UNANSWERED);

        assert_eq!(pings.answer(2), Some(2));
        let next = pings.number(20, 2);
        assert_eq!(pings.answer(next - 1), Some(most));
        assert_eq!(pings.answer(next + 1), None, "it was not sent");
        assert_eq!(pings.answer(next), Some(20));
    }

    #[test]
    fn only_a_pong_with_the_payload_of_a_ping_is_own() {
        let own = |opcode, payload: &[u8]| {
            own_pong(&Control {
                opcode,
                payload: payload.to_vec(),
                wire: Vec::new(),
            })
        };
        let said = payload(*TO_UPSTREAM, 7);
        assert_eq!(own(Opcode::Pong, &said), Some(7));
        assert_eq!(own(Opcode::Pong, &payload(*TO_CLIENT, 7)), Some(NO_NUMBER));
        assert_eq!(own(Opcode::Ping, &said), None);
        assert_eq!(own(Opcode::Pong, &said[..11]), None);
        assert_eq!(own(Opcode::Pong, &[&said[..], b"x"].concat()), None);
        assert_eq!(own(Opcode::Pong, b""), None);
        assert_eq!(own(Opcode::Pong, &said[1..]), None);
    }
}
