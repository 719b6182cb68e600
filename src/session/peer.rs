//! One side of a session: its byte stream, what it sent that is not yet looked at, and
//! what waits to be sent to it.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::FutureExt;
use tokio::task::coop;

use super::write_buffer::WriteBuffer;
use crate::{transport::Stream, websocket::Opened};

/// The most bytes that one read takes in.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// The most bytes that one read takes in while they are looked at one message at a time;
/// so much may wait in an inbox beyond the bounds of the hold queue.
const INBOX_READ_BYTES: usize = 16 * 1024;

/// Room in front of a read for what is left of the one before: part of a frame header or
/// of a close frame.
pub(super) const CARRY_BYTES: usize = 256;

/// Reading from one side stops while this many bytes wait for the other.
pub(super) const HIGH_WATER_BYTES: usize = 64 * 1024;

thread_local! {
    /// Every read of a thread goes through this buffer, so that a session that waits has
    /// none.
    static SCRATCH: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; CARRY_BYTES + READ_BYTES].into_boxed_slice());
}

/// Runs `with` on the thread's scratch buffer.
///
/// # Panics
///
/// When `with` calls this again.
pub(super) fn with_scratch<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}

/// What a side did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointEvent {
    /// Bytes were added to the inbox.
    Read,
    /// It will send nothing more: end of stream, or an error.
    Ended,
    /// It takes nothing more.
    Broken,
    /// Everything that waited for it is written.
    Written,
}

/// One side of a session.
#[derive(Debug)]
pub(super) struct Peer<S> {
    pub(super) stream: S,
    /// Bytes that were read and not yet looked at.
    pub(super) inbox: Vec<u8>,
    pub(super) outbox: WriteBuffer,
    has_ended: bool,
    is_broken: bool,
}

impl<S: Stream> Peer<S> {
    pub(super) fn new(opened: Opened<S>) -> Self {
        Self {
            stream: opened.stream,
            inbox: opened.read_buf.to_vec(),
            outbox: WriteBuffer::default(),
            has_ended: false,
            is_broken: false,
        }
    }

    /// Whether it will send nothing more.
    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether nothing can be sent to it any more.
    pub(super) const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Notes that it takes nothing more. What it has sent before can still be read: a close
    /// frame often is the reason.
    pub(super) fn stop_writing(&mut self) {
        self.is_broken = true;
    }

    /// Notes an error on the stream: nothing goes either way any more.
    pub(super) fn break_off(&mut self) {
        self.is_broken = true;
        self.has_ended = true;
    }

    /// Notes that it will send nothing more.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Removes and returns the inbox, to be put back with
    /// [`put_back`](Self::put_back).
    pub(super) fn take_inbox(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inbox)
    }

    /// Makes what is left of a taken inbox the inbox again.
    pub(super) fn put_back(&mut self, mut inbox: Vec<u8>, left: usize) {
        debug_assert!(self.inbox.is_empty());
        if left > 0 {
            inbox.drain(..inbox.len() - left);
            self.inbox = inbox;
        }
    }

    /// Writes what waits and, if `may_read`, reads into the inbox; resolves when either did
    /// something.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was read is in the inbox, what was not written in the outbox.
    pub(super) async fn progress(&mut self, may_read: bool) -> EndpointEvent {
        poll_fn(|context| self.poll_progress(context, may_read)).await
    }

    /// [`progress`](Self::progress), which says so each time that it finds nothing to read: its
    /// socket itself is asked, also when all has just been written.
    pub(super) async fn progress_or(
        &mut self,
        may_read: bool,
        mut on_empty: impl FnMut(&WriteBuffer),
    ) -> EndpointEvent {
        poll_fn(|context| {
            let mut progress = self.poll_progress(context, may_read);
            let mut looked = progress;
            if progress == Poll::Ready(EndpointEvent::Written) {
                looked = self.poll_progress(context, may_read);
                if looked.is_ready() {
                    progress = looked;
                }
            }
            // A task that has used up its budget has not looked.
            let has_looked = may_read && !self.has_ended && coop::has_budget_remaining();
            if has_looked && looked.is_pending() && self.stream.is_drained() {
                on_empty(&self.outbox);
            }
            progress
        })
        .await
    }

    /// Writes what it takes at once, and says whether nothing is to be read from it.
    pub(super) fn is_silent(&mut self) -> bool {
        if !self.inbox.is_empty() {
            return false;
        }
        let mut is_silent = false;
        loop {
            let look = self.progress_or(true, |_| is_silent = true);
            match look.now_or_never() {
                Some(EndpointEvent::Written) => {}
                Some(_) => return false,
                None => return is_silent,
            }
        }
    }

    fn poll_progress(&mut self, context: &mut Context<'_>, may_read: bool) -> Poll<EndpointEvent> {
        if !self.is_broken && !self.outbox.is_empty() {
            match self.outbox.poll_write(context, &mut self.stream) {
                Poll::Ready(Ok(())) => return Poll::Ready(EndpointEvent::Written),
                Poll::Ready(Err(_)) => {
                    self.stop_writing();
                    return Poll::Ready(EndpointEvent::Broken);
                }
                Poll::Pending => {}
            }
        }
        if !may_read || self.has_ended {
            return Poll::Pending;
        }
        match ready!(self.poll_read(context)) {
            Ok(0) => self.has_ended = true,
            Ok(_) => return Poll::Ready(EndpointEvent::Read),
            Err(_) => self.break_off(),
        }
        Poll::Ready(EndpointEvent::Ended)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let room = &mut scratch[..INBOX_READ_BYTES];
            let read = ready!(self.stream.poll_receive(context, room))?;
            self.inbox.reserve_exact(read);
            self.inbox.extend_from_slice(&scratch[..read]);
            Poll::Ready(Ok(read))
        })
    }

    /// Writes as much of what waits as the stream takes at once.
    pub(super) async fn write_now(&mut self) {
        poll_fn(|context| {
            let _ = self.poll_progress(context, false);
            Poll::Ready(())
        })
        .await;
    }

    /// Writes what waits and closes the writing half.
    pub(super) async fn finish(&mut self) {
        poll_fn(|context| {
            if self.is_broken || ready!(self.outbox.poll_write(context, &mut self.stream)).is_err()
            {
                return Poll::Ready(());
            }
            Pin::new(&mut self.stream)
                .poll_shutdown(context)
                .map(|_| ())
        })
        .await;
        self.break_off();
    }
}

/// [`Peer::progress`] of a side that may not be there; then it never resolves.
pub(super) async fn progress<S: Stream>(
    peer: Option<&mut Peer<S>>,
    may_read: bool,
) -> EndpointEvent {
    match peer {
        Some(peer) => peer.progress(may_read).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
    };

    use bytes::Bytes;

    use super::*;
    use crate::transport::Transport;

    /// A peer over TCP of which nothing has come, its far end, and a second handle of its socket.
    fn silent() -> (Peer<Transport>, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let socket = near.try_clone().unwrap();
        near.set_nonblocking(true).unwrap();
        let stream = Transport::Tcp(near.try_into().unwrap());
        let read_buf = Bytes::new();
        let mut peer = Peer::new(Opened { stream, read_buf });
        assert!(peer.is_silent());
        (peer, far, socket)
    }

    /// Has `far` say something that is there when the reactor has not looked.
    fn say(far: &mut TcpStream, socket: &TcpStream) {
        far.write_all(b"x").unwrap();
        while socket.peek(&mut [0; 1]).is_err() {}
    }

    #[tokio::test]
    async fn what_the_reactor_has_not_noted_is_no_silence() {
        let (mut peer, mut far, socket) = silent();
        say(&mut far, &socket);
        assert!(!peer.is_silent());

        let (mut peer, mut far, socket) = silent();
        peer.outbox.push_control(b"written".to_vec());
        say(&mut far, &socket);
        assert!(!peer.is_silent(), "when something was written");
    }

    #[tokio::test]
    async fn what_was_read_and_not_looked_at_is_no_silence() {
        let (mut peer, _far, _socket) = silent();
        peer.inbox = b"\x88".to_vec();
        assert!(!peer.is_silent());
    }
}
