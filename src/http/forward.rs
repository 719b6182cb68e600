//! Plain HTTP: a request to the upstream and its response back, both as they come.
//!
//! ```text
//!  dial ──► send ──► response
//!   ▲ │
//!   └─┘ held: the upstream does not listen yet
//! ```
//!
//! # Invariants
//!
//! * A request is held only before anything of it has been written; after that it is never
//!   sent a second time.
//! * A request whose client has left while it was held does not reach the upstream.
//! * No upgrade is forwarded, and a `101` that nobody asked for is not passed on.
//! * One connection to the upstream serves one request.

use std::sync::Arc;

use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderMap},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task, time,
};

use super::{Client, body::Body, forwarded, headers, response::Refusal, target};
use crate::{
    route::{Route, Routes},
    transport::Transport,
    upstream::{backoff::Backoff, dial::dial},
};

/// The longest header section of an upstream's response in bytes.
const MAX_RESPONSE_HEADER_BYTES: usize = 64 * 1024;

/// What a `405` to another method names.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// How many requests each route may still hold.
#[derive(Debug)]
pub struct HeldRequests(Vec<(Arc<Route>, Semaphore)>);

impl HeldRequests {
    /// No request is held for any of `routes` yet.
    #[must_use]
    pub fn new(routes: &Routes) -> Self {
        let places = |route: &Arc<Route>| {
            let places = route.http.max_held_requests.min(Semaphore::MAX_PERMITS);
            (Arc::clone(route), Semaphore::new(places))
        };
        Self(routes.iter().map(places).collect())
    }

    /// A place for one more request, until it is dropped.
    fn enter(&self, route: &Arc<Route>) -> Result<SemaphorePermit<'_>, Refusal> {
        self.0
            .iter()
            .find(|(known, _)| Arc::ptr_eq(known, route))
            .and_then(|(_, places)| places.try_acquire().ok())
            .ok_or(Refusal::Unavailable("too many requests are waiting"))
    }
}

/// Sends one request to the route's upstream and returns the response.
///
/// `is_client_gone` is asked while the request is held.
///
/// # Errors
///
/// A method or expectation that is not for a reverse proxy, no place to wait, or no
/// response.
///
/// # Cancel safety
///
/// Dropping the future closes the connection to the upstream.
pub async fn forward(
    request: Request<Incoming>,
    client: Client,
    route: &Arc<Route>,
    held: &HeldRequests,
    is_client_gone: impl Fn() -> bool,
) -> Result<Response<Body>, Refusal> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::MethodNotAllowed { allow: METHODS });
    }
    check_expectation(request.headers())?;
    let request = upstream_request(request, client)?;

    let stream = dial_until_it_listens(route, held, is_client_gone).await?;

    let response = send(stream, request).await.map_err(|error| {
        tracing::debug!(%client, %error, "upstream failed");
        Refusal::BadGateway
    })?;
    // Whoever asked for no upgrade cannot tell its bytes from HTTP.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::BadGateway);
    }
    Ok(downstream_response(response))
}

/// hyper answers `Expect: 100-continue` when the body is first read, that is when the
/// upstream is there to take it.
fn check_expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_known = headers
        .get_all(header::EXPECT)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_known {
        Ok(())
    } else {
        Err(Refusal::UnknownExpectation)
    }
}

/// The request as the upstream gets it: the same target in origin form (RFC 9112 §3.2.1),
/// the end-to-end headers, and where it came from.
fn upstream_request(
    request: Request<Incoming>,
    client: Client,
) -> Result<Request<Incoming>, Refusal> {
    let mut headers = headers::of_request(request.headers());
    forwarded::set(
        &mut headers,
        request.headers(),
        client,
        target::host(&request)?,
    );
    let (mut parts, body) = request.into_parts();
    parts.uri = parts
        .uri
        .path_and_query()
        .map_or_else(|| Uri::from_static("/"), |target| target.clone().into());
    parts.version = Version::HTTP_11;
    parts.headers = headers;
    Ok(Request::from_parts(parts, body))
}

/// Connects, and as long as the upstream does not listen holds the request.
async fn dial_until_it_listens(
    route: &Arc<Route>,
    held: &HeldRequests,
    is_client_gone: impl Fn() -> bool,
) -> Result<Transport, Refusal> {
    let deadline = time::Instant::now() + route.http.hold_timeout;
    if let Ok(stream) = dial(&route.upstream, b"").await {
        return Ok(stream);
    }
    let _place = held.enter(route)?;
    let mut backoff = Backoff::new(&route.upstream.retry);
    let dialled = time::timeout_at(deadline, async {
        loop {
            time::sleep(backoff.next(rand::random())).await;
            // hyper notices a client that leaves, but not behind a body that it has not read.
            if is_client_gone() {
                return Err(Refusal::ClientGone);
            }
            match dial(&route.upstream, b"").await {
                Ok(_) if is_client_gone() => return Err(Refusal::ClientGone),
                Ok(stream) => return Ok(stream),
                Err(error) => tracing::trace!(%error, "upstream does not listen"),
            }
        }
    });
    dialled.await.unwrap_or(Err(Refusal::GatewayTimeout))
}

async fn send(stream: Transport, request: Request<Incoming>) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::Builder::new()
        .max_header_size(MAX_RESPONSE_HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    // It ends with the response's body, or when the client stops taking it.
    task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to upstream ended");
        }
    });
    sender.send_request(request).await
}

fn downstream_response(response: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers = headers::of_response(&parts.headers);
    parts.version = Version::HTTP_11;
    // What hyper's client noted there (the reason phrase) is for its server to read.
    Response::from_parts(parts, Body::from(body))
}
