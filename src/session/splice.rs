//! Moving the payload of a large frame between two sockets inside the kernel.
//!
//! Once a frame's header is known and much of its payload is still to come, the rest needs
//! nobody to look at it: `splice(2)` moves it through a pipe without copying it to and from
//! the process.
//!
//! # Invariants
//!
//! * Only payload goes through a pipe, never a header, so that the scanner's place in the
//!   stream stays known.
//! * A direction of a session has a pipe only while something is in it: a frame whose sender
//!   pauses occupies none. Those that are empty are kept by the thread, a few of them.
//! * No pipe takes one of the last file descriptors.
//! * Where there is no pipe to be had, or a socket is not spliced, bytes are copied: nothing
//!   depends on splicing, and nothing is lost by trying.

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

/// From this much payload still to come, moving it in the kernel is worth its system calls:
/// with less there is nothing to gain, and from twice as much it begins later than it could.
pub(super) const MIN_SPLICE_BYTES: u64 = 32 * 1024;

/// The size of a pipe in bytes; the kernel may give less.
const PIPE_BYTES: usize = 256 * 1024;

/// How many empty pipes a thread keeps, so that a frame whose sender pauses again and again does
/// not make a new one each time.
const MAX_SPARE_PIPES: usize = 8;

/// Pipes in the boxes that directions keep them in.
type SparePipes = Vec<Box<Pipe>>;

thread_local! {
    static SPARE: RefCell<SparePipes> = const { RefCell::new(Vec::new()) };
}

/// A pipe between two sockets.
#[derive(Debug)]
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    filled_bytes: usize,
    ends_message: bool,
}

impl Pipe {
    /// An empty pipe, as soon as `source` has something for it; `None` where there is none to
    /// be had.
    pub(super) fn poll_take(
        context: &mut Context<'_>,
        source: &TcpStream,
    ) -> Poll<Option<Box<Self>>> {
        // Whoever reads it next finds the same error.
        let _ = ready!(source.poll_read_ready(context));
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Poll::Ready(spare.or_else(|| Self::new().ok().map(Box::new)))
    }

    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        descriptors::check(&reader)?;
        descriptors::check(&writer)?;
        // Beyond its user's share of pipe memory a smaller one has to do.
        let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
        Ok(Self {
            reader,
            writer,
            filled_bytes: 0,
            ends_message: false,
        })
    }

    /// Gives an empty pipe back to the thread.
    pub(super) fn give_back(mut self: Box<Self>) {
        debug_assert_eq!(self.filled_bytes, 0);
        self.ends_message = false;
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE_PIPES {
                spare.push(self);
            }
        });
    }

    /// How much is in it.
    pub(super) const fn filled_bytes(&self) -> u64 {
        self.filled_bytes as u64
    }

    /// Whether a message ends with what went through it last.
    pub(super) const fn ends_message(&self) -> bool {
        self.ends_message
    }

    /// Says whether a message ended with the last bytes.
    pub(super) const fn note_message_end(&mut self, ended: bool) {
        self.ends_message = ended;
    }

    /// Moves at most `max_bytes` from `source` into the empty pipe; says how many, none when the
    /// source has ended.
    ///
    /// # Errors
    ///
    /// Also [refusals](is_refusal), after which the pipe still is empty.
    pub(super) fn poll_fill(
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Moves everything in the pipe to `target`.
    ///
    /// # Errors
    ///
    /// Also [refusals](is_refusal): what is still in the pipe can be
    /// [taken out](Self::into_bytes) and written.
    pub(super) fn poll_drain(
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

    /// Takes everything out of the pipe, for a target that is written to otherwise.
    pub(super) fn into_bytes(mut self: Box<Self>) -> io::Result<Vec<u8>> {
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

/// Whether an error says that the kernel or a sandbox does not splice these sockets, rather than
/// that a connection failed.
pub(super) fn is_refusal(error: &io::Error) -> bool {
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
