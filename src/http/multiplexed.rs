//! The HTTP/2 connection to an upstream, by prior knowledge (RFC 9113 §3.3), which all the
//! requests of one worker share.
//!
//! # Invariants
//!
//! * There is at most one that takes requests. It is opened on demand, and another one when
//!   it has ended or the upstream has said `GOAWAY`; what is under way on the old one goes on.
//! * No more streams are open than the upstream allows: further requests wait in h2.
//! * What is unread of each answer is bounded, and an answer that is not read does not stop
//!   the others: the connection's window has room for all streams doing that at once.
//!
//! h2 has no way to hand out interim answers, so that those are skipped here.

use std::{cell::RefCell, error::Error, future::poll_fn, pin::pin, task::Poll, time::Duration};

use hyper::{Request, Response, body::Incoming, client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{Mutex, MutexGuard},
    task,
    time::Instant,
};

use super::{
    exchange::SendError,
    upload::{self, Upload},
    watchdog::Watchdog,
};
use crate::transport::Transport;

/// The longest header section of an answer in bytes, as h2 counts (RFC 9113 §6.5.2).
const MAX_HEADER_BYTES: u32 = 64 * 1024;

/// What the upstream may send on one stream before it is read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// What it may send on all of them together: as much as Go's client allows, which is enough
/// for 4096 streams that nobody reads. The budget for small frames, too, is half of it (see
/// [`http2`](super::http2)).
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// What may wait to be sent on one stream.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long the upstream may be silent while streams are open before it is asked whether it
/// is there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The place of one worker's HTTP/2 connection to the upstream of one route.
#[derive(Debug, Default)]
pub struct Multiplexed {
    open: RefCell<Option<Sender>>,
    opening: Mutex<()>,
}

/// Sends requests on a connection.
#[derive(Clone, Debug)]
pub struct Sender(http2::SendRequest<Upload>);

impl Multiplexed {
    /// The connection, if there is one that takes requests.
    pub fn sender(&self) -> Option<Sender> {
        let open = self.open.borrow();
        open.as_ref()
            .filter(|sender| !sender.0.is_closed())
            .cloned()
    }

    /// Waits until nobody else is opening one.
    pub async fn lock(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Makes `stream` the connection.
    ///
    /// # Errors
    ///
    /// The preface could not be written.
    pub async fn open(&self, stream: Transport) -> hyper::Result<Sender> {
        let (sender, connection) = http2::Builder::new(OnThisThread)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
            // Until the upstream has said how many it allows: a stream too many is refused.
            .initial_max_send_streams(1)
            .handshake(TokioIo::new(stream))
            .await?;
        task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to upstream ended");
            }
        });
        let sender = Sender(sender);
        *self.open.borrow_mut() = Some(sender.clone());
        Ok(sender)
    }
}

impl Sender {
    /// Sends `request` and waits for the head of its answer, `timeout` at most after the last
    /// piece of the request's body.
    ///
    /// # Errors
    ///
    /// There is no answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream.
    pub async fn send(
        &mut self,
        request: Request<Upload>,
        timeout: Option<Duration>,
    ) -> Result<Response<Incoming>, SendError> {
        let progress = request.body().progress();
        let mut watchdog = Watchdog::default();
        watchdog.set(timeout.map(|timeout| Instant::now() + timeout));
        let mut sent = pin!(self.0.try_send_request(request));
        let sent = poll_fn(|context| {
            if let Poll::Ready(sent) = sent.as_mut().poll(context) {
                return Poll::Ready(Ok(sent));
            }
            if let Some(deadline) = upload::deadline(progress.as_deref(), timeout) {
                watchdog.set(Some(deadline));
            }
            let expired = watchdog.poll_expired(context);
            expired.map(|()| Err(SendError::TimedOut))
        });
        let mut error = match sent.await? {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if let Some(request) = error.take_message() {
            return Err(SendError::NotSent(Box::new(request)));
        }
        // Whether only the stream has ended, or the connection, which then is about to say so;
        // and whoever has the body gives it up.
        task::yield_now().await;
        let error = error.into_error();
        Err(if was_refused(&error) {
            SendError::Refused
        } else if self.0.is_closed() {
            SendError::NoAnswer
        } else {
            SendError::Broken(error)
        })
    }
}

/// Whether the upstream has not processed the request (RFC 9113 §8.7): it has reset the
/// stream with that reason, or has said `GOAWAY` with a lower stream as the last, which are
/// the only streams that h2 gives that error.
fn was_refused(error: &hyper::Error) -> bool {
    let error = error.source().and_then(<dyn Error>::downcast_ref);
    error.is_some_and(|error: &h2::Error| {
        let is_reset = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (is_reset || error.is_go_away())
    })
}

/// Runs the streams of a connection where the connection is.
#[derive(Clone, Copy, Debug)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        task::spawn_local(future);
    }
}
