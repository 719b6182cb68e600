//! The tunnel: relays bytes verbatim in both directions.
//!
//! RFC 9110 calls a blind relay a tunnel. This one reads frame headers, never payloads: to know
//! where a close frame of its own may go, to count messages, and to refuse what RFC 6455 forbids.
//! The kernel moves the payload of a large frame where both sides are TCP sockets (`io/splice.rs`).
//!
//! # Invariants
//!
//! * Only whole headers that were checked are forwarded, so that the receiver is always at a
//!   frame boundary or inside a payload; see [`FrameScanner`].
//! * A waiting session holds no buffer: reads go through the thread's scratch buffer, and only
//!   data that the other side would not accept is kept.
//! * A side is not read while the other side has not accepted everything sent to it.

mod direction;
mod keepalive;

use std::{
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    ptr,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{task::coop, time};

use self::{
    direction::{Ending, Passed, empty_pipe, poll_direction},
    keepalive::poll_keepalive,
};
use super::{
    io::{endpoint::EndpointIo, splice::Pipe},
    state::SessionState,
    stats::SessionStats,
    termination::{EndReason, Traffic},
    timeouts::{self, Keepalive},
};
use crate::{
    limits::{
        drain::{Drain, Turn},
        held_bytes::Charge,
    },
    transport::Stream,
    websocket::FrameScanner,
};

/// Time to read what a side sent before it stopped accepting data.
const HEAR_OUT: Duration = Duration::from_secs(1);

/// One end of the tunnel: a peer, and the position in the frames that it sends.
#[derive(Debug)]
pub(super) struct TunnelEnd<S> {
    pub(super) endpoint: EndpointIo<S>,
    pub(super) scanner: FrameScanner,
    /// Pipe with the part of its current frame that was read and is not yet written.
    pub(super) pipe: Option<Box<Pipe>>,
    /// Whether the data read before the tunnel began has been relayed.
    has_begun: bool,
    /// Whether the last read returned `Pending` and registered the task's waker.
    is_waiting: bool,
    /// Whether large payloads may be spliced; cleared when one of the sockets refuses.
    may_splice: bool,
    /// Highest number of a ping of the proxy that it has answered and that is not recorded yet,
    /// or 0.
    own_pong: u32,
}

impl<S> TunnelEnd<S> {
    pub(super) const fn new(endpoint: EndpointIo<S>, scanner: FrameScanner) -> Self {
        Self {
            endpoint,
            scanner,
            pipe: None,
            has_begun: false,
            is_waiting: false,
            may_splice: true,
            own_pong: 0,
        }
    }

    /// Records the ping of the proxy that an upstream has answered, if it has.
    fn note_pong(&mut self, session: &SessionStats) {
        let number = mem::take(&mut self.own_pong);
        if number > 0 {
            session.confirm_by_pong(number);
        }
    }

    /// Returns whether no frame or message has arrived in part only.
    const fn is_between_messages(&self) -> bool {
        !self.scanner.is_in_message() && self.endpoint.read_buffer.is_empty() && self.pipe.is_none()
    }

    /// Records that a read returned `Pending`; not when it did so because the task's coop budget
    /// is used up, for then the socket has not registered the waker.
    fn note_waiting(&mut self) {
        self.is_waiting = coop::has_budget_remaining();
    }
}

/// Both ends of the tunnel.
#[derive(Debug)]
pub(super) struct Ends<C, U> {
    pub(super) client: TunnelEnd<C>,
    pub(super) upstream: TunnelEnd<U>,
    /// Budget for the held messages in the upstream's write buffer, until they are written.
    pub(super) charge: Option<Charge>,
    /// Keepalive and timeouts, where the route sets any.
    pub(super) watch: Option<Box<Keepalive>>,
    /// Waker data of the task that last polled the tunnel. The drain timer and the sockets that
    /// returned `Pending` hold clones of its waker, so no other task can have the same address
    /// meanwhile; a socket releases its clone only after it has recorded that it is readable.
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

    /// Starts the timeouts of the tunnel.
    fn begin_watch(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        watch.enter_tunnel();
        if watch.has_pings() {
            self.client.scanner.stop_at_pongs();
            self.upstream.scanner.stop_at_pongs();
        }
    }
}

/// Relays until one side ends, a timeout of the [`Keepalive`] expires, or the drain closes the
/// session; returns the reason and both ends.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn has room for its arguments twice for as long as the tunnel lasts"
)]
pub(super) fn run<C: Stream, U: Stream>(
    mut ends: Box<Ends<C, U>>,
    session: &SessionStats,
    settings: &timeouts::Settings,
    drain: &Drain,
) -> impl Future<Output = (EndReason, Box<Ends<C, U>>)> {
    async move {
        session.enter(SessionState::Processing, "flushed");
        session.touch();
        ends.begin_watch();
        let mut turn = pin!(drain.turn());
        let cause =
            poll_fn(|context| ends.poll_relay(context, session, drain, turn.as_mut())).await;
        // A write that failed says less than what the peer sent before it left, such as a close
        // frame with a code.
        let cause = match cause {
            EndReason::UpstreamLost if ends.upstream.endpoint.is_broken() => {
                let rest = hear_out(&mut ends.upstream, &mut ends.client);
                let (ending, passed) = Box::pin(rest).await;
                note(session, Passed::default(), passed, &ends.upstream);
                upstream_cause(ending)
            }
            EndReason::ClientLost if ends.client.endpoint.is_broken() => {
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
        } = &mut *ends;
        let (mut to_upstream, mut to_client) = (Passed::default(), Passed::default());
        // The closing handshake writes it; a message lost with its pipe stays in doubt.
        let _ = empty_pipe(client, upstream, &mut to_upstream);
        let _ = empty_pipe(upstream, client, &mut to_client);
        note(session, to_upstream, to_client, upstream);
        // Without a watch only the gate has pinged: what it had let pass can wait until here.
        upstream.note_pong(session);
        if let Some(since) = idle_since {
            session.enter_idle(since);
        }
        (cause, ends)
    }
}

impl<C: Stream, U: Stream> Ends<C, U> {
    /// Relays the available data; resolves like [`run`].
    // A function of its own has a small stack frame, which makes each message cheaper.
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
        // A waiting end is skipped only if its socket wakes this very task: after a move to
        // another task, everything is polled again.
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
            // The closing handshake reads what the upstream has sent.
            Poll::Ready(_) => Poll::Pending,
        };
        if charge.is_some() && upstream.endpoint.write_buffer.is_empty() {
            *charge = None;
        }
        note(session, to_upstream, to_client, upstream);
        // Only then does whatever the upstream sends next show that it has read the messages
        // written so far.
        if up.is_pending() && upstream.is_waiting && upstream.is_between_messages() {
            session.note_empty();
        }
        if let Some(watch) = watch {
            if to_upstream.bytes > 0 {
                watch.hear_client();
            }
            if to_client.bytes > 0 {
                watch.hear_upstream();
            }
            upstream.note_pong(session);
        }
        match (up, down) {
            // A side that accepts nothing more may have said why before it left.
            (Poll::Ready(Ending::Undeliverable), Poll::Ready(ending)) => {
                Poll::Ready(upstream_cause(ending))
            }
            (Poll::Ready(ending), Poll::Ready(Ending::Undeliverable)) => {
                Poll::Ready(client_cause(ending))
            }
            (Poll::Ready(ending), _) => Poll::Ready(client_cause(ending)),
            (_, Poll::Ready(ending)) => Poll::Ready(upstream_cause(ending)),
            _ => {
                // The waker is registered already, and a drain that has not begun wakes the task
                // when it does.
                let may_have_turn = !is_known || drain.has_begun();
                if may_have_turn && drain.poll_turn(turn, context).is_ready() {
                    return Poll::Ready(EndReason::Drained);
                }
                match watch {
                    None => Poll::Pending,
                    Some(watch) => poll_keepalive(context, watch, session, client, upstream),
                }
            }
        }
    }
}

/// Records what both directions have relayed.
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
    session.note_written(upstream.endpoint.write_buffer.messages_written());
    session.check(&upstream.endpoint.write_buffer);
    if to_client.messages > 0 {
        session.confirm();
    }
}

/// Relays what `source`, which accepts nothing more, has sent before.
async fn hear_out<S: Stream, T: Stream>(
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
) -> (Ending, Passed) {
    let mut passed = Passed::default();
    let rest = poll_fn(|context| {
        if source.endpoint.has_ended() {
            return Poll::Ready(Ending::Lost);
        }
        // The task that polls this may differ from the one whose waker is registered.
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
