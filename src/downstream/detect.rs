//! Detection of the HTTP version that a client speaks, by the first bytes that it sends.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time,
};

use crate::transport::Transport;

/// The connection preface of HTTP/2 (RFC 9113 §3.4), chosen so that no HTTP/1 request begins like
/// it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

/// Why the version stays unknown.
#[derive(Debug)]
pub(crate) enum Unknown {
    /// The client left or sent nothing, so that a response would have no reader.
    Silent,
    /// The client sent a beginning that both versions share, and no more in time.
    Slow(Transport),
}

/// Reads no more than tells the versions apart, and returns it with the stream.
///
/// If `drained` resolves first, the connection counts as HTTP/1.1, whose code knows how to end a
/// connection on which a request has not come whole.
///
/// # Errors
///
/// The client leaves first, or does not send enough within `timeout`.
pub(crate) async fn sniff(
    stream: Transport,
    timeout: Duration,
    drained: impl Future<Output = ()>,
) -> Result<(Spoken, Sniffed), Unknown> {
    let mut stream = stream;
    let mut drained = pin!(drained);
    let mut read = BytesMut::with_capacity(PREFACE.len());
    let spoken = time::timeout(timeout, async {
        loop {
            // Reads no further than the preface, so that few bytes have to be replayed.
            let mut rest = (&mut stream).take((PREFACE.len() - read.len()) as u64);
            let length = tokio::select! {
                // Bytes that have arrived tell more than the drain does.
                biased;
                length = rest.read_buf(&mut read) => length.ok()?,
                () = &mut drained => return Some(Spoken::Http1),
            };
            if length == 0 {
                return None;
            }
            if !PREFACE.starts_with(&read) {
                return Some(Spoken::Http1);
            }
            if read.len() == PREFACE.len() {
                return Some(Spoken::Http2);
            }
        }
    });
    match spoken.await {
        Ok(Some(spoken)) => {
            let read = read.freeze();
            Ok((spoken, Sniffed { read, stream }))
        }
        Err(_elapsed) if !read.is_empty() => Err(Unknown::Slow(stream)),
        Ok(None) | Err(_) => Err(Unknown::Silent),
    }
}

/// A byte stream whose first bytes may have been read already.
#[derive(Debug)]
pub(crate) struct Sniffed {
    /// Bytes to be read again before those of the stream.
    read: Bytes,
    pub(crate) stream: Transport,
}

impl From<Transport> for Sniffed {
    fn from(stream: Transport) -> Self {
        let read = Bytes::new();
        Self { read, stream }
    }
}

impl AsyncRead for Sniffed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let bytes = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..bytes]);
        self.read.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
