//! Statistics of a session: for its report at the end, and for operators who inspect it while it
//! runs.
//!
//! # Invariants
//!
//! * Statistics only grow: nothing that was recorded is taken back.
//! * No message depends on them: a session that nobody inspects behaves the same.

use std::{
    cell::{Cell, OnceCell, RefCell},
    num::NonZeroU64,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    io::write_buffer::WriteBuffer,
    ledger::{Account, Ledger},
    pings::Pings,
    rules::Priority,
    state::{SessionState, Trail},
    termination::{EndReason, Report, Traffic},
};
use crate::{upstream::Attempts, websocket::CloseCode};

/// Messages waiting in a session's hold queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Messages by priority, in the order of [`Priority::ALL`].
    pub messages: [u32; Priority::ALL.len()],
    /// Accounted bytes of everything that is held for the session.
    pub bytes: usize,
}

/// Fate of the client's messages in the upstream's write buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Written as a whole.
    pub(super) messages: u64,
    /// Possibly written, possibly in part.
    pub(super) in_doubt: u64,
}

impl Written {
    pub(super) fn of(write_buffer: &WriteBuffer) -> Self {
        Self {
            messages: write_buffer.messages_written(),
            in_doubt: u64::from(write_buffer.messages_waiting().1)
                + write_buffer.messages_passing(),
        }
    }
}

/// Sides that were sent a close frame and did not send one within `close_timeout`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unclosed {
    /// The client.
    pub client: bool,
    /// The upstream.
    pub upstream: bool,
}

/// Statistics of one session through all its phases.
#[derive(Debug)]
pub struct SessionStats {
    trail: RefCell<Trail>,
    ledger: Cell<Ledger>,
    traffic: Cell<Traffic>,
    queued: Cell<Queued>,
    attempts: Attempts,
    connected_after: Cell<Lapse>,
    ready_after: Cell<Lapse>,
    flush_time: Cell<Lapse>,
    /// Time at which the tunnel last relayed traffic, or began.
    last_traffic: Cell<Instant>,
    /// Messages that had been written when the upstream's socket was last found empty.
    written_before_empty: Cell<u64>,
    /// Numbered pings to the upstream; empty until the first.
    pings: OnceCell<Box<RefCell<Pings>>>,
    client_code: Cell<Option<CloseCode>>,
    upstream_code: Cell<Option<CloseCode>>,
    unclosed: Cell<Unclosed>,
}

/// Time that has passed until something happened, if it has: in 8 bytes, where an
/// `Option<Duration>` takes 16, for it is kept for every session.
#[derive(Clone, Copy, Debug, Default)]
struct Lapse(Option<NonZeroU64>);

impl Lapse {
    /// Keeps `duration` in nanoseconds, at most 584 years.
    fn of(duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1);
        Self(NonZeroU64::new(nanos + 1))
    }

    fn get(self) -> Option<Duration> {
        let nanos = self.0?.get() - 1;
        Some(Duration::from_nanos(nanos))
    }
}

impl Default for SessionStats {
    fn default() -> Self {
        Self::accepted()
    }
}

impl SessionStats {
    /// Creates the statistics of a session whose client has just received its `101`.
    #[must_use]
    pub fn accepted() -> Self {
        let trail = Trail::accepted();
        Self {
            last_traffic: Cell::new(trail.started()),
            trail: RefCell::new(trail),
            ledger: Cell::default(),
            traffic: Cell::default(),
            queued: Cell::default(),
            attempts: Attempts::default(),
            connected_after: Cell::default(),
            ready_after: Cell::default(),
            flush_time: Cell::default(),
            written_before_empty: Cell::default(),
            pings: OnceCell::default(),
            client_code: Cell::default(),
            upstream_code: Cell::default(),
            unclosed: Cell::default(),
        }
    }

    /// Returns the state; in a tunnel without traffic for `idle_after` it is
    /// [`SessionState::Idle`].
    #[must_use]
    pub fn state(&self, idle_after: Duration) -> SessionState {
        match self.idle_since(idle_after) {
            Some(_) => SessionState::Idle,
            None => self.entered_state(),
        }
    }

    /// Time at which the tunnel became idle, having had no traffic for `idle_after`; `None` while
    /// it is not idle.
    pub(super) fn idle_since(&self, idle_after: Duration) -> Option<Instant> {
        let since = self.last_traffic.get().checked_add(idle_after)?;
        let is_idle = self.entered_state() == SessionState::Processing && since <= Instant::now();
        is_idle.then_some(since)
    }

    /// States so far, with their times and reasons.
    #[must_use]
    pub fn trail(&self) -> Trail {
        self.trail.borrow().clone()
    }

    /// Time at which the client received its `101`.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.trail.borrow().started()
    }

    /// Accounts of the client's messages.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.get()
    }

    /// Bytes and messages relayed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    /// Messages waiting for the gate.
    #[must_use]
    pub fn queued(&self) -> Queued {
        self.queued.get()
    }

    /// Attempts to connect to the upstream.
    #[must_use]
    pub const fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// Time from the client's `101` to the first connection to the upstream.
    #[must_use]
    pub fn connected_after(&self) -> Option<Duration> {
        self.connected_after.get().get()
    }

    /// Time from the client's `101` to the opening of the gate, for whatever reason.
    #[must_use]
    pub fn opened_after(&self) -> Option<Duration> {
        self.ready_after.get().get()
    }

    /// Time from the client's `101` to the upstream's readiness; `None` if the gate opened
    /// without it.
    #[must_use]
    pub fn ready_after(&self) -> Option<Duration> {
        let was_ready = |trail: &Trail| trail.entered(SessionState::ProcessingReady).is_some();
        let opened = self.opened_after();
        opened.filter(|_| was_ready(&self.trail.borrow()))
    }

    /// Duration of the flush.
    #[must_use]
    pub fn flush_time(&self) -> Option<Duration> {
        self.flush_time.get().get()
    }

    /// State that was entered last; idleness is not taken into account.
    pub(super) fn entered_state(&self) -> SessionState {
        self.trail.borrow().state()
    }

    pub(super) fn enter(&self, to: SessionState, reason: &'static str) {
        self.trail.borrow_mut().enter(to, reason);
    }

    pub(super) fn enter_idle(&self, since: Instant) {
        let mut trail = self.trail.borrow_mut();
        trail.enter_at(SessionState::Idle, "no traffic", since);
    }

    pub(super) fn accept(&self, messages: u64) {
        let mut ledger = self.ledger.get();
        ledger.accept(messages);
        self.ledger.set(ledger);
    }

    pub(super) fn settle(&self, messages: u64, account: Account) {
        let mut ledger = self.ledger.get();
        ledger.settle(messages, account);
        self.ledger.set(ledger);
    }

    pub(super) fn add_traffic(&self, more: Traffic) {
        self.traffic.set(self.traffic.get() + more);
    }

    pub(super) fn note_client_bytes(&self, client_bytes: u64) {
        self.add_traffic(Traffic {
            client_bytes,
            ..Traffic::default()
        });
    }

    pub(super) fn note_upstream_bytes(&self, upstream_bytes: u64) {
        self.add_traffic(Traffic {
            upstream_bytes,
            ..Traffic::default()
        });
    }

    pub(super) fn note_upstream_messages(&self, upstream_messages: u64) {
        self.add_traffic(Traffic {
            upstream_messages,
            ..Traffic::default()
        });
    }

    /// Time at which the tunnel last relayed traffic, or began.
    pub(super) fn last_traffic(&self) -> Instant {
        self.last_traffic.get()
    }

    /// Records that the tunnel has just relayed traffic, or begins.
    pub(super) fn touch(&self) {
        self.last_traffic.set(Instant::now());
    }

    pub(super) fn note_queued(&self, queued: Queued) {
        self.queued.set(queued);
    }

    pub(super) fn note_connected(&self) {
        if self.connected_after.get().get().is_none() {
            self.connected_after
                .set(Lapse::of(self.started().elapsed()));
        }
    }

    pub(super) fn note_ready(&self) {
        self.ready_after.set(Lapse::of(self.started().elapsed()));
    }

    pub(super) fn note_flushed(&self, flush_time: Duration) {
        self.flush_time.set(Lapse::of(flush_time));
    }

    /// Records the code of the close frame sent to the client.
    pub(super) fn note_client_code(&self, code: Option<CloseCode>) {
        self.client_code.set(code);
    }

    /// Records the code of the close frame sent to the upstream.
    pub(super) fn note_upstream_code(&self, code: Option<CloseCode>) {
        self.upstream_code.set(code);
    }

    /// Sides that were forcibly closed because they did not complete the closing handshake.
    #[must_use]
    pub fn unclosed(&self) -> Unclosed {
        self.unclosed.get()
    }

    pub(super) fn note_unclosed(&self, unclosed: Unclosed) {
        self.unclosed.set(unclosed);
    }

    /// Records the number of messages written to the upstream so far.
    pub(super) fn note_written(&self, messages: u64) {
        let mut ledger = self.ledger.get();
        ledger.note_written(messages);
        self.ledger.set(ledger);
    }

    /// Checks in a debug build that the ledger agrees with the upstream's write buffer. All
    /// messages have to be in one of the two.
    #[inline]
    pub(super) fn check(&self, write_buffer: &WriteBuffer) {
        debug_assert_eq!(
            self.ledger().passed_on(),
            write_buffer.messages(),
            "every message is in an account or was pushed"
        );
        // A pong may confirm messages that the write buffer has not counted as written yet.
        debug_assert!(
            (write_buffer.messages_written()..=write_buffer.messages())
                .contains(&self.ledger().written()),
            "messages written were pushed, and the write buffer's count is not ahead"
        );
    }

    /// Records that the upstream's socket is empty: data that arrives from here on was sent after
    /// everything written so far could be read.
    pub(super) fn note_empty(&self) {
        self.written_before_empty.set(self.ledger.get().written());
    }

    /// Calls [`note_written`](Self::note_written) and [`note_empty`](Self::note_empty) for an
    /// upstream with this write buffer.
    pub(super) fn note_found_empty(&self, write_buffer: &WriteBuffer) {
        self.note_written(write_buffer.messages_written());
        self.note_empty();
    }

    /// Records that the upstream has sent something: the messages written before its socket was
    /// last found empty count as delivered.
    pub(super) fn confirm(&self) {
        let mut ledger = self.ledger.get();
        ledger.confirm(self.written_before_empty.get());
        self.ledger.set(ledger);
    }

    /// Numbers a ping for the upstream, which is sent after the contents of `write_buffer`.
    pub(super) fn number_ping(&self, write_buffer: &WriteBuffer) -> u32 {
        let mut pings = self.pings.get_or_init(Box::default).borrow_mut();
        pings.number(write_buffer.messages(), self.ledger.get().known())
    }

    /// Records the upstream's pong to the ping with this `number`: the messages in front of that
    /// ping are delivered, even if the write buffer has not counted them as written yet.
    #[cold]
    pub(super) fn confirm_by_pong(&self, number: u32) {
        let pings = self.pings.get();
        let confirmed = pings.and_then(|pings| pings.borrow_mut().answer(number));
        if let Some(messages) = confirmed {
            let mut ledger = self.ledger.get();
            ledger.note_written(messages);
            ledger.confirm(messages);
            self.ledger.set(ledger);
        }
    }

    /// Settles the unconfirmed messages as unknown: no confirmation can follow.
    fn give_up_unconfirmed(&self) {
        let mut ledger = self.ledger.get();
        ledger.give_up_unconfirmed();
        self.ledger.set(ledger);
    }

    /// Settles every message; those that `written` does not cover count as never written.
    pub(super) fn settle_all(&self, written: Written) {
        self.note_written(written.messages);
        self.give_up_unconfirmed();
        // A message that was written in part may or may not have been understood.
        self.settle(written.in_doubt.min(self.ledger().held()), Account::Unknown);
        self.settle(self.ledger().held(), Account::Discarded);
        self.note_queued(Queued::default());
    }

    /// Ends a session in whatever state it is in, because the process exits.
    pub(crate) fn abort(&self) -> Report {
        let state = self.entered_state();
        let queued = self.queued().messages.into_iter().map(u64::from).sum();
        // Messages still in the queue were certainly not written.
        self.settle(queued, Account::Discarded);
        // The rest may have been written in part or as a whole.
        self.give_up_unconfirmed();
        self.settle(self.ledger().held(), Account::Unknown);
        self.note_queued(Queued::default());
        if !state.is_final() {
            self.enter(SessionState::Failed, EndReason::Aborted.name());
        }
        self.report(EndReason::Aborted, state)
    }

    pub(crate) fn report(&self, cause: EndReason, state: SessionState) -> Report {
        let trail = self.trail();
        // The socket of a lost client may still accept a close frame, but nobody reads it.
        let is_client_lost = matches!(cause, EndReason::ClientLost | EndReason::ClientVanished);
        let client_code = self.client_code.get().filter(|_| !is_client_lost);
        Report {
            cause,
            state,
            ledger: self.ledger.get(),
            traffic: self.traffic.get(),
            attempts: self.attempts.get(),
            last_connect_error: self.attempts.last_error(),
            connected_after: self.connected_after.get().get(),
            ready_after: self.ready_after.get().get(),
            flush_time: self.flush_time.get().get(),
            client_code,
            upstream_code: self.upstream_code.get(),
            duration: trail.started().elapsed(),
            trail,
        }
    }
}
