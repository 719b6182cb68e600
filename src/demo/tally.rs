//! Tally of a client's messages, by the acknowledgements that came back.
//!
//! # Invariants
//!
//! * `to_send = delivered + lost`; a message that was handled twice is delivered once and doubled
//!   once.

use std::{iter::Sum, ops::Add, time::Duration};

use super::messages::MessageKind;

/// Handled messages of one client, and their order.
#[derive(Debug)]
pub(super) struct Tally {
    kinds: Vec<MessageKind>,
    is_handled: Vec<bool>,
    /// For each priority, the number after the highest one handled.
    next: [u32; 4],
    doubled: u64,
    out_of_order: u64,
}

impl Tally {
    /// Creates the tally of a client that sends messages of these kinds in this order.
    pub(super) fn new(kinds: &[MessageKind]) -> Self {
        Self {
            kinds: kinds.to_vec(),
            is_handled: vec![false; kinds.len()],
            next: [0; 4],
            doubled: 0,
            out_of_order: 0,
        }
    }

    /// Records an acknowledgement; returns whether it is the first one for its message. One for a
    /// message that does not exist counts as doubled.
    pub(super) fn acknowledge(&mut self, number: u32) -> bool {
        // Numbers come from the wire, so one that was never sent must not panic.
        let Some(is_handled @ false) = self.is_handled.get_mut(number as usize) else {
            self.doubled += 1;
            return false;
        };
        *is_handled = true;
        let next = &mut self.next[self.kinds[number as usize].priority() as usize];
        if number < *next {
            self.out_of_order += 1;
        } else {
            *next = number + 1;
        }
        true
    }

    pub(super) fn totals(&self) -> DemoTotals {
        let delivered = self.is_handled.iter().filter(|it| **it).count() as u64;
        DemoTotals {
            to_send: self.kinds.len() as u64,
            delivered,
            doubled: self.doubled,
            out_of_order: self.out_of_order,
        }
    }
}

/// Sums over the messages of one or more clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DemoTotals {
    /// Messages to be sent.
    pub(super) to_send: u64,
    /// Messages that a backend has handled.
    pub(super) delivered: u64,
    /// Repeated acknowledgements.
    pub(super) doubled: u64,
    /// Messages handled after a later one of the same priority.
    pub(super) out_of_order: u64,
}

impl DemoTotals {
    pub(super) const fn lost(&self) -> u64 {
        self.to_send - self.delivered
    }

    /// Returns whether each message was delivered once and in order.
    pub(super) const fn is_flawless(&self) -> bool {
        self.lost() == 0 && self.doubled == 0 && self.out_of_order == 0
    }
}

impl Add for DemoTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            to_send: self.to_send + other.to_send,
            delivered: self.delivered + other.delivered,
            doubled: self.doubled + other.doubled,
            out_of_order: self.out_of_order + other.out_of_order,
        }
    }
}

impl Sum for DemoTotals {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::default(), Add::add)
    }
}

/// Returns the median; of an even number, the mean of the two in the middle.
pub(super) fn median(values: impl IntoIterator<Item = Duration>) -> Option<Duration> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [MessageKind; 6] = [
        MessageKind::Typing,
        MessageKind::UserMessage,
        MessageKind::Status,
        MessageKind::AgentRequest,
        MessageKind::Typing,
        MessageKind::Status,
    ];

    fn totals(acks: &[u32]) -> DemoTotals {
        let mut tally = Tally::new(&KINDS);
        for ack in acks {
            tally.acknowledge(*ack);
        }
        tally.totals()
    }

    #[test]
    fn a_flush_by_priority_is_flawless() {
        let totals = totals(&[1, 3, 2, 5, 0, 4]);

        assert_eq!((totals.to_send, totals.delivered), (6, 6));
        assert!(totals.is_flawless());
    }

    #[test]
    fn a_message_without_an_ack_is_lost() {
        let totals = totals(&[1, 3, 2, 0, 4]);

        assert_eq!((totals.delivered, totals.lost()), (5, 1));
        assert!(!totals.is_flawless());
    }

    #[test]
    fn a_second_ack_is_a_double_and_does_not_make_up_for_a_loss() {
        let totals = totals(&[1, 3, 3, 2, 0, 4]);

        assert_eq!((totals.lost(), totals.doubled), (1, 1));
    }

    #[test]
    fn an_ack_for_what_was_never_sent_is_a_double() {
        let totals = totals(&[1, 3, 2, 5, 0, 4, 6]);

        assert_eq!((totals.lost(), totals.doubled), (0, 1));
        assert!(!totals.is_flawless());
    }

    #[test]
    fn order_counts_within_a_priority_whatever_the_type() {
        // 1 is a user message and 3 an agent request, which have the same priority.
        let totals = totals(&[3, 1, 2, 5, 0, 4]);

        assert_eq!(totals.out_of_order, 1);
        assert!(!totals.is_flawless());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |millis: &[u64]| median(millis.iter().copied().map(Duration::from_millis));

        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7]), Some(Duration::from_millis(7)));
        assert_eq!(median(&[9, 1, 2]), Some(Duration::from_millis(2)));
        assert_eq!(median(&[1, 100, 2, 3]), Some(Duration::from_micros(2500)));
    }
}
