//! Sockets with the options that all tools want, in as few system calls as possible.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt},
};

/// Connections that may wait to be accepted: a burst must not wait for a repeated SYN.
const BACKLOG: i32 = 4096;

/// Client addresses, so that no pair of addresses runs out of ports.
const SOURCES: usize = 64;

/// A listener that does not block.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address, SocketFlags::NONBLOCK)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The next connection, which does not block; `None` when there is none.
pub fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    match rustix::net::accept_with(listener, flags) {
        Ok(socket) => {
            sockopt::set_tcp_nodelay(&socket, true)?;
            Ok(Some(socket.into()))
        }
        // A client that left while it waited is no reason to stop.
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Begins to connect, without blocking; the socket becomes writable when it is connected.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    begin(new(to, SocketFlags::NONBLOCK)?, to)
}

/// Like [`connect`], as the client of this number: clients come from many addresses.
pub fn connect_as_client(number: usize, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new(to, SocketFlags::NONBLOCK)?;
    bind_source(&socket, number, to)?;
    begin(socket, to)
}

/// Like [`connect_as_client`], but waits, and gives a socket that blocks.
pub fn connect_and_wait(number: usize, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new(to, SocketFlags::empty())?;
    bind_source(&socket, number, to)?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}

fn new(address: SocketAddr, flags: SocketFlags) -> io::Result<rustix::fd::OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn bind_source(socket: &rustix::fd::OwnedFd, number: usize, to: SocketAddr) -> io::Result<()> {
    if to.is_ipv4() {
        rustix::net::bind(socket, &SocketAddr::new(source(number), 0))?;
    }
    Ok(())
}

/// 127.0.0.2 and those after it, in turn.
fn source(number: usize) -> IpAddr {
    let last = u8::try_from(number % SOURCES).unwrap_or_default() + 2;
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn begin(socket: rustix::fd::OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Reads once; `None` when nothing is there.
pub fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    some(stream.read(buffer))
}

/// Writes once; `None` when there is no room.
pub fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<Option<usize>> {
    some(stream.write(bytes))
}

/// How many bytes of a socket that may block are there to be read; `None` when it is open and
/// nothing is there.
pub fn peek(stream: &TcpStream) -> io::Result<Option<usize>> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    some(
        rustix::net::recv(stream, &mut [0; 1], flags)
            .map(|(count, _)| count)
            .map_err(Into::into),
    )
}

/// The result of a call that may have nothing to do.
pub fn some<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
