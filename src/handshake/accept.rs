//! The opening handshake with a client (RFC 6455 §4.2, and RFC 8441 over HTTP/2), and the session
//! after it.
//!
//! The `101`, which over HTTP/2 is a `200`, is the proxy's own and does not wait for the
//! upstream, unless the route says so, or only the upstream can tell the right answer for this
//! client ([`after_upstream`](super::after_upstream)). hyper answers `101` to whatever it is told to (`POST`, HTTP/1.0,
//! a request with a body), so every check is here.

use std::{cell::Cell, ops::Deref, rc::Rc, sync::Arc};

use futures_util::FutureExt;
use hyper::{
    HeaderMap, Method, Response, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    client_addr::{Client, ClientAddr},
    headers::{forwarded, hop_by_hop, request_id::RequestId},
    limits::per_ip::AddressPlace,
    local_reply::LocalReply,
    proxy::bodies::Body,
    route::{Accept, Route, Subprotocol},
    session::{self, Agreed, SessionStats},
    state::{
        process::ProcessState,
        worker::{
            WorkerState,
            sessions::{self, LiveSession, SessionEntry},
        },
    },
    transport::Transport,
    upstream::{self, Attempts, ConnectError, OpeningRequest, Terms},
    websocket::{
        Opened,
        handshake::{VERSION, is_key, list},
        spelling::Spelling,
    },
};

/// Connection to an upstream that has accepted the client.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) upstream: Opened<Transport>,
    pub(crate) attempts: Attempts,
}

/// A handshake whose client gets a `101`.
#[derive(Debug)]
pub struct Accepted {
    route: Arc<Route>,
    /// The handshake for the upstream, the same for all attempts.
    request: OpeningRequest,
    /// Address of the client and the path that it requested, for the log.
    client: ClientAddr,
    path: String,
    /// The session's own slot of its address, behind a trusted proxy or over HTTP/2.
    place: Option<AddressPlace>,
    /// Version of HTTP and id of the request, for the log.
    version: Version,
    identity: RequestId,
    /// Results of the negotiation.
    agreed: Agreed,
    /// Connection to the upstream if that was asked first.
    connected: Option<Box<Connected>>,
}

impl Accepted {
    /// Accepts a client for which the upstream has accepted `connected`; `request` serves further
    /// connections to it.
    pub(crate) fn connected(
        route: &Arc<Route>,
        request: OpeningRequest,
        client: Client,
        handshake: &Parts,
        (agreed, connected): (Agreed, Connected),
        place: Option<AddressPlace>,
    ) -> Self {
        Self {
            route: Arc::clone(route),
            request,
            client: client.address,
            path: handshake.uri.path().to_owned(),
            place,
            version: handshake.version,
            identity: RequestId::tagged(&handshake.headers),
            agreed,
            connected: Some(Box::new(connected)),
        }
    }
}

/// Returns whether a request asks for a WebSocket.
///
/// A request with an `Upgrade` that `Connection` does not name, or to another protocol, is plain
/// HTTP: the header is removed on the way (RFC 9110 §7.8).
#[must_use]
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, token: &str| {
        list(headers.get_all(name)).any(|element| element.eq_ignore_ascii_case(token))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// The terms of an answer that does not wait for the upstream.
pub(super) struct Early {
    terms: Terms,
    opening: OpeningRequest,
}

impl Early {
    /// Returns `None` if only the upstream knows which subprotocol it will choose, or if it
    /// recently rejected such a handshake.
    pub(super) fn of(
        request: &Parts,
        client: Client,
        route: &Arc<Route>,
        shared: &ProcessState,
    ) -> Result<Option<Self>, LocalReply> {
        let offers: Vec<_> = offered_subprotocols(&request.headers)?.collect();
        let path = request.uri.path();
        let subprotocol = match shared.subprotocols.choose(route, path, &offers) {
            Subprotocol::None => None,
            Subprotocol::Named(named) => Some(named.to_owned()),
            Subprotocol::Upstreams => return Ok(None),
        };
        let terms = Terms {
            subprotocol,
            compression: None,
        };
        let opening = upstream_request(request, client, route, |target, headers| {
            OpeningRequest::new(target, headers, terms.subprotocol.clone())
        });
        let is_refused = shared.refusals.include(route, &opening);
        Ok((!is_refused).then_some(Self { terms, opening }))
    }

    pub(super) fn accept(
        self,
        handshake: &Handshake<'_>,
        request: &Parts,
        client: Client,
        route: &Arc<Route>,
        shared: &ProcessState,
    ) -> Result<(Response<Body>, Accepted), LocalReply> {
        // Limits first: a client over one does not take a permit of a half-open breaker.
        let place = shared.admit_session(client, request.version)?;
        let agreed = Agreed {
            trial: shared.endpoints.of(route).admit()?,
            ..Agreed::default()
        };
        let accepted = Accepted {
            route: Arc::clone(route),
            request: self.opening,
            client: client.address,
            path: request.uri.path().to_owned(),
            place,
            version: request.version,
            identity: RequestId::tagged(&request.headers),
            agreed,
            connected: None,
        };
        let response = handshake.accept(&self.terms, HeaderMap::new());
        Ok((response, accepted))
    }
}

/// Checks a handshake without regard to the state of the process, and chooses its subprotocol.
///
/// # Errors
///
/// The request is not a valid handshake, or its origin is not allowed.
pub fn judge<'a>(request: &'a Parts, route: &Route) -> Result<Subprotocol<'a>, LocalReply> {
    check_handshake(request)?;
    check_origin(&request.headers, route)?;
    Ok(route.choose_subprotocol(offered_subprotocols(&request.headers)?))
}

/// Remembers from the `outcome` of an upstream handshake whether the next one like it can have an
/// early answer.
pub(crate) fn learn<T>(
    outcome: &Result<T, ConnectError>,
    route: &Arc<Route>,
    request: &OpeningRequest,
    shared: &ProcessState,
) {
    if route.accept == Accept::AfterUpstream {
        return;
    }
    match outcome {
        Ok(_) => shared.refusals.forget(route, request),
        Err(ConnectError::Refused(status)) => {
            // A close code of its own tells a client what happened; a page cannot see an HTTP
            // status.
            if !route.session.close_codes.name(*status) {
                shared.refusals.note(route, request);
            }
        }
        Err(ConnectError::Subprotocol(mismatch)) => {
            let subprotocols = &shared.subprotocols;
            subprotocols.learn_mismatch(route, request, mismatch);
        }
        Err(ConnectError::Broken(_) | ConnectError::Tls(_) | ConnectError::Shortage) => {}
    }
}

/// Remembers the `terms` of an upstream that was asked first.
pub(crate) fn learn_terms(
    terms: &Terms,
    route: &Arc<Route>,
    request: &OpeningRequest,
    shared: &ProcessState,
) {
    learn(&Ok(()), route, request, shared);
    if let (Accept::Early, Some(named)) = (route.accept, &terms.subprotocol) {
        shared.subprotocols.learn(route, request, named);
    }
}

/// Checks whether a handshake may be accepted at all: its form, its origin, drain, held bytes,
/// and memory.
pub(crate) fn check<'a>(
    request: &'a Parts,
    route: &Route,
    shared: &ProcessState,
) -> Result<Handshake<'a>, LocalReply> {
    let context = &shared.session;
    let handshake = check_handshake(request)?;
    check_origin(&request.headers, route)?;
    if context.drain.has_begun() {
        return Err(LocalReply::Draining);
    }
    if context.budget.is_exhausted() {
        return Err(LocalReply::HeldBytes);
    }
    if shared.memory.is_high() {
        return Err(LocalReply::Memory);
    }
    Ok(handshake)
}

/// Settings of a session, kept alive with it.
#[derive(Clone)]
struct RouteSettings(Rc<LiveSession>);

impl Deref for RouteSettings {
    type Target = session::Settings;

    fn deref(&self) -> &Self::Target {
        &self.0.route().session
    }
}

/// State that a session shares with the process, kept alive with it.
#[derive(Clone)]
struct SharedContext(Rc<LiveSession>);

impl Deref for SharedContext {
    type Target = session::Context;

    fn deref(&self) -> &Self::Target {
        &self.0.local().shared.session
    }
}

/// Statistics of a session.
#[derive(Clone)]
struct SharedRecord(Rc<LiveSession>);

impl Deref for SharedRecord {
    type Target = SessionStats;

    fn deref(&self) -> &Self::Target {
        self.0.record()
    }
}

/// Runs the session of an accepted client; the connection is closed when it ends.
///
/// The upstream request belongs to `connect`, which the session drops once it will not connect
/// again.
pub fn session(
    opened: Opened<Transport>,
    accepted: Accepted,
    local: &Rc<WorkerState>,
) -> impl Future<Output = ()> + use<> {
    let Accepted {
        route,
        request,
        client,
        path,
        version,
        identity,
        agreed,
        connected,
        place,
    } = accepted;
    let connect = {
        let route = Arc::clone(&route);
        let connected = Cell::new(connected);
        let shared = Arc::clone(&local.shared);
        let endpoint = shared.endpoints.of(&route);
        async move |attempts: &Attempts| {
            // The first call adopts the connection of the upstream's answer; later ones connect.
            if let Some(connected) = connected.take() {
                attempts.resume(&connected.attempts);
                return Ok(connected.upstream);
            }
            let outcome = upstream::connect(&endpoint, &request, attempts).await;
            learn(&outcome, &route, &request, &shared);
            outcome
        }
    };
    let origin = sessions::SessionSource {
        client,
        path,
        is_http2: version == Version::HTTP_2,
        identity,
        route,
    };
    let (entry, running) = SessionEntry::begin(origin, local);
    let settings = RouteSettings(Rc::clone(&running));
    let context = SharedContext(Rc::clone(&running));
    let record = SharedRecord(running);
    let session = session::run_agreed(opened, agreed, connect, settings, context, record);
    // An `async` block would have room for the session twice.
    session.map(move |report| {
        drop(place);
        entry.end(report);
    })
}

/// The form of a valid handshake.
pub(crate) enum Handshake<'a> {
    /// HTTP/1.1, with its key (RFC 6455 §4.2.1).
    Upgrade(&'a HeaderValue),
    /// An extended `CONNECT` of HTTP/2 (RFC 8441 §5). It needs no key; translating proxies pass
    /// on the key of their HTTP/1.1 client, for which they need the accept value.
    Connect(Option<&'a HeaderValue>),
}

/// Checks the form of a handshake.
///
/// For an extended `CONNECT` the rest has been checked: its target is complete, and only frames
/// follow.
fn check_handshake(request: &Parts) -> Result<Handshake<'_>, LocalReply> {
    if request.version == Version::HTTP_2 {
        check_version(&request.headers)?;
        return Ok(Handshake::Connect(key(&request.headers)));
    }
    let headers = &request.headers;
    if request.method != Method::GET {
        return Err(LocalReply::MethodNotAllowed { allow: "GET" });
    }
    if request.version != Version::HTTP_11 {
        return Err(LocalReply::BadRequest("a WebSocket needs HTTP/1.1"));
    }
    // A client that also offers another protocol could take the `101` for that.
    if !only(headers, &header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    {
        return Err(LocalReply::BadRequest("Upgrade must be websocket alone"));
    }
    // Bytes of a body would be read as frames.
    if headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0")
        || headers.contains_key(header::EXPECT)
    {
        return Err(LocalReply::BadRequest("a WebSocket handshake has no body"));
    }
    check_version(headers)?;
    key(headers)
        .map(Handshake::Upgrade)
        .ok_or(LocalReply::BadRequest("illegal Sec-WebSocket-Key"))
}

/// Returns the key, if there is one and it is legal.
fn key(headers: &HeaderMap) -> Option<&HeaderValue> {
    only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes()))
}

fn check_version(headers: &HeaderMap) -> Result<(), LocalReply> {
    match only(headers, &header::SEC_WEBSOCKET_VERSION) {
        Some(version) if version == VERSION => Ok(()),
        _ => Err(LocalReply::WrongVersion),
    }
}

/// Returns the value of a header that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Checks the origin of the page that opens the WebSocket (RFC 6455 §10.2): browsers do not apply
/// the same-origin policy to a WebSocket.
fn check_origin(headers: &HeaderMap, route: &Route) -> Result<(), LocalReply> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next();
    if origins.next().is_some() {
        return Err(LocalReply::BadRequest("more than one Origin"));
    }
    if route.allows_origin(origin.map(HeaderValue::as_bytes)) {
        Ok(())
    } else {
        // Debug format escapes the value, so that a client cannot write lines of the log.
        tracing::debug!(?origin, "origin not allowed");
        Err(LocalReply::OriginNotAllowed)
    }
}

/// Returns the client's subprotocols, in its order.
pub(crate) fn offered_subprotocols(
    headers: &HeaderMap,
) -> Result<impl Iterator<Item = &str>, LocalReply> {
    let lines = || headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    if lines().any(|line| line.to_str().is_err()) {
        return Err(LocalReply::BadRequest("illegal Sec-WebSocket-Protocol"));
    }
    Ok(list(lines()))
}

impl Handshake<'_> {
    /// Builds the response that opens the WebSocket, with `terms` and with whatever else is in
    /// `headers`.
    pub(crate) fn accept(&self, terms: &Terms, headers: HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.headers_mut() = headers;
        let headers = response.headers_mut();
        let visible =
            |value: String| HeaderValue::try_from(value).expect("it is or was visible ASCII");
        if let Some(subprotocol) = &terms.subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, visible(subprotocol.clone()));
        }
        if let Some(agreement) = terms.compression {
            let element = agreement.to_element();
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, visible(element));
        }
        if let Self::Upgrade(key) | Self::Connect(Some(key)) = self {
            let accept_key = derive_accept_key(key.as_bytes());
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, visible(accept_key));
        }
        // Over HTTP/2 a `200` without these fields is the answer (RFC 8441 §5).
        if let Self::Upgrade(_) = self {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        response
    }
}

/// Builds the handshake for the upstream: the client's own target and end-to-end headers, with
/// its credentials and its whole list of subprotocols, some of which carry tokens.
///
/// `make` is given the target and the headers. Names are spelled as the [`Spelling`] among the
/// extensions of `request` says, if there is one.
pub(crate) fn upstream_request(
    request: &Parts,
    client: Client,
    route: &Route,
    make: impl FnOnce(&str, &HeaderMap) -> OpeningRequest,
) -> OpeningRequest {
    let target = request
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut headers = hop_by_hop::of_handshake(&request.headers, route.http.underscores);
    let host = request.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    forwarded::set(&mut headers, &request.headers, client, host);
    let spelling = request.extensions.get::<Spelling>();
    let request = make(target, &headers).within(route.http.response_limits);
    let request = request.spelled(spelling.unwrap_or(&Spelling::default()));
    match &*route.upstream.preamble(client.source(), client.server) {
        [] => request,
        preamble => request.behind(preamble),
    }
}
