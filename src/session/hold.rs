//! Holds the client's messages until the gate opens; those of the upstream pass.
//!
//! The flush uses the same exchange: there, the client's messages wait only for the ones in front
//! of them.
//!
//! # Invariants
//!
//! * A message goes upstream only after the state that its rule names, and never before the
//!   upstream's validated `101`.
//! * Control frames are never held (RFC 6455 §5.5).
//! * While the queue is full, the client is not read, or the route's overflow policy applies.
//!   Under [`Overflow::Backpressure`] memory stays within the limits but for one read of at most
//!   16 KiB; under the other policies the message being received may take up to `max_bytes` more,
//!   since it must be complete to be weighed against the others.
//! * Of the upstream's current message no more is kept than matchers inspect, and twice that in
//!   wire bytes where it may have to be withheld. A message that goes beyond this, or beyond 4
//!   KiB while the budget is used up, is judged by the part that was inspected: it is not a whole
//!   message, and passes unless that part already makes it the ready message.

mod admission;
mod blame;
mod client;
mod linger;
mod replacement;
mod snapshot;
mod upstream;

pub(super) use self::{
    client::{Farewell, HeldClient},
    snapshot::Snapshot,
    upstream::{Attempt, HeldUpstream, Link},
};

use std::time::Duration;

use futures_util::FutureExt;
use tokio::{
    task,
    time::{self, Instant},
};

use super::{
    Agreed, Context,
    gate::{Gate, OnTimeout, Signal, Stage},
    io::endpoint::{EndpointIo, HIGH_WATER_BYTES, progress},
    queue::{HoldQueue, MESSAGE_OVERHEAD_BYTES, Order},
    rules::Release,
    state::SessionState,
    stats::{Queued, SessionStats},
    termination::EndReason,
    timeouts::{Keepalive, Side},
};
use crate::{
    limits::held_bytes::Charge,
    transport::Stream,
    websocket::{Assembler, CloseFrame, Compression, Opened, Role, deflate::Inflation},
};

/// Policy for a full hold queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Stop reading the client.
    #[default]
    Backpressure,
    /// Discard the oldest message of the lowest priority.
    Shed,
    /// Close the client with 1013.
    Close,
}

/// Treatment of held messages after the client has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClientGone {
    /// Deliver them once the gate opens.
    #[default]
    Deliver,
    /// Discard them and close the upstream.
    Discard,
}

/// Limits and policies of a route's hold queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Messages in one session's queue; default 1000.
    pub max_messages: usize,
    /// Accounted bytes in one session's queue, payload plus overhead; default 1 MiB.
    pub max_bytes: usize,
    /// Policy at a limit.
    pub overflow: Overflow,
    /// Order of the flush.
    pub order: Order,
    /// Messages held longer than this are dropped at the flush; default none.
    pub max_age: Option<Duration>,
    /// Treatment of held messages after the client has left.
    pub on_client_gone: OnClientGone,
    /// Silence after which the upstream is closed once it has received the messages of a client
    /// that has left; default 1 s.
    pub linger: Duration,
    /// Time limit of that wait, whatever the upstream sends; default 10 s.
    pub max_linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_messages: 1000,
            max_bytes: 1024 * 1024,
            overflow: Overflow::default(),
            order: Order::default(),
            max_age: None,
            on_client_gone: OnClientGone::default(),
            linger: Duration::from_secs(1),
            max_linger: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// Maximum wire bytes of one message: unlimited under [`Overflow::Backpressure`], which just
    /// stops reading the client; otherwise a message must fit into the queue.
    fn max_message_bytes(&self) -> usize {
        match self.overflow {
            Overflow::Backpressure => usize::MAX,
            Overflow::Shed | Overflow::Close => {
                self.max_bytes.saturating_sub(MESSAGE_OVERHEAD_BYTES)
            }
        }
    }
}

/// Interval at which a client that is not being read is checked for having left.
const HANG_UP_CHECK: Duration = Duration::from_secs(1);

/// A session whose client is held.
pub(super) struct Holding<'s, C, U> {
    pub(super) agreed: Agreed,
    pub(super) session: &'s SessionStats,
    pub(super) context: &'s Context,
    pub(super) settings: &'s super::Settings,
    pub(super) client: HeldClient<C>,
    pub(super) assembler: Assembler,
    /// Bytes inflated so far to inspect the client's messages.
    pub(super) inflation: Inflation,
    pub(super) queue: HoldQueue,
    pub(super) charge: Charge,
    gate: Gate<'s>,
    /// Begins an attempt to connect the upstream.
    connect: &'s dyn Fn() -> Attempt<'s, U>,
    pub(super) upstream: HeldUpstream<'s, U>,
    /// Close frame of the last upstream that restarted.
    last_close: Option<Box<CloseFrame>>,
    /// Whether the client has influenced the session's outcome, whatever it does from here on.
    has_client_part: bool,
    /// Payload bytes received from the upstream.
    heard_bytes: u64,
    /// Close frame of an upstream whose client had left before.
    pub(super) parting: Option<CloseFrame>,
    /// Opening of the gate, once it is certain.
    opening: Option<Opening>,
    /// Time at which a drain ends the held session although it might still become ready.
    pub(super) drain_deadline: Option<Instant>,
    /// Messages held when the gate opened; set during the flush.
    pub(super) snapshot: Option<Snapshot>,
    /// Keepalive and timeouts, where the route sets any.
    pub(super) watch: Option<Box<Keepalive>>,
    /// Time of the next check of these timeouts.
    watch_at: Option<Instant>,
}

/// The gate's opening, immediate or after the settle time.
#[derive(Clone, Copy, Debug)]
struct Opening {
    at: Instant,
    state: SessionState,
    reason: &'static str,
}

impl<'s, C: Stream, U: Stream> Holding<'s, C, U> {
    pub(super) fn new(
        client: Opened<C>,
        agreed: Agreed,
        session: &'s SessionStats,
        settings: &'s super::Settings,
        context: &'s Context,
        connect: &'s dyn Fn() -> Attempt<'s, U>,
    ) -> Self {
        let max_message_bytes = settings.hold.max_message_bytes();
        let compression = match agreed.compression {
            Some(_) => Compression::Agreed,
            None => Compression::Declined,
        };
        Self {
            agreed,
            session,
            context,
            settings,
            client: HeldClient::Here(EndpointIo::new(client)),
            assembler: Assembler::new(Role::Client, max_message_bytes).with(compression),
            inflation: Inflation::default(),
            queue: HoldQueue::new(settings.hold.order),
            charge: Charge::new(context.budget.clone()),
            gate: Gate::new(&settings.gate),
            connect,
            upstream: HeldUpstream::Connecting(connect()),
            last_close: None,
            has_client_part: false,
            heard_bytes: 0,
            parting: None,
            opening: None,
            drain_deadline: None,
            snapshot: None,
            watch: Keepalive::new(&settings.tunnel, session.started()),
            watch_at: None,
        }
    }

    /// Holds until the gate opens.
    ///
    /// # Errors
    ///
    /// The reason that the session ends instead. Held messages are still in the queue.
    pub(super) async fn until_open(&mut self) -> Result<(), EndReason> {
        let context = self.context;
        loop {
            // Everything that has arrived is processed before any deadline is checked, so that a
            // ready message received in time counts.
            self.exchange()?;
            self.look_at_watch()?;
            if let Some(opening) = self.due_opening() {
                self.session.enter(opening.state, opening.reason);
                self.session.note_ready();
                return Ok(());
            }
            let wake_at = self.wake_at();
            let is_draining = self.drain_deadline.is_some();
            tokio::select! {
                progressed = self.progress() => progressed?,
                () = time::sleep_until(wake_at) => {
                    // Lets the runtime poll its sockets, which may have become ready at the same
                    // instant.
                    task::yield_now().await;
                    self.look_at_clock()?;
                }
                () = context.drain.begun(), if !is_draining => self.start_drain(),
            }
        }
    }

    /// Waits until a side makes progress, or there is room again for data that was left unread.
    ///
    /// # Errors
    ///
    /// The upstream cannot be connected.
    ///
    /// # Cancel safety
    ///
    /// Loses nothing: an attempt to connect continues with the next call.
    pub(super) async fn progress(&mut self) -> Result<(), EndReason> {
        let may_read_client = self.may_read_client();
        let is_starved = self.is_starved();
        let may_read_upstream = self.client.waiting_bytes() < HIGH_WATER_BYTES;
        // While the client stalls it, an upstream is not to blame for what it does not send.
        self.has_client_part |= !may_read_upstream;
        let budget = &self.context.budget;
        tokio::select! {
            opened = self.upstream.progress(may_read_upstream, self.session) => {
                if let Some(opened) = opened? {
                    self.connected(opened);
                }
            }
            () = self.client.progress(may_read_client) => {}
            () = budget.freed(), if is_starved => {}
        }
        Ok(())
    }

    /// Processes everything that has arrived.
    pub(super) fn exchange(&mut self) -> Result<(), EndReason> {
        let exchanged = self
            .take_from_upstream()
            .and_then(|()| self.take_from_client());
        self.note_client_code();
        self.recharge();
        exchanged
    }

    fn recharge(&mut self) {
        let mut waiting = 0;
        if let Some(Link { endpoint, .. }) = self.upstream.link() {
            self.session
                .note_written(endpoint.write_buffer.messages_written());
            (waiting, _) = endpoint.write_buffer.messages_waiting();
        }
        debug_assert_eq!(
            self.session.ledger().held(),
            self.queue.len() as u64 + waiting,
            "every held message is in the queue or in the write buffer"
        );
        let link = self.upstream.link().map_or(0, Link::held_bytes);
        let assembled = self.assembler.held_bytes() + self.queue.held_bytes();
        let bytes = assembled + self.client.held_bytes() + link;
        self.charge.set(bytes);
        let messages = self.queue.len_by_priority();
        self.session.note_queued(Queued { messages, bytes });
    }

    fn due_opening(&self) -> Option<Opening> {
        self.opening.filter(|opening| opening.at <= Instant::now())
    }

    fn connected(&mut self, opened: Opened<U>) {
        self.session.note_connected();
        self.upstream = HeldUpstream::Connected(Link::new(
            opened,
            &self.settings.gate,
            self.agreed.compression,
            self.session,
        ));
        self.observe(&Signal::Upgrade, "upstream connected");
    }

    /// Reports a signal to the gate and enters the state that results.
    fn observe(&mut self, signal: &Signal<'_>, reason: &'static str) {
        match self.gate.observe(signal) {
            None => {}
            Some(Stage::Ready) => {
                let at = Instant::now() + self.settings.gate.settle;
                self.opening = Some(Opening {
                    at,
                    state: SessionState::ProcessingReady,
                    reason,
                });
                self.release(Release::ServicesReady);
            }
            Some(Stage::ServicesReady) => {
                self.session.enter(SessionState::ServicesReady, reason);
                self.release(Release::ServicesReady);
            }
            Some(Stage::Authenticated) => {
                self.session.enter(SessionState::Authenticated, reason);
                self.release(Release::Authenticated);
            }
        }
    }

    /// Time of the next check of the clock.
    fn wake_at(&self) -> Instant {
        let deadline = self
            .opening
            .map_or_else(|| self.deadline(), |opening| opening.at);
        let ping = self.upstream.link().and_then(Link::ping_at);
        let is_unread = self.client.is_here() && !self.may_read_client();
        let hang_up = is_unread.then(|| Instant::now() + HANG_UP_CHECK);
        [
            Some(deadline),
            self.drain_deadline,
            self.watch_at,
            ping,
            hang_up,
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(deadline)
    }

    fn deadline(&self) -> Instant {
        let left = self
            .settings
            .gate
            .timeout
            .saturating_sub(self.agreed.waited);
        self.session.started() + left
    }

    /// Checks the timeouts, if the route sets any, and pings the client when that is due.
    pub(super) fn look_at_watch(&mut self) -> Result<(), EndReason> {
        if self.watch.is_none() {
            return Ok(());
        }
        let is_read = self.may_read_client();
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        let HeldClient::Here(client) = &mut self.client else {
            self.watch_at = watch.look_held(None)?;
            return Ok(());
        };
        let side = Side {
            is_read,
            has_backlog: !client.write_buffer.is_empty(),
            taken_bytes: client.write_buffer.bytes_written(),
        };
        self.watch_at = watch.look_held(Some(side))?;
        watch.ping_client(&mut client.write_buffer);
        Ok(())
    }

    /// Time of the next check of the timeouts.
    pub(super) const fn watch_at(&self) -> Option<Instant> {
        self.watch_at
    }

    fn look_at_clock(&mut self) -> Result<(), EndReason> {
        let now = Instant::now();
        if let Some(link) = self.upstream.link_mut() {
            link.ping_if_due(now, self.session);
        }
        if self.drain_deadline.is_some_and(|at| at <= now) {
            self.end_turn(now)?;
        }
        if self.opening.is_none() && self.deadline() <= now {
            return self.time_out(now);
        }
        self.check_hang_up()
    }

    fn time_out(&mut self, now: Instant) -> Result<(), EndReason> {
        // After the process was suspended or throttled, the deadline and a ready message that
        // arrived before it are seen at the same instant.
        let upstream = self.upstream.link_mut().map(|link| &mut link.endpoint);
        if progress(upstream, true).now_or_never().is_some() {
            self.exchange()?;
            if self.opening.is_some() {
                return Ok(());
            }
        }
        if self.settings.gate.on_timeout == OnTimeout::Open && self.upstream.link().is_some() {
            let reason = "not ready in time";
            self.opening = Some(Opening {
                at: now,
                state: SessionState::Degraded,
                reason,
            });
            return Ok(());
        }
        Err(EndReason::ReadyTimeout {
            waited: self.session.started().elapsed(),
            connected: self.upstream.link().is_some(),
            last_close: self.last_close.take(),
        })
    }

    /// Begins the session's part in a drain. A session that holds messages, or has written some
    /// that are unconfirmed, may still become ready; any other waits for its turn, or for
    /// messages to hold.
    pub(super) fn start_drain(&mut self) {
        let drain = &self.context.drain;
        self.drain_deadline = Some(if self.session.ledger().is_settled() {
            drain.draw_turn()
        } else {
            drain.ready_by()
        });
    }

    /// Ends the session in a drain, unless it has received messages to hold meanwhile.
    fn end_turn(&mut self, now: Instant) -> Result<(), EndReason> {
        let ready_by = self.context.drain.ready_by();
        if self.session.ledger().is_settled() || ready_by <= now {
            return Err(EndReason::Drained);
        }
        self.drain_deadline = Some(ready_by);
        Ok(())
    }
}
