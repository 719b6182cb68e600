//! The hold queue: whole messages in the order in which they will be flushed.
//!
//! Holds messages, never frames: fragments of one message must not be interleaved with those of
//! another (RFC 6455 §5.4). With permessage-deflate and context takeover a message depends on the
//! ones before it, so that reordering or shedding would corrupt the stream: where either may
//! happen, context takeover by the client is declined, and each of its messages stands alone.
//!
//! # Invariants
//!
//! * Messages of equal [`Priority`] keep the order in which they arrived.
//! * `held_bytes` is the sum over the messages of their wire bytes and
//!   [`MESSAGE_OVERHEAD_BYTES`] each.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::rules::{Class, Priority, Release};

/// Accounted bytes of one held message beyond its wire bytes: its entry in the queue (56 bytes,
/// in a buffer that may be half empty) and the allocator's overhead.
pub const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// Order in which held messages are flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By priority, and by arrival within a priority.
    #[default]
    Priority,
    /// By arrival; priorities only decide which messages are shed.
    Arrival,
}

/// Held message.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    wire: Vec<u8>,
    /// Sequence number over all lanes.
    number: u64,
    arrived: Instant,
    release: Release,
}

impl Held {
    fn accounted_bytes(&self) -> usize {
        accounted_bytes(&self.wire)
    }
}

/// Accounted bytes of a message with these wire bytes.
#[must_use]
pub fn accounted_bytes(wire: &Vec<u8>) -> usize {
    wire.capacity() + MESSAGE_OVERHEAD_BYTES
}

/// Messages of one session that wait for the gate.
#[derive(Debug)]
pub struct HoldQueue {
    /// One lane for each priority, the lowest first.
    lanes: [VecDeque<Held>; 4],
    order: Order,
    messages: usize,
    held_bytes: usize,
    next_number: u64,
}

impl HoldQueue {
    /// An empty queue that flushes in `order`.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self {
            lanes: Default::default(),
            order,
            messages: 0,
            held_bytes: 0,
            next_number: 0,
        }
    }

    /// Number of messages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.messages
    }

    /// Number of messages of each priority, in the order of
    /// [`Priority::ALL`](super::rules::Priority).
    #[must_use]
    pub fn len_by_priority(&self) -> [u32; 4] {
        self.lanes
            .each_ref()
            .map(|lane| u32::try_from(lane.len()).unwrap_or(u32::MAX))
    }

    /// Returns whether the queue is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Accounted bytes of all messages.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Adds a message that arrived at `arrived`.
    pub fn push(&mut self, wire: Vec<u8>, class: Class, arrived: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        let held = Held {
            wire,
            number,
            arrived,
            release: class.release,
        };
        self.held_bytes += held.accounted_bytes();
        self.messages += 1;
        self.lanes[class.priority as usize].push_back(held);
    }

    /// Removes and returns the next message to be flushed.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let lane = match self.order {
            Order::Priority => self.lanes.iter_mut().rev().find(|lane| !lane.is_empty())?,
            Order::Arrival => self
                .lanes
                .iter_mut()
                .filter(|lane| !lane.is_empty())
                .min_by_key(|lane| lane.front().map(|held| held.number))?,
        };
        let held = lane.pop_front()?;
        self.messages -= 1;
        self.held_bytes -= held.accounted_bytes();
        Some(held.wire)
    }

    /// Removes and returns the messages that may be sent upstream at `reached`, in the order of
    /// the flush.
    pub fn take_released(&mut self, reached: Release) -> Vec<Vec<u8>> {
        // A queue of its own, so that the released messages leave in the order of the flush.
        let mut released = Self::new(self.order);
        for (lane, released_lane) in self.lanes.iter_mut().zip(&mut released.lanes) {
            let (out, keep) = std::mem::take(lane)
                .into_iter()
                .partition(|held| held.release <= reached);
            *lane = keep;
            *released_lane = out;
            released.messages += released_lane.len();
            released.held_bytes += released_lane
                .iter()
                .map(Held::accounted_bytes)
                .sum::<usize>();
        }
        self.messages -= released.messages;
        self.held_bytes -= released.held_bytes;
        std::iter::from_fn(|| released.pop()).collect()
    }

    /// Discards the oldest message of the lowest priority below `incoming`.
    ///
    /// Returns whether there was one. Nothing is below [`Priority::Low`], and a critical message
    /// is never discarded.
    pub fn shed_below(&mut self, incoming: Priority) -> bool {
        // Within a lane the oldest message is shed: it is the most likely to be stale.
        let below = &mut self.lanes[..incoming as usize];
        let Some(held) = below.iter_mut().find_map(VecDeque::pop_front) else {
            return false;
        };
        self.messages -= 1;
        self.held_bytes -= held.accounted_bytes();
        true
    }

    /// Drops messages held for longer than `max_age`; returns their number.
    pub fn expire(&mut self, max_age: Duration, now: Instant) -> u64 {
        let before = self.messages;
        // The oldest message of each lane is its first: expiry never searches.
        for lane in &mut self.lanes {
            while let Some(held) = lane.front()
                && now.duration_since(held.arrived) > max_age
            {
                self.messages -= 1;
                self.held_bytes -= held.accounted_bytes();
                lane.pop_front();
            }
        }
        (before - self.messages) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class(priority: Priority) -> Class {
        Class {
            priority,
            release: Release::Ready,
        }
    }

    fn push(queue: &mut HoldQueue, text: &str, priority: Priority) {
        queue.push(text.as_bytes().to_vec(), class(priority), Instant::now());
    }

    fn drain(queue: &mut HoldQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|wire| String::from_utf8(wire).unwrap())
            .collect()
    }

    #[test]
    fn a_higher_priority_goes_first_and_equals_keep_their_order() {
        let mut queue = HoldQueue::new(Order::Priority);
        push(&mut queue, "low", Priority::Low);
        push(&mut queue, "first", Priority::Normal);
        push(&mut queue, "critical", Priority::Critical);
        push(&mut queue, "second", Priority::Normal);
        push(&mut queue, "high", Priority::High);

        assert_eq!(
            drain(&mut queue),
            ["critical", "high", "first", "second", "low"]
        );
        assert_eq!((queue.len(), queue.held_bytes()), (0, 0));
    }

    #[test]
    fn in_arrival_order_priorities_do_not_reorder() {
        let mut queue = HoldQueue::new(Order::Arrival);
        push(&mut queue, "a", Priority::Low);
        push(&mut queue, "b", Priority::Critical);
        push(&mut queue, "c", Priority::Normal);

        assert_eq!(drain(&mut queue), ["a", "b", "c"]);
    }

    #[test]
    fn the_oldest_of_the_lowest_priority_is_shed() {
        let mut queue = HoldQueue::new(Order::Arrival);
        push(&mut queue, "normal", Priority::Normal);
        push(&mut queue, "old", Priority::Low);
        push(&mut queue, "new", Priority::Low);

        assert!(queue.shed_below(Priority::High));
        assert!(queue.shed_below(Priority::Normal));
        assert!(!queue.shed_below(Priority::Normal));
        assert_eq!(drain(&mut queue), ["normal"]);
    }

    #[test]
    fn critical_messages_are_never_shed() {
        let mut queue = HoldQueue::new(Order::Priority);
        push(&mut queue, "critical", Priority::Critical);

        assert!(!queue.shed_below(Priority::Critical));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn only_what_the_state_releases_is_taken_and_in_order() {
        let mut queue = HoldQueue::new(Order::Priority);
        let early = |priority| Class {
            priority,
            release: Release::Authenticated,
        };
        let now = Instant::now();
        queue.push(b"held".to_vec(), class(Priority::Critical), now);
        queue.push(b"second".to_vec(), early(Priority::Normal), now);
        queue.push(b"first".to_vec(), early(Priority::High), now);

        let released = queue.take_released(Release::ServicesReady);

        assert_eq!(released, [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(queue.len(), 1);
        assert_eq!(drain(&mut queue), ["held"]);
        assert_eq!(queue.held_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_older_than_max_age_expire() {
        let mut queue = HoldQueue::new(Order::Priority);
        push(&mut queue, "old", Priority::Critical);
        tokio::time::advance(Duration::from_secs(2)).await;
        push(&mut queue, "young", Priority::Low);
        tokio::time::advance(Duration::from_secs(2)).await;

        assert_eq!(queue.expire(Duration::from_secs(3), Instant::now()), 1);
        assert_eq!(drain(&mut queue), ["young"]);
    }

    fn any_priority() -> impl Strategy<Value = Priority> {
        prop_oneof![
            Just(Priority::Low),
            Just(Priority::Normal),
            Just(Priority::High),
            Just(Priority::Critical)
        ]
    }

    proptest! {
        #[test]
        fn the_flush_order_is_a_stable_sort_by_priority(
            priorities in prop::collection::vec(any_priority(), 0..200),
        ) {
            let mut queue = HoldQueue::new(Order::Priority);
            for (number, priority) in priorities.iter().enumerate() {
                push(&mut queue, &number.to_string(), *priority);
            }
            let mut expected: Vec<usize> = (0..priorities.len()).collect();
            expected.sort_by_key(|number| std::cmp::Reverse(priorities[*number]));

            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            prop_assert_eq!(drain(&mut queue), expected);
            prop_assert_eq!(queue.held_bytes(), 0);
        }
    }
}
