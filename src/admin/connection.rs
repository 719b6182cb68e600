//! A connection that bounds the time of its writes.
//!
//! # Invariants
//!
//! * A response is read within [`WRITE_TIMEOUT`], or its connection fails. A stream of events may
//!   take any time, as long as some of it is read in that time.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// Time for the client to read a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// State of a connection that is shared with its server.
#[derive(Debug)]
pub(super) struct AdminActivity {
    /// Time of the last read or write.
    latest: Cell<Instant>,
    /// True while some of a response waits to be read.
    is_unread: Cell<bool>,
    /// Wakes the task that waits for the response to be read.
    read: Notify,
    /// True for a stream of events.
    is_endless: Cell<bool>,
    closed: CancellationToken,
}

impl Default for AdminActivity {
    fn default() -> Self {
        Self {
            latest: Cell::new(Instant::now()),
            is_unread: Cell::new(false),
            read: Notify::new(),
            is_endless: Cell::new(false),
            closed: CancellationToken::new(),
        }
    }
}

impl AdminActivity {
    /// Returns the time of the last byte in either direction, or of the accept.
    pub(super) fn latest(&self) -> Instant {
        self.latest.get()
    }

    /// Closes the connection at once, whatever is in flight.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Returns whether the connection has to be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Resolves when the connection has to be closed.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Marks the response that is about to be written as endless.
    pub(super) fn expect_no_end(&self) {
        self.is_endless.set(true);
    }

    /// Returns whether some of a response waits to be read.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread.get()
    }

    /// Resolves when no response waits to be read.
    pub(super) async fn read(&self) {
        while self.is_unread.get() {
            self.read.notified().await;
        }
    }

    fn note(&self) {
        self.latest.set(Instant::now());
    }

    fn note_read(&self) {
        if self.is_unread.replace(false) {
            self.read.notify_one();
        }
    }
}

/// A stream whose writes time out.
#[derive(Debug)]
pub(super) struct AdminConnection<S> {
    stream: S,
    activity: Rc<AdminActivity>,
    /// Runs while a response waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> AdminConnection<S> {
    pub(super) const fn new(stream: S, activity: Rc<AdminActivity>) -> Self {
        Self {
            stream,
            activity,
            timer: None,
        }
    }

    /// Records that bytes were written.
    fn advance(&mut self) {
        self.activity.note();
        // Progress is enough for a stream, while a finite response has to be read in total.
        if self.activity.is_endless.get() {
            self.rest();
        }
    }

    /// Records that no data waits.
    fn rest(&mut self) {
        self.timer = None;
        self.activity.note_read();
    }

    /// Returns pending, or an error when a response has waited for too long.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.activity.is_unread.set(true);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(timer.as_mut().poll(context));
        let stalled = "the answer is not read";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AdminConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.note();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AdminConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        match written {
            Poll::Pending => self.wait(context),
            Poll::Ready(_) => {
                self.advance();
                written
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        match written {
            Poll::Pending => self.wait(context),
            Poll::Ready(_) => {
                self.advance();
                written
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Ready once everything is written, which ends the wait of a finite response.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.wait(context),
            Poll::Ready(flushed) => {
                self.rest();
                Poll::Ready(flushed)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const ALMOST: Duration = Duration::from_secs(9);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_in_time_is_an_error() {
        let (ours, mut peer) = duplex(4);
        let mut connection = AdminConnection::new(ours, Rc::default());
        let begun = Instant::now();

        let reads = async {
            sleep(ALMOST).await;
            peer.read_u8().await.unwrap();
            peer
        };
        let (written, _peer) = tokio::join!(connection.write_all(b"an answer"), reads);

        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), WRITE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_unread_until_all_of_it_is_taken() {
        let (ours, mut peer) = duplex(4);
        let activity = Rc::new(AdminActivity::default());
        let mut connection = AdminConnection::new(ours, Rc::clone(&activity));

        let answer = async {
            connection.write_all(b"an answer").await.unwrap();
            connection.flush().await.unwrap();
        };
        let reads = async {
            sleep(ALMOST).await;
            assert!(activity.is_unread());
            let mut taken = [0; 9];
            peer.read_exact(&mut taken).await.unwrap();
            activity.read().await;
        };
        tokio::join!(answer, reads);

        assert!(!activity.is_unread());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_end_lasts_while_something_of_it_is_read() {
        let (ours, mut peer) = duplex(4);
        let activity = Rc::new(AdminActivity::default());
        activity.expect_no_end();
        let mut connection = AdminConnection::new(ours, Rc::clone(&activity));
        let begun = Instant::now();

        let reads = async {
            for _ in 0..3 {
                sleep(ALMOST).await;
                peer.read_u8().await.unwrap();
            }
            peer
        };
        let (written, _peer) = tokio::join!(connection.write_all(b"events, many"), reads);

        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), 3 * ALMOST + WRITE_TIMEOUT);
        assert_eq!(activity.latest() - begun, 3 * ALMOST);
    }
}
