//! One direction of the tunnel: what comes from its source goes to its target.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::TunnelEnd;
use crate::{
    session::{
        peer::{Peer, with_scratch},
        pings::own_pong,
        splice::{MIN_SPLICE_BYTES, Pipe, is_refusal},
    },
    transport::Stream,
    websocket::{CloseFrame, Control, FrameScanner, ProtocolError, frame::Stop},
};

/// How many reads one direction may do before the other has its turn, and the rest of the
/// thread its own.
const READS_PER_TURN: usize = 16;

/// How one direction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its source sent this close frame.
    Closed(CloseFrame),
    /// Its source ended without one.
    Lost,
    /// Its source broke RFC 6455.
    Violated(ProtocolError),
    /// Its destination broke off.
    Undeliverable,
}

/// What went through one direction since that was last noted.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::session) struct Passed {
    /// What was read.
    pub(in crate::session) bytes: u64,
    pub(super) messages: u64,
    /// How much of it was for the proxy, or may turn out to be.
    own_bytes: u64,
}

impl Passed {
    /// Whether nothing of it is for the other side.
    pub(super) const fn is_own(&self) -> bool {
        self.bytes <= self.own_bytes
    }
}

/// Relays from `source` to `target` as long as both are ready and its turn lasts; resolves
/// when that direction has ended.
#[inline]
pub(super) fn poll_direction<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Ending> {
    if source.is_waiting
        && target.peer.outbox.is_empty()
        && source.pipe.is_none()
        && source.peer.stream.is_unready()
    {
        return Poll::Pending;
    }
    source.is_waiting = false;
    poll_passes(context, source, target, passed)
}

/// [`poll_direction`] of a source that may have something, one read after the other.
#[inline(never)]
fn poll_passes<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
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
        if (source.pipe.is_some() || source.scanner.payload_left() >= MIN_SPLICE_BYTES)
            && let Some(ending) = ready!(poll_splice(context, source, target, passed))
        {
            return Poll::Ready(ending);
        }
        let more = with_scratch(|scratch| poll_pass(context, scratch, source, target, passed));
        match ready!(more) {
            Ok(false) if target.peer.outbox.is_empty() => {
                if source.peer.stream.poll_readable(context).is_pending() {
                    source.note_waiting();
                    return Poll::Pending;
                }
            }
            Ok(_) => {}
            Err(ending) => return Poll::Ready(ending),
        }
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Passes on what one read brings; says whether the source may have more.
///
/// # Errors
///
/// The direction ends there.
#[inline]
fn poll_pass<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    scratch: &mut [u8],
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Result<bool, Ending>> {
    let before;
    let (bytes, fresh, may_have_more) = if source.has_begun {
        let carried = source.peer.inbox.len();
        if carried > 0 {
            scratch[..carried].copy_from_slice(&source.peer.inbox);
        }
        let room = &mut scratch[carried..];
        let room_bytes = room.len();
        let Poll::Ready(received) = source.peer.stream.poll_receive(context, room) else {
            source.note_waiting();
            return Poll::Pending;
        };
        if carried > 0 {
            source.peer.inbox = Vec::new();
        }
        match received {
            Ok(fresh @ 1..) => (&scratch[..carried + fresh], fresh, fresh == room_bytes),
            Ok(0) => {
                source.peer.end();
                return Poll::Ready(Err(Ending::Lost));
            }
            Err(_) => {
                source.peer.break_off();
                return Poll::Ready(Err(Ending::Lost));
            }
        }
    } else {
        // What was read before the tunnel began may fill more than the carry.
        source.has_begun = true;
        before = std::mem::take(&mut source.peer.inbox);
        (&*before, before.len(), true)
    };
    passed.bytes += fresh as u64;
    let ending = relay(context, bytes, fresh, source, target, passed);
    Poll::Ready(ending.map_or(Ok(may_have_more), Err))
}

/// Moves the rest of a large payload in the kernel, where source and target are sockets;
/// ready when there is no more to move.
fn poll_splice<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Option<Ending>> {
    let (Some(from), Some(to)) = (source.peer.stream.as_tcp(), target.peer.stream.as_tcp()) else {
        return Poll::Ready(None);
    };
    if source.pipe.is_none() {
        // What was read before goes first.
        let is_read_up = source.has_begun && source.peer.inbox.is_empty();
        if !(source.may_splice && is_read_up) {
            return Poll::Ready(None);
        }
        source.pipe = ready!(Pipe::poll_take(context, from));
    }
    for _ in 0..READS_PER_TURN {
        let Some(pipe) = &mut source.pipe else {
            return Poll::Ready(None);
        };
        match ready!(pipe.poll_drain(context, to)) {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => {
                source.may_splice = false;
                return poll_rescue(context, source, target, passed);
            }
            Err(_) => {
                target.peer.stop_writing();
                return Poll::Ready(Some(Ending::Undeliverable));
            }
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
        let filled = pipe.poll_fill(context, from, source.scanner.payload_left());
        if let Poll::Ready(Ok(bytes @ 1..)) = filled {
            let (_, ended) = source.scanner.take_payload(bytes);
            pipe.note_message_end(ended);
            passed.bytes += bytes as u64;
            continue;
        }
        if let Some(pipe) = source.pipe.take() {
            pipe.give_back();
        }
        match ready!(filled) {
            Ok(_) => source.peer.end(),
            Err(error) if is_refusal(&error) => {
                source.may_splice = false;
                return Poll::Ready(None);
            }
            Err(_) => source.peer.break_off(),
        }
        return Poll::Ready(Some(Ending::Lost));
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Lets what is in the pipe behind `source` be written to a `target` that is not spliced to, at
/// the next turn: before anything more is read.
#[cold]
fn poll_rescue<S, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Option<Ending>> {
    if empty_pipe(source, target, passed).is_err() {
        target.peer.stop_writing();
        return Poll::Ready(Some(Ending::Undeliverable));
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Puts what is still in the pipe behind `source` into the outbox of `target`.
///
/// # Errors
///
/// It cannot be taken out: the message that it belongs to stays in doubt.
pub(super) fn empty_pipe<S, T>(
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> io::Result<()> {
    let Some(pipe) = source.pipe.take() else {
        return Ok(());
    };
    let messages = u64::from(pipe.ends_message());
    passed.messages += messages;
    let bytes = pipe.into_bytes();
    let bytes = bytes.inspect_err(|_| target.peer.outbox.count_lost(messages))?;
    let ends_frame = source.scanner.is_at_boundary();
    target.peer.outbox.push_passing(&bytes, ends_frame);
    target.peer.outbox.count_passed(messages);
    Ok(())
}

/// Passes `bytes`, of which the last `fresh` have just been read, on as far as they may go and
/// keeps the rest; says when the direction ends there.
fn relay<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    mut bytes: &[u8],
    fresh: usize,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
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
            Stop::Pong => match pass_pong(context, &mut rest, fresh, source, target, passed) {
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

/// Takes the pong at the front of `rest`, of which the last `fresh` bytes have just been read,
/// once it is there as a whole, and passes it on unless it answers a ping of the proxy's own;
/// whether it was there.
#[cold]
fn pass_pong<S, T: Stream>(
    context: &mut Context<'_>,
    rest: &mut &[u8],
    fresh: usize,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> io::Result<bool> {
    let fresh_before = rest.len().min(fresh);
    let Some(pong) = Control::take_next(&source.scanner, rest) else {
        passed.own_bytes += fresh_before as u64;
        return Ok(false);
    };
    if let Some(number) = own_pong(&pong) {
        source.own_pong = source.own_pong.max(number);
        passed.own_bytes += (fresh_before - rest.len().min(fresh)) as u64;
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
#[expect(
    clippy::inline_always,
    reason = "each message goes through it, and through little else"
)]
#[inline(always)]
fn send<T: Stream>(
    context: &mut Context<'_>,
    mut bytes: &[u8],
    ends_frame: bool,
    target: &mut TunnelEnd<T>,
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
