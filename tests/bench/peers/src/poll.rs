//! Edge-triggered readiness, as the proxies under test use it.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    fd::OwnedFd,
};

/// How many events one call may return.
const BATCH: usize = 256;

/// An `epoll` instance. A socket that is closed leaves it by itself.
#[derive(Debug)]
pub struct Poll(OwnedFd);

/// What one [`Poll::wait`] returned; kept by the caller, and used again.
pub struct Events(Vec<Event>);

/// One socket's news.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The token that it was registered with.
    pub token: usize,
    /// There may be something to read, or the end.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The peer has ended its side: a short read is not the last one.
    pub ending: bool,
}

impl Poll {
    /// One without sockets.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Reports `listener` for as long as connections wait.
    pub fn add_listener(&self, listener: impl AsFd, token: usize) -> io::Result<()> {
        self.add(listener, token, EventFlags::IN)
    }

    /// Reports changes of `stream`, either direction.
    pub fn add_stream(&self, stream: impl AsFd, token: usize) -> io::Result<()> {
        let changes = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.add(stream, token, changes)
    }

    fn add(&self, socket: impl AsFd, token: usize, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            socket,
            EventData::new_u64(token as u64),
            flags,
        )?)
    }

    /// Waits until there are events, or for `timeout`.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        events.0.clear();
        let room = rustix::buffer::spare_capacity(&mut events.0);
        match epoll::wait(&self.0, room, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Events {
    /// Room for one batch.
    pub fn new() -> Self {
        Self(Vec::with_capacity(BATCH))
    }

    /// What happened, in the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = Readiness> + '_ {
        self.0.iter().map(|event| {
            let flags = event.flags;
            let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            Readiness {
                token: usize::try_from(event.data.u64()).unwrap_or(usize::MAX),
                readable: flags.intersects(EventFlags::IN | ended),
                writable: flags.intersects(EventFlags::OUT | ended),
                ending: flags.intersects(ended),
            }
        })
    }
}
