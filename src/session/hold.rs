//! Holding: the client's messages wait until the gate opens; the upstream's pass.
//!
//! The same exchange goes on during the flush, when the client's messages no longer wait
//! for the gate but only for those before them.
//!
//! # Invariants
//!
//! * A message goes upstream only after the state that its rule names, and never before the
//!   upstream's validated `101`.
//! * Control frames are never held (RFC 6455 §5.5).
//! * While the queue is full, the client is not read, or what the route's policy says is
//!   done. Under [`Overflow::Backpressure`] memory stays within the bounds but for one read of
//!   at most 16 KiB; under the other policies the message that is being received may take up
//!   to `max_bytes` more, for it must be whole to be weighed against the others.
//! * Of the upstream's present message no more is kept than matchers look at, and where it may
//!   have to be withheld twice as much of its wire bytes. What goes beyond, or beyond 4 KiB while
//!   the budget is used up, is judged by what has been seen: it is no longer a whole message, and
//!   passes unless that is enough to know that it is the ready one.

mod admission;
mod blame;
mod client;
mod linger;
mod replacement;
mod upstream;

pub(super) use self::{
    client::{Farewell, HeldClient},
    upstream::Link,
};

use std::{pin::Pin, time::Duration};

use futures_util::FutureExt;
use tokio::{
    task,
    time::{self, Instant},
};

use super::{
    Agreed, Context,
    flush::Snapshot,
    gate::{Gate, OnTimeout, Signal, Stage},
    peer::{HIGH_WATER_BYTES, Peer, progress},
    queue::{HoldQueue, MESSAGE_OVERHEAD_BYTES},
    rules::Release,
    state::SessionState,
    stats::{Queued, SessionStats},
    termination::EndReason,
    timeouts::{Keepalive, Side},
};
use crate::{
    limits::held_bytes::Charge,
    transport::Stream,
    upstream::{Attempts, ConnectError},
    websocket::{Assembler, CloseFrame, Compression, Opened, Role, deflate::Inflation},
};

/// What happens when the hold queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Stop reading the client.
    #[default]
    Backpressure,
    /// Give up the oldest message of the lowest priority.
    Shed,
    /// Close the client with 1013.
    Close,
}

/// In which order held messages are flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By priority, and by arrival within a priority.
    #[default]
    Priority,
    /// By arrival; priorities only decide what is shed.
    Arrival,
}

/// What becomes of held messages when the client has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClientGone {
    /// They are still delivered once the gate opens.
    #[default]
    Deliver,
    /// They are discarded, and the upstream is closed.
    Discard,
}

/// The bounds and the policy of a route's hold queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Messages in one session's queue; default 1000.
    pub max_messages: usize,
    /// Accounted bytes in one session's queue, payload plus overhead; default 1 MiB.
    pub max_bytes: usize,
    /// What happens at a bound.
    pub overflow: Overflow,
    /// The order of the flush.
    pub order: Order,
    /// Messages held longer than this are dropped at the flush; default none.
    pub max_age: Option<Duration>,
    /// What becomes of the queue when the client has gone.
    pub on_client_gone: OnClientGone,
    /// How long the upstream may say nothing, once it has got the messages of a client that has
    /// gone, before it is closed; default 1 s.
    pub linger: Duration,
    /// How long after that the upstream is closed whatever it says; default 10 s.
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
    /// The most wire bytes that one message may have: under [`Overflow::Backpressure`] the
    /// client is just not read any further, otherwise it must fit into the queue.
    fn max_message_bytes(&self) -> usize {
        match self.overflow {
            Overflow::Backpressure => usize::MAX,
            Overflow::Shed | Overflow::Close => {
                self.max_bytes.saturating_sub(MESSAGE_OVERHEAD_BYTES)
            }
        }
    }
}

/// How often a client that is not being read is looked at, in case it has gone.
const HANG_UP_CHECK: Duration = Duration::from_secs(1);

/// A session whose client is held.
#[derive(Debug)]
pub(super) struct Holding<'s, C, U> {
    pub(super) agreed: Agreed,
    pub(super) session: &'s SessionStats,
    pub(super) context: &'s Context,
    pub(super) settings: &'s super::Settings,
    pub(super) client: HeldClient<C>,
    pub(super) assembler: Assembler,
    /// How much the client's messages have been inflated to look at them.
    pub(super) inflation: Inflation,
    pub(super) queue: HoldQueue,
    pub(super) charge: Charge,
    gate: Gate<'s>,
    pub(super) link: Option<Link<U>>,
    /// What the last upstream said that went to start again.
    last_close: Option<Box<CloseFrame>>,
    /// Whether the client has had a part in what becomes of the session, whatever it does now.
    has_client_part: bool,
    /// How much the upstream has sent of its messages, in bytes.
    heard_bytes: u64,
    /// The close frame of an upstream whose client had gone before.
    pub(super) parting: Option<CloseFrame>,
    /// When and why the gate opens, once that is known.
    opening: Option<Opening>,
    /// When a held session is cut although it might still become ready.
    pub(super) drain_deadline: Option<Instant>,
    /// Set during the flush: what was held when the gate opened.
    pub(super) snapshot: Option<Snapshot>,
    /// Where the route bounds what it watches.
    pub(super) watch: Option<Box<Keepalive>>,
    /// When that is to look again.
    watch_at: Option<Instant>,
}

/// The gate's opening, now or after it has settled.
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
            client: HeldClient::Here(Peer::new(client)),
            assembler: Assembler::new(Role::Client, max_message_bytes).with(compression),
            inflation: Inflation::default(),
            queue: HoldQueue::new(settings.hold.order),
            charge: Charge::new(context.budget.clone()),
            gate: Gate::new(&settings.gate),
            link: None,
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
    /// Why the session ends instead. What was held is still in the queue.
    pub(super) async fn until_open(
        &mut self,
        connect: &impl AsyncFn(&Attempts) -> Result<Opened<U>, ConnectError>,
    ) -> Result<(), EndReason> {
        let context = self.context;
        let mut attempt = None;
        loop {
            self.exchange()?;
            self.look_at_watch()?;
            if let Some(opening) = self.due_opening() {
                self.session.enter(opening.state, opening.reason);
                self.session.note_ready();
                return Ok(());
            }
            if self.link.is_none() && attempt.is_none() {
                attempt = Some(Box::pin(connect(self.session.attempts())));
            }
            let wake_at = self.wake_at();
            let is_draining = self.drain_deadline.is_some();
            tokio::select! {
                opened = resolve(attempt.as_mut().map(Pin::as_mut)) => {
                    attempt = None;
                    self.connected(opened?);
                }
                () = self.progress() => {}
                () = time::sleep_until(wake_at) => {
                    // The runtime looks at its sockets meanwhile.
                    task::yield_now().await;
                    self.look_at_clock()?;
                }
                () = context.drain.begun(), if !is_draining => self.start_drain(),
            }
        }
    }

    /// Waits until a side did something, or there is room again for what was not read.
    pub(super) async fn progress(&mut self) {
        let may_read_client = self.may_read_client();
        let is_starved = self.is_starved();
        let may_read_upstream = self.client.waiting_bytes() < HIGH_WATER_BYTES;
        self.has_client_part |= !may_read_upstream;
        let budget = &self.context.budget;
        tokio::select! {
            () = progress_upstream(self.link.as_mut(), may_read_upstream, self.session) => {}
            () = self.client.progress(may_read_client) => {}
            () = budget.freed(), if is_starved => {}
        }
    }

    /// Looks at everything that has arrived.
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
        if let Some(Link { peer, .. }) = &self.link {
            self.session.note_written(peer.outbox.messages_written());
            (waiting, _) = peer.outbox.messages_waiting();
        }
        debug_assert_eq!(
            self.session.ledger().held(),
            self.queue.len() as u64 + waiting,
            "every held message is in the queue or in the outbox"
        );
        let link = self.link.as_ref().map_or(0, Link::held_bytes);
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
        self.link = Some(Link::new(
            opened,
            &self.settings.gate,
            self.agreed.compression,
            self.session,
        ));
        self.observe(&Signal::Upgrade, "upstream connected");
    }

    /// Tells the gate, and follows it.
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

    /// When the clock has to be looked at next.
    fn wake_at(&self) -> Instant {
        let deadline = self
            .opening
            .map_or_else(|| self.deadline(), |opening| opening.at);
        let ping = self.link.as_ref().and_then(Link::ping_at);
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

    /// Lets the watch, if there is one, look after the session and ping the client.
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
            has_backlog: !client.outbox.is_empty(),
            taken_bytes: client.outbox.bytes_written(),
        };
        self.watch_at = watch.look_held(Some(side))?;
        watch.ping_client(&mut client.outbox);
        Ok(())
    }

    /// When the watch is to look again.
    pub(super) const fn watch_at(&self) -> Option<Instant> {
        self.watch_at
    }

    fn look_at_clock(&mut self) -> Result<(), EndReason> {
        let now = Instant::now();
        if let Some(link) = &mut self.link {
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
        // A process that was stopped for a while, or throttled, finds its clock and what the
        // upstream has said in time at the same instant.
        let upstream = self.link.as_mut().map(|link| &mut link.peer);
        if progress(upstream, true).now_or_never().is_some() {
            self.exchange()?;
            if self.opening.is_some() {
                return Ok(());
            }
        }
        if self.settings.gate.on_timeout == OnTimeout::Open && self.link.is_some() {
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
            connected: self.link.is_some(),
            last_close: self.last_close.take(),
        })
    }

    /// A drain has begun: a session that holds something, or of which something that is written
    /// is not confirmed, may still become ready; any other waits for its turn, or for something
    /// to hold.
    pub(super) fn start_drain(&mut self) {
        let drain = &self.context.drain;
        self.drain_deadline = Some(if self.session.ledger().is_settled() {
            drain.draw_turn()
        } else {
            drain.ready_by()
        });
    }

    /// Ends the session in a drain, unless it has got something to hold meanwhile.
    fn end_turn(&mut self, now: Instant) -> Result<(), EndReason> {
        let ready_by = self.context.drain.ready_by();
        if self.session.ledger().is_settled() || ready_by <= now {
            return Err(EndReason::Drained);
        }
        self.drain_deadline = Some(ready_by);
        Ok(())
    }
}

/// [`progress`] of an upstream, which tells `session` when nothing is to be read from it.
async fn progress_upstream<U: Stream>(
    link: Option<&mut Link<U>>,
    may_read: bool,
    session: &SessionStats,
) {
    let Some(Link { peer, tap, .. }) = link else {
        return std::future::pending().await;
    };
    let is_between = tap.is_between_messages() && peer.inbox.is_empty();
    let on_empty = |outbox: &_| {
        if is_between {
            session.note_found_empty(outbox);
        }
    };
    peer.progress_or(may_read, on_empty).await;
}

/// Resolves with `future`, or never when there is none.
async fn resolve<F: Future>(future: Option<Pin<&mut F>>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
