//! The opening handshake with a client (RFC 6455 §4.2), and the session after it.
//!
//! The `101` is the proxy's own and does not wait for the upstream. hyper answers `101` to
//! whatever it is told to (`POST`, HTTP/1.0, a request with a body), so every check is here.

use std::{ops::Deref, pin::Pin, sync::Arc};

use futures_util::FutureExt;
use hyper::{
    HeaderMap, Method, Response, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Client, ClientAddr, Shared, body::Body, forwarded, headers, response::Refusal};
use crate::{
    route::Route,
    session,
    telemetry::access_log::{self, Origin},
    transport::Transport,
    upstream::{self, Attempts, OpeningRequest},
    websocket::{
        Opened,
        handshake::{VERSION, is_key, list},
    },
};

/// A handshake that a client has its `101` for.
#[derive(Debug)]
pub struct Accepted {
    route: Arc<Route>,
    /// The handshake that the upstream gets, once for all attempts.
    request: OpeningRequest,
    /// Where the client is, and the path that it asked for: for the log.
    client: ClientAddr,
    path: String,
}

/// Whether a request means to open a WebSocket.
///
/// One with an `Upgrade` that `Connection` does not name, or to another protocol, is plain
/// HTTP: the header is removed on the way (RFC 9110 §7.8).
#[must_use]
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, token: &str| {
        list(headers.get_all(name)).any(|element| element.eq_ignore_ascii_case(token))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// Checks a handshake, and makes the client's `101` and the request for the upstream.
///
/// # Errors
///
/// The request is not a valid handshake, its origin is not allowed, or the process drains
/// or has no room for what the session would hold.
pub fn accept(
    request: &Parts,
    client: Client,
    route: &Arc<Route>,
    context: &session::Context,
) -> Result<(Response<Body>, Accepted), Refusal> {
    let key = check_handshake(request)?;
    check_origin(&request.headers, &route.origins)?;
    if context.drain.is_cancelled() {
        return Err(Refusal::Unavailable("draining"));
    }
    if context.budget.is_exhausted() {
        return Err(Refusal::Unavailable("too much is held"));
    }
    let subprotocol = choose_subprotocol(&request.headers, &route.subprotocols)?;

    let response = switching_protocols(key, subprotocol);
    let accepted = Accepted {
        route: Arc::clone(route),
        request: upstream_request(request, client, route, subprotocol),
        client: client.address,
        path: request.uri.path().to_owned(),
    };
    Ok((response, accepted))
}

/// The session settings of a route, kept alive with it.
#[derive(Clone)]
struct RouteSettings(Arc<Route>);

impl Deref for RouteSettings {
    type Target = session::Settings;

    fn deref(&self) -> &Self::Target {
        &self.0.session
    }
}

/// What a session shares with the process, kept alive with all that connections share.
#[derive(Clone)]
struct SharedContext(Arc<Shared>);

impl Deref for SharedContext {
    type Target = session::Context;

    fn deref(&self) -> &Self::Target {
        &self.0.session
    }
}

/// The session of an accepted client; the connection is closed when it ends.
///
/// The request for the upstream belongs to `connect`, which the session drops when it will
/// not connect again.
pub fn session(
    opened: Opened<Transport>,
    accepted: Accepted,
    shared: Arc<Shared>,
) -> Pin<Box<impl Future<Output = ()>>> {
    let Accepted {
        route,
        request,
        client,
        path,
    } = accepted;
    let connect = {
        let route = Arc::clone(&route);
        async move |attempts: &Attempts| {
            upstream::connect(&route.upstream, &request, attempts).await
        }
    };
    let settings = RouteSettings(Arc::clone(&route));
    let session = session::run(opened, connect, settings, SharedContext(shared));
    // Not an `async` block, which would have room for the session twice.
    Box::pin(session.map(move |report| {
        let client = client.to_string();
        let origin = Origin {
            client: &client,
            path: &path,
            route: &route.path,
        };
        access_log::session_ended(&report, origin);
    }))
}

/// Checks what RFC 6455 §4.2.1 demands of the request and returns its key.
fn check_handshake(request: &Parts) -> Result<&HeaderValue, Refusal> {
    let headers = &request.headers;
    if request.method != Method::GET {
        return Err(Refusal::MethodNotAllowed { allow: "GET" });
    }
    if request.version != Version::HTTP_11 {
        return Err(Refusal::BadRequest("a WebSocket needs HTTP/1.1"));
    }
    // A client that also offers something else could take the 101 for that.
    if !only(headers, &header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    {
        return Err(Refusal::BadRequest("Upgrade must be websocket alone"));
    }
    // Bytes of a body would be read as frames.
    if headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0")
        || headers.contains_key(header::EXPECT)
    {
        return Err(Refusal::BadRequest("a WebSocket handshake has no body"));
    }
    if only(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(Refusal::WrongVersion);
    }
    only(headers, &header::SEC_WEBSOCKET_KEY)
        .filter(|key| is_key(key.as_bytes()))
        .ok_or(Refusal::BadRequest("illegal Sec-WebSocket-Key"))
}

/// The value of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Checks where the page that opens the WebSocket comes from (RFC 6455 §10.2): browsers do
/// not apply the same-origin policy to them.
///
/// An origin is a scheme, a host and a port, all of which compare without case.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next();
    if origins.next().is_some() {
        return Err(Refusal::BadRequest("more than one Origin"));
    }
    let is_allowed = |origin: &HeaderValue| {
        allowed
            .iter()
            .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
    };
    if allowed.is_empty() || origin.is_some_and(is_allowed) {
        Ok(())
    } else {
        // In its escaped form: what a client sends does not write lines of the log.
        tracing::debug!(?origin, "origin not allowed");
        Err(Refusal::OriginNotAllowed)
    }
}

/// The first of the route's subprotocols that the client offered; when the route names
/// none, the client's first offer, for browsers fail when their offers get no answer.
fn choose_subprotocol<'a>(
    headers: &'a HeaderMap,
    configured: &[String],
) -> Result<Option<&'a str>, Refusal> {
    let lines = || headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    if lines().any(|line| line.to_str().is_err()) {
        return Err(Refusal::BadRequest("illegal Sec-WebSocket-Protocol"));
    }
    let mut offers = list(lines());
    if configured.is_empty() {
        return Ok(offers.next());
    }
    let offers: Vec<_> = offers.collect();
    let known = configured
        .iter()
        .find_map(|known| offers.iter().find(|offer| *offer == known));
    Ok(known.copied())
}

fn switching_protocols(key: &HeaderValue, subprotocol: Option<&str>) -> Response<Body> {
    let accept = derive_accept_key(key.as_bytes());
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept).expect("base64 is visible ASCII"),
    );
    if let Some(subprotocol) = subprotocol {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_str(subprotocol).expect("it came in a header of visible ASCII"),
        );
    }
    response
}

/// The handshake for the upstream: the client's own target and end-to-end headers, with
/// its credentials and its whole list of subprotocols, in which some carry tokens.
fn upstream_request(
    request: &Parts,
    client: Client,
    route: &Route,
    subprotocol: Option<&str>,
) -> OpeningRequest {
    let target = request
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut headers = headers::of_handshake(&request.headers);
    let host = request.headers[header::HOST].to_str().unwrap_or_default();
    forwarded::set(&mut headers, &request.headers, client, host);
    let request = OpeningRequest::new(target, &headers, subprotocol.map(str::to_owned));
    match &*route.upstream.preamble(client.source(), client.server) {
        [] => request,
        preamble => request.behind(preamble),
    }
}
