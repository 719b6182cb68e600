//! One direction of the tunnel: relays what its source sends to its target.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::TunnelEnd;
use crate::{
    session::{
        io::{
            endpoint::{EndpointIo, with_scratch},
            splice::{MIN_SPLICE_BYTES, Pipe, is_refusal},
        },
        pings::own_pong,
    },
    transport::Stream,
    websocket::{CloseFrame, Control, FrameScanner, ProtocolError, frame::Stop},
};

/// Reads that one direction may do before it yields to the other and to the thread's other tasks.
const READS_PER_TURN: usize = 16;

/// End of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The source sent this close frame.
    Closed(CloseFrame),
    /// The source's connection ended without a close frame.
    Lost,
    /// The source violated RFC 6455.
    Violated(ProtocolError),
    /// The target broke off.
    Undeliverable,
}

/// Traffic relayed in one direction since it was last recorded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    /// Bytes read from the source.
    pub(super) bytes: u64,
    pub(super) messages: u64,
    /// Bytes addressed to the proxy itself, or that may turn out to be.
    own_bytes: u64,
}

impl Passed {
    /// Returns whether nothing of it is for the other side.
    pub(super) const fn is_own(&self) -> bool {
        self.bytes <= self.own_bytes
    }
}

/// Relays from `source` to `target` while both are ready, for at most one turn; resolves when the
/// direction has ended.
#[inline]
pub(super) fn poll_direction<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Ending> {
    // A wake-up is usually for the other direction: without a system call, this tells that there
    // is nothing to read.
    if source.is_waiting
        && target.endpoint.write_buffer.is_empty()
        && source.pipe.is_none()
        && source.endpoint.stream.is_unready()
    {
        return Poll::Pending;
    }
    source.is_waiting = false;
    poll_passes(context, source, target, passed)
}

/// [`poll_direction`] of a source that may be readable, one read after the other.
#[inline(never)]
fn poll_passes<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Ending> {
    for _ in 0..READS_PER_TURN {
        if !target.endpoint.write_buffer.is_empty()
            && ready!(
                target
                    .endpoint
                    .write_buffer
                    .poll_write(context, &mut target.endpoint.stream)
            )
            .is_err()
        {
            target.endpoint.stop_writing();
            return Poll::Ready(Ending::Undeliverable);
        }
        if (source.pipe.is_some() || source.scanner.payload_left() >= MIN_SPLICE_BYTES)
            && let Some(ending) = ready!(poll_splice(context, source, target, passed))
        {
            return Poll::Ready(ending);
        }
        // The buffer is the thread's: a session that waits owns none.
        let more = with_scratch(|scratch| poll_pass(context, scratch, source, target, passed));
        match ready!(more) {
            Ok(false) if target.endpoint.write_buffer.is_empty() => {
                // A short read usually means an empty socket; the check saves the `read` that
                // would return `EAGAIN`.
                if source.endpoint.stream.poll_readable(context).is_pending() {
                    source.note_waiting();
                    return Poll::Pending;
                }
            }
            Ok(_) => {}
            Err(ending) => return Poll::Ready(ending),
        }
    }
    // The turn is over, but the sockets may still be ready and would not wake the task.
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Relays the bytes of one read; returns whether the source may have more.
///
/// # Errors
///
/// The direction has ended.
#[inline]
fn poll_pass<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    scratch: &mut [u8],
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Result<bool, Ending>> {
    // Bytes that could not be relayed last time, such as half a header, go in front of the new
    // ones.
    let before;
    let (bytes, fresh, may_have_more) = if source.has_begun {
        let carried = source.endpoint.read_buffer.len();
        if carried > 0 {
            scratch[..carried].copy_from_slice(&source.endpoint.read_buffer);
        }
        let room = &mut scratch[carried..];
        let room_bytes = room.len();
        let Poll::Ready(received) = source.endpoint.stream.poll_receive(context, room) else {
            source.note_waiting();
            return Poll::Pending;
        };
        if carried > 0 {
            source.endpoint.read_buffer = Vec::new();
        }
        match received {
            Ok(fresh @ 1..) => (&scratch[..carried + fresh], fresh, fresh == room_bytes),
            Ok(0) => {
                source.endpoint.end();
                return Poll::Ready(Err(Ending::Lost));
            }
            Err(_) => {
                source.endpoint.break_off();
                return Poll::Ready(Err(Ending::Lost));
            }
        }
    } else {
        // Data read before the tunnel began may be larger than the scratch buffer.
        source.has_begun = true;
        before = std::mem::take(&mut source.endpoint.read_buffer);
        (&*before, before.len(), true)
    };
    passed.bytes += fresh as u64;
    let ending = relay(context, bytes, fresh, source, target, passed);
    Poll::Ready(ending.map_or(Ok(may_have_more), Err))
}

/// Moves the rest of a large payload in the kernel, where source and target are sockets; ready
/// when nothing more is to be moved.
fn poll_splice<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Option<Ending>> {
    let (Some(from), Some(to)) = (
        source.endpoint.stream.as_tcp(),
        target.endpoint.stream.as_tcp(),
    ) else {
        return Poll::Ready(None);
    };
    if source.pipe.is_none() {
        // Bytes that were already read go first.
        let is_read_up = source.has_begun && source.endpoint.read_buffer.is_empty();
        if !(source.may_splice && is_read_up) {
            return Poll::Ready(None);
        }
        // Taken only once there is data: a sender that pauses occupies no pipe.
        source.pipe = ready!(Pipe::poll_take(context, from));
    }
    for _ in 0..READS_PER_TURN {
        let Some(pipe) = &mut source.pipe else {
            return Poll::Ready(None);
        };
        // Drained before it is filled again, so that a slow target stops the reading.
        match ready!(pipe.poll_drain(context, to)) {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => {
                source.may_splice = false;
                return poll_rescue(context, source, target, passed);
            }
            Err(_) => {
                target.endpoint.stop_writing();
                return Poll::Ready(Some(Ending::Undeliverable));
            }
        }
        // The payload has ended; the next header has to be read by the scanner.
        if source.scanner.is_at_boundary() {
            let messages = u64::from(pipe.ends_message());
            passed.messages += messages;
            target.endpoint.write_buffer.note_passed(true);
            target.endpoint.write_buffer.count_passed(messages);
            if let Some(pipe) = source.pipe.take() {
                pipe.give_back();
            }
            return Poll::Ready(None);
        }
        let filled = pipe.poll_fill(context, from, source.scanner.payload_left());
        if let Poll::Ready(Ok(bytes @ 1..)) = filled {
            // Counted by the scanner as if it had seen the bytes, so that its position stays
            // right.
            let (_, ended) = source.scanner.take_payload(bytes);
            pipe.note_message_end(ended);
            passed.bytes += bytes as u64;
            continue;
        }
        // The pipe is empty here: it goes back whether the source waits, has ended or refuses.
        if let Some(pipe) = source.pipe.take() {
            pipe.give_back();
        }
        match ready!(filled) {
            Ok(_) => source.endpoint.end(),
            // The kernel does not splice from it; nothing was moved, so that reading continues
            // where it was.
            Err(error) if is_refusal(&error) => {
                source.may_splice = false;
                return Poll::Ready(None);
            }
            Err(_) => source.endpoint.break_off(),
        }
        return Poll::Ready(Some(Ending::Lost));
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Moves the contents of the pipe behind `source` to the write buffer of a `target` that cannot
/// be spliced to; they are written in the next turn, before anything more is read.
#[cold]
fn poll_rescue<S, T: Stream>(
    context: &mut Context<'_>,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Poll<Option<Ending>> {
    if empty_pipe(source, target, passed).is_err() {
        target.endpoint.stop_writing();
        return Poll::Ready(Some(Ending::Undeliverable));
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Moves the contents of the pipe behind `source` to the write buffer of `target`.
///
/// # Errors
///
/// The pipe cannot be read: the message that its bytes belong to stays in doubt.
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
    let bytes = bytes.inspect_err(|_| target.endpoint.write_buffer.count_lost(messages))?;
    let ends_frame = source.scanner.is_at_boundary();
    target
        .endpoint
        .write_buffer
        .push_passing(&bytes, ends_frame);
    target.endpoint.write_buffer.count_passed(messages);
    Ok(())
}

/// Relays `bytes`, the last `fresh` of which have just been read, as far as possible and keeps
/// the rest; returns the direction's end, if it has come.
fn relay<S: Stream, T: Stream>(
    context: &mut Context<'_>,
    mut bytes: &[u8],
    fresh: usize,
    source: &mut TunnelEnd<S>,
    target: &mut TunnelEnd<T>,
    passed: &mut Passed,
) -> Option<Ending> {
    loop {
        // Everything in front of a close frame, a pong or half a header goes out in one write.
        let skipped = source.scanner.skip(bytes);
        passed.messages += skipped.messages;
        let (front, mut rest) = bytes.split_at(skipped.bytes);
        let ends_frame = source.scanner.is_at_boundary();
        let sent = send(context, front, ends_frame, target);
        // Before the error is checked: the write buffer tells written messages from those in
        // doubt.
        target.endpoint.write_buffer.count_passed(skipped.messages);
        if sent.is_err() {
            target.endpoint.stop_writing();
            return Some(Ending::Undeliverable);
        }
        let ending = match skipped.stop {
            // Half a header is not forwarded: it could not be taken back if the rest of it is
            // invalid.
            Stop::End | Stop::PartialHeader => None,
            Stop::Violation(error) => Some(Ending::Violated(error)),
            Stop::Close => closed(&source.scanner, rest),
            Stop::Pong => match pass_pong(context, &mut rest, fresh, source, target, passed) {
                // The pong is dealt with, whether it was forwarded or not; the frames behind it
                // are still to be relayed.
                Ok(true) => {
                    bytes = rest;
                    continue;
                }
                Ok(false) => None,
                Err(_) => {
                    target.endpoint.stop_writing();
                    Some(Ending::Undeliverable)
                }
            },
        };
        // Copied out of the thread's scratch buffer, which the next session uses.
        if ending.is_none() && !rest.is_empty() {
            source.endpoint.read_buffer = rest.to_vec();
        }
        return ending;
    }
}

/// Takes the pong at the front of `rest`, the last `fresh` bytes of which have just been read,
/// and forwards it unless it answers a ping of the proxy. Returns whether it had arrived
/// completely.
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
        // Recorded by the caller, which has the session's statistics.
        source.own_pong = source.own_pong.max(number);
        passed.own_bytes += (fresh_before - rest.len().min(fresh)) as u64;
    } else {
        send(context, &pong.wire, true, target)?;
    }
    Ok(true)
}

/// Parses the close frame at the front of `rest`, once it has arrived completely.
fn closed(scanner: &FrameScanner, mut rest: &[u8]) -> Option<Ending> {
    let control = Control::take_next(scanner, &mut rest)?;
    Some(CloseFrame::parse(&control.payload).map_or_else(Ending::Violated, Ending::Closed))
}

/// Writes as much as `target` accepts at once and puts the rest into its write buffer, which is
/// empty.
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
    let EndpointIo {
        stream,
        write_buffer,
        ..
    } = &mut target.endpoint;
    let mut result = Ok(());
    // A target that returned `Pending` is written to again only through its write buffer.
    while write_buffer.is_empty() && !bytes.is_empty() {
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
        write_buffer.push_passing(bytes, ends_frame);
        return result;
    }
    write_buffer.note_passed(ends_frame);
    match Pin::new(&mut *stream).poll_flush(context) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => {
            write_buffer.note_unflushed();
            Ok(())
        }
    }
}
