//! Resolving a name and connecting to it, once.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::io::Errno;
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, UnixSocket},
    time,
};

use super::{Address, Endpoint, Settings, dns::Name, protocol::Protocol, tls::TlsError};
use crate::transport::{Transport, descriptors, keep_alive};

/// Reason why there is no connection to the upstream.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The upstream does not listen, or the connection was lost; may change.
    #[error("cannot connect: {0}")]
    Unreachable(io::Error),
    /// The upstream listens, but the TLS handshake failed.
    #[error("TLS with the upstream failed: {0}")]
    Tls(TlsError),
    /// File descriptors ran short, which says nothing about the upstream.
    #[error("too few file descriptors to connect")]
    Shortage,
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        if descriptors::is_shortage(&error) {
            Self::Shortage
        } else {
            Self::Unreachable(error)
        }
    }
}

/// Makes a single connection to an upstream; for repeated connections use its [`Endpoint`].
/// `preamble` is written first, before TLS where the upstream uses it.
///
/// Each address of the upstream's name is tried in turn.
///
/// # Errors
///
/// The error of the last address; `TimedOut` when it did not answer within
/// `settings.timeout`, or did not finish the TLS handshake within
/// `settings.handshake_timeout`, where there is one.
///
/// # Cancel safety
///
/// Dropping the future closes the connection in progress.
pub async fn dial(
    settings: &Settings,
    protocol: Protocol,
    preamble: &[u8],
) -> Result<Transport, DialError> {
    let endpoint = Endpoint::alone(settings);
    endpoint.dial_at_once(protocol, preamble).await
}

/// Writes `preamble` to a new connection, and starts TLS where the upstream uses it.
pub(super) async fn finish(
    settings: &Settings,
    stream: Transport,
    protocol: Protocol,
    preamble: &[u8],
) -> Result<Transport, DialError> {
    let mut stream = stream;
    // A few bytes always fit into the buffer of a new socket, so this does not block.
    if !preamble.is_empty() {
        stream.write_all(preamble).await?;
    }
    let Some(tls) = &settings.tls else {
        return Ok(stream);
    };
    // Boxed, as the state of a handshake is large and short-lived.
    let handshake = Box::pin(tls.connect(stream, protocol));
    let shaken = match settings.handshake_timeout {
        None => handshake.await,
        Some(timeout) => within(timeout, handshake).await,
    };
    shaken.map_err(|error| match TlsError::of(&error) {
        Some(error) => DialError::Tls(error),
        None => error.into(),
    })
}

/// Connects to the upstream, by one of the addresses of `name` unless it is a Unix socket.
pub(super) async fn connect(settings: &Settings, name: &Arc<Name>) -> io::Result<Transport> {
    match &settings.address {
        Address::Tcp { host, port } => {
            let addresses = within(settings.timeout, name.addresses(*port)).await;
            let addresses = addresses.map_err(|error| about(host, error))?;
            let lookup = name.lookups();
            let connected = first_that_answers(addresses, settings.timeout).await;
            // Addresses at which nothing answers are stale: the upstream may have moved.
            let stream = connected.inspect_err(|_| name.forget(lookup))?;
            // WebSocket messages are small and must not wait for an acknowledgement.
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&keep_alive())?;
            Ok(Transport::Tcp(stream))
        }
        Address::Unix(path) => {
            let socket = UnixSocket::new_stream()?;
            descriptors::check(&socket)?;
            let stream = within(settings.timeout, socket.connect(path)).await?;
            Ok(Transport::Unix(stream))
        }
    }
}

/// Adds `host` to the error of its lookup, since the system's text does not contain it.
fn about(host: &str, error: io::Error) -> io::Error {
    if descriptors::is_shortage(&error) {
        return error;
    }
    io::Error::new(error.kind(), format!("no address of `{host}`: {error}"))
}

async fn first_that_answers(
    addresses: impl IntoIterator<Item = SocketAddr>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match within(timeout, connect_to(address)).await {
            Ok(stream) => return Ok(stream),
            // Without a descriptor no other address can do better.
            Err(error) if descriptors::is_shortage(&error) => return Err(error),
            Err(error) => {
                let error = of_address(address, &error);
                // A machine without IPv6 has no address for `::1`: the other addresses' errors tell
                // more.
                let is_missing = error.kind() == io::ErrorKind::AddrNotAvailable;
                if is_of_no_meaning(&error) && !(address.is_ipv6() && is_missing) {
                    return Err(error);
                }
                // An error about the upstream tells more than one about this machine.
                if !is_of_no_meaning(&error) || last_error.kind() == io::ErrorKind::NotFound {
                    last_error = error;
                }
            }
        }
    }
    Err(last_error)
}

/// Adds `address` to the error of connecting to it.
fn of_address(address: SocketAddr, error: &io::Error) -> io::Error {
    // `ENOBUFS` has no stable kind, so it is mapped to that of `ENOMEM`.
    let is_no_buffer = Errno::from_io_error(error) == Some(Errno::NOBUFS);
    let kind = if is_no_buffer {
        io::ErrorKind::OutOfMemory
    } else {
        error.kind()
    };
    io::Error::new(kind, format!("{address}: {error}"))
}

/// Returns whether a failed attempt says nothing about the upstream and ends no session: the
/// machine is out of ports, memory or threads (`EADDRNOTAVAIL`, `ENOBUFS`, `ENOMEM`, `EAGAIN`), or
/// the backlog of a Unix socket is full (`EAGAIN`).
pub(super) fn is_of_no_meaning(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory
    ) || Errno::from_io_error(error) == Some(Errno::NOBUFS)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    descriptors::check(&socket)?;
    socket.connect(address).await
}

async fn within<T>(
    timeout: Duration,
    operation: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    time::timeout(timeout, operation)
        .await
        .unwrap_or_else(|elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn upstream_at(host: &str, port: u16) -> Settings {
        Settings::new(Address::Tcp {
            host: host.to_owned(),
            port,
        })
    }

    #[tokio::test]
    async fn localhost_is_reached_whichever_of_its_addresses_listens() {
        for listening_on in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6 has nothing to show for `::1`.
            let Ok(listener) = TcpListener::bind(listening_on).await else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();

            dial(&upstream_at("localhost", port), Protocol::Http1, b"")
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_later_address_is_tried_when_an_earlier_one_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listening = listener.local_addr().unwrap();
        let refusing = {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };

        let stream = first_that_answers([refusing, listening], Duration::from_secs(5))
            .await
            .unwrap();

        assert_eq!(stream.peer_addr().unwrap(), listening);
    }

    #[tokio::test]
    async fn an_unresolved_name_fails_only_this_attempt() {
        let settings = upstream_at("name.invalid", 80);

        let error = dial(&settings, Protocol::Http1, b"").await.unwrap_err();

        assert!(error.to_string().contains("`name.invalid`"), "{error}");
    }

    async fn connected() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialled = dial(&upstream_at("127.0.0.1", port), Protocol::Http1, b"").await;
        match dialled.unwrap() {
            Transport::Tcp(stream) => stream,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn nagle_is_off_towards_the_upstream() {
        assert!(connected().await.nodelay().unwrap());
    }

    #[tokio::test]
    async fn an_upstream_whose_host_has_vanished_is_found_out_in_20_s() {
        let stream = connected().await;
        let socket = SockRef::from(&stream);

        assert!(socket.keepalive().unwrap());
        let time = socket.tcp_keepalive_time().unwrap();
        let interval = socket.tcp_keepalive_interval().unwrap();
        let probes = socket.tcp_keepalive_retries().unwrap();
        assert_eq!(time, Duration::from_secs(5));
        assert_eq!(interval, Duration::from_secs(5));
        assert_eq!(probes, 3);
        assert_eq!(time + interval * probes, Duration::from_secs(20));
    }
}
