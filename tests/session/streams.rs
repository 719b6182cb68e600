//! Streams that are not like pipes: always ready, or with a buffer of their own.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use readygate::{
    session::{Settings, hold::OnClientGone, ledger::Account},
    transport::Stream,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::{Instant, sleep},
};

use crate::{scene::*, support::*};

/// A stream that is always ready: what it sends never ends (well, after `left` reads),
/// and it takes everything.
struct Torrent {
    chunk: Vec<u8>,
    left: usize,
}

impl AsyncRead for Torrent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left > 0 {
            self.left -= 1;
            buffer.put_slice(&self.chunk);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Torrent {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Torrent {}

/// Never has anything to read.
struct Quiet(Torrent);

impl AsyncRead for Quiet {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Quiet {}

#[tokio::test(start_paused = true)]
async fn a_direction_that_never_pauses_does_not_delay_a_drain() {
    local(async {
        let client = Torrent {
            chunk: client_frame(0x82, &[7; 1000]),
            left: 100_000,
        };
        let upstream = Torrent {
            chunk: Vec::new(),
            left: usize::MAX,
        };
        let (report, drain) = start_between(client, Quiet(upstream), Settings::default());
        tokio::task::yield_now().await;
        drain.begin();

        assert_eq!(report.await.unwrap().cause.name(), "shutting_down");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_direction_that_never_pauses_leaves_the_other_its_turn() {
    local(async {
        let client = Torrent {
            chunk: client_frame(0x82, &[7; 1000]),
            left: 100_000,
        };
        let upstream = Torrent {
            chunk: server_close(4000, ""),
            left: 1,
        };
        let (report, _drain) = start_between(client, upstream, Settings::default());

        assert_eq!(report.await.unwrap().cause.name(), "upstream_closed");
    })
    .await;
}

/// Keeps what is written until it is flushed, like TLS does when the socket is full.
struct Buffered {
    stream: DuplexStream,
    buffer: Vec<u8>,
}

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Self { stream, buffer } = &mut *self;
        while !buffer.is_empty() {
            let written = std::task::ready!(Pin::new(&mut *stream).poll_write(context, buffer))?;
            buffer.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Stream for Buffered {}

#[tokio::test(start_paused = true)]
async fn a_buffering_stream_is_flushed_in_every_phase() {
    local(async {
        let (mut client, proxy_client) = tokio::io::duplex(PIPE_BYTES);
        let (mut upstream, proxy_upstream) = tokio::io::duplex(PIPE_BYTES);
        let buffered = |stream| Buffered {
            stream,
            buffer: Vec::new(),
        };
        let (report, _drain) =
            start_between(buffered(proxy_client), buffered(proxy_upstream), gated());
        let message = client_frame(0x81, b"held");
        let ready = server_frame(0x81, b"ready");
        write(&mut client, &message, Segments::Whole).await;
        write(&mut upstream, &ready, Segments::Whole).await;
        expect(&mut client, &ready).await;
        expect(&mut upstream, &message).await;

        let large = client_frame(0x82, &[7; 10_000]).repeat(12);
        client.write_all(&large).await.unwrap();
        expect(&mut upstream, &large).await;
        let answer = server_frame(0x81, b"answer");
        write(&mut upstream, &answer, Segments::Whole).await;
        expect(&mut client, &answer).await;

        write(&mut client, &client_close(1000, ""), Segments::Whole).await;
        expect(&mut upstream, b"\x88\x82").await;
        write(&mut upstream, &server_close(1000, ""), Segments::Whole).await;
        assert_eq!(read_to_end(&mut client).await, server_close(1000, ""));
        drop(upstream);
        assert_eq!(report.await.unwrap().cause.name(), "client_closed");
    })
    .await;
}

/// Reads exactly these bytes, in less than a second.
async fn expect(from: &mut DuplexStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    let read = from.read_exact(&mut got);
    tokio::time::timeout(Duration::from_secs(1), read)
        .await
        .unwrap_or_else(|_| panic!("{} bytes do not come", bytes.len()))
        .unwrap();
    assert!(got == bytes);
}

/// A pipe whose far end hangs up when the test says so, whatever is still unread.
struct Abandoned {
    stream: DuplexStream,
    is_hung_up: Rc<Cell<bool>>,
}

impl AsyncRead for Abandoned {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Abandoned {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Stream for Abandoned {
    fn is_hung_up(&self) -> bool {
        self.is_hung_up.get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_up_under_backpressure_is_seen_where_it_discards() {
    local(async {
        let (mut client, stream) = tokio::io::duplex(PIPE_BYTES);
        let (mut upstream, proxy_upstream) = tokio::io::duplex(PIPE_BYTES);
        let is_hung_up = Rc::new(Cell::new(false));
        let proxy_client = Abandoned {
            stream,
            is_hung_up: is_hung_up.clone(),
        };
        let mut settings = gated();
        settings.hold.max_messages = 1;
        settings.hold.on_client_gone = OnClientGone::Discard;
        let (report, _drain) = start_between(proxy_client, proxy_upstream, settings);
        let messages = client_frame(0x81, b"message").repeat(2);
        write(&mut client, &messages, Segments::Whole).await;
        sleep(Duration::from_secs(10)).await;
        assert!(!report.is_finished());
        let hung_up = Instant::now();

        is_hung_up.set(true);

        let close = read_frame(&mut upstream).await;
        assert_eq!(close.payload, close_payload(1001, "client_lost"));
        assert!(hung_up.elapsed() <= Duration::from_secs(1));
        drop(upstream);
        let ledger = report.await.unwrap().ledger;
        assert_eq!((ledger.accepted(), ledger.of(Account::Discarded)), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hang_up_under_backpressure_still_delivers_messages() {
    local(async {
        let (mut client, stream) = tokio::io::duplex(PIPE_BYTES);
        let (mut upstream, proxy_upstream) = tokio::io::duplex(PIPE_BYTES);
        let proxy_client = Abandoned {
            stream,
            is_hung_up: Rc::new(Cell::new(true)),
        };
        let mut settings = gated();
        settings.hold.max_messages = 1;
        let (_report, _drain) = start_between(proxy_client, proxy_upstream, settings);
        let messages = client_frame(0x81, b"message").repeat(5);
        write(&mut client, &messages, Segments::Whole).await;
        drop(client);
        sleep(Duration::from_secs(10)).await;

        let ready = server_frame(0x81, b"ready");
        write(&mut upstream, &ready, Segments::Whole).await;

        expect(&mut upstream, &messages).await;
    })
    .await;
}
