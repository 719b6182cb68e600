//! HTTP/2 connections to an upstream, by prior knowledge (RFC 9113 §3.3), which all requests of
//! one worker share.
//!
//! # Invariants
//!
//! * A connection is opened on demand, and another one when all have as many streams as the
//!   upstream allows, up to eight; then further requests wait in h2. A request goes to the
//!   connection with the fewest streams.
//! * A connection that has ended, or on which the upstream has sent `GOAWAY`, gets no further
//!   request; requests in progress on it continue.
//! * Unread bytes of each response are bounded, and a response that is not read does not stop the
//!   others: the connection's window has room for all streams doing that at once.
//!
//! h2 has no way to hand out interim responses, so they are skipped.
//!
//! # Isolation of streams
//!
//! | the upstream sends | the other streams of the connection |
//! |---|---|
//! | a header section that is larger, or has more fields, than the route allows; an ambiguous length | continue: that response alone becomes a `502` |
//! | pseudo-header fields that are repeated, missing or misplaced, `Connection` and its like | continue: h2 resets that stream |
//! | a field whose name or value HTTP does not allow, such as a name in upper case | end: h2 takes it for broken HPACK (RFC 9113 §4.3), and its users cannot decide otherwise |
//! | a section of several times what the route allows, or in very many frames | end, for the same reason |
//!
//! Requests of streams that end so are sent again like those of any connection that has closed
//! without a response. The repairs that `downstream::http2` makes for clients are not made for
//! upstreams: a connection to one serves this proxy alone, which trusts the upstream's library
//! not to let an application write such fields.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    future::poll_fn,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::Poll,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{Mutex, MutexGuard},
    task,
    time::{self, Instant},
};

use super::{
    http1::SendError,
    upload::{self, Upload},
};
use crate::{
    headers::framing::has_one_length,
    observability::error_chain::ErrorChain,
    route::HttpSettings,
    transport::{Transport, lazy_deadline::LazyDeadline},
};

/// Bytes that the upstream may send on one stream before it is read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Bytes that the upstream may send on all streams together: as many as Go's client allows,
/// enough for 4096 unread streams. Half of it is also the budget for small frames (see
/// `downstream::http2`).
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// Bytes that may wait to be sent on one stream.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Silence after which the upstream is pinged while streams are open, and the time that it has to
/// acknowledge.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Maximum number of connections open at a time.
const MAX_CONNECTIONS: usize = 8;

/// Maximum number of streams open at a time on one connection, where the upstream allows more.
const MAX_STREAMS: usize = (CONNECTION_WINDOW_BYTES / STREAM_WINDOW_BYTES) as usize;

/// Streams that are opened before the upstream has announced how many it allows.
const INITIAL_STREAMS: usize = 1;

/// Requests that are assigned to a connection until then: the least that an upstream should allow
/// (RFC 9113 §6.5.2).
const EXPECTED_STREAMS: usize = 100;

/// Pause in opening further connections after the upstream has not accepted one.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Shortest interval between checks for idle connections.
const MIN_IDLE: Duration = Duration::from_millis(100);

/// HTTP/2 connections of one worker to the upstream of one route.
#[derive(Debug, Default)]
pub struct Multiplexed {
    open: Rc<RefCell<Vec<Rc<SharedConnection>>>>,
    opening: Mutex<()>,
    /// Time at which the upstream last did not accept another connection.
    refused: Cell<Option<Instant>>,
}

/// A connection. Each of its streams holds a reference, and the references are its count of
/// streams.
#[derive(Debug)]
struct SharedConnection {
    sender: http2::SendRequest<Upload>,
    /// Maximum number of headers that a response may have.
    max_headers: usize,
    /// Dangling once it takes no more requests.
    driver: Weak<Driver>,
    /// Set once the upstream has responded on it, and so has announced its limits.
    has_answered: Cell<bool>,
    /// Set when it has had a stream since the last check for idleness.
    was_used: Cell<bool>,
}

type Driver = RefCell<http2::Connection<TokioIo<Transport>, Upload, LocalExecutor>>;

/// Slot of one request on a connection, until it is dropped.
#[derive(Debug)]
pub struct StreamSlot(Rc<SharedConnection>);

impl Multiplexed {
    /// Acquires a stream on the connection with the fewest, among those that have room.
    pub fn stream(&self) -> Option<StreamSlot> {
        self.fewest(SharedConnection::has_room)
    }

    /// Acquires a stream that waits in h2 for others to end.
    pub fn waiting_stream(&self) -> Option<StreamSlot> {
        self.fewest(|_| true)
    }

    /// Returns whether another connection may be opened.
    pub fn may_open(&self) -> bool {
        let refused = self.refused.get();
        self.open.borrow().len() < MAX_CONNECTIONS
            && refused.is_none_or(|refused| refused.elapsed() >= RETRY_AFTER)
    }

    /// Notes that the upstream did not accept another connection.
    pub fn set_refused(&self) {
        self.refused.set(Some(Instant::now()));
    }

    /// Waits until no other request is opening a connection.
    pub async fn lock(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Opens a connection on `stream`, and the first of its streams.
    ///
    /// It ends after `idle_timeout` of `settings` without a stream, if others are open.
    ///
    /// # Errors
    ///
    /// The preface could not be written.
    pub async fn open(
        &self,
        stream: Transport,
        settings: &HttpSettings,
    ) -> hyper::Result<StreamSlot> {
        // Counted as RFC 9113 §6.5.2 does, by h2.
        let max_header_bytes = settings.response_limits.max_header_bytes;
        let (sender, driver) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_header_list_size(max_header_bytes)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
            // Effective until the upstream announces its limit: it would refuse excess streams.
            .initial_max_send_streams(INITIAL_STREAMS)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = Rc::new(RefCell::new(driver));
        let shared = Rc::new(SharedConnection {
            sender,
            max_headers: usize::from(settings.response_limits.max_headers),
            driver: Rc::downgrade(&driver),
            has_answered: Cell::new(false),
            was_used: Cell::new(true),
        });
        self.open.borrow_mut().push(Rc::clone(&shared));
        task::spawn_local(drive(driver));
        task::spawn_local(end_when_idle(
            Rc::downgrade(&shared),
            Rc::downgrade(&self.open),
            settings.idle_timeout.max(MIN_IDLE),
        ));
        Ok(StreamSlot(shared))
    }

    fn fewest(&self, may_use: impl Fn(&Rc<SharedConnection>) -> bool) -> Option<StreamSlot> {
        let mut open = self.open.borrow_mut();
        open.retain(|shared| !shared.sender.is_closed());
        let fewest = open
            .iter()
            .filter(|shared| may_use(shared))
            .min_by_key(|shared| shared.streams())?;
        fewest.was_used.set(true);
        Some(StreamSlot(Rc::clone(fewest)))
    }
}

impl SharedConnection {
    /// Returns the number of streams, waiting ones included.
    fn streams(self: &Rc<Self>) -> usize {
        // One reference belongs to the list.
        Rc::strong_count(self) - 1
    }

    fn has_room(self: &Rc<Self>) -> bool {
        self.driver.upgrade().is_some_and(|driver| {
            let allowed = match driver.borrow().current_max_send_streams() {
                // h2 reports the initial limit until the upstream's settings have come.
                INITIAL_STREAMS if !self.has_answered.get() => EXPECTED_STREAMS,
                allowed => allowed.min(MAX_STREAMS),
            };
            self.streams() < allowed
        })
    }
}

/// Drives a connection for as long as it takes requests.
async fn drive(driver: Rc<Driver>) {
    let ended = poll_fn(|context| Pin::new(&mut *driver.borrow_mut()).poll(context)).await;
    if let Err(error) = ended {
        tracing::debug!(error = %ErrorChain(&error), "connection to upstream ended");
    }
}

/// Drops a connection that has had no stream for a while, unless it is the only one: it ends once
/// no sender for it is left.
async fn end_when_idle(
    shared: Weak<SharedConnection>,
    open: Weak<RefCell<Vec<Rc<SharedConnection>>>>,
    timeout: Duration,
) {
    loop {
        time::sleep(timeout).await;
        let (Some(shared), Some(open)) = (shared.upgrade(), open.upgrade()) else {
            return;
        };
        let mut open = open.borrow_mut();
        open.retain(|shared| !shared.sender.is_closed());
        // The list and this function hold one reference each.
        let is_idle = Rc::strong_count(&shared) == 2 && !shared.was_used.replace(false);
        if is_idle && open.len() > 1 {
            open.retain(|other| !Rc::ptr_eq(other, &shared));
            return;
        }
    }
}

impl StreamSlot {
    /// Sends `request` and waits for the head of its response, for at most `timeout` after the
    /// last piece of the request's body.
    ///
    /// # Errors
    ///
    /// There is no response.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream.
    pub async fn send(
        &self,
        request: Request<Upload>,
        timeout: Option<Duration>,
    ) -> Result<Response<Incoming>, SendError> {
        let progress = request.body().progress();
        let mut watchdog = LazyDeadline::default();
        watchdog.set(timeout.map(|timeout| Instant::now() + timeout));
        let mut sent = pin!(self.0.sender.clone().try_send_request(request));
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
            Ok(answer) => {
                self.0.has_answered.set(true);
                // h2 accepts an empty length, and two equal ones.
                if !has_one_length(answer.headers()) {
                    return Err(SendError::Malformed("illegal Content-Length"));
                }
                if answer.headers().len() > self.0.max_headers {
                    return Err(SendError::Malformed("too many headers"));
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        if let Some(request) = error.take_message() {
            return Err(SendError::NotSent(Box::new(request)));
        }
        // Lets h2 find out whether only the stream has ended or the whole connection, and lets
        // its task return the body.
        task::yield_now().await;
        let error = error.into_error();
        Err(if was_refused(&error) {
            SendError::Refused
        } else if self.0.sender.is_closed() {
            SendError::NoAnswer
        } else {
            SendError::Broken(error)
        })
    }
}

/// Returns whether the upstream has not processed the request (RFC 9113 §8.7): it has reset the
/// stream with that reason, or has sent `GOAWAY` with a lower last stream; h2 gives that error to
/// no other streams.
fn was_refused(error: &hyper::Error) -> bool {
    let error = error.source().and_then(<dyn Error>::downcast_ref);
    error.is_some_and(|error: &h2::Error| {
        let is_reset = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (is_reset || error.is_go_away())
    })
}

/// Spawns tasks of a connection's streams on the connection's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        task::spawn_local(future);
    }
}
