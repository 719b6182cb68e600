//! `load connect`: whole lives of short sessions: connect, handshake, one echo, close.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    message::{Checker, Messages},
    window::Window,
};
use crate::{
    Result,
    arguments::Arguments,
    poll::{Events, Poll, Readiness},
    socket,
    websocket::{
        Decoder, Opcode, encode_message,
        handshake::{self, Head},
    },
};

/// How often time is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// Code 1000, masked with zeros, which leave it readable in a trace.
const CLOSE: &[u8] = &[3, 232];

/// Opens and closes sessions until the window is over.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let to = arguments.loopback("to")?;
    let at_once = arguments.number("connections", 16, 1..=1000)?;
    let payload_bytes = arguments.number("payload", 128, 1..=8 * 1024)?;
    let mut window = Window::from_arguments(&mut arguments)?;
    arguments.finish()?;

    let script = Script::new(to, payload_bytes);
    let poll = Poll::new()?;
    let mut opened = 0;
    let mut open = |token| -> Result<Cycle> {
        let cycle = Cycle::begin(opened, to)?;
        opened += 1;
        poll.add_stream(&cycle.stream, token)?;
        Ok(cycle)
    };
    let mut cycles = (0..at_once).map(&mut open).collect::<Result<Vec<_>>>()?;
    let mut events = Events::new();
    window.start();
    while !window.is_over(Instant::now())? {
        window.check_progress(Instant::now())?;
        poll.wait(&mut events, Some(TICK))?;
        for ready in events.iter() {
            let cycle = &mut cycles[ready.token];
            match cycle.serve(ready, &script) {
                Ok(Life::Goes) => continue,
                Ok(Life::Ends) => window.answered(cycle.since, Instant::now()),
                Err(error) => window.failed(&error),
            }
            *cycle = open(ready.token)?;
        }
    }
    Ok(())
}

/// What every client says.
struct Script {
    request: Vec<u8>,
    messages: Messages,
    close: Vec<u8>,
}

impl Script {
    fn new(to: SocketAddr, payload_bytes: usize) -> Self {
        Self {
            request: handshake::request(to),
            messages: Messages::new(payload_bytes),
            close: encode_message(Opcode::Close, CLOSE, Some([0; 4])),
        }
    }
}

/// Whether a session goes on.
enum Life {
    Goes,
    Ends,
}

/// One session.
struct Cycle {
    stream: TcpStream,
    since: Instant,
    step: Step,
}

/// What a session waits for.
enum Step {
    /// The connection.
    Connecting,
    /// The answer to the handshake, of which this has come.
    Upgrading(Vec<u8>),
    /// The message.
    Echoing(Checker),
    /// The close frame.
    Closing(Decoder),
    /// The end of the connection, which is the server's to make (RFC 6455 §7.1.1).
    Closed,
}

impl Cycle {
    fn begin(number: usize, to: SocketAddr) -> Result<Self> {
        let stream = socket::connect_as_client(number, to)?;
        Ok(Self {
            stream,
            since: Instant::now(),
            step: Step::Connecting,
        })
    }

    fn serve(&mut self, ready: Readiness, script: &Script) -> Result<Life> {
        if matches!(self.step, Step::Connecting) && ready.writable {
            self.send(&script.request)?;
            self.step = Step::Upgrading(Vec::new());
        }
        let mut buffer = [0; 16 * 1024];
        let mut may_have_more = ready.readable;
        while may_have_more {
            let Some(count) = self.read(&mut buffer)? else {
                break;
            };
            if count == 0 {
                return match self.step {
                    Step::Closed => Ok(Life::Ends),
                    _ => Err("a session ended without a close frame".into()),
                };
            }
            may_have_more = ready.ending;
            self.receive(&buffer[..count], script)?;
        }
        Ok(Life::Goes)
    }

    /// A reset after the close frame is as good as the end: nothing can be lost any more.
    fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match socket::read(&self.stream, buffer) {
            Err(_) if matches!(self.step, Step::Closed) => Ok(Some(0)),
            result => Ok(result?),
        }
    }

    fn receive(&mut self, mut input: &[u8], script: &Script) -> Result<()> {
        match &mut self.step {
            Step::Connecting | Step::Closed => Err("bytes that nothing asked for".into()),
            Step::Upgrading(head) => {
                head.extend_from_slice(input);
                let Some((parsed, length)) = Head::parse(head) else {
                    return Ok(());
                };
                if !parsed.is_accepted() || length < head.len() {
                    return Err(format!("refused: {}", parsed.first_line()).into());
                }
                self.step = Step::Echoing(Checker::default());
                self.send(script.messages.frame(0))
            }
            Step::Echoing(checker) => {
                if checker.receive(&script.messages, input)? > 0 {
                    self.step = Step::Closing(Decoder::default());
                    self.send(&script.close)?;
                }
                Ok(())
            }
            Step::Closing(decoder) => {
                while let Some(piece) = decoder.next(&mut input)? {
                    if piece.header.opcode != Opcode::Close {
                        return Err(format!("{:?} instead of a close frame", piece.header).into());
                    }
                    if piece.is_last() {
                        self.step = Step::Closed;
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// What a session sends is far smaller than a socket's buffer.
    fn send(&self, bytes: &[u8]) -> Result<()> {
        match socket::write(&self.stream, bytes)? {
            Some(count) if count == bytes.len() => Ok(()),
            _ => Err("a new socket has no room".into()),
        }
    }
}
