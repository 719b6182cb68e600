//! One direction of the tunnel: what comes from its source goes to its target.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use super::End;
use crate::{
    session::{
        peer::{Peer, with_scratch},
        splice::{MIN_SPLICE_BYTES, Pipe, is_refusal},
        watch,
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
pub(super) fn poll_direction<S: Stream, T: Stream>(
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
                let fresh = carried.len();
                passed.bytes += fresh as u64;
                return Poll::Ready(relay(context, &carried, fresh, source, target, passed));
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
            Poll::Ready(relay(context, bytes, read, source, target, passed))
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
    if source.pipe.is_none() {
        // What was read before goes first.
        let is_read_up = source.has_begun && source.peer.inbox.is_empty();
        let is_large = source.scanner.payload_left() >= MIN_SPLICE_BYTES;
        if !(source.may_splice && is_read_up && is_large) {
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
    source: &mut End<S>,
    target: &mut End<T>,
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
    source: &mut End<S>,
    target: &mut End<T>,
    passed: &mut Passed,
) -> io::Result<()> {
    let Some(pipe) = source.pipe.take() else {
        return Ok(());
    };
    let messages = u64::from(pipe.ends_message());
    passed.messages += messages;
    let bytes = pipe.into_bytes()?;
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
            Stop::Pong => {
                match pass_pong(context, &mut rest, fresh, &source.scanner, target, passed) {
                    Ok(true) => {
                        bytes = rest;
                        continue;
                    }
                    Ok(false) => None,
                    Err(_) => {
                        target.peer.stop_writing();
                        Some(Ending::Undeliverable)
                    }
                }
            }
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
fn pass_pong<T: Stream>(
    context: &mut Context<'_>,
    rest: &mut &[u8],
    fresh: usize,
    scanner: &FrameScanner,
    target: &mut End<T>,
    passed: &mut Passed,
) -> io::Result<bool> {
    let fresh_before = rest.len().min(fresh);
    let Some(pong) = Control::take_next(scanner, rest) else {
        passed.own_bytes += fresh_before as u64;
        return Ok(false);
    };
    if watch::is_own_pong(&pong) {
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
