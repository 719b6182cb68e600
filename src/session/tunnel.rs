//! The tunnel: bytes go through verbatim in both directions.
//!
//! RFC 9110 calls a blind relay a tunnel. This one reads frame headers, never payloads, so
//! that it knows where a close frame of its own may go, counts messages, and refuses what
//! RFC 6455 forbids. The payload of a large frame is moved by the kernel where both sides are
//! TCP sockets (`splice.rs`).
//!
//! # Invariants
//!
//! * Only whole headers that were checked go on, so that the receiver is at a frame
//!   boundary or inside a payload; see [`FrameScanner`].
//! * A session that waits holds no buffer: reads go through the thread's scratch buffer,
//!   and only what the other side would not take is kept.
//! * A side is not read while the other has not taken what it was sent.

mod direction;

use std::{
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    ptr,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{task::coop, time};

pub(super) use self::direction::Passed;
use self::direction::{Ending, empty_pipe, poll_direction};
use super::{
    peer::Peer,
    splice::Pipe,
    state::SessionState,
    stats::SessionStats,
    termination::{EndReason, Traffic},
    timeouts::Keepalive,
};
use crate::{
    limits::{
        drain::{Drain, Turn},
        held_bytes::Charge,
    },
    transport::Stream,
    websocket::FrameScanner,
};

/// How the tunnel and the closing handshake behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A session without traffic for this long is called idle; default 10 s.
    pub idle_after: Duration,
    /// Without traffic for this long a session is closed with 1001; default never.
    pub idle_timeout: Option<Duration>,
    /// How long a side may say nothing before the proxy asks with a ping whether it is there,
    /// and then how long it may take to answer; default it is never asked. Clients are
    /// asked while they are held, too.
    pub ping_interval: Option<Duration>,
    /// The greatest age of a session, counted from the client's `101`: by then, and at most a
    /// tenth earlier, it is closed with 1012, held or not; default none.
    pub max_session_age: Option<Duration>,
    /// How long a closing handshake may take; default 5 s.
    pub close_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_after: Duration::from_secs(10),
            idle_timeout: None,
            ping_interval: None,
            max_session_age: None,
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// How long a side that takes nothing more is listened to.
const HEAR_OUT: Duration = Duration::from_secs(1);

/// One end of the tunnel: a peer, and the place in what it sends.
#[derive(Debug)]
pub(super) struct TunnelEnd<S> {
    pub(super) peer: Peer<S>,
    pub(super) scanner: FrameScanner,
    /// Where a part of its present frame is that was read and is not yet written, if that goes
    /// through a pipe.
    pub(super) pipe: Option<Box<Pipe>>,
    /// Whether what had been read before the tunnel began has been passed on.
    has_begun: bool,
    /// Whether reading from it had to wait and the task is to be woken, or has been.
    is_waiting: bool,
    /// Whether large payloads may go through pipes: until one of the sockets refuses.
    may_splice: bool,
    /// The greatest number of a ping of the proxy's own that it has answered and that is not noted
    /// yet, or 0.
    own_pong: u32,
}

impl<S> TunnelEnd<S> {
    pub(super) const fn new(peer: Peer<S>, scanner: FrameScanner) -> Self {
        Self {
            peer,
            scanner,
            pipe: None,
            has_begun: false,
            is_waiting: false,
            may_splice: true,
            own_pong: 0,
        }
    }

    /// Notes which ping of the proxy's own an upstream has answered, if it has.
    fn note_pong(&mut self, session: &SessionStats) {
        let number = mem::take(&mut self.own_pong);
        if number > 0 {
            session.confirm_by_pong(number);
        }
    }

    /// Whether nothing has come of a frame or message that is not all there.
    const fn is_between_messages(&self) -> bool {
        !self.scanner.is_in_message() && self.peer.inbox.is_empty() && self.pipe.is_none()
    }

    /// Notes that reading from it had to wait; not if its task has used up its budget, and will
    /// only be polled again.
    fn note_waiting(&mut self) {
        self.is_waiting = coop::has_budget_remaining();
    }
}

/// Both ends of the tunnel.
#[derive(Debug)]
pub(super) struct Ends<C, U> {
    pub(super) client: TunnelEnd<C>,
    pub(super) upstream: TunnelEnd<U>,
    /// For what the hold queue left in the upstream's outbox, until that is written.
    pub(super) charge: Option<Charge>,
    /// Where the route bounds what it watches.
    pub(super) watch: Option<Box<Keepalive>>,
    /// Whose waker those have that wake the tunnel: its address, which nobody else has while they
    /// keep it: the drain or the timer for its turn, and the socket of each end that is waiting,
    /// which gives it back only when it has noted that there is something to read.
    known_task: *const (),
}

impl<C, U> Ends<C, U> {
    pub(super) const fn new(
        client: TunnelEnd<C>,
        upstream: TunnelEnd<U>,
        charge: Option<Charge>,
        watch: Option<Box<Keepalive>>,
    ) -> Self {
        Self {
            client,
            upstream,
            charge,
            watch,
            known_task: ptr::null(),
        }
    }

    /// The tunnel begins.
    fn begin_watch(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        watch.enter_tunnel();
        if watch.has_pings() {
            self.client.scanner.stop_at_pongs();
            self.upstream.scanner.stop_at_pongs();
        }
    }
}

/// Relays until one side ends, a bound of the [`Keepalive`] is reached, or it has its turn in a
/// drain.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn has room for its arguments twice for as long as the tunnel lasts"
)]
pub(super) fn run<C: Stream, U: Stream>(
    ends: &mut Ends<C, U>,
    session: &SessionStats,
    settings: &Settings,
    drain: &Drain,
) -> impl Future<Output = EndReason> {
    async move {
        session.enter(SessionState::Processing, "flushed");
        session.touch();
        ends.begin_watch();
        let mut turn = pin!(drain.turn());
        let cause =
            poll_fn(|context| ends.poll_relay(context, session, drain, turn.as_mut())).await;
        let cause = match cause {
            EndReason::UpstreamLost if ends.upstream.peer.is_broken() => {
                let rest = hear_out(&mut ends.upstream, &mut ends.client);
                let (ending, passed) = Box::pin(rest).await;
                note(session, Passed::default(), passed, &ends.upstream);
                upstream_cause(ending)
            }
            EndReason::ClientLost if ends.client.peer.is_broken() => {
                let rest = hear_out(&mut ends.client, &mut ends.upstream);
                let (ending, passed) = Box::pin(rest).await;
                note(session, passed, Passed::default(), &ends.upstream);
                client_cause(ending)
            }
            cause => cause,
        };
        let idle_since = session.idle_since(settings.idle_after);
        let Ends {
            client, upstream, ..
        } = ends;
        let (mut to_upstream, mut to_client) = (Passed::default(), Passed::default());
        // For the closing handshake to write; what is lost with a pipe is in doubt.
        let _ = empty_pipe(client, upstream, &mut to_upstream);
        let _ = empty_pipe(upstream, client, &mut to_client);
        note(session, to_upstream, to_client, upstream);
        // Without a watch only the gate has pinged: what it had let pass can wait until here.
        upstream.note_pong(session);
        if let Some(since) = idle_since {
            session.enter_idle(since);
        }
        cause
    }
}

impl<C: Stream, U: Stream> Ends<C, U> {
    /// Relays what is there; resolves as [`run`] does.
    // By itself it has a small frame, which a message crosses sooner.
    #[inline(never)]
    fn poll_relay(
        &mut self,
        context: &mut Context<'_>,
        session: &SessionStats,
        drain: &Drain,
        turn: Pin<&mut Turn<'_>>,
    ) -> Poll<EndReason> {
        let Self {
            client,
            upstream,
            charge,
            watch,
            known_task,
        } = self;
        let task = context.waker().data();
        let is_known = *known_task == task && !task.is_null();
        if !is_known {
            *known_task = task;
            client.is_waiting = false;
            upstream.is_waiting = false;
        }
        let mut to_upstream = Passed::default();
        let mut to_client = Passed::default();
        let up = poll_direction(context, client, upstream, &mut to_upstream);
        let down = match up {
            Poll::Pending => poll_direction(context, upstream, client, &mut to_client),
            // What the upstream has said is left to the closing handshake.
            Poll::Ready(_) => Poll::Pending,
        };
        if charge.is_some() && upstream.peer.outbox.is_empty() {
            *charge = None;
        }
        note(session, to_upstream, to_client, upstream);
        if up.is_pending() && upstream.is_waiting && upstream.is_between_messages() {
            session.note_empty();
        }
        if let Some(watch) = watch {
            watch.hear(&to_upstream, &to_client);
            upstream.note_pong(session);
        }
        match (up, down) {
            // A side that takes nothing more may have said why before it went.
            (Poll::Ready(Ending::Undeliverable), Poll::Ready(ending)) => {
                Poll::Ready(upstream_cause(ending))
            }
            (Poll::Ready(ending), Poll::Ready(Ending::Undeliverable)) => {
                Poll::Ready(client_cause(ending))
            }
            (Poll::Ready(ending), _) => Poll::Ready(client_cause(ending)),
            (_, Poll::Ready(ending)) => Poll::Ready(upstream_cause(ending)),
            _ => {
                let may_have_turn = !is_known || drain.has_begun();
                if may_have_turn && drain.poll_turn(turn, context).is_ready() {
                    return Poll::Ready(EndReason::Drained);
                }
                match watch {
                    None => Poll::Pending,
                    Some(watch) => watch.poll(context, session, client, upstream),
                }
            }
        }
    }
}

/// Notes what both directions have passed on.
#[expect(
    clippy::inline_always,
    reason = "each message goes through it, and through little else"
)]
#[inline(always)]
fn note<U>(
    session: &SessionStats,
    to_upstream: Passed,
    to_client: Passed,
    upstream: &TunnelEnd<U>,
) {
    if to_upstream.bytes + to_client.bytes > 0 {
        if !(to_upstream.is_own() && to_client.is_own()) {
            session.touch();
        }
        session.add_traffic(Traffic {
            client_bytes: to_upstream.bytes,
            upstream_bytes: to_client.bytes,
            upstream_messages: to_client.messages,
        });
    }
    if to_upstream.messages > 0 {
        session.accept(to_upstream.messages);
    }
    session.note_written(upstream.peer.outbox.messages_written());
    session.check(&upstream.peer.outbox);
    if to_client.messages > 0 {
        session.confirm();
    }
}

/// Passes on what `source`, which takes nothing more, has sent before.
async fn hear_out<S: Stream, T: Stream>(
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
) -> (Ending, Passed) {
    let mut passed = Passed::default();
    let rest = poll_fn(|context| {
        if source.peer.has_ended() {
            return Poll::Ready(Ending::Lost);
        }
        // Of the task that polls this nothing is known.
        source.is_waiting = false;
        poll_direction(context, source, target, &mut passed)
    });
    let ending = time::timeout(HEAR_OUT, rest).await.unwrap_or(Ending::Lost);
    (ending, passed)
}

fn client_cause(ending: Ending) -> EndReason {
    match ending {
        Ending::Closed(frame) => EndReason::ClientClosed(frame),
        Ending::Lost => EndReason::ClientLost,
        Ending::Violated(error) => EndReason::ClientError(error),
        Ending::Undeliverable => EndReason::UpstreamLost,
    }
}

fn upstream_cause(ending: Ending) -> EndReason {
    match ending {
        Ending::Closed(frame) => EndReason::UpstreamClosed(frame),
        Ending::Lost => EndReason::UpstreamLost,
        Ending::Violated(error) => EndReason::UpstreamError(error),
        Ending::Undeliverable => EndReason::ClientLost,
    }
}
