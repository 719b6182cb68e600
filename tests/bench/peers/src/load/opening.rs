//! Opening a WebSocket and waiting for it, for scenarios that measure what comes after.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{
    Result, socket,
    websocket::handshake::{self, Head},
};

/// How long any answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A WebSocket of the client with this number. Its socket blocks, up to [`TIMEOUT`].
pub fn open(number: usize, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = connect(number, to)?;
    stream.write_all(&handshake::request(to))?;
    let bytes = read_head(&mut stream)?;
    match Head::parse(&bytes) {
        Some((head, length)) if head.is_accepted() && length == bytes.len() => Ok(stream),
        Some((head, _)) if head.is_accepted() => Err("bytes behind the handshake".into()),
        Some((head, _)) => Err(format!("the handshake is refused: {}", head.first_line()).into()),
        None => Err("the handshake's answer is not HTTP".into()),
    }
}

/// A connection without a handshake.
pub fn connect(number: usize, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket::connect_and_wait(number, to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Reads up to the end of a head, and what comes with it.
pub fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        if count == 0 || bytes.len() > 64 * 1024 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
    Ok(bytes)
}
