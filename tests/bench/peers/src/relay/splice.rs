//! Carrying by `splice`: from a socket into a pipe, and from the pipe into the other socket.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, OwnedFd},
};

use rustix::pipe::{self, PipeFlags, SpliceFlags};

use super::{Carried, Carrier};
use crate::socket;

/// What one pipe may hold, and one call move.
const PIPE_BYTES: usize = 256 * 1024;

/// Pipes that are empty; a direction has one only while bytes are in it.
#[derive(Default)]
pub struct Splice {
    spare: Vec<Pipe>,
}

/// A pipe, and how much is in it.
pub struct Pipe {
    input: OwnedFd,
    output: OwnedFd,
    bytes: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (output, input) = pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        pipe::fcntl_setpipe_size(&input, PIPE_BYTES)?;
        Ok(Self {
            input,
            output,
            bytes: 0,
        })
    }

    /// Fills the empty pipe.
    fn fill(&mut self, from: &TcpStream) -> io::Result<Option<usize>> {
        let count = splice(from, &self.input, PIPE_BYTES)?;
        self.bytes = count.unwrap_or(0);
        Ok(count)
    }

    /// Writes what is in the pipe; whether it is empty.
    fn empty(&mut self, to: &TcpStream) -> io::Result<bool> {
        while self.bytes > 0 {
            let Some(count) = splice(&self.output, to, self.bytes)? else {
                return Ok(false);
            };
            self.bytes -= count;
        }
        Ok(true)
    }
}

impl Carrier for Splice {
    type Kept = Option<Pipe>;

    fn flush(&mut self, kept: &mut Option<Pipe>, to: &TcpStream) -> io::Result<bool> {
        let Some(pipe) = kept else {
            return Ok(true);
        };
        let is_empty = pipe.empty(to)?;
        if is_empty {
            self.spare.extend(kept.take());
        }
        Ok(is_empty)
    }

    fn carry(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        kept: &mut Option<Pipe>,
    ) -> io::Result<Carried> {
        let mut pipe = self.spare.pop().map_or_else(Pipe::new, Ok)?;
        let filled = pipe.fill(from)?;
        if pipe.empty(to)? {
            self.spare.push(pipe);
        } else {
            *kept = Some(pipe);
        }
        // How much a pipe takes depends on how the bytes lie in memory, so a short read
        // does not prove that the socket is empty: only an empty read does.
        Ok(match filled {
            None => Carried::Nothing,
            Some(0) => Carried::End,
            Some(_) => Carried::Some,
        })
    }
}

fn splice(from: impl AsFd, to: impl AsFd, bytes: usize) -> io::Result<Option<usize>> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    socket::some(pipe::splice(from, None, to, None, bytes, flags).map_err(io::Error::from))
}
