//! `load hold`: many sessions at once, each with one message, open for as long as asked.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::{
    message::{Checker, Messages},
    opening, pause,
};
use crate::{
    Result,
    arguments::Arguments,
    websocket::{Opcode, encode_message},
};

/// Opens the sessions, pauses, closes them and pauses again, twice: the first sessions are
/// few, so that the proxy has done everything once before its memory is looked at.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let to = arguments.loopback("to")?;
    let sessions = arguments.number("sessions", 1000, 1..=20_000)?;
    let first = arguments.number("first", 64, 0..=1000)?;
    let messages = Messages::new(arguments.number("payload", 1024, 1..=64 * 1024)?);
    let is_held = arguments.flag("held")?;
    arguments.finish()?;

    if !is_held {
        close(open(first, to, &messages, Some(Checker::default))?)?;
    }
    pause("before")?;
    let answers = (!is_held).then_some(Checker::default as fn() -> Checker);
    let open = open(sessions, to, &messages, answers)?;
    pause("open")?;
    if is_held {
        return Ok(());
    }
    close(open)?;
    pause("closed")
}

fn open(
    sessions: usize,
    to: SocketAddr,
    messages: &Messages,
    answers: Option<fn() -> Checker>,
) -> Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(sessions);
    for number in 0..sessions {
        let mut stream = opening::open(number, to)?;
        stream.write_all(messages.frame(0))?;
        if let Some(checker) = answers {
            wait_for_echo(&mut stream, checker(), messages)?;
        }
        open.push(stream);
    }
    Ok(open)
}

fn wait_for_echo(stream: &mut TcpStream, mut checker: Checker, messages: &Messages) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err("a session ended instead of answering".into());
        }
        if checker.receive(messages, &buffer[..count])? > 0 {
            return Ok(());
        }
    }
}

/// Closes each with a closing handshake.
fn close(sessions: Vec<TcpStream>) -> Result<()> {
    let frame = encode_message(Opcode::Close, &[3, 232], Some([0; 4]));
    for mut stream in sessions {
        stream.write_all(&frame)?;
        stream.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}
