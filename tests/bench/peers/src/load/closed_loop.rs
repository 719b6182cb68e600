//! Connections that send the next message when an earlier one is answered.

use std::{
    collections::VecDeque,
    io::{IoSlice, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    http::{self, Responses},
    message::{Checker, Messages},
    opening, pause,
    window::Window,
};
use crate::{
    Result,
    arguments::Arguments,
    poll::{Events, Poll, Readiness},
    socket,
};

const BUFFER_BYTES: usize = 64 * 1024;

/// Messages that one `writev` takes.
const BATCH: usize = 16;

/// How often time is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// What is sent, and how the answers are recognised.
trait Protocol {
    /// The bytes of one connection's request with this number.
    fn request(&self, number: u64) -> &[u8];

    /// One connection's answers so far.
    type Answers: Default;

    /// How many answers `input` completes; an error when they are wrong.
    fn receive(&self, answers: &mut Self::Answers, input: &[u8]) -> Result<u32>;
}

impl Protocol for Messages {
    type Answers = Checker;

    fn request(&self, number: u64) -> &[u8] {
        self.frame(number)
    }

    fn receive(&self, answers: &mut Checker, input: &[u8]) -> Result<u32> {
        answers.receive(self, input)
    }
}

impl Protocol for http::Request {
    type Answers = Responses;

    fn request(&self, _number: u64) -> &[u8] {
        self.as_bytes()
    }

    fn receive(&self, answers: &mut Responses, input: &[u8]) -> Result<u32> {
        answers.receive(input)
    }
}

/// `load echo`: messages through open sessions.
pub fn run_echo(mut arguments: Arguments) -> Result<()> {
    let payload_bytes = arguments.number("payload", 128, 1..=1024 * 1024)?;
    let to = arguments.loopback("to")?;
    run(arguments, to, &Messages::new(payload_bytes), opening::open)
}

/// `load http`: requests on connections that are kept.
pub fn run_http(mut arguments: Arguments) -> Result<()> {
    let to = arguments.loopback("to")?;
    run(arguments, to, &http::Request::new(to), |number, to| {
        Ok(opening::connect(number, to)?)
    })
}

fn run<P: Protocol>(
    mut arguments: Arguments,
    to: SocketAddr,
    protocol: &P,
    open: impl Fn(usize, SocketAddr) -> Result<TcpStream>,
) -> Result<()> {
    let count = arguments.number("connections", 64, 1..=10_000)?;
    let in_flight = arguments.number("in-flight", 1, 1..=64)?;
    // Zero: for as long as the window says.
    let messages = arguments.number("messages", 0, 0..=1_000_000_u64)?;
    let mut window = Window::from_arguments(&mut arguments)?;
    arguments.finish()?;

    let poll = Poll::new()?;
    let mut connections = Vec::new();
    for number in 0..count {
        let stream = open(number, to)?;
        stream.set_nonblocking(true)?;
        poll.add_stream(&stream, number)?;
        connections.push(Some(Connection::<P>::new(stream)));
    }
    let mut clients = Clients {
        poll,
        connections,
        buffer: vec![0; BUFFER_BYTES],
    };
    if messages == 0 {
        window.start();
        clients.drive(protocol, in_flight, u64::MAX, &mut window)
    } else {
        pause("connected")?;
        window.start();
        clients.drive(
            protocol,
            in_flight,
            messages.div_ceil(count as u64),
            &mut window,
        )?;
        pause("done")
    }
}

struct Clients<P: Protocol> {
    poll: Poll,
    /// By token; one that failed is gone.
    connections: Vec<Option<Connection<P>>>,
    buffer: Vec<u8>,
}

impl<P: Protocol> Clients<P> {
    /// Sends until `each` connection has had its number of answers, or the window is over.
    fn drive(
        &mut self,
        protocol: &P,
        in_flight: u32,
        each: u64,
        window: &mut Window,
    ) -> Result<()> {
        let now = Instant::now();
        for connection in self.connections.iter_mut().flatten() {
            connection.left = each;
            connection.make_due(in_flight, now);
            connection.send(protocol)?;
        }
        let mut events = Events::new();
        let mut idle = 0;
        while idle < self.connections.len() {
            self.poll.wait(&mut events, Some(TICK))?;
            for ready in events.iter() {
                let Some(slot) = self.connections.get_mut(ready.token) else {
                    continue;
                };
                let Some(connection) = slot else { continue };
                let was_idle = connection.due.is_empty();
                let result = connection.serve(ready, protocol, &mut self.buffer, window);
                if let Err(error) = &result {
                    window.failed(error);
                    *slot = None;
                }
                let is_idle = !matches!(result, Ok(Life::Goes));
                idle += usize::from(is_idle && !was_idle);
            }
            let now = Instant::now();
            window.check_progress(now)?;
            if each == u64::MAX && window.is_over(now)? {
                return Ok(());
            }
        }
        if self.connections.iter().all(Option::is_none) {
            return Err("no connection is left".into());
        }
        Ok(())
    }
}

/// Whether a connection has more to do.
enum Life {
    Goes,
    Idle,
}

struct Connection<P: Protocol> {
    stream: TcpStream,
    answers: P::Answers,
    /// When each message became due that is not answered; the last `unsent` are not sent.
    due: VecDeque<Instant>,
    unsent: usize,
    /// How much of the first unsent message the socket took.
    written: usize,
    /// The number of the first unsent message.
    next: u64,
    /// Messages that are not due yet.
    left: u64,
}

impl<P: Protocol> Connection<P> {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            answers: P::Answers::default(),
            due: VecDeque::new(),
            unsent: 0,
            written: 0,
            next: 0,
            left: 0,
        }
    }

    fn serve(
        &mut self,
        ready: Readiness,
        protocol: &P,
        buffer: &mut [u8],
        window: &mut Window,
    ) -> Result<Life> {
        let mut may_have_more = ready.readable;
        while may_have_more {
            let Some(count) = socket::read(&self.stream, buffer)? else {
                break;
            };
            if count == 0 {
                return Err("the proxy ended a connection".into());
            }
            may_have_more = count == buffer.len() || ready.ending;
            let answered = protocol.receive(&mut self.answers, &buffer[..count])?;
            self.take_answers(answered, window)?;
        }
        self.send(protocol)?;
        Ok(if self.due.is_empty() {
            Life::Idle
        } else {
            Life::Goes
        })
    }

    fn take_answers(&mut self, answered: u32, window: &mut Window) -> Result<()> {
        let now = Instant::now();
        for _ in 0..answered {
            let since = self.due.pop_front().ok_or("an answer to nothing")?;
            window.answered(since, now);
        }
        self.make_due(answered, now);
        Ok(())
    }

    fn make_due(&mut self, count: u32, now: Instant) {
        for _ in 0..u64::from(count).min(self.left) {
            self.due.push_back(now);
            self.unsent += 1;
            self.left -= 1;
        }
    }

    /// Writes what is due, as far as the socket takes it, many messages at once.
    fn send(&mut self, protocol: &P) -> Result<()> {
        while self.unsent > 0 {
            let mut slices = [IoSlice::new(&[]); BATCH];
            let mut skipped = self.written;
            for (slice, number) in slices.iter_mut().zip(self.next..).take(self.unsent) {
                *slice = IoSlice::new(&protocol.request(number)[skipped..]);
                skipped = 0;
            }
            let slices = &slices[..self.unsent.min(BATCH)];
            let Some(count) = socket::some(self.stream.write_vectored(slices))? else {
                return Ok(());
            };
            self.advance(count, protocol);
        }
        Ok(())
    }

    fn advance(&mut self, count: usize, protocol: &P) {
        self.written += count;
        while self.unsent > 0 && self.written >= protocol.request(self.next).len() {
            self.written -= protocol.request(self.next).len();
            self.next += 1;
            self.unsent -= 1;
        }
    }
}
