//! Moves the payload of a large frame between two sockets inside the kernel.
//!
//! Once a frame's header is known and much of its payload is still to come, the rest need not be
//! inspected: `splice(2)` moves it through a pipe without copying it to user space and back.
//!
//! # Invariants
//!
//! * Only payload goes through a pipe, never a header, so that the scanner's position in the
//!   stream stays known.
//! * A direction of a session owns a pipe only while data is in it: a frame whose sender pauses
//!   occupies none. The thread keeps a few empty pipes for reuse.
//! * A pipe never takes one of the last file descriptors.
//! * Without a pipe, or with a socket that cannot be spliced, bytes are copied: nothing depends
//!   on splicing, and a failed attempt loses nothing.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

use crate::transport::descriptors;

/// Remaining payload from which splicing is worth its system calls: below it there is no gain,
/// and at twice as much it would begin later than it could.
pub(in crate::session) const MIN_SPLICE_BYTES: u64 = 32 * 1024;

/// Size of a pipe in bytes; the kernel may grant less.
const PIPE_BYTES: usize = 256 * 1024;

/// Number of empty pipes that a thread keeps, so that a frame whose sender pauses repeatedly does
/// not create a new one each time.
const MAX_SPARE_PIPES: usize = 8;

/// Pipes in the boxes in which the directions keep them.
type SparePipes = Vec<Box<Pipe>>;

thread_local! {
    static SPARE: RefCell<SparePipes> = const { RefCell::new(Vec::new()) };
}

/// A pipe between two sockets.
#[derive(Debug)]
pub(in crate::session) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    filled_bytes: usize,
    ends_message: bool,
}

impl Pipe {
    /// Returns an empty pipe as soon as `source` is readable; `None` when no pipe is available.
    pub(in crate::session) fn poll_take(
        context: &mut Context<'_>,
        source: &TcpStream,
    ) -> Poll<Option<Box<Self>>> {
        // An error is not lost: the next read of the socket returns it too.
        let _ = ready!(source.poll_read_ready(context));
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Poll::Ready(spare.or_else(|| Self::new().ok().map(Box::new)))
    }

    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The last descriptors are reserved, and payload can also be copied.
        descriptors::check(&reader)?;
        descriptors::check(&writer)?;
        // Once the user's limit on pipe memory is reached, the default size has to do.
        let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
        Ok(Self {
            reader,
            writer,
            filled_bytes: 0,
            ends_message: false,
        })
    }

    /// Returns an empty pipe to the thread.
    pub(in crate::session) fn give_back(mut self: Box<Self>) {
        debug_assert_eq!(self.filled_bytes, 0);
        self.ends_message = false;
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE_PIPES {
                spare.push(self);
            }
        });
    }

    /// Bytes in the pipe.
    pub(in crate::session) const fn filled_bytes(&self) -> u64 {
        self.filled_bytes as u64
    }

    /// Returns whether the bytes moved last end a message.
    pub(in crate::session) const fn ends_message(&self) -> bool {
        self.ends_message
    }

    /// Records whether the bytes moved last end a message.
    pub(in crate::session) const fn note_message_end(&mut self, ended: bool) {
        self.ends_message = ended;
    }

    /// Moves at most `max_bytes` from `source` into the empty pipe; returns their number, 0 at
    /// the end of the stream.
    ///
    /// # Errors
    ///
    /// Includes [refusals](is_refusal), after which the pipe is still empty.
    pub(in crate::session) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        source: &TcpStream,
        max_bytes: u64,
    ) -> Poll<io::Result<usize>> {
        let max_bytes = usize::try_from(max_bytes).map_or(PIPE_BYTES, |max| max.min(PIPE_BYTES));
        loop {
            ready!(source.poll_read_ready(context))?;
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let moved = source.try_io(Interest::READABLE, || {
                Ok(splice(source, None, &self.writer, None, max_bytes, flags)?)
            });
            match moved {
                Ok(bytes) => {
                    self.filled_bytes = bytes;
                    return Poll::Ready(Ok(bytes));
                }
                // `try_io` has cleared the readiness of the socket.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Moves everything in the pipe to `target`.
    ///
    /// # Errors
    ///
    /// Includes [refusals](is_refusal), after which the rest of the pipe can be [taken
    /// out](Self::into_bytes) and written.
    pub(in crate::session) fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        target: &TcpStream,
    ) -> Poll<io::Result<()>> {
        while self.filled_bytes > 0 {
            ready!(target.poll_write_ready(context))?;
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let moved = target.try_io(Interest::WRITABLE, || {
                Ok(splice(
                    &self.reader,
                    None,
                    target,
                    None,
                    self.filled_bytes,
                    flags,
                )?)
            });
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => self.filled_bytes -= bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes everything out of the pipe, for a target that cannot be spliced to.
    pub(in crate::session) fn into_bytes(mut self: Box<Self>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.filled_bytes];
        let mut start = 0;
        while start < bytes.len() {
            start += rustix::io::read(&self.reader, &mut bytes[start..])?;
        }
        self.filled_bytes = 0;
        self.give_back();
        Ok(bytes)
    }
}

/// Returns whether an error means that the kernel or a sandbox does not splice these sockets,
/// rather than that a connection failed.
pub(in crate::session) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_refuses_and_a_lost_connection_fails() {
        let is_refused = |errno: Errno| is_refusal(&errno.into());

        for errno in [Errno::PERM, Errno::ACCESS, Errno::NOSYS] {
            assert!(is_refused(errno), "{errno}");
        }
        for errno in [Errno::CONNRESET, Errno::PIPE, Errno::TIMEDOUT] {
            assert!(!is_refused(errno), "{errno}");
        }
    }
}
