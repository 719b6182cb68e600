//! A connection that speaks HTTP/2: concurrent requests, each of which may become a session.
//!
//! A WebSocket is opened by an extended `CONNECT` (RFC 8441). Its stream then takes the place of
//! an HTTP/1.1 connection: the same session runs on it, in a task of its own on the same worker.
//!
//! # Invariants
//!
//! * The connection is served until the last of its streams and of their sessions has ended, so
//!   that it counts against the limits for as long as any of them.
//! * Memory that one client can make the proxy keep is bounded: streams, header sections, unread
//!   bytes of each stream, unsent bytes of each stream, and requests that it cancels.
//! * While memory is short, a connection that has unread streams is not read ([`gated_io`]): its
//!   client's bytes then wait in the socket.
//! * A session counts like a connection of its own, and no connection has more sessions than
//!   streams: a session may outlive the reset of its stream, which makes room for another stream
//!   but not for another session.
//!
//! # Flow control
//!
//! A client that is held, or whose upstream is slow, is not read; its stream's window fills up
//! and it stops. The connection's window has room for all streams doing that at once, so that
//! they do not stop the others.
//!
//! Small frames are the exception. The h2 crate charges an unread `DATA` frame of less than 256
//! bytes as 256 against a budget of half the connection's window; when that is used up, it ends
//! the connection and all of its streams with `ENHANCE_YOUR_CALM`. The window is therefore larger
//! than the streams need. Still only about seven streams, two where memory is small, can be full
//! of the smallest messages; where memory is small, one stream full of one-byte frames is too
//! many.
//!
//! # Isolation of streams
//!
//! A proxy puts many clients on one connection, and bytes of one of them must not end it for the
//! others. The table lists every way in which h2 and hyper end a connection because of one of its
//! streams:
//!
//! | the client sends | the connection |
//! |---|---|
//! | a header section that breaks the rules of HTTP, or is too large | continues: [`heads`] |
//! | a field that is longer than 64 KiB on the wire and in several frames, or a section of 256 KiB or in 65 frames | ends: a sender of such frames has no bound of its own |
//! | `CONNECT` with content | continues: [`heads`] |
//! | requests that are reset before they are processed | continues for as many as there may be streams at once; a flood ends it |
//! | requests that are cancelled | continues if they lasted [a while](stream_accounting), or as many are answered; ends after 200 otherwise |
//! | more than 1024 streams that h2 resets: a body that is not as long as it says, a window that overflows | ends: translators of HTTP/1.1 make no such frames |
//! | small frames that are not read: of a session whose queue is full, or whose upstream reads nothing | ends, see above; hyper does not expose h2's budget, and without one each such frame would cost some 300 bytes of memory |
//! | bytes that are not read while memory is short | ends after 5 s, see [`gated_io`] |
//! | frames that HTTP/2 does not allow: after the end of a stream, beyond a window, a section that is not HPACK, more than 100 empty `DATA` frames | ends (RFC 9113 §5.4.1): the fault is in the peer's framing, not in one client's request |
//!
//! The response to a request, and any failure of it, concerns its stream alone.

mod gated_io;
mod heads;
mod hpack;
mod request;
mod stall_timeout;
mod stream_accounting;

use std::{convert::Infallible, ops::RangeInclusive, pin::pin, rc::Rc, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    ext,
    rt::Executor,
    server::conn::http2,
    service::{HttpService, service_fn},
    upgrade::{OnUpgrade, on as on_upgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, task, time};

use self::{
    gated_io::Handle,
    stream_accounting::{Activity, Counted, Session, StreamAccount},
};
use super::{ClientConnection, detect::Sniffed, http1, request_log::RequestLog};
use crate::{
    handshake::{self, accept::Accepted},
    headers::hop_by_hop,
    limits::{drain::Drain, open_connections::SessionPlace},
    local_reply::{LocalReply, rejections::Dropped},
    observability::error_chain::{self, ErrorChain},
    proxy::{bodies::Body, client_side::Downstream, forward},
    state::process::ProcessState,
    transport::{
        Http2Stream, Transport,
        backlog::{Backlog, Unread},
    },
    websocket::Opened,
};

/// Bytes that a client may send on one stream before it is read.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// Range of the smallest connection window, whatever the number of streams; half of a window is
/// h2's budget for small frames.
///
/// A stream full of a WebSocket's smallest messages, 7 bytes each, takes 2.3 MB of the budget,
/// and some 3 MB of memory. Within the range it is a fixed part of the limit on memory; without
/// such a limit it is the upper end.
const CONNECTION_WINDOW_BYTES: RangeInclusive<u32> = 10 * 1024 * 1024..=32 * 1024 * 1024;
const CONNECTION_WINDOW_PART: u64 = 32;

/// Bytes that may wait to be sent on one stream.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Longest header section, counted as RFC 9113 §6.5.2 does: names, values, and 32 bytes for each
/// field. With indexed fields a few bytes on the wire can stand for far more.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;

/// Interval of `PING` frames, and the time that a client has to acknowledge one.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for the last frames of a connection to go out, and for its write side to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves requests and the sessions that they become, until the connection ends.
pub(crate) async fn serve(stream: Sniffed, connection: ClientConnection) {
    let client = connection.client;
    let shared = Arc::clone(&connection.local.shared);
    let limits = shared.config().limits.clone();
    let activity = Rc::new(Activity::default());
    let backlog = Arc::<Backlog>::default();
    let requests = Rc::new(Http2Service {
        connection,
        activity: Rc::clone(&activity),
        backlog: Arc::clone(&backlog),
    });

    let stream = Handle::new(stream, Arc::clone(&backlog), Arc::clone(&shared));
    let executor = OnThisThread {
        write_timeout: limits.write_timeout,
        backlog,
        shared: Arc::clone(&shared),
    };
    let max_memory_bytes = shared.memory().used_and_max_bytes().map(|(_, max)| max);
    let http = builder(limits.max_streams, max_memory_bytes, executor).serve_connection(
        // The second handle keeps the stream for the graceful close below.
        TokioIo::new(stream.clone()),
        service_fn(move |request| respond(Rc::clone(&requests), request)),
    );
    let ended = run(
        http,
        &activity,
        (limits.header_timeout, limits.keep_alive_timeout),
        &shared.session.drain,
    )
    .await;
    if let Err(error) = ended {
        if let Some(rejection) = error.rejection() {
            shared.rejections.count_dropped(rejection);
        }
        tracing::debug!(%client, %error, "connection ended");
    }
    // Closing a socket with unread bytes resets the connection, and a reset might discard the
    // last response; even a client that has read it may still send frames.
    if let Some(mut stream) = stream.into_inner() {
        let _ = time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
        http1::linger(stream).await;
    }
    // Sessions may outlive their streams, and count against the limits until they end.
    activity.ended().await;
}

/// Why a connection was forcibly closed.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("{}", ErrorChain(.0))]
    Failed(#[from] hyper::Error),
    #[error("the client does not close it")]
    StaysOpen,
    #[error("the client has cancelled too many requests")]
    TooManyCancelled,
}

impl Cut {
    /// The rejection to be counted; `None` when the client has done nothing wrong.
    fn rejection(&self) -> Option<Dropped> {
        match self {
            Self::TooManyCancelled => Some(Dropped::CancelledRequests),
            Self::Failed(error) => error_chain::is_flood(error).then_some(Dropped::Http2Abuse),
            Self::StaysOpen => None,
        }
    }
}

/// Runs hyper's side of a connection to its end.
///
/// On drain, or when idle for too long, the connection is asked to end with `GOAWAY`; it is
/// forcibly closed when it does not end within `header_timeout` then, or cancels too much.
async fn run<S>(
    http: http2::Connection<TokioIo<Handle>, S, OnThisThread>,
    activity: &Activity,
    (header_timeout, keep_alive_timeout): (Duration, Duration),
    drain: &Drain,
) -> Result<(), Cut>
where
    S: HttpService<Incoming, ResBody = Counted<Body>, Error = Infallible>,
    S::Future: 'static,
{
    let mut http = pin!(http);
    let mut is_ending = false;
    loop {
        // After `GOAWAY` an idle client has only the time of a head to close the connection.
        let next = if is_ending {
            header_timeout
        } else {
            keep_alive_timeout
        };
        tokio::select! {
            ended = &mut http => return Ok(ended?),
            () = drain.begun(), if !is_ending => {}
            () = activity.idle_for(header_timeout, next) => {
                if is_ending {
                    return Err(Cut::StaysOpen);
                }
            }
            () = activity.too_many_cancelled() => {
                return Err(Cut::TooManyCancelled);
            }
        }
        http.as_mut().graceful_shutdown();
        is_ending = true;
    }
}

fn builder(
    max_streams: u32,
    max_memory_bytes: Option<u64>,
    executor: OnThisThread,
) -> http2::Builder<OnThisThread> {
    let part = max_memory_bytes.map_or(u64::MAX, |bytes| bytes / CONNECTION_WINDOW_PART);
    let part = u32::try_from(part).unwrap_or(u32::MAX);
    let least = part.clamp(
        *CONNECTION_WINDOW_BYTES.start(),
        *CONNECTION_WINDOW_BYTES.end(),
    );
    let windows = STREAM_WINDOW_BYTES.saturating_mul(max_streams);
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(max_streams)
        // Clients that share the connection may all leave at once.
        .max_pending_accept_reset_streams(Some(max_streams as usize))
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(windows.clamp(least, MAX_WINDOW_BYTES))
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Largest window that HTTP/2 allows (RFC 9113 §6.9.1).
const MAX_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Spawns hyper's task of each stream on the connection's own thread, and drops it when its
/// client exceeds `write_timeout`.
#[derive(Clone)]
struct OnThisThread {
    write_timeout: Duration,
    backlog: Arc<Backlog>,
    shared: Arc<ProcessState>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        let Self {
            write_timeout,
            backlog,
            shared,
        } = self.clone();
        task::spawn_local(async move {
            // A connection that is not read hides the window updates of its client.
            let is_heard = || !backlog.is_waited_for();
            if !stall_timeout::run(future, write_timeout, is_heard).await {
                shared.rejections.count_dropped(Dropped::WriteTimeout);
            }
        });
    }
}

/// State that the requests of one connection share.
struct Http2Service {
    connection: ClientConnection,
    activity: Rc<Activity>,
    backlog: Arc<Backlog>,
}

async fn respond(
    requests: Rc<Http2Service>,
    request: Request<Incoming>,
) -> Result<Response<Counted<Body>>, Infallible> {
    // Dropped with this future when the client cancels the request.
    let stream = StreamAccount::request(&requests.activity);
    let meter = requests.connection.meter(&request);
    let answer = requests.answer(request, &meter).await;
    let response =
        answer.unwrap_or_else(|refusal| of_http2(requests.connection.refuse(refusal, &meter)));
    Ok(stream.answer(meter.answered(response)))
}

/// Adapts a local reply to HTTP/2: no connection-specific fields, and `400` for a `426`, which
/// means nothing without them (RFC 9113 §8.2.2 and §8.6).
fn of_http2(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers = hop_by_hop::of_response(parts.headers);
    if parts.status == StatusCode::UPGRADE_REQUIRED {
        parts.status = StatusCode::BAD_REQUEST;
    }
    Response::from_parts(parts, body)
}

impl Http2Service {
    async fn answer(
        &self,
        request: Request<Incoming>,
        meter: &RequestLog,
    ) -> Result<Response<Body>, LocalReply> {
        let mut request = request::check(request)?;
        if request.method() == Method::CONNECT {
            return self.connect(request, meter).await;
        }
        let route = self.connection.route(&mut request, meter)?;
        let downstream = Downstream {
            client: meter.client(),
            // Bodies cannot be framed in two ways in HTTP/2.
            is_body_broken: None,
            // hyper drops the future of a request that the client cancels.
            is_gone: &|| false,
            set_held: &|_| {},
            // hyper's server cannot send interim responses over HTTP/2.
            send_interim: &|_| {},
            backlog: Some(&self.backlog),
            binding: None,
        };
        forward::forward(request, downstream, &route, &self.connection.local).await
    }

    /// Responds to an extended `CONNECT` (RFC 8441 §4), and starts the session on its stream.
    async fn connect(
        &self,
        mut request: Request<Incoming>,
        meter: &RequestLog,
    ) -> Result<Response<Body>, LocalReply> {
        let Some(protocol) = request.extensions().get::<ext::Protocol>() else {
            return Err(LocalReply::MethodNotAllowed {
                allow: forward::METHODS,
            });
        };
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Err(LocalReply::UnknownProtocol);
        }
        let local = &self.connection.local;
        let client = meter.client();
        let route = self.connection.route(&mut request, meter)?;
        meter.set_handshake();
        // Acquired before the upstream is asked: a session over the limits must not reach it.
        let places = self.admit_session()?;
        let upgraded = on_upgrade(&mut request);
        let unread = Unread::begin(&self.backlog);
        let (parts, _body) = request.into_parts();
        // hyper drops the future of a stream that the client cancels.
        let answer = handshake::answer(&parts, client, &route, local, None, None);
        let (response, accepted) = answer.await?;
        match accepted {
            Some(accepted) => {
                meter.set_session();
                task::spawn_local(self.session(upgraded, unread, accepted, places));
            }
            // A `200` to a handshake of HTTP/1.1 is a rejection; a client of HTTP/2 would read it
            // as success.
            None if response.status().is_success() => return Err(LocalReply::BadGateway),
            None => {}
        }
        Ok(response)
    }

    /// Slots for one more session: on its connection, and in the process.
    fn admit_session(&self) -> Result<(Session, SessionPlace), LocalReply> {
        let shared = &self.connection.local.shared;
        let limits = shared.config().limits.clone();
        let session = Session::begin(&self.activity, limits.max_streams)
            .ok_or(LocalReply::ConnectionSessions)?;
        let place = shared
            .connections
            .admit_session(limits.max_connections)
            .ok_or(LocalReply::Connections)?;
        Ok((session, place))
    }

    fn session(
        &self,
        upgraded: OnUpgrade,
        unread: Unread,
        accepted: Accepted,
        places: (Session, SessionPlace),
    ) -> impl Future<Output = ()> + use<> {
        let local = Rc::clone(&self.connection.local);
        async move {
            let _places = places;
            // The client left before its response, so that no session ever was.
            let Ok(upgraded) = upgraded.await else {
                return;
            };
            let opened = Opened {
                stream: Transport::Http2(Box::new(Http2Stream::new(upgraded, unread))),
                read_buf: bytes::Bytes::new(),
            };
            Box::pin(handshake::accept::session(opened, accepted, &local)).await;
        }
    }
}
