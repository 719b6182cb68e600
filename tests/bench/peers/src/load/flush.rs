//! `load flush`: how long held messages take from the ready message to the backend.
//!
//! This plays both the client and the backend, so that one clock sees both ends.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{message::Messages, opening, pause, say};
use crate::{
    Result,
    arguments::Arguments,
    histogram::Histogram,
    websocket::{
        Decoder, Opcode, encode_message,
        handshake::{self, Head},
        mask,
    },
};

/// How long the proxy has to read what the client sent, before the backend is ready, and to
/// finish what it does besides the flush, before its calls are counted.
const SETTLE: Duration = Duration::from_millis(50);

/// The message that opens the gate.
const READY: &[u8] = b"go";

/// Fills and flushes one session after the other.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let to = arguments.loopback("to")?;
    let listen = arguments.loopback("listen")?;
    let count = arguments.number("messages", 1000, 1..=100_000)?;
    let messages = Messages::new(arguments.number("payload", 128, 1..=64 * 1024)?);
    let repeat = arguments.number("repeat", 20, 1..=1000)?;
    let is_stepwise = arguments.flag("steps")?;
    arguments.finish()?;

    let listener = TcpListener::bind(listen)?;
    let mut times = Histogram::new();
    for number in 0..repeat {
        let mut session = Session::fill(number, to, &listener, count, &messages)?;
        if is_stepwise {
            pause("filled")?;
        }
        times.record(session.flush(count, &messages)?);
        if is_stepwise {
            thread::sleep(SETTLE);
            pause("flushed")?;
        }
        session.close()?;
    }
    let microseconds = |per_mille| times.quantile(per_mille).as_secs_f64() * 1e6;
    say(&format!(
        r#"{{"messages":{count},"repeat":{repeat},"min_us":{:.1},"p50_us":{:.1},"max_us":{:.1}}}"#,
        microseconds(1),
        microseconds(500),
        microseconds(1000),
    ))
}

/// Both ends of one session, with the proxy between them.
struct Session {
    client: TcpStream,
    backend: TcpStream,
}

impl Session {
    /// A session whose messages are sent, and held.
    fn fill(
        number: usize,
        to: SocketAddr,
        listener: &TcpListener,
        count: u64,
        messages: &Messages,
    ) -> Result<Self> {
        let mut client = opening::open(number, to)?;
        let backend = accept(listener)?;
        for number in 0..count {
            client.write_all(messages.frame(number))?;
        }
        thread::sleep(SETTLE);
        Ok(Self { client, backend })
    }

    /// Says that the backend is ready; returns how long after that the last message is here.
    fn flush(&mut self, count: u64, messages: &Messages) -> Result<Duration> {
        let ready = encode_message(Opcode::Text, READY, None);
        let mut buffer = vec![0; 256 * 1024];
        let mut received = Received::default();

        let since = Instant::now();
        self.backend.write_all(&ready)?;
        while received.messages < count {
            let read = self.backend.read(&mut buffer)?;
            if read == 0 {
                return Err("the proxy ended the session".into());
            }
            received.take(&buffer[..read], messages)?;
        }
        Ok(since.elapsed())
    }

    /// Both ends close at once; the proxy has nothing left to do for them.
    fn close(mut self) -> Result<()> {
        self.client
            .write_all(&encode_message(Opcode::Close, &[3, 232], Some([0; 4])))?;
        self.backend
            .write_all(&encode_message(Opcode::Close, &[3, 232], None))?;
        drop(self.backend);
        self.client.read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

/// The backend's side of the handshake.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let (mut backend, _) = listener.accept()?;
    backend.set_nodelay(true)?;
    backend.set_read_timeout(Some(opening::TIMEOUT))?;
    let request = opening::read_head(&mut backend)?;
    let (head, _) = Head::parse(&request).ok_or("a handshake that is not text")?;
    let key = head
        .header("sec-websocket-key")
        .ok_or("a request without a key")?;
    backend.write_all(&handshake::response(key))?;
    Ok(backend)
}

/// What has reached the backend.
#[derive(Default)]
struct Received {
    decoder: Decoder,
    messages: u64,
    /// The payload under way, unmasked.
    payload: Vec<u8>,
}

impl Received {
    fn take(&mut self, mut input: &[u8], messages: &Messages) -> Result<()> {
        while let Some(piece) = self.decoder.next(&mut input)? {
            let start = self.payload.len();
            self.payload.extend_from_slice(piece.payload);
            let key = piece.header.mask.ok_or("a frame without a mask")?;
            mask(&mut self.payload[start..], key, piece.offset);
            if piece.is_last() {
                if self.payload != messages.payload(self.messages) {
                    return Err(format!("message {} arrived changed", self.messages).into());
                }
                self.payload.clear();
                self.messages += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_arrive_in_order_are_counted() {
        let messages = Messages::new(128);
        let stream: Vec<u8> = (0..10)
            .flat_map(|number| messages.frame(number).to_vec())
            .collect();

        for size in [1, 100, stream.len()] {
            let mut received = Received::default();
            for chunk in stream.chunks(size) {
                received.take(chunk, &messages).unwrap();
            }
            assert_eq!(received.messages, 10);
        }
        let without_first = &stream[messages.frame(0).len()..];
        assert!(Received::default().take(without_first, &messages).is_err());
    }
}
