//! A rejected handshake's response, whose head has been read already, replayed to hyper, which
//! finds the end of its body.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http_body_util::Empty;
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task,
};

use crate::{
    headers::{framing::responses::Answers, hop_by_hop},
    http_client::http1,
    observability::error_chain::ErrorChain,
    proxy::bodies::Body,
    transport::Transport,
    upstream::ResponseLimits,
    websocket::{Opened, spelling::Spelling},
};

/// Returns the spelling of the names in the head that `answer` begins with, if the head can be
/// read in one way only.
///
/// # Errors
///
/// The flaw in its framing.
pub(crate) fn check(
    answer: &Opened<Transport>,
    limits: ResponseLimits,
) -> Result<Spelling, &'static str> {
    let mut answers = Answers::new(limits).with_spelling();
    answers.expect();
    answers.watch(&mut answer.read_buf.to_vec());
    answers.verdict().map(|()| answers.take_spelling())
}

/// Replays to hyper the response that `answer` begins with, and returns it with its body streamed
/// and its names to be spelled as given.
///
/// # Errors
///
/// hyper does not accept the response, or the connection ends inside its head.
pub(crate) async fn response(
    answer: Opened<Transport>,
    limits: ResponseLimits,
    spelling: Spelling,
) -> hyper::Result<Response<Body>> {
    let builder = http1::builder(limits);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(RejectedBody::of(answer)))
        .await?;
    // Ends with the body, or once the client no longer reads it.
    task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %ErrorChain(&error), "connection to upstream ended");
        }
    });
    // Any request whose response may have a body: the real one has been sent, this one is
    // discarded.
    let response = sender
        .send_request(Request::new(Empty::<Bytes>::new()))
        .await?;
    let (mut parts, body) = response.into_parts();
    parts.headers = hop_by_hop::of_response(parts.headers);
    parts.version = Version::HTTP_11;
    Ok(Response::from_parts(
        parts,
        Body::from(body).spelled(spelling),
    ))
}

/// A stream that begins with bytes read from it earlier, and that discards writes.
struct RejectedBody {
    answer: Opened<Transport>,
    /// Set by the first write: to hyper a response before its request would be an error.
    is_asked: bool,
    waker: Option<Waker>,
}

impl RejectedBody {
    const fn of(answer: Opened<Transport>) -> Self {
        Self {
            answer,
            is_asked: false,
            waker: None,
        }
    }
}

impl AsyncRead for RejectedBody {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_asked {
            self.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let Opened { stream, read_buf } = &mut self.answer;
        if read_buf.is_empty() {
            return Pin::new(stream).poll_read(context, buffer);
        }
        let bytes = read_buf.len().min(buffer.remaining());
        buffer.put_slice(&read_buf[..bytes]);
        read_buf.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RejectedBody {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.answer.stream).poll_shutdown(context)
    }
}
