//! The backend: accepts every WebSocket, sends back what it gets, and answers plain requests.

mod session;

use std::net::TcpStream;

use session::Session;
use slab::Slab;

use crate::{
    Result,
    arguments::Arguments,
    poll::{Events, Poll, Readiness},
    socket,
};

const BUFFER_BYTES: usize = 64 * 1024;
const LISTENER: usize = usize::MAX;

/// Serves until it is killed.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let listener = socket::listen(arguments.loopback("listen")?)?;
    arguments.finish()?;
    let poll = Poll::new()?;
    poll.add_listener(&listener, LISTENER)?;
    let mut buffers = Buffers {
        input: vec![0; BUFFER_BYTES],
        output: Vec::new(),
    };
    let mut connections = Slab::new();
    let mut events = Events::new();
    loop {
        poll.wait(&mut events, None)?;
        for ready in events.iter() {
            if ready.token == LISTENER {
                if let Some(stream) = socket::accept(&listener)? {
                    let slot = connections.vacant_entry();
                    poll.add_stream(&stream, slot.key())?;
                    slot.insert(Connection::new(stream));
                }
            } else if let Some(connection) = connections.get_mut(ready.token) {
                // What a connection suffers is its own; the load generator will tell.
                if !matches!(connection.serve(ready, &mut buffers), Ok(Life::Goes)) {
                    connections.remove(ready.token);
                }
            }
        }
    }
}

/// Shared by all connections, which hold nothing while they are idle.
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Whether a connection goes on.
enum Life {
    Goes,
    Ends,
}

struct Connection {
    stream: TcpStream,
    session: Session,
    /// What the socket did not take yet; nothing is read meanwhile.
    pending: Vec<u8>,
    readable: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            session: Session::default(),
            pending: Vec::new(),
            readable: false,
        }
    }

    fn serve(&mut self, ready: Readiness, buffers: &mut Buffers) -> Result<Life> {
        self.readable |= ready.readable;
        loop {
            if !self.flush_pending()? {
                return Ok(Life::Goes);
            }
            if self.session.is_over() {
                return Ok(Life::Ends);
            }
            if !self.readable {
                return Ok(Life::Goes);
            }
            let Some(count) = socket::read(&self.stream, &mut buffers.input)? else {
                self.readable = false;
                return Ok(Life::Goes);
            };
            if count == 0 {
                return Ok(Life::Ends);
            }
            // A short read has emptied the socket, unless it hides the end.
            self.readable = count == buffers.input.len() || ready.ending;
            self.answer(count, buffers)?;
        }
    }

    fn answer(&mut self, count: usize, buffers: &mut Buffers) -> Result<()> {
        buffers.output.clear();
        self.session
            .receive(&buffers.input[..count], &mut buffers.output)?;
        if buffers.output.is_empty() {
            return Ok(());
        }
        let written = socket::write(&self.stream, &buffers.output)?.unwrap_or(0);
        self.pending.extend_from_slice(&buffers.output[written..]);
        Ok(())
    }

    /// Whether nothing is pending any more.
    fn flush_pending(&mut self) -> Result<bool> {
        if self.pending.is_empty() {
            return Ok(true);
        }
        let written = socket::write(&self.stream, &self.pending)?.unwrap_or(0);
        self.pending.drain(..written);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        Ok(self.pending.is_empty())
    }
}
