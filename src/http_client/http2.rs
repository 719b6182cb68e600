//! The HTTP/2 connections to an upstream, by prior knowledge (RFC 9113 §3.3), which all the
//! requests of one worker share.
//!
//! # Invariants
//!
//! * One is opened on demand, and another one when all of them have as many streams as the
//!   upstream allows, up to eight; then further requests wait in h2. A request goes to the
//!   one that has the fewest streams.
//! * One that has ended, or on which the upstream has said `GOAWAY`, gets no request; what is
//!   under way on it goes on.
//! * What is unread of each answer is bounded, and an answer that is not read does not stop
//!   the others: the connection's window has room for all streams doing that at once.
//!
//! h2 has no way to hand out interim answers, so that those are skipped here.
//!
//! # What one answer can do to the others
//!
//! | what comes | the other streams of the connection |
//! |---|---|
//! | a header section that is larger, or has more fields, than the route allows; an ambiguous length | go on: that answer alone is 502 |
//! | pseudo-header fields that are repeated, missing or behind others, `Connection` and its like | go on: h2 resets that stream |
//! | a field whose name or value HTTP does not allow, such as a name in upper case | end: h2 takes it for broken HPACK (RFC 9113 §4.3), and does not let its users decide otherwise |
//! | a section of several times what the route allows, or in very many frames | end, for the same reason |
//!
//! The requests of streams that end so are sent again like those of any connection that has closed
//! without an answer. What `http2` repairs for clients is not repaired for upstreams:
//! a connection to one is used by this proxy alone, which is trusted to have a server
//! whose library does not let an application write such fields.

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

/// What the upstream may send on one stream before it is read.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// What it may send on all of them together: as much as Go's client allows, which is enough
/// for 4096 streams that nobody reads. The budget for small frames, too, is half of it (see
/// [`http2`](crate::downstream::http2)).
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;

/// What may wait to be sent on one stream.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long the upstream may be silent while streams are open before it is asked whether it
/// is there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How many connections may be open at a time.
const MAX_CONNECTIONS: usize = 8;

/// How many streams of one may be open at a time, where the upstream allows more.
const MAX_STREAMS: usize = (CONNECTION_WINDOW_BYTES / STREAM_WINDOW_BYTES) as usize;

/// How many streams are opened until the upstream has said how many it allows.
const INITIAL_STREAMS: usize = 1;

/// How many requests until then go to the connection: an upstream should allow as many
/// (RFC 9113 §6.5.2).
const EXPECTED_STREAMS: usize = 100;

/// How long no further connection is tried when the upstream has not taken one.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often it is looked for idle connections at most.
const MIN_IDLE: Duration = Duration::from_millis(100);

/// One worker's HTTP/2 connections to the upstream of one route.
#[derive(Debug, Default)]
pub struct Multiplexed {
    open: Rc<RefCell<Vec<Rc<SharedConnection>>>>,
    opening: Mutex<()>,
    /// When the upstream has last not taken another one.
    refused: Cell<Option<Instant>>,
}

/// A connection. Each of its streams holds on to it, which tells how many there are.
#[derive(Debug)]
struct SharedConnection {
    sender: http2::SendRequest<Upload>,
    /// How many an answer may have.
    max_headers: usize,
    /// Gone when it takes no more requests.
    driver: Weak<Driver>,
    /// Whether the upstream has answered on it, so that it has said what it allows.
    has_answered: Cell<bool>,
    /// Whether it has had a stream since that was last looked at.
    was_used: Cell<bool>,
}

type Driver = RefCell<http2::Connection<TokioIo<Transport>, Upload, LocalExecutor>>;

/// The place of one request on a connection, until it is dropped.
#[derive(Debug)]
pub struct StreamSlot(Rc<SharedConnection>);

impl Multiplexed {
    /// A stream on the connection that has the fewest, of those that have room for one.
    pub fn stream(&self) -> Option<StreamSlot> {
        self.fewest(SharedConnection::has_room)
    }

    /// A stream that waits in h2 for others to end.
    pub fn waiting_stream(&self) -> Option<StreamSlot> {
        self.fewest(|_| true)
    }

    /// Whether there may be another connection.
    pub fn may_open(&self) -> bool {
        let refused = self.refused.get();
        self.open.borrow().len() < MAX_CONNECTIONS
            && refused.is_none_or(|refused| refused.elapsed() >= RETRY_AFTER)
    }

    /// Notes that the upstream has not taken another connection.
    pub fn set_refused(&self) {
        self.refused.set(Some(Instant::now()));
    }

    /// Waits until nobody else is opening one.
    pub async fn lock(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().await
    }

    /// Makes a connection of `stream`, and opens the first of its streams.
    ///
    /// It ends when it has had none for the `idle_timeout` of `settings` and others are open.
    ///
    /// # Errors
    ///
    /// The preface could not be written.
    pub async fn open(
        &self,
        stream: Transport,
        settings: &HttpSettings,
    ) -> hyper::Result<StreamSlot> {
        // As h2 counts (RFC 9113 §6.5.2).
        let max_header_bytes = settings.response_limits.max_header_bytes;
        let (sender, driver) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_header_list_size(max_header_bytes)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
            // Until the upstream has said how many it allows: a stream too many is refused.
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
    /// How many streams there are, those that wait included.
    fn streams(self: &Rc<Self>) -> usize {
        // One reference is that of the list.
        Rc::strong_count(self) - 1
    }

    fn has_room(self: &Rc<Self>) -> bool {
        self.driver.upgrade().is_some_and(|driver| {
            let allowed = match driver.borrow().current_max_send_streams() {
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

/// Lets go of a connection that has had no stream for a while, unless it is the only one:
/// it ends when nobody can send on it any more.
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
        // The references are those of the list and of this function.
        let is_idle = Rc::strong_count(&shared) == 2 && !shared.was_used.replace(false);
        if is_idle && open.len() > 1 {
            open.retain(|other| !Rc::ptr_eq(other, &shared));
            return;
        }
    }
}

impl StreamSlot {
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
                // h2 reads an empty length as none, and two that are alike as one.
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
        // Whether only the stream has ended, or the connection, which then is about to say so;
        // and whoever has the body gives it up.
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
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        task::spawn_local(future);
    }
}
