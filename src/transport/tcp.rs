//! Reading and writing TCP sockets with little between a session and its system calls.
//!
//! The readiness recorded by the reactor is consulted first; a waker is registered only where
//! nothing is ready.

use std::{
    io, mem,
    task::{Context, Poll, ready},
};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{RecvFlags, SendFlags, recv, send},
};
use tokio::{io::Interest, net::TcpStream, task::coop};

/// Reads what has arrived; 0 at the end of the stream.
///
/// After `Pending` with some of the task's budget left, the reactor wakes the task; without budget,
/// the task is merely polled again.
pub(super) fn poll_receive(
    stream: &TcpStream,
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let whole = buffer.len();
    loop {
        let coop = ready!(coop::poll_proceed(context));
        let received = try_some(stream, Interest::READABLE, whole, || {
            Ok(retry_on_intr(|| recv(stream, &mut *buffer, RecvFlags::empty()))?.1)
        });
        // Only an actual transfer consumes budget: dropping the guard gives it back.
        if received != Err(Errno::AGAIN) {
            coop.made_progress();
            return Poll::Ready(Ok(received?));
        }
        drop(coop);
        // Registers the waker, and returns at once if the socket became ready meanwhile.
        ready!(stream.poll_read_ready(context))?;
    }
}

/// Writes as much as the socket accepts.
pub(super) fn poll_send(
    stream: &TcpStream,
    context: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    loop {
        let coop = ready!(coop::poll_proceed(context));
        let sent = try_some(stream, Interest::WRITABLE, bytes.len(), || {
            retry_on_intr(|| send(stream, bytes, SendFlags::NOSIGNAL))
        });
        if sent != Err(Errno::AGAIN) {
            coop.made_progress();
            return Poll::Ready(Ok(sent?));
        }
        drop(coop);
        ready!(stream.poll_write_ready(context))?;
    }
}

/// Returns whether the reactor has recorded nothing to read; a task that was told to wait is then
/// still to be woken.
pub(super) fn is_unready(stream: &TcpStream) -> bool {
    let ready = stream.try_io(Interest::READABLE, || Ok(()));
    let is_unready = ready.is_err();
    // An error of this kind owns nothing, and dropping it costs more than creating it.
    mem::forget(ready);
    is_unready
}

/// Runs `transfer`, which asks for `whole` bytes. A shorter transfer means that the socket is
/// drained or full until the reactor reports otherwise (epoll(7), "Do I need to continuously
/// read/write a file descriptor until EAGAIN"). Bytes behind urgent data also wait for the next
/// report.
///
/// # Errors
///
/// [`Errno::AGAIN`] also where the reactor has recorded no readiness.
fn try_some(
    stream: &TcpStream,
    interest: Interest,
    whole: usize,
    transfer: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut result = Err(Errno::AGAIN);
    let noted = stream.try_io(interest, || {
        result = transfer();
        let has_more = match result {
            // The end of the stream stays readable.
            Ok(bytes) => bytes == 0 || bytes >= whole,
            Err(error) => error != Errno::AGAIN,
        };
        // `WouldBlock` makes `try_io` clear the recorded readiness.
        has_more
            .then_some(())
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    });
    // An error of this kind owns nothing, and dropping it costs more than creating it.
    mem::forget(noted);
    result
}
