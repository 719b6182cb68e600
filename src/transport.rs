//! The byte streams that a session runs on.
//!
//! [`Transport`] is the one place that knows the kinds of connection on either side; everything
//! above it is generic over [`Stream`] or just reads and writes.

pub mod backlog;
pub mod descriptors;
mod http2;
pub mod lazy_deadline;
mod tcp;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsFd,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{RecvFlags, recv},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

pub use self::http2::Http2Stream;

/// A byte stream that a session can run on.
///
/// A session that has stopped reading (backpressure) also needs to know whether the peer is still
/// there.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Returns whether the peer has closed or reset the connection, even while bytes it sent before
    /// that are unread.
    ///
    /// `false` when the stream cannot tell.
    fn is_hung_up(&self) -> bool {
        false
    }

    /// Returns the TCP socket if the stream is nothing but one: the kernel may then move payload
    /// from and to it.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }

    /// Reads like `poll_read`, but into an initialized buffer; 0 at the end of the stream.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        poll_read_into(self, context, buffer)
    }

    /// Returns whether nothing has arrived, after a read that returned `Pending`. A stream with a
    /// socket of its own asks the kernel rather than the reactor, which may not have polled since.
    fn is_drained(&self) -> bool {
        true
    }

    /// Returns `Ready` if reading again may be worthwhile after a read that did not fill its
    /// buffer; on `Pending` the task is woken as soon as it is.
    fn poll_readable(&self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Returns whether it is known, without a system call, that nothing has arrived since
    /// [`poll_receive`](Self::poll_receive) or [`poll_readable`](Self::poll_readable) returned
    /// `Pending` with some of the task's budget left; the wakeup of that task is then still
    /// outstanding.
    ///
    /// `false` when the stream cannot tell, or has anything in a buffer of its own.
    fn is_unready(&self) -> bool {
        false
    }
}

impl Stream for tokio::io::DuplexStream {}

fn poll_read_into(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

/// A connection to a client or to an upstream.
#[derive(Debug)]
pub enum Transport {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
    /// A TLS connection; boxed, so that other connections do not pay for its size.
    ///
    /// An end without a `close_notify` is an error (`UnexpectedEof`): an attacker on the way may
    /// have truncated the stream.
    Tls(Box<TlsStream<Self>>),
    /// A stream of an HTTP/2 connection; boxed for the same reason.
    Http2(Box<Http2Stream>),
}

impl Transport {
    /// Returns whether the connection is encrypted.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Address of the peer; `None` unless the connection is TCP.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Tls(stream) => stream.get_ref().0.peer_address(),
            Self::Unix(_) | Self::Http2(_) => None,
        }
    }

    /// Application protocol that the TLS handshake selected (RFC 7301), such as `http/1.1`.
    #[must_use]
    pub fn application_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Self::Tcp(_) | Self::Unix(_) | Self::Http2(_) => None,
        }
    }

    /// Returns whether nothing that is written can reach the peer any more: the connection is
    /// reset, or the other end of a Unix socket is closed. On TCP this is known once the peer's
    /// host has answered a packet with a reset.
    ///
    /// `false` when the stream cannot tell.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Tcp(stream) => {
                has_noted(stream.ready(Interest::WRITABLE), Ready::is_write_closed)
            }
            Self::Unix(stream) => {
                has_noted(stream.ready(Interest::WRITABLE), Ready::is_write_closed)
            }
            Self::Tls(stream) => stream.get_ref().0.is_broken(),
            Self::Http2(_) => false,
        }
    }

    /// Enables TCP keepalive, so that the connection breaks some time after its peer has vanished;
    /// does nothing unless the connection is TCP.
    pub fn keep_asking(&self) {
        match self {
            Self::Tcp(stream) => {
                // Without keepalive the next write detects it.
                let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive());
            }
            Self::Tls(stream) => stream.get_ref().0.keep_asking(),
            Self::Unix(_) | Self::Http2(_) => {}
        }
    }
}

/// Idle time before the first keepalive probe, and time between two of the [`PROBES`].
const PROBE_AFTER: Duration = Duration::from_secs(5);

/// Unanswered keepalive probes after which the connection is broken.
const PROBES: u32 = 3;

/// Keepalive settings that detect a vanished host; a live peer may stay silent for as long as it
/// likes.
pub(crate) fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_AFTER)
        .with_retries(PROBES)
}

impl Stream for Transport {
    fn is_hung_up(&self) -> bool {
        match self {
            Self::Tcp(stream) => has_noted(stream.ready(Interest::READABLE), Ready::is_read_closed),
            Self::Unix(stream) => {
                has_noted(stream.ready(Interest::READABLE), Ready::is_read_closed)
            }
            // A peer that sent `close_notify` and nothing else is still there.
            Self::Tls(stream) => stream.get_ref().0.is_hung_up(),
            Self::Http2(stream) => stream.is_hung_up(),
        }
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) | Self::Tls(_) | Self::Http2(_) => None,
        }
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Self::Tcp(stream) = self {
            return tcp::poll_receive(stream, context, buffer);
        }
        poll_read_into(self, context, buffer)
    }

    fn is_drained(&self) -> bool {
        match self {
            Self::Tcp(stream) => has_nothing(stream),
            Self::Unix(stream) => has_nothing(stream),
            // After a read that had to wait rustls has no plaintext left.
            Self::Tls(stream) => stream.get_ref().0.is_drained(),
            // The connection is read by another task.
            Self::Http2(_) => true,
        }
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context).map(|_| ()),
            Self::Unix(_) | Self::Tls(_) | Self::Http2(_) => Poll::Ready(()),
        }
    }

    fn is_unready(&self) -> bool {
        match self {
            Self::Tcp(stream) => tcp::is_unready(stream),
            Self::Unix(_) | Self::Tls(_) | Self::Http2(_) => false,
        }
    }
}

/// Returns whether `says` holds for the readiness that the reactor has recorded; true on an error.
///
/// The future is polled once and dropped: only what is known by now matters, so there is no task to
/// wake.
fn has_noted(ready: impl Future<Output = io::Result<Ready>>, says: fn(Ready) -> bool) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(ready).poll(&mut context) {
        Poll::Ready(Ok(ready)) => says(ready),
        // The reactor has shut down: nothing will be reported again.
        Poll::Ready(Err(_)) => true,
        Poll::Pending => false,
    }
}

/// Returns whether nothing has arrived on `socket`, not even the end of the stream.
fn has_nothing(socket: impl AsFd) -> bool {
    // Peeked, so that the byte stays for the next read.
    let look = || {
        recv(
            &socket,
            &mut [0_u8; 1],
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        )
    };
    retry_on_intr(look).is_err_and(|error| error == Errno::AGAIN)
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Http2(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => tcp::poll_send(stream, context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Http2(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Http2(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Http2(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Http2(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn tcp_pair() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        (Transport::Tcp(ours), peer)
    }

    async fn until_hung_up(transport: &Transport) {
        while !transport.is_hung_up() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_open_tcp_connection_with_unread_bytes_is_not_hung_up() {
        let (mut transport, mut peer) = tcp_pair().await;
        peer.write_all(b"ab").await.unwrap();

        assert_eq!(transport.read_u8().await.unwrap(), b'a');

        assert!(!transport.is_hung_up());
    }

    #[tokio::test]
    async fn a_closed_tcp_peer_is_noticed_while_its_bytes_are_unread() {
        let (mut transport, mut peer) = tcp_pair().await;
        peer.write_all(b"last words").await.unwrap();
        drop(peer);

        until_hung_up(&transport).await;

        let mut unread = String::new();
        transport.read_to_string(&mut unread).await.unwrap();
        assert_eq!(unread, "last words");
    }

    #[tokio::test]
    async fn a_tcp_peer_that_has_reset_the_connection_is_noticed() {
        let (transport, peer) = tcp_pair().await;
        SockRef::from(&peer)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(peer);

        until_hung_up(&transport).await;
    }

    #[tokio::test]
    async fn a_peer_that_only_sends_no_more_has_not_broken_the_connection() {
        let (tcp, mut tcp_peer) = tcp_pair().await;
        let (unix, mut unix_peer) = UnixStream::pair().unwrap();
        let unix = Transport::Unix(unix);
        tcp_peer.shutdown().await.unwrap();
        unix_peer.shutdown().await.unwrap();
        for transport in [&tcp, &unix] {
            until_hung_up(transport).await;
            assert!(!transport.is_broken());
        }

        SockRef::from(&tcp_peer)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop((tcp_peer, unix_peer));

        for transport in [&tcp, &unix] {
            while !transport.is_broken() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_closed_unix_peer_is_noticed_while_bytes_are_unread() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let transport = Transport::Unix(ours);
        peer.write_all(b"last words").await.unwrap();
        assert!(!transport.is_hung_up());
        drop(peer);

        until_hung_up(&transport).await;
    }
}
