//! Counts since the process began, summed up for each route.
//!
//! A message touches nothing here: a session keeps its figures in a [`SessionStats`] of its own, which is
//! added to these totals when it ends. A snapshot adds the records of running sessions to a copy of
//! the totals.
//!
//! # Invariants
//!
//! * The totals and the records of running sessions together only grow: a record is added in the
//!   same way while its session runs and when it has ended.
//! * The sum of all ledgers keeps their invariant: every message is in exactly one account.

use std::{ops::AddAssign, time::Duration};

use super::histogram::{Histogram, LENGTHS, WAITS, WORK};
use crate::{
    session::{
        SessionStats, Settings, hold,
        ledger::Ledger,
        rules::Priority,
        state::SessionState,
        termination::{ENDINGS, EndReason, Initiator, Traffic},
    },
    upstream::{Attempts, Failure},
};

/// Counts of one route.
#[derive(Clone, Debug)]
pub struct RouteTotals {
    /// Opening handshakes that became a session.
    pub handshakes_accepted: u64,
    /// Opening handshakes that were refused.
    pub handshakes_refused: u64,
    /// Fate of the clients' messages.
    pub ledger: Ledger,
    /// Messages and bytes relayed.
    pub traffic: Traffic,
    /// Attempts to connect a session to its upstream.
    pub attempts: u64,
    /// Failed attempts, in the order of [`Failure::ALL`].
    pub failures: [u64; Failure::ALL.len()],
    /// Sessions that have ended.
    pub ended: Endings,
    /// Clients, and upstreams, that did not close within `close_timeout`.
    pub close_timeouts: [u64; 2],
    /// Time from a client's `101` to that of its upstream.
    pub connect_time: Histogram,
    /// Time from a client's `101` to the ready message.
    pub ready_time: Histogram,
    /// Time from a client's `101` to the opening of the gate, or to the end of a session whose gate
    /// never opened.
    pub hold_time: Histogram,
    /// Duration of the flushes.
    pub flush_time: Histogram,
    /// Time from a client's `101` to the end of the session.
    pub length: Histogram,
    /// Responses to plain HTTP requests by the first digit of their status, from `1xx` on.
    pub answers: [u64; 5],
    /// Time from a plain HTTP request to the beginning of its response.
    pub answer_time: Histogram,
}

impl Default for RouteTotals {
    fn default() -> Self {
        Self {
            handshakes_accepted: 0,
            handshakes_refused: 0,
            ledger: Ledger::default(),
            traffic: Traffic::default(),
            attempts: 0,
            failures: Default::default(),
            ended: Endings::default(),
            close_timeouts: Default::default(),
            connect_time: Histogram::new(WAITS),
            ready_time: Histogram::new(WAITS),
            hold_time: Histogram::new(WAITS),
            flush_time: Histogram::new(WORK),
            length: Histogram::new(LENGTHS),
            answers: Default::default(),
            answer_time: Histogram::new(WORK),
        }
    }
}

impl RouteTotals {
    /// Adds the figures of a session so far.
    pub fn add_record(&mut self, record: &SessionStats) {
        self.ledger += record.ledger();
        self.traffic += record.traffic();
        self.add_attempts(record.attempts());
        let unclosed = record.unclosed();
        let unclosed = [unclosed.client, unclosed.upstream].map(u64::from);
        add_each(&mut self.close_timeouts, &unclosed);
        let observe = |histogram: &mut Histogram, duration: Option<Duration>| {
            if let Some(duration) = duration {
                histogram.observe(duration);
            }
        };
        observe(&mut self.connect_time, record.connected_after());
        observe(&mut self.hold_time, record.opened_after());
        observe(&mut self.ready_time, record.ready_after());
        observe(&mut self.flush_time, record.flush_time());
    }

    /// Adds attempts to connect to the upstream.
    pub fn add_attempts(&mut self, attempts: &Attempts) {
        self.attempts += u64::from(attempts.get());
        for (total, failures) in self.failures.iter_mut().zip(attempts.failures()) {
            *total += u64::from(failures);
        }
    }

    /// Adds the end of a session whose record was added.
    pub fn add_end(&mut self, record: &SessionStats, cause: &EndReason) {
        self.ended.count((cause.initiator(), cause.name()));
        let length = record.started().elapsed();
        self.length.observe(length);
        // Without the sessions that were held to their end the histogram would flatter.
        if record.opened_after().is_none() {
            self.hold_time.observe(length);
        }
    }

    /// Adds the response to a plain HTTP request.
    pub fn add_answer(&mut self, status: http::StatusCode, after: Duration) {
        let class = usize::from(status.as_u16() / 100);
        // hyper accepts any three digits as a status.
        let class = class.clamp(1, self.answers.len());
        self.answers[class - 1] += 1;
        self.answer_time.observe(after);
    }
}

impl AddAssign<&Self> for RouteTotals {
    fn add_assign(&mut self, more: &Self) {
        let Self {
            handshakes_accepted,
            handshakes_refused,
            ledger,
            traffic,
            attempts,
            failures,
            ended,
            close_timeouts,
            connect_time,
            ready_time,
            hold_time,
            flush_time,
            length,
            answers,
            answer_time,
        } = self;
        *handshakes_accepted += more.handshakes_accepted;
        *handshakes_refused += more.handshakes_refused;
        *ledger += more.ledger;
        *traffic += more.traffic;
        *attempts += more.attempts;
        add_each(failures, &more.failures);
        for (ending, count) in more.ended.iter() {
            ended.add(ending, count);
        }
        add_each(close_timeouts, &more.close_timeouts);
        *connect_time += &more.connect_time;
        *ready_time += &more.ready_time;
        *hold_time += &more.hold_time;
        *flush_time += &more.flush_time;
        *length += &more.length;
        add_each(answers, &more.answers);
        *answer_time += &more.answer_time;
    }
}

fn add_each<const N: usize>(counts: &mut [u64; N], more: &[u64; N]) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count += more;
    }
}

/// Number of ended sessions, by initiator and reason.
#[derive(Clone, Debug)]
pub struct Endings(Vec<((Initiator, &'static str), u64)>);

impl Default for Endings {
    /// Zero for each combination.
    fn default() -> Self {
        let endings = ENDINGS.iter();
        let endings = endings.map(|ending| ((ending.initiator, ending.name), 0));
        Self(endings.collect())
    }
}

impl Endings {
    /// Iterates over all combinations, including those that never happened.
    pub fn iter(&self) -> impl Iterator<Item = ((Initiator, &'static str), u64)> {
        self.0.iter().copied()
    }

    fn count(&mut self, ending: (Initiator, &'static str)) {
        self.add(ending, 1);
    }

    fn add(&mut self, ending: (Initiator, &'static str), more: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == ending) {
            Some((_, count)) => *count += more,
            // New reasons are added as they come, so that no session is missing from the sum.
            None => self.0.push((ending, more)),
        }
    }
}

/// Current state and counts of one route.
#[derive(Clone, Debug, Default)]
pub struct RouteSnapshot {
    /// Counts, with those of running sessions.
    pub totals: RouteTotals,
    /// Running sessions by state, in the order of [`SessionState::ALL`].
    pub sessions: [u64; SessionState::ALL.len()],
    /// Messages in hold queues by priority, in the order of [`Priority::ALL`].
    pub queued_messages: [u64; Priority::ALL.len()],
    /// Bytes accounted for messages that are held.
    pub held_bytes: u64,
    /// Fill level of the fullest hold queue, from 0 to 1.
    pub fullest_queue: f64,
    /// True if the route is still counting.
    pub is_in_use: bool,
}

impl RouteSnapshot {
    /// Adds a session that runs with these settings.
    pub fn add_session(&mut self, record: &SessionStats, settings: &Settings) {
        self.totals.add_record(record);
        self.sessions[record.state(settings.tunnel.idle_after) as usize] += 1;
        let queued = record.queued();
        for (total, messages) in self.queued_messages.iter_mut().zip(queued.messages) {
            *total += u64::from(messages);
        }
        self.held_bytes += queued.bytes as u64;
        let filled = filled(queued.messages.iter().sum(), queued.bytes, &settings.hold);
        self.fullest_queue = self.fullest_queue.max(filled);
    }
}

/// Fill level of a queue, from 0 to 1, by the limit that is closer; 1 beyond it.
#[expect(
    clippy::cast_precision_loss,
    reason = "what is held is far below 2^52 bytes"
)]
fn filled(messages: u32, bytes: usize, limits: &hold::Settings) -> f64 {
    let by_messages = f64::from(messages) / limits.max_messages as f64;
    let by_bytes = bytes as f64 / limits.max_bytes as f64;
    by_messages.max(by_bytes).min(1.0)
}

impl AddAssign<&Self> for RouteSnapshot {
    fn add_assign(&mut self, more: &Self) {
        self.totals += &more.totals;
        add_each(&mut self.sessions, &more.sessions);
        add_each(&mut self.queued_messages, &more.queued_messages);
        self.held_bytes += more.held_bytes;
        self.fullest_queue = self.fullest_queue.max(more.fullest_queue);
        self.is_in_use |= more.is_in_use;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{CloseCode, CloseFrame};

    #[tokio::test(start_paused = true)]
    async fn a_session_counts_the_same_while_live_and_once_ended() {
        let record = SessionStats::accepted();
        record.attempts().count();
        let mut running = RouteSnapshot::default();
        running.add_session(&record, &Settings::default());
        let mut totals = RouteTotals::default();
        totals.add_record(&record);

        assert_eq!(running.totals.attempts, 1);
        assert_eq!(totals.attempts, 1);
        assert_eq!(
            running.sessions[SessionState::Accepted as usize],
            1,
            "{running:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_never_became_ready_was_held_to_its_end() {
        let record = SessionStats::accepted();
        tokio::time::advance(Duration::from_secs(3)).await;
        let mut totals = RouteTotals::default();

        totals.add_end(&record, &EndReason::QueueFull);

        assert_eq!(totals.hold_time.count(), 1);
        assert!((totals.hold_time.sum_seconds() - 3.0).abs() < 1e-9);
        assert_eq!(totals.ready_time.count(), 0);
        assert_eq!(totals.length.count(), 1);
    }

    #[test]
    fn a_queue_is_as_full_as_its_closer_limit_says() {
        let limits = hold::Settings {
            max_messages: 4,
            max_bytes: 1000,
            ..hold::Settings::default()
        };

        for (messages, bytes, expected) in [
            (0, 0, 0.0),
            (1, 10, 0.25),
            (1, 500, 0.5),
            (4, 10, 1.0),
            (1, 1500, 1.0),
        ] {
            let filled = filled(messages, bytes, &limits);
            assert!(
                (filled - expected).abs() < 1e-9,
                "{messages} {bytes}: {filled}"
            );
        }
    }

    #[test]
    fn endings_are_there_before_they_happen_and_none_is_lost() {
        let mut totals = RouteTotals::default();
        assert!(totals.ended.iter().all(|(_, count)| count == 0));
        let known = totals.ended.iter().count();
        let closed = EndReason::UpstreamClosed(CloseFrame::new(CloseCode::NORMAL_CLOSURE, "bye"));

        totals.add_end(&SessionStats::accepted(), &closed);
        totals.add_end(&SessionStats::accepted(), &EndReason::Aborted);

        let happened: Vec<_> = totals
            .ended
            .iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            happened,
            [
                ((Initiator::Upstream, "upstream_closed"), 1),
                ((Initiator::Proxy, "aborted"), 1)
            ]
        );
        assert_eq!(totals.ended.iter().count(), known);
    }

    #[test]
    fn an_answer_with_an_odd_status_counts_too() {
        let mut totals = RouteTotals::default();
        for status in [200, 204, 404, 599, 999] {
            let status = http::StatusCode::from_u16(status).unwrap();
            totals.add_answer(status, Duration::from_millis(1));
        }

        assert_eq!(totals.answers, [0, 2, 0, 1, 2]);
    }
}
