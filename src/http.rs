//! One downstream connection: find the route, then upgrade or forward.
//!
//! ```text
//!  request ──► strict framing, host, route ──┬── WebSocket? ──► 101 ──► session
//!                 └── Refusal ◄──────────────┴── else ────────► forward
//! ```
//!
//! # Invariants
//!
//! * hyper's parser is lenient; what it lets pass and two parsers may read differently is
//!   refused by [`framing`], never repaired.
//! * After the `101` nothing of HTTP is left: the session gets the transport and the bytes
//!   that were read beyond the head, and the connection is closed when it ends.
//! * What goes upstream is written anew from the parsed request; raw header bytes of a
//!   client never are.

pub mod body;
pub mod forward;
pub mod framing;
pub mod headers;
pub mod response;
pub mod target;
pub mod upgrade;
mod watched;

use std::{
    cell::RefCell, convert::Infallible, fmt, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, time};
use tokio_util::sync::CancellationToken;

use self::{
    body::Body, forward::HeldRequests, response::Refusal, upgrade::Accepted, watched::Watched,
};
use crate::{
    config::Config,
    session::{self, Budget},
    transport::Transport,
    websocket::Opened,
};

/// How long a client that has got its last answer may go on sending.
const LINGER: Duration = Duration::from_secs(1);

/// Where a client connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddr {
    /// Over TCP; an IPv4 address is never in its IPv6 form.
    Tcp(SocketAddr),
    /// Over a Unix domain socket, where clients have no address.
    Unix,
}

impl From<SocketAddr> for ClientAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix => formatter.write_str("unix"),
        }
    }
}

/// Whether the process has room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Admitted,
    /// It is over the limit: it only gets a `503`.
    OverLimit,
}

/// What all connections of the process share.
#[derive(Debug)]
pub struct Shared {
    config: Arc<Config>,
    session: session::Context,
    held: HeldRequests,
}

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Local {
    shared: Arc<Shared>,
}

impl Local {
    /// The state of a worker that has served nothing yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self { shared })
    }
}

impl Shared {
    /// The shared state of a process that runs `config` until `drain` is cancelled.
    #[must_use]
    pub fn new(config: Arc<Config>, drain: CancellationToken) -> Self {
        Self {
            session: session::Context {
                budget: Arc::new(Budget::new(config.limits.max_held_bytes)),
                drain,
                drain_grace: config.drain_grace,
            },
            held: HeldRequests::new(&config.routes),
            config,
        }
    }
}

/// Serves one connection to its end.
///
/// HTTP is served in a box of its own which is gone before a session starts: a session,
/// which may last for hours, does not carry hyper's buffers.
pub fn serve(
    stream: Transport,
    client: ClientAddr,
    admission: Admission,
    local: &Rc<Local>,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::clone(&local.shared);
    let http = Box::pin(serve_http(stream, client, admission, Rc::clone(local)));
    async move {
        if let Some((opened, accepted)) = http.await {
            upgrade::run_session(opened, accepted, client, shared).await;
        }
    }
}

/// Serves requests until the connection ends, or a client has its `101`.
async fn serve_http(
    stream: Transport,
    client: ClientAddr,
    admission: Admission,
    local: Rc<Local>,
) -> Option<(Opened<Transport>, Accepted)> {
    let shared = &local.shared;
    let limits = &shared.config.limits;
    let stream = Watched::new(stream, limits.max_header_bytes);
    let connection = Rc::new(Connection {
        client,
        admission,
        stream: stream.clone(),
        accepted: RefCell::new(None),
        local: Rc::clone(&local),
    });

    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.max_header_bytes)
        .serve_connection(
            TokioIo::new(stream),
            service_fn({
                let connection = Rc::clone(&connection);
                move |request| respond(Rc::clone(&connection), request)
            }),
        );
    let ended = run_until_drained(&mut http, &shared.session.drain).await;

    let parts = http.into_parts();
    let stream = parts.io.into_inner();
    drop(parts.service);
    let accepted = connection.accepted.take();
    drop(connection);
    let mut stream = stream.into_inner()?;
    match (ended, accepted) {
        (Ok(()), Some(accepted)) => {
            let read_buf = parts.read_buf;
            return Some((Opened { stream, read_buf }, accepted));
        }
        (Err(error), _) if error.is_timeout() && !parts.read_buf.is_empty() => {
            // The client is slow to read, too, if it does not take these few bytes at once.
            let _ = stream.write_all(response::REQUEST_TIMEOUT).await;
        }
        (Err(error), _) => tracing::debug!(%client, %error, "connection ended"),
        (Ok(()), None) => {}
    }
    close(stream, &shared.session.drain).await;
    None
}

/// Closes a connection so that the client can still read the last answer.
///
/// Closing while there are unread bytes, say of a body that was refused, resets the
/// connection and takes the answer with it (RFC 9112 §9.6). So the client is told that
/// nothing more comes, and what it still sends is read for a moment.
async fn close(stream: Transport, drain: &CancellationToken) {
    let mut stream = stream;
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut nowhere = tokio::io::sink();
    let rest = time::timeout(LINGER, tokio::io::copy(&mut stream, &mut nowhere));
    let _ = drain.run_until_cancelled(rest).await;
}

/// Runs hyper's side of a connection; on drain it ends after the response under way.
async fn run_until_drained<S>(
    http: &mut http1::Connection<TokioIo<Watched>, S>,
    drain: &CancellationToken,
) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Unpin,
{
    tokio::select! {
        ended = std::future::poll_fn(|context| http.poll_without_shutdown(context)) => return ended,
        () = drain.cancelled() => Pin::new(&mut *http).graceful_shutdown(),
    }
    std::future::poll_fn(|context| http.poll_without_shutdown(context)).await
}

/// What the requests of one connection share.
struct Connection {
    client: ClientAddr,
    admission: Admission,
    stream: Watched,
    /// Set with the `101`.
    accepted: RefCell<Option<Accepted>>,
    local: Rc<Local>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

fn respond(connection: Rc<Connection>, request: Request<Incoming>) -> Answer {
    Box::pin(async move {
        let answer = connection.answer(request).await;
        Ok(answer.unwrap_or_else(|refusal| {
            tracing::debug!(client = %connection.client, %refusal, "request refused");
            refusal.into_response()
        }))
    })
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        self.stream.next_verdict().map_err(Refusal::BadRequest)?;
        if self.admission == Admission::OverLimit {
            return Err(Refusal::Unavailable("too many connections"));
        }
        let host = target::host(&request)?;
        target::check_path(request.uri().path())?;
        let shared = &self.local.shared;
        let route = shared
            .config
            .routes
            .find(host, request.uri().path())
            .ok_or(Refusal::NoRoute)?;

        if upgrade::is_websocket(request.headers()) {
            let (parts, _body) = request.into_parts();
            let (response, accepted) =
                upgrade::accept(&parts, self.client, route, &shared.session)?;
            *self.accepted.borrow_mut() = Some(accepted);
            return Ok(response);
        }
        forward::forward(request, self.client, route, &shared.held, || {
            self.stream.is_hung_up()
        })
        .await
    }
}
