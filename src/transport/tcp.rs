//! Reading and writing TCP sockets with little between a session and its system calls.
//!
//! The reactor's notes of what is ready are asked first, and it is told to wake the task only
//! where they say that nothing is.

use std::{
    io, mem,
    task::{Context, Poll, ready},
};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{RecvFlags, SendFlags, recv, send},
};
use tokio::{io::Interest, net::TcpStream, task::coop};

/// Reads what has come; 0 at the end of the stream.
///
/// `Pending` with some of the task's budget left says that it will be woken for what comes;
/// without, only that it is polled again.
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
        if received != Err(Errno::AGAIN) {
            coop.made_progress();
            return Poll::Ready(Ok(received?));
        }
        drop(coop);
        ready!(stream.poll_read_ready(context))?;
    }
}

/// Writes what the socket takes.
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

/// Whether the reactor's notes say that there is nothing to read: whoever was told to wait
/// still is to be woken.
pub(super) fn is_unready(stream: &TcpStream) -> bool {
    let ready = stream.try_io(Interest::READABLE, || Ok(()));
    let is_unready = ready.is_err();
    // An error of this kind owns nothing: to drop it costs more than to have made it.
    mem::forget(ready);
    is_unready
}

/// `transfer`, which is for `whole` bytes; less, and the socket has no more to give or to take
/// until the reactor says so (epoll(7), "Do I need to continuously read/write a file
/// descriptor until EAGAIN"). Bytes behind TCP's urgent ones wait for that, too.
///
/// # Errors
///
/// [`Errno::AGAIN`] also where the reactor's notes say that there is nothing to do.
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
            Ok(bytes) => bytes == 0 || bytes >= whole,
            Err(error) => error != Errno::AGAIN,
        };
        // Of an error it knows that it is to forget what it has noted.
        has_more
            .then_some(())
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    });
    // An error of this kind owns nothing: to drop it costs more than to have made it.
    mem::forget(noted);
    result
}
