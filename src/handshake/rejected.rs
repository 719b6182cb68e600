//! An answer of which the head was read, once more for hyper, which knows how long its body
//! is.

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
    headers::{framing::answers::Answers, hop_by_hop},
    http_client::http1,
    observability::error_chain::ErrorChain,
    proxy::bodies::Body,
    transport::Transport,
    upstream::ResponseLimits,
    websocket::{Opened, spelling::Spelling},
};

/// How names are spelled in the head at the beginning of what `answer` has read, if that can be
/// read in one way only.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn check(
    answer: &Opened<Transport>,
    limits: ResponseLimits,
) -> Result<Spelling, &'static str> {
    let mut answers = Answers::new(limits).with_spelling();
    answers.expect();
    answers.watch(&mut answer.read_buf.to_vec());
    answers.verdict().map(|()| answers.take_spelling())
}

/// Reads the answer that begins with what `answer` has read, in which names are spelled so; its
/// body comes as it comes.
///
/// # Errors
///
/// What hyper does not take for an answer, or a connection that ends inside its head.
pub(crate) async fn response(
    answer: Opened<Transport>,
    limits: ResponseLimits,
    spelling: Spelling,
) -> hyper::Result<Response<Body>> {
    let builder = http1::builder(limits);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(RejectedBody::of(answer)))
        .await?;
    // It ends with the body, or when the client stops taking it.
    task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %ErrorChain(&error), "connection to upstream ended");
        }
    });
    // Any request with an answer that may have a body: it has been sent, and goes nowhere.
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

/// A stream that begins with what was read from it before, and to which nothing is written.
struct RejectedBody {
    answer: Opened<Transport>,
    /// An answer that is there before the request has been written would be an error.
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
