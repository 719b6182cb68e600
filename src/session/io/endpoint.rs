//! One side of a session: its byte stream, the received bytes that are still to be processed, and
//! its write buffer.

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

/// Maximum size of one read.
pub(in crate::session) const READ_BYTES: usize = 64 * 1024;

/// Maximum size of one read while messages are processed one by one; up to this much may be in
/// the read buffer beyond the limits of the hold queue.
const BUFFERED_READ_BYTES: usize = 16 * 1024;

/// Space in front of a read for the rest of the one before: part of a frame header or of a close
/// frame.
pub(in crate::session) const CARRY_BYTES: usize = 256;

/// Number of bytes waiting for one side at which reading from the other stops.
pub(in crate::session) const HIGH_WATER_BYTES: usize = 64 * 1024;

thread_local! {
    /// Buffer of all reads of the thread, so that a waiting session owns none.
    static SCRATCH: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; CARRY_BYTES + READ_BYTES].into_boxed_slice());
}

/// Runs `with` on the thread's scratch buffer.
///
/// # Panics
///
/// When `with` calls this function again.
pub(in crate::session) fn with_scratch<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}

/// Progress made by a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum EndpointEvent {
    /// Bytes were added to the read buffer.
    Read,
    /// End of the stream, or an error: nothing more will be read.
    Ended,
    /// Nothing more can be written to it.
    Broken,
    /// Everything in its write buffer is written.
    Written,
}

/// One side of a session.
#[derive(Debug)]
pub(in crate::session) struct EndpointIo<S> {
    pub(in crate::session) stream: S,
    /// Bytes that were read and are still to be processed.
    pub(in crate::session) read_buffer: Vec<u8>,
    pub(in crate::session) write_buffer: WriteBuffer,
    has_ended: bool,
    is_broken: bool,
}

impl<S: Stream> EndpointIo<S> {
    pub(in crate::session) fn new(opened: Opened<S>) -> Self {
        Self {
            stream: opened.stream,
            read_buffer: opened.read_buf.to_vec(),
            write_buffer: WriteBuffer::default(),
            has_ended: false,
            is_broken: false,
        }
    }

    /// Returns whether nothing more will be read from it.
    pub(in crate::session) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Returns whether nothing more can be written to it.
    pub(in crate::session) const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Records that nothing more can be written to it. Data that it sent before can still be
    /// read, often a close frame that gives the reason.
    pub(in crate::session) fn stop_writing(&mut self) {
        self.is_broken = true;
    }

    /// Records an error on the stream: nothing more can be read or written.
    pub(in crate::session) fn break_off(&mut self) {
        self.is_broken = true;
        self.has_ended = true;
    }

    /// Records that nothing more will be read from it.
    pub(in crate::session) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Removes and returns the read buffer, to be returned by [`put_back`](Self::put_back).
    pub(in crate::session) fn take_read_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read_buffer)
    }

    /// Restores the last `left` bytes of a read buffer that was taken.
    pub(in crate::session) fn put_back(&mut self, mut read_buffer: Vec<u8>, left: usize) {
        debug_assert!(self.read_buffer.is_empty());
        if left > 0 {
            read_buffer.drain(..read_buffer.len() - left);
            self.read_buffer = read_buffer;
        }
    }

    /// Writes the write buffer and, if `may_read`, reads into the read buffer; resolves when
    /// either made progress.
    ///
    /// # Cancel safety
    ///
    /// Loses nothing: bytes that were read are in the read buffer, unwritten ones in the write
    /// buffer.
    pub(in crate::session) async fn progress(&mut self, may_read: bool) -> EndpointEvent {
        poll_fn(|context| self.poll_progress(context, may_read)).await
    }

    /// Like [`progress`](Self::progress), and calls `on_empty` each time that nothing is to be
    /// read: the socket itself is asked, also after everything has just been written.
    pub(in crate::session) async fn progress_or(
        &mut self,
        may_read: bool,
        mut on_empty: impl FnMut(&WriteBuffer),
    ) -> EndpointEvent {
        poll_fn(|context| {
            let mut progress = self.poll_progress(context, may_read);
            let mut looked = progress;
            // `Written` came before the read: look at the socket also, since from here on every
            // read is of data sent later.
            if progress == Poll::Ready(EndpointEvent::Written) {
                looked = self.poll_progress(context, may_read);
                if looked.is_ready() {
                    progress = looked;
                }
            }
            // A task without coop budget gets `Pending` without a look at the socket.
            let has_looked = may_read && !self.has_ended && coop::has_budget_remaining();
            if has_looked && looked.is_pending() && self.stream.is_drained() {
                on_empty(&self.write_buffer);
            }
            progress
        })
        .await
    }

    /// Writes as much as the stream accepts at once; returns whether the socket is known to have
    /// nothing to read.
    pub(in crate::session) fn is_silent(&mut self) -> bool {
        if !self.read_buffer.is_empty() {
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
        if !self.is_broken && !self.write_buffer.is_empty() {
            // Written before it is read: a peer that waits for this data sends nothing until it
            // has come.
            match self.write_buffer.poll_write(context, &mut self.stream) {
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
        // Into the thread's buffer first, so that the allocation has the size of the data.
        match ready!(self.poll_read(context)) {
            Ok(0) => self.has_ended = true,
            Ok(_) => return Poll::Ready(EndpointEvent::Read),
            Err(_) => self.break_off(),
        }
        Poll::Ready(EndpointEvent::Ended)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let room = &mut scratch[..BUFFERED_READ_BYTES];
            let read = ready!(self.stream.poll_receive(context, room))?;
            self.read_buffer.reserve_exact(read);
            self.read_buffer.extend_from_slice(&scratch[..read]);
            Poll::Ready(Ok(read))
        })
    }

    /// Writes as much of the write buffer as the stream accepts at once.
    pub(in crate::session) async fn write_now(&mut self) {
        poll_fn(|context| {
            let _ = self.poll_progress(context, false);
            Poll::Ready(())
        })
        .await;
    }

    /// Writes the write buffer and shuts down the writing half.
    pub(in crate::session) async fn finish(&mut self) {
        poll_fn(|context| {
            if self.is_broken
                || ready!(self.write_buffer.poll_write(context, &mut self.stream)).is_err()
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

/// [`EndpointIo::progress`] of a side that may be missing; in that case it never resolves.
pub(in crate::session) async fn progress<S: Stream>(
    endpoint: Option<&mut EndpointIo<S>>,
    may_read: bool,
) -> EndpointEvent {
    match endpoint {
        Some(endpoint) => endpoint.progress(may_read).await,
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

    /// Creates a peer over TCP that has sent nothing, its far end, and a second handle of its socket.
    fn silent() -> (EndpointIo<Transport>, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let socket = near.try_clone().unwrap();
        near.set_nonblocking(true).unwrap();
        let stream = Transport::Tcp(near.try_into().unwrap());
        let read_buf = Bytes::new();
        let mut endpoint = EndpointIo::new(Opened { stream, read_buf });
        assert!(endpoint.is_silent());
        (endpoint, far, socket)
    }

    /// Has `far` send data that is in the socket before the reactor has polled it.
    fn say(far: &mut TcpStream, socket: &TcpStream) {
        far.write_all(b"x").unwrap();
        while socket.peek(&mut [0; 1]).is_err() {}
    }

    #[tokio::test]
    async fn unpolled_data_is_not_silence() {
        let (mut endpoint, mut far, socket) = silent();
        say(&mut far, &socket);
        assert!(!endpoint.is_silent());

        let (mut endpoint, mut far, socket) = silent();
        endpoint.write_buffer.push_control(b"written".to_vec());
        say(&mut far, &socket);
        assert!(!endpoint.is_silent(), "when something was written");
    }

    #[tokio::test]
    async fn unprocessed_data_is_not_silence() {
        let (mut endpoint, _far, _socket) = silent();
        endpoint.read_buffer = b"\x88".to_vec();
        assert!(!endpoint.is_silent());
    }
}
