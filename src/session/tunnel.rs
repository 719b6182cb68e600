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

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::ReadBuf, time};

use super::{
    budget::Charge,
    drain::Drain,
    ledger::Account,
    peer::{Peer, with_scratch},
    record::Record,
    splice::{Filled, MIN_SPLICE_BYTES, Pipe},
    state::SessionState,
    termination::{Cause, Traffic},
    watch::{self, Watch},
};
use crate::{
    transport::Stream,
    websocket::{CloseFrame, Control, FrameScanner, ProtocolError, frame::Stop},
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

/// How many reads one direction may do before the other has its turn, and the rest of the
/// thread its own.
const READS_PER_TURN: usize = 16;

/// How long a side that takes nothing more is listened to.
const HEAR_OUT: Duration = Duration::from_secs(1);

/// One end of the tunnel: a peer, and the place in what it sends.
#[derive(Debug)]
pub(super) struct End<S> {
    pub(super) peer: Peer<S>,
    pub(super) scanner: FrameScanner,
    /// Through which the payload of its present frame goes, where that is large.
    pub(super) pipe: Option<Box<Pipe>>,
    /// Whether what had been read before the tunnel began has been passed on.
    has_begun: bool,
}

impl<S> End<S> {
    pub(super) const fn new(peer: Peer<S>, scanner: FrameScanner) -> Self {
        Self {
            peer,
            scanner,
            pipe: None,
            has_begun: false,
        }
    }
}

/// Both ends of the tunnel.
#[derive(Debug)]
pub(super) struct Ends<C, U> {
    pub(super) client: End<C>,
    pub(super) upstream: End<U>,
    /// For what the hold queue left in the upstream's outbox, until that is written.
    pub(super) charge: Option<Charge>,
    /// Where the route bounds what it watches.
    pub(super) watch: Option<Box<Watch>>,
}

impl<C, U> Ends<C, U> {
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

/// How one direction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    /// Its source sent this close frame.
    Closed(CloseFrame),
    /// Its source ended without one.
    Lost,
    /// Its source broke RFC 6455.
    Violated(ProtocolError),
    /// Its destination broke off.
    Undeliverable,
}

/// Relays until one side ends, a bound of the [`Watch`] is reached, or it has its turn in a
/// drain.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn has room for its arguments twice for as long as the tunnel lasts"
)]
pub(super) fn run<C: Stream, U: Stream>(
    ends: &mut Ends<C, U>,
    session: &Record,
    settings: &Settings,
    drain: &Drain,
) -> impl Future<Output = Cause> {
    async move {
        session.enter(SessionState::Processing, "flushed");
        session.touch();
        ends.begin_watch();
        let mut turn = pin!(drain.turn());
        let cause = poll_fn(|context| {
            let Ends {
                client,
                upstream,
                charge,
                watch,
            } = &mut *ends;
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
            if let Some(watch) = watch {
                watch.hear(&to_upstream, &to_client);
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
                _ => match (drain.poll_turn(turn.as_mut(), context), watch) {
                    (Poll::Ready(()), _) => Poll::Ready(Cause::Drained),
                    (Poll::Pending, None) => Poll::Pending,
                    (Poll::Pending, Some(watch)) => watch.poll(context, session, client, upstream),
                },
            }
        })
        .await;
        let cause = match cause {
            Cause::UpstreamLost if ends.upstream.peer.is_broken() => {
                let rest = hear_out(&mut ends.upstream, &mut ends.client);
                let (ending, passed) = Box::pin(rest).await;
                note(session, Passed::default(), passed, &ends.upstream);
                upstream_cause(ending)
            }
            Cause::ClientLost if ends.client.peer.is_broken() => {
                let rest = hear_out(&mut ends.client, &mut ends.upstream);
                let (ending, passed) = Box::pin(rest).await;
                note(session, passed, Passed::default(), &ends.upstream);
                client_cause(ending)
            }
            cause => cause,
        };
        let is_idle = session.state(settings.idle_after) == SessionState::Idle;
        let Ends {
            client, upstream, ..
        } = ends;
        let to_upstream = empty_pipe(client, upstream);
        let to_client = empty_pipe(upstream, client);
        note(session, to_upstream, to_client, upstream);
        if is_idle {
            session.enter(SessionState::Idle, "no traffic");
        }
        cause
    }
}

/// Notes what both directions have passed on.
fn note<U>(session: &Record, to_upstream: Passed, to_client: Passed, upstream: &End<U>) {
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
    session.settle_written(upstream.peer.outbox.messages_written(), Account::Delivered);
}

/// Passes on what `source`, which takes nothing more, has sent before.
async fn hear_out<S: Stream, T: Stream>(
    source: &mut End<S>,
    target: &mut End<T>,
) -> (Ending, Passed) {
    let mut passed = Passed::default();
    let rest = poll_fn(|context| {
        if source.peer.has_ended() {
            return Poll::Ready(Ending::Lost);
        }
        poll_direction(context, source, target, &mut passed)
    });
    let ending = time::timeout(HEAR_OUT, rest).await.unwrap_or(Ending::Lost);
    (ending, passed)
}

fn client_cause(ending: Ending) -> Cause {
    match ending {
        Ending::Closed(frame) => Cause::ClientClosed(frame),
        Ending::Lost => Cause::ClientLost,
        Ending::Violated(error) => Cause::ClientError(error),
        Ending::Undeliverable => Cause::UpstreamLost,
    }
}

fn upstream_cause(ending: Ending) -> Cause {
    match ending {
        Ending::Closed(frame) => Cause::UpstreamClosed(frame),
        Ending::Lost => Cause::UpstreamLost,
        Ending::Violated(error) => Cause::UpstreamError(error),
        Ending::Undeliverable => Cause::ClientLost,
    }
}

/// What went through one direction since that was last noted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    /// What was read.
    pub(super) bytes: u64,
    messages: u64,
    /// How much of it was for the proxy, or may turn out to be.
    own_bytes: u64,
}

impl Passed {
    /// Whether nothing of it is for the other side.
    const fn is_own(&self) -> bool {
        self.bytes <= self.own_bytes
    }
}

/// Relays from `source` to `target` as long as both are ready and its turn lasts; resolves
/// when that direction has ended.
fn poll_direction<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut End<S>,
    target: &mut End<T>,
    passed: &mut Passed,
) -> Poll<Ending> {
    for _ in 0..READS_PER_TURN {
        if !target.peer.outbox.is_empty()
            && ready!(
                target
                    .peer
                    .outbox
                    .poll_write(context, &mut target.peer.stream)
            )
            .is_err()
        {
            target.peer.stop_writing();
            return Poll::Ready(Ending::Undeliverable);
        }
        if let Some(ending) = ready!(poll_splice(context, source, target, passed)) {
            return Poll::Ready(ending);
        }
        let ending = with_scratch(|scratch| {
            let carried = std::mem::take(&mut source.peer.inbox);
            if !source.has_begun {
                // What was read before the tunnel began may fill more than the carry.
                source.has_begun = true;
                passed.bytes += carried.len() as u64;
                return Poll::Ready(relay(context, &carried, source, target, passed));
            }
            scratch[..carried.len()].copy_from_slice(&carried);
            let mut buffer = ReadBuf::new(&mut scratch[carried.len()..]);
            match Pin::new(&mut source.peer.stream).poll_read(context, &mut buffer) {
                Poll::Pending => {
                    source.peer.inbox = carried;
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => {
                    source.peer.break_off();
                    return Poll::Ready(Some(Ending::Lost));
                }
                Poll::Ready(Ok(())) => {}
            }
            let read = buffer.filled().len();
            if read == 0 {
                source.peer.end();
                return Poll::Ready(Some(Ending::Lost));
            }
            passed.bytes += read as u64;
            let bytes = &scratch[..carried.len() + read];
            Poll::Ready(relay(context, bytes, source, target, passed))
        });
        if let Some(ending) = ready!(ending) {
            return Poll::Ready(ending);
        }
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Moves the rest of a large payload in the kernel, where source and target are sockets;
/// ready when there is nothing, or no more, to move.
fn poll_splice<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut End<S>,
    target: &mut End<T>,
    passed: &mut Passed,
) -> Poll<Option<Ending>> {
    let (Some(from), Some(to)) = (source.peer.stream.as_tcp(), target.peer.stream.as_tcp()) else {
        return Poll::Ready(None);
    };
    // What was read before goes first.
    let is_read_up = source.has_begun && source.peer.inbox.is_empty();
    if source.pipe.is_none() && is_read_up && source.scanner.payload_left() >= MIN_SPLICE_BYTES {
        source.pipe = Pipe::take().map(Box::new);
    }
    for _ in 0..READS_PER_TURN {
        let Some(pipe) = &mut source.pipe else {
            return Poll::Ready(None);
        };
        if ready!(pipe.poll_drain(context, to)).is_err() {
            target.peer.stop_writing();
            return Poll::Ready(Some(Ending::Undeliverable));
        }
        if source.scanner.is_at_boundary() {
            let messages = u64::from(pipe.ends_message());
            passed.messages += messages;
            target.peer.outbox.note_passed(true);
            target.peer.outbox.count_passed(messages);
            if let Some(pipe) = source.pipe.take() {
                pipe.give_back();
            }
            return Poll::Ready(None);
        }
        match ready!(pipe.poll_fill(context, from, source.scanner.payload_left())) {
            Ok(Filled::Bytes(bytes)) => {
                let (_, ended) = source.scanner.take_payload(bytes);
                pipe.note_message_end(ended);
                passed.bytes += bytes as u64;
            }
            Ok(Filled::Refused) => source.pipe = None,
            Ok(Filled::End) => {
                source.peer.end();
                return Poll::Ready(Some(Ending::Lost));
            }
            Err(_) => {
                source.peer.break_off();
                return Poll::Ready(Some(Ending::Lost));
            }
        }
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Puts what is still in the pipe behind `source` into the outbox of `target`, for the
/// closing handshake to write.
fn empty_pipe<S, T>(source: &mut End<S>, target: &mut End<T>) -> Passed {
    let Some(pipe) = source.pipe.take() else {
        return Passed::default();
    };
    let messages = u64::from(pipe.ends_message());
    let ends_frame = source.scanner.is_at_boundary();
    if let Ok(bytes) = pipe.into_bytes() {
        target.peer.outbox.push_passing(&bytes, ends_frame);
        target.peer.outbox.count_passed(messages);
    }
    Passed {
        messages,
        ..Passed::default()
    }
}

/// Passes `bytes` on as far as they may go and keeps the rest; says when the direction
/// ends there.
fn relay<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    mut bytes: &[u8],
    source: &mut End<S>,
    target: &mut End<T>,
    passed: &mut Passed,
) -> Option<Ending> {
    loop {
        let skipped = source.scanner.skip(bytes);
        passed.messages += skipped.messages;
        let (front, mut rest) = bytes.split_at(skipped.bytes);
        let ends_frame = source.scanner.is_at_boundary();
        let sent = send(context, front, ends_frame, target);
        target.peer.outbox.count_passed(skipped.messages);
        if sent.is_err() {
            target.peer.stop_writing();
            return Some(Ending::Undeliverable);
        }
        let ending = match skipped.stop {
            Stop::End | Stop::PartialHeader => None,
            Stop::Violation(error) => Some(Ending::Violated(error)),
            Stop::Close => closed(&source.scanner, rest),
            Stop::Pong => match pass_pong(context, &mut rest, &source.scanner, target, passed) {
                Ok(true) => {
                    bytes = rest;
                    continue;
                }
                Ok(false) => None,
                Err(_) => {
                    target.peer.stop_writing();
                    Some(Ending::Undeliverable)
                }
            },
        };
        if ending.is_none() && !rest.is_empty() {
            source.peer.inbox = rest.to_vec();
        }
        return ending;
    }
}

/// Takes the pong at the front of `rest`, once it is there as a whole, and passes it on unless
/// it answers a ping of the proxy's own; whether it was there.
#[cold]
fn pass_pong<T: Stream>(
    context: &mut Context<'_>,
    rest: &mut &[u8],
    scanner: &FrameScanner,
    target: &mut End<T>,
    passed: &mut Passed,
) -> io::Result<bool> {
    let Some(pong) = Control::take_next(scanner, rest) else {
        passed.own_bytes += rest.len() as u64;
        return Ok(false);
    };
    if watch::is_own_pong(&pong) {
        passed.own_bytes += pong.wire.len() as u64;
    } else {
        send(context, &pong.wire, true, target)?;
    }
    Ok(true)
}

/// What the close frame at the front of `rest` says, once it is there as a whole.
fn closed(scanner: &FrameScanner, mut rest: &[u8]) -> Option<Ending> {
    let control = Control::take_next(scanner, &mut rest)?;
    Some(CloseFrame::parse(&control.payload).map_or_else(Ending::Violated, Ending::Closed))
}

/// Writes what `target` takes at once and keeps the rest in its outbox, which is empty.
fn send<T: Stream>(
    context: &mut Context<'_>,
    mut bytes: &[u8],
    ends_frame: bool,
    target: &mut End<T>,
) -> io::Result<()> {
    let Peer { stream, outbox, .. } = &mut target.peer;
    let mut result = Ok(());
    // A target that had to wait before is not asked again until its outbox is written.
    while outbox.is_empty() && !bytes.is_empty() {
        match Pin::new(&mut *stream).poll_write(context, bytes) {
            Poll::Ready(Ok(0)) => result = Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(written)) => bytes = &bytes[written..],
            Poll::Ready(Err(error)) => result = Err(error),
            Poll::Pending => break,
        }
        if result.is_err() {
            break;
        }
    }
    if !bytes.is_empty() {
        outbox.push_passing(bytes, ends_frame);
        return result;
    }
    outbox.note_passed(ends_frame);
    match Pin::new(&mut *stream).poll_flush(context) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => {
            outbox.note_unflushed();
            Ok(())
        }
    }
}
