//! The yardstick: a relay of one thread that connects to the backend for each client, and
//! carries bytes in both directions without looking at them.
//!
//! With copying it calls only `epoll_wait`, `recv` and `send`, with one buffer for all
//! sessions: what a proxy costs that does nothing. `--splice` moves the bytes through pipes
//! instead, so that they never enter user space.

mod copy;
mod splice;

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpStream},
};

use copy::Copy;
use slab::Slab;
use splice::Splice;

use crate::{
    Result,
    arguments::Arguments,
    poll::{Events, Poll, Readiness},
    socket,
};

const LISTENER: usize = usize::MAX;

/// Serves until it is killed.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let listen = arguments.loopback("listen")?;
    let to = arguments.loopback("to")?;
    let splice = arguments.flag("splice")?;
    arguments.finish()?;
    if splice {
        serve(listen, to, Splice::default())
    } else {
        serve(listen, to, Copy::new())
    }
}

/// How bytes get from one socket to the other.
trait Carrier {
    /// What one direction of a session keeps because the other side did not take it.
    type Kept: Default;

    /// Writes what is kept; whether nothing is kept any more.
    fn flush(&mut self, kept: &mut Self::Kept, to: &TcpStream) -> io::Result<bool>;

    /// Reads once and writes what was read, as far as it goes.
    fn carry(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        kept: &mut Self::Kept,
    ) -> io::Result<Carried>;
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    /// Nothing: the socket is empty.
    Nothing,
    /// All that there was.
    All,
    /// As much as fits; there may be more.
    Some,
    /// The end of the stream.
    End,
}

fn serve<C: Carrier>(listen: SocketAddr, to: SocketAddr, mut carrier: C) -> Result<()> {
    let listener = socket::listen(listen)?;
    let poll = Poll::new()?;
    poll.add_listener(&listener, LISTENER)?;
    let mut sessions = Slab::new();
    let mut events = Events::new();
    loop {
        poll.wait(&mut events, None)?;
        for ready in events.iter() {
            if ready.token == LISTENER {
                if let Some(client) = socket::accept(&listener)? {
                    open(&poll, &mut sessions, client, to)?;
                }
            } else if let Some(session) = sessions.get_mut(ready.token / 2) {
                // A session that fails, or whose two directions have ended, is closed.
                if !matches!(session.serve(ready, &mut carrier), Ok(Life::Goes)) {
                    sessions.remove(ready.token / 2);
                }
            }
        }
    }
}

/// The client's socket has an even token, and the backend's the odd one after it.
fn open<K: Default>(
    poll: &Poll,
    sessions: &mut Slab<Session<K>>,
    client: TcpStream,
    to: SocketAddr,
) -> io::Result<()> {
    let backend = socket::connect(to)?;
    let slot = sessions.vacant_entry();
    let token = slot.key() * 2;
    poll.add_stream(&client, token)?;
    poll.add_stream(&backend, token + 1)?;
    slot.insert(Session {
        ends: [client, backend],
        lanes: [Lane::default(), Lane::default()],
    });
    Ok(())
}

/// Whether a session goes on.
enum Life {
    Goes,
    Ends,
}

struct Session<K> {
    /// Client and backend.
    ends: [TcpStream; 2],
    /// The direction from the end with the same index.
    lanes: [Lane<K>; 2],
}

/// One direction.
#[derive(Default)]
struct Lane<K> {
    kept: K,
    is_blocked: bool,
    is_readable: bool,
    is_ended: bool,
}

impl<K> Session<K> {
    fn serve<C: Carrier<Kept = K>>(
        &mut self,
        ready: Readiness,
        carrier: &mut C,
    ) -> io::Result<Life> {
        let end = ready.token % 2;
        let [this, other] = [&self.ends[end], &self.ends[1 - end]];
        if ready.readable {
            self.lanes[end].is_readable = true;
            self.lanes[end].pump(this, other, ready.ending, carrier)?;
        }
        if ready.writable && self.lanes[1 - end].is_blocked {
            self.lanes[1 - end].pump(other, this, false, carrier)?;
        }
        let is_over = self.lanes.iter().all(|lane| lane.is_ended);
        Ok(if is_over { Life::Ends } else { Life::Goes })
    }
}

impl<K> Lane<K> {
    /// Carries until one side has to wait.
    fn pump<C: Carrier<Kept = K>>(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        is_ending: bool,
        carrier: &mut C,
    ) -> io::Result<()> {
        while !self.is_ended {
            self.is_blocked = !carrier.flush(&mut self.kept, to)?;
            if self.is_blocked || !self.is_readable {
                return Ok(());
            }
            match carrier.carry(from, to, &mut self.kept)? {
                Carried::Nothing => self.is_readable = false,
                // A short read has emptied the socket, unless it hides the end.
                Carried::All => self.is_readable = is_ending,
                Carried::Some => {}
                Carried::End => {
                    self.is_ended = true;
                    to.shutdown(Shutdown::Write)?;
                }
            }
        }
        Ok(())
    }
}
