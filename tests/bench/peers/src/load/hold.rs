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
    socket,
    websocket::{Opcode, encode_message},
};

/// Opens the sessions, pauses, closes them and pauses again, twice: the first sessions are
/// few, so that the proxy has done everything once before its memory is looked at.
///
/// Fails when the proxy has ended a session by the end of the pause: its memory would be
/// that of fewer.
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
    check_open(&open)?;
    if is_held {
        drop(open);
    } else {
        close(open)?;
    }
    pause("closed")
}

/// Fails unless every session is open, and silent.
fn check_open(sessions: &[TcpStream]) -> Result<()> {
    let mut ended = 0;
    for stream in sessions {
        match socket::peek(stream) {
            Ok(None) => {}
            Ok(Some(0)) | Err(_) => ended += 1,
            Ok(Some(_)) => return Err("a session has said something of its own accord".into()),
        }
    }
    if ended > 0 {
        return Err(format!("{ended} of {} sessions have ended", sessions.len()).into());
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sessions_that_have_ended_or_speak_are_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (near, listener.accept().unwrap().0)
        };
        let ((silent, _kept), (ended, far), (speaking, mut speaker)) = (pair(), pair(), pair());
        let clients =
            |stream: &TcpStream| [silent.try_clone().unwrap(), stream.try_clone().unwrap()];
        assert!(check_open(&clients(&silent)).is_ok());

        drop(far);
        speaker.write_all(b"closing").unwrap();
        // Returns when it has arrived.
        ended.peek(&mut [0]).unwrap();
        speaking.peek(&mut [0]).unwrap();

        let error = check_open(&clients(&ended)).unwrap_err();
        assert_eq!(error.to_string(), "1 of 2 sessions have ended");
        assert!(check_open(&clients(&speaking)).is_err());
    }
}
