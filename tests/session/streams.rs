//! Streams that are not like pipes: always ready, or with a buffer of their own.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use readygate::{session::Settings, transport::Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
async fn one_direction_that_never_pauses_does_not_keep_a_drain_waiting() {
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
        drain.cancel();

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
