//! The write buffer of one side of a session.
//!
//! # Invariants
//!
//! * Whole frames and pieces of frames leave in the order in which they were pushed; a
//!   control frame of the proxy's own never goes into the middle of a frame.
//! * The number of the proxy's own pongs is bounded: beyond [`MAX_PONGS`], the latest one
//!   replaces the one before it (RFC 6455 §5.5.3).

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::session::queue::MESSAGE_OVERHEAD_BYTES;

/// Maximum number of pieces in one system call (`IOV_MAX` of Linux).
const MAX_SLICES: usize = 1024;

/// Size up to which copied pieces are joined.
const COALESCE_BYTES: usize = 16 * 1024;

/// Maximum number of queued pongs; each has at most 131 bytes.
const MAX_PONGS: u8 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkKind {
    /// A copy of passing bytes, to which more may be appended.
    Passing,
    /// One whole message; counted once it is written.
    Message,
    /// A pong of the proxy.
    Pong,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    kind: ChunkKind,
}

/// Pieces that wait to be written; most of the time a session has none.
#[derive(Debug, Default)]
struct Pending {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written.
    head_written: usize,
    bytes: usize,
    messages: u64,
    pongs_in_line: u8,
    /// Pong that waits for the end of a frame, or for its place in the queue.
    next_pong: Option<Vec<u8>>,
}

/// Bytes that wait to be written to one side.
#[derive(Debug, Default)]
pub(in crate::session) struct WriteBuffer {
    /// Boxed, and present only while something waits, since each session has two of these
    /// buffers.
    backlog: Option<Box<Pending>>,
    messages_written: u64,
    /// Messages that end in forwarded bytes which are not all written.
    messages_passing: u64,
    bytes_written: u64,
    /// Whether the pushed bytes end inside a frame.
    inside_frame: bool,
    /// Whether the stream may still buffer some of the bytes it accepted, as a TLS stream does
    /// when its socket is full.
    needs_flush: bool,
}

impl WriteBuffer {
    /// Returns whether everything is written and flushed.
    pub(in crate::session) fn is_empty(&self) -> bool {
        self.has_no_pieces() && !self.needs_flush
    }

    fn has_no_pieces(&self) -> bool {
        let backlog = self.backlog.as_ref();
        backlog.is_none_or(|backlog| backlog.pieces.is_empty())
    }

    /// Number of bytes that wait.
    pub(in crate::session) fn waiting_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes)
    }

    /// Memory occupied by the waiting bytes.
    pub(in crate::session) fn accounted_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| {
            backlog.bytes + backlog.pieces.len() * MESSAGE_OVERHEAD_BYTES
        })
    }

    /// Returns whether a frame may be pushed: the bytes before it end with a whole one.
    pub(in crate::session) const fn is_at_boundary(&self) -> bool {
        !self.inside_frame
    }

    /// Number of pushed messages that are written as a whole.
    pub(in crate::session) const fn messages_written(&self) -> u64 {
        self.messages_written
    }

    /// Number of bytes written.
    pub(in crate::session) const fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Records that bytes were written directly to the stream, and whether they end with a whole
    /// frame.
    pub(in crate::session) fn note_passed(&mut self, ends_frame: bool) {
        self.inside_frame = !ends_frame;
        self.line_up_pong();
    }

    /// Records that bytes written directly to the stream could not be flushed at once.
    pub(in crate::session) fn note_unflushed(&mut self) {
        self.needs_flush = true;
    }

    /// Counts messages that ended in the bytes forwarded last: as written, once nothing waits.
    pub(in crate::session) fn count_passed(&mut self, messages: u64) {
        self.messages_passing += messages;
        self.settle_passing();
    }

    /// Counts messages that ended in bytes which were lost in part before they could be pushed:
    /// nothing more is to be written.
    pub(in crate::session) fn count_lost(&mut self, messages: u64) {
        self.messages_passing += messages;
    }

    fn settle_passing(&mut self) {
        if self.has_no_pieces() {
            self.messages_written += std::mem::take(&mut self.messages_passing);
        }
    }

    /// Number of messages of which it is not known how far they are written.
    pub(in crate::session) const fn messages_passing(&self) -> u64 {
        self.messages_passing
    }

    /// Number of messages that are not written as a whole, and whether the first of them is
    /// written in part.
    pub(in crate::session) fn messages_waiting(&self) -> (u64, bool) {
        self.backlog.as_ref().map_or((0, false), |backlog| {
            let head = backlog.pieces.front();
            let is_begun = backlog.head_written > 0
                && head.is_some_and(|piece| piece.kind == ChunkKind::Message);
            (backlog.messages, is_begun)
        })
    }

    /// Number of messages ever pushed, written or not, except dropped ones.
    pub(in crate::session) fn messages(&self) -> u64 {
        self.messages_written + self.messages_passing + self.messages_waiting().0
    }

    /// Adds one whole message.
    pub(in crate::session) fn push_message(&mut self, wire: Vec<u8>) {
        debug_assert!(self.is_at_boundary());
        self.push(wire, ChunkKind::Message);
    }

    /// Adds one whole control frame; the buffer must be at a boundary.
    pub(in crate::session) fn push_control(&mut self, wire: Vec<u8>) {
        debug_assert!(self.is_at_boundary());
        self.push(wire, ChunkKind::Passing);
    }

    /// Adds the close frame; the buffer must be at a boundary. Nothing may follow a close frame
    /// (RFC 6455 §5.5.1), so a pong that still waits for its turn goes first.
    pub(in crate::session) fn push_close(&mut self, wire: Vec<u8>) {
        if let Some(pong) = self.take_next_pong() {
            self.push(pong, ChunkKind::Pong);
        }
        self.push_control(wire);
    }

    /// Adds a copy of forwarded bytes; `ends_frame` says whether they end with a whole frame.
    pub(in crate::session) fn push_passing(&mut self, bytes: &[u8], ends_frame: bool) {
        if !bytes.is_empty() && !self.extend_last(bytes) {
            self.push(bytes.to_vec(), ChunkKind::Passing);
        }
        self.inside_frame = !ends_frame;
        self.line_up_pong();
    }

    /// Appends to the last piece, if that is a copy with room left.
    fn extend_last(&mut self, bytes: &[u8]) -> bool {
        let Some(backlog) = &mut self.backlog else {
            return false;
        };
        match backlog.pieces.back_mut() {
            Some(last)
                if last.kind == ChunkKind::Passing
                    && last.bytes.len() + bytes.len() <= COALESCE_BYTES =>
            {
                last.bytes.extend_from_slice(bytes);
                backlog.bytes += bytes.len();
                true
            }
            _ => false,
        }
    }

    /// Adds a pong of the proxy, to be sent at the next boundary. A pong that still waits is
    /// replaced.
    pub(in crate::session) fn push_pong(&mut self, frame: Vec<u8>) {
        self.backlog.get_or_insert_default().next_pong = Some(frame);
        self.line_up_pong();
    }

    fn take_next_pong(&mut self) -> Option<Vec<u8>> {
        self.backlog.as_mut()?.next_pong.take()
    }

    fn line_up_pong(&mut self) {
        let pongs_in_line = self.backlog.as_ref().map(|backlog| backlog.pongs_in_line);
        if self.is_at_boundary()
            && pongs_in_line.is_some_and(|count| count < MAX_PONGS)
            && let Some(pong) = self.take_next_pong()
        {
            self.push(pong, ChunkKind::Pong);
        }
    }

    fn push(&mut self, bytes: Vec<u8>, kind: ChunkKind) {
        let backlog = self.backlog.get_or_insert_default();
        backlog.bytes += bytes.len();
        backlog.messages += u64::from(kind == ChunkKind::Message);
        backlog.pongs_in_line += u8::from(kind == ChunkKind::Pong);
        backlog.pieces.push_back(Piece { bytes, kind });
    }

    /// Drops every message that is not written in part; returns their number.
    pub(in crate::session) fn drop_waiting_messages(&mut self) -> u64 {
        let Some(backlog) = &mut self.backlog else {
            return 0;
        };
        let mut dropped = 0;
        // A message written in part has to be completed, or the peer would take what follows for
        // its rest.
        let mut is_begun = backlog.head_written > 0;
        backlog.pieces.retain(|piece| {
            let keep = piece.kind != ChunkKind::Message || is_begun;
            is_begun = false;
            if !keep {
                dropped += 1;
                backlog.bytes -= piece.bytes.len();
            }
            keep
        });
        backlog.messages -= dropped;
        dropped
    }

    /// Writes and flushes everything, with as few system calls as possible.
    ///
    /// Ready when everything is written; cancelling loses nothing.
    pub(in crate::session) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        mut stream: impl AsyncWrite + Unpin,
    ) -> Poll<io::Result<()>> {
        while let Some(backlog) = self.backlog.as_deref()
            && let Some(head) = backlog.pieces.front()
        {
            let stream = Pin::new(&mut stream);
            // One piece is the common case: a plain write spares setting up 1024 slices.
            let written = if backlog.pieces.len() == 1 {
                ready!(stream.poll_write(context, &head.bytes[backlog.head_written..]))?
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let slices = backlog.fill(&mut slices);
                ready!(stream.poll_write_vectored(context, slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.needs_flush = true;
            self.advance(written);
        }
        if self.needs_flush {
            ready!(Pin::new(&mut stream).poll_flush(context))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        self.bytes_written += written as u64;
        let Some(backlog) = &mut self.backlog else {
            return;
        };
        self.messages_written += backlog.advance(written);
        if !backlog.pieces.is_empty() {
            return;
        }
        // The box goes, too: a queue that was long must not keep its memory for the rest of the
        // session.
        let next_pong = backlog.next_pong.take();
        self.backlog = None;
        self.settle_passing();
        if let Some(pong) = next_pong {
            self.push_pong(pong);
        }
    }
}

impl Pending {
    fn fill<'slices, 'bytes>(
        &'bytes self,
        slices: &'slices mut [IoSlice<'bytes>; MAX_SLICES],
    ) -> &'slices [IoSlice<'bytes>] {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let skip = if count == 0 { self.head_written } else { 0 };
            *slice = IoSlice::new(&piece.bytes[skip..]);
            count += 1;
        }
        &slices[..count]
    }

    /// Removes `written` bytes; returns the number of messages completed by them.
    fn advance(&mut self, mut written: usize) -> u64 {
        let messages_before = self.messages;
        self.bytes -= written;
        while let Some(head) = self.pieces.front() {
            let left = head.bytes.len() - self.head_written;
            if written < left {
                self.head_written += written;
                break;
            }
            written -= left;
            self.head_written = 0;
            match head.kind {
                ChunkKind::Passing => {}
                ChunkKind::Message => self.messages -= 1,
                ChunkKind::Pong => self.pongs_in_line -= 1,
            }
            self.pieces.pop_front();
        }
        messages_before - self.messages
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes a given number of bytes at each call.
    struct Trickle {
        step: usize,
        calls: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect();
            let taken = all.len().min(self.step);
            self.taken.extend_from_slice(&all[..taken]);
            self.calls += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write_all(buffer: &mut WriteBuffer, step: usize) -> Trickle {
        let mut trickle = Trickle {
            step,
            calls: 0,
            taken: Vec::new(),
        };
        let mut context = Context::from_waker(Waker::noop());
        assert!(buffer.poll_write(&mut context, &mut trickle).is_ready());
        trickle
    }

    #[test]
    fn partial_writes_keep_every_byte_and_count_whole_messages() {
        for step in 1..20 {
            let mut buffer = WriteBuffer::default();
            buffer.push_message(b"one".to_vec());
            buffer.push_passing(b"tw", false);
            buffer.push_passing(b"o", true);
            buffer.push_message(b"three".to_vec());

            let trickle = write_all(&mut buffer, step);

            assert_eq!(trickle.taken, b"onetwothree", "step {step}");
            assert_eq!(buffer.messages_written(), 2);
            assert_eq!(
                (buffer.waiting_bytes(), buffer.messages_waiting()),
                (0, (0, false))
            );
        }
    }

    #[test]
    fn a_thousand_messages_take_one_system_call() {
        let mut buffer = WriteBuffer::default();
        for _ in 0..1000 {
            buffer.push_message(vec![0; 128]);
        }

        let trickle = write_all(&mut buffer, usize::MAX);

        assert_eq!((trickle.calls, trickle.taken.len()), (1, 128_000));
    }

    #[test]
    fn a_pong_waits_for_a_boundary_and_the_latest_replaces_others() {
        let mut buffer = WriteBuffer::default();
        buffer.push_passing(b"half", false);
        buffer.push_pong(b"[1]".to_vec());
        buffer.push_pong(b"[2]".to_vec());
        buffer.push_passing(b"whole", true);
        buffer.push_pong(b"[3]".to_vec());

        assert_eq!(write_all(&mut buffer, 2).taken, b"halfwhole[2][3]");
    }

    #[test]
    fn a_flood_of_pings_leaves_33_pongs_with_the_latest() {
        let mut buffer = WriteBuffer::default();
        for number in 0..100_000_u32 {
            buffer.push_pong(number.to_be_bytes().to_vec());
        }

        assert_eq!(buffer.waiting_bytes(), usize::from(MAX_PONGS) * 4);
        let taken = write_all(&mut buffer, 100).taken;
        assert_eq!(taken.len(), usize::from(MAX_PONGS + 1) * 4);
        assert!(taken.ends_with(&99_999_u32.to_be_bytes()));
    }

    #[test]
    fn a_close_frame_goes_behind_a_flood_of_pongs() {
        let mut buffer = WriteBuffer::default();
        for _ in 0..100 {
            buffer.push_pong(b"o".to_vec());
        }
        buffer.push_close(b"c".to_vec());

        let taken = write_all(&mut buffer, 7).taken;

        let pongs = usize::from(MAX_PONGS) + 1;
        assert_eq!(taken, [vec![b'o'; pongs], vec![b'c']].concat());
        assert!(buffer.is_empty());
    }

    #[test]
    fn messages_not_written_in_part_can_be_dropped() {
        let mut buffer = WriteBuffer::default();
        buffer.push_message(b"begun".to_vec());
        buffer.push_message(b"not begun".to_vec());
        buffer.push_control(b"ping".to_vec());
        buffer.advance(1);
        assert_eq!(buffer.messages_waiting(), (2, true));

        assert_eq!(buffer.drop_waiting_messages(), 1);

        assert_eq!(write_all(&mut buffer, 100).taken, b"egunping");
        assert_eq!(buffer.messages_written(), 1);
    }
}
