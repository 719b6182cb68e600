//! The opening handshake of a client that gets its upstream's own answer: because its route says
//! so, or because an early answer is likely to be wrong for it. An early route declines
//! compression here as well: it differs only in when it answers.
//!
//! ```text
//!  client's handshake, checked ──► upstream, again and again ──┬── 101 ──► 101 ──► session
//!                                                              ├── 401, 302, … ──► as it is
//!                                                              └── 503, … ──► kept, as it is
//!                                                                             at the deadline
//! ```
//!
//! # Invariants
//!
//! * Nothing that a client sent behind its handshake goes upstream before both have their `101`.
//! * A client that leaves while it waits cancels the attempt.
//! * A response that is kept occupies no connection: the upstream may serve one at a time.
//! * The client is told of compression what the upstream has negotiated, at most with the
//!   stricter demand that the client must not take over its context, which every client obeys and
//!   no server needs to know (RFC 7692 §7.1.1.2).

use std::{fmt::Display, future, mem, rc::Rc, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response, StatusCode, Version, header,
    http::{request::Parts, response},
};
use tokio::time;

use super::{
    accept::{self, Accepted, Connected},
    rejected,
};
use crate::{
    client_addr::Client,
    headers::hop_by_hop,
    http_client::{http1::Http1Connection, upload::Upload},
    local_reply::LocalReply,
    proxy::{
        binding::{self, Home, OnOwn},
        bodies::Body,
    },
    route::{Accept, Route},
    session::{self, Agreed},
    state::worker::{WorkerState, route_stats::RouteStats},
    upstream::{
        self, Attempts, ConnectError, Endpoint, HandshakeOutcome, OpeningRequest, Refused,
        ResponseLimits, Switched, Terms,
    },
    websocket::extension::{self, Agreement, Malformed, Offer},
};

/// Interval at which a waiting client is checked for having left: hyper does not notice that
/// behind bytes that it sent too early.
const HANG_UP_CHECK: Duration = Duration::from_secs(1);

/// Bytes of a response's body that are kept while the upstream is asked again.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// Time for that body to arrive.
const KEEP_TIME: Duration = Duration::from_secs(1);

/// Gets the answer of the route's upstream, and the accepted handshake if it is a `101`.
///
/// # Errors
///
/// The request is not a valid handshake, the process drains, the client has left, the route's
/// breaker is open, or the upstream has given no valid answer before the gate's deadline.
pub(crate) async fn ask(
    request: &Parts,
    client: Client,
    route: &Arc<Route>,
    local: &WorkerState,
    is_client_gone: Option<&dyn Fn() -> bool>,
    own: Option<OnOwn>,
) -> Result<(Response<Body>, Option<Accepted>), LocalReply> {
    let started = time::Instant::now();
    let shared = &local.shared;
    let context = &shared.session;
    let handshake = accept::check(request, route, shared)?;
    // Only checked: the list goes upstream as it came.
    drop(accept::offered_subprotocols(&request.headers)?);
    let compression = match route.accept {
        Accept::Early => Vec::new(),
        Accept::AfterUpstream => offers(request, &route.session)?,
    };
    let place = shared.admit_session(client, request.version)?;
    let endpoint = shared.endpoints.of(route);
    let trial = endpoint.admit()?;
    let opening = accept::upstream_request(request, client, route, |target, headers| {
        OpeningRequest::asking(target, headers, compression)
    });

    let mut series = ClientAttempts::new(local.tallies.of(route));
    let attempts = &series.attempts;
    let answer = tokio::select! {
        answer = until_deadline(&endpoint, route, &opening, attempts, client, own.as_ref()) => answer,
        () = context.drain.begun() => return Err(LocalReply::Draining),
        () = until(is_client_gone) => return Err(LocalReply::ClientGone),
    };
    let switched = match answer {
        Ok(Said::Switched(switched)) => *switched,
        Ok(Said::Refused(refused)) => {
            if let Ok(response) = &refused {
                let refused = ConnectError::Refused(response.status());
                accept::learn(&Err::<(), _>(refused), route, &opening, shared);
            }
            return Ok((refused?, None));
        }
        Ok(Said::Unavailable(refused)) => return Ok((refused?, None)),
        Err(Unanswered(refusal, who)) => {
            match who {
                Blamed::Upstream => trial.fail(),
                // Returns the permit without a verdict on the upstream.
                Blamed::Nobody => drop(trial),
            }
            let error = attempts.last_error().unwrap_or_default();
            tracing::debug!(%client, error, "upstream failed");
            return Err(refusal);
        }
    };
    accept::learn_terms(&switched.terms, route, &opening, shared);

    let Switched {
        opened,
        terms,
        headers,
        spelling,
    } = switched;
    let told = told(&terms, &route.session);
    let mut response = handshake.accept(&told, hop_by_hop::of_switching(&headers));
    response.extensions_mut().insert(spelling);
    let connected = Connected {
        upstream: opened,
        attempts: series.take(),
    };
    let agreed = Agreed {
        compression: told.compression,
        waited: started.elapsed(),
        trial,
    };
    let accepted = Accepted::connected(
        route,
        opening.told(terms),
        client,
        request,
        (agreed, connected),
        place,
    );
    Ok((response, Some(accepted)))
}

/// Attempts for one client, which count for the route on drop unless a session takes them.
struct ClientAttempts {
    attempts: Attempts,
    tally: Rc<RouteStats>,
}

impl ClientAttempts {
    fn new(tally: Rc<RouteStats>) -> Self {
        let attempts = Attempts::default();
        Self { attempts, tally }
    }

    fn take(&mut self) -> Attempts {
        mem::take(&mut self.attempts)
    }
}

impl Drop for ClientAttempts {
    fn drop(&mut self) {
        self.tally
            .change(|totals| totals.add_attempts(&self.attempts));
    }
}

/// The upstream's answer for the client.
enum Said {
    Switched(Box<Switched>),
    Refused(Result<Response<Body>, LocalReply>),
    /// The latest response that might have been different a moment later.
    Unavailable(Result<Response<Body>, LocalReply>),
}

/// Failure to get an answer of the upstream that the client could be given.
struct Unanswered(LocalReply, Blamed);

/// The party at fault.
enum Blamed {
    Upstream,
    /// The proxy, or a fault in which the client has a part.
    Nobody,
}

impl From<ConnectError> for Unanswered {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Shortage => Self(LocalReply::OutOfDescriptors, Blamed::Nobody),
            ConnectError::Refused(_) | ConnectError::Subprotocol(_) => {
                Self(LocalReply::BadGateway, Blamed::Nobody)
            }
            ConnectError::Broken(_) | ConnectError::Tls(_) => {
                Self(LocalReply::BadGateway, Blamed::Upstream)
            }
        }
    }
}

/// Gets the upstream's answer; at the gate's deadline, the latest one that was not final.
async fn until_deadline(
    endpoint: &Endpoint,
    route: &Route,
    opening: &OpeningRequest,
    attempts: &Attempts,
    client: Client,
    own: Option<&OnOwn>,
) -> Result<Said, Unanswered> {
    let limits = route.http.response_limits;
    let mut latest = None;
    // A bound connection serves the first attempt; later ones dial.
    let mut kept = own.and_then(|on| on.own.take_stream());
    let asked = async {
        loop {
            let answer = upstream::ask(endpoint, opening, attempts, kept.take()).await;
            match answer.map_err(Unanswered::from)? {
                HandshakeOutcome::Switched(switched) => return Ok(Said::Switched(switched)),
                HandshakeOutcome::Refused(refused) => {
                    return Ok(Said::Refused(refuse(refused, client, limits, own).await));
                }
                // The client is not logged in on any other connection.
                HandshakeOutcome::Unavailable(refused) if own.is_some_and(|on| on.is_bound) => {
                    return Ok(Said::Unavailable(
                        refuse(refused, client, limits, own).await,
                    ));
                }
                HandshakeOutcome::Unavailable(refused) => {
                    keep(refused, client, limits, &mut latest).await;
                }
            }
        }
    };
    match time::timeout(route.session.gate.timeout, asked).await {
        Ok(said) => said,
        Err(_elapsed) => latest.map(Said::Unavailable).ok_or_else(|| {
            let who = if attempts.blames_upstream() {
                Blamed::Upstream
            } else {
                Blamed::Nobody
            };
            Unanswered(LocalReply::GatewayTimeout, who)
        }),
    }
}

/// Puts the upstream's response into `latest` and closes its connection; drops the body unless it
/// arrives whole within [`MAX_KEPT_BYTES`] and [`KEEP_TIME`].
async fn keep(
    refused: Refused,
    client: Client,
    limits: ResponseLimits,
    latest: &mut Option<Result<Response<Body>, LocalReply>>,
) {
    match pass_on(refused, client, limits).await {
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            let spelling = body.take_spelling();
            // In place before the body is read, for the deadline may pass meanwhile.
            *latest = Some(Ok(without_body(head.clone())));
            let body = Limited::new(body, MAX_KEPT_BYTES).collect();
            if let Ok(Ok(body)) = time::timeout(KEEP_TIME, body).await {
                let spelling = spelling.unwrap_or_default();
                let body = Body::from(body.to_bytes()).spelled(spelling);
                *latest = Some(Ok(Response::from_parts(head, body)));
            }
        }
        Err(refusal) => *latest = Some(Err(refusal)),
    }
}

/// Builds a response without the body, and without the fields that describe one.
fn without_body(mut head: response::Parts) -> Response<Body> {
    let names: Vec<_> = head.headers.keys().cloned().collect();
    for name in names {
        if name.as_str().starts_with("content-") {
            head.headers.remove(name);
        }
    }
    Response::from_parts(head, Body::default())
}

/// Returns the client's offers as the upstream gets to see them.
///
/// Where the ready message is withheld from the client, no other may refer to it, so the server
/// must not take over its context.
fn offers(request: &Parts, settings: &session::Settings) -> Result<Vec<Offer>, LocalReply> {
    let lines = request.headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let mut offers = extension::offers(lines)
        .map_err(|Malformed| LocalReply::BadRequest("illegal Sec-WebSocket-Extensions"))?;
    if settings.gate.withholds_messages() {
        for offer in &mut offers {
            offer.server_no_context_takeover = true;
        }
    }
    Ok(offers)
}

/// Returns the terms to tell the client, given what the upstream has chosen.
fn told(terms: &Terms, settings: &session::Settings) -> Terms {
    let is_alone = settings.wants_independent_messages();
    Terms {
        subprotocol: terms.subprotocol.clone(),
        compression: terms.compression.map(|agreement| Agreement {
            client_no_context_takeover: agreement.client_no_context_takeover || is_alone,
            ..agreement
        }),
    }
}

/// Passes on a rejection, and closes the connection after it: bytes that the client may have sent
/// behind its handshake are not a request.
async fn pass_on(
    refused: Refused,
    client: Client,
    limits: ResponseLimits,
) -> Result<Response<Body>, LocalReply> {
    let status = refused.status;
    tracing::debug!(%client, %status, "upstream refused the WebSocket");
    let spelling = rejected::check(&refused.answer, limits).map_err(|error| {
        tracing::debug!(%client, error, "upstream failed");
        LocalReply::BadGateway
    })?;
    let response = rejected::response(refused.answer, limits, spelling).await;
    let mut response = response.map_err(|error| {
        tracing::debug!(%client, %error, "upstream failed");
        LocalReply::BadGateway
    })?;
    let close = header::HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    Ok(response)
}

/// Passes on a rejection. An upstream connection that is bound to the client's, or now becomes
/// so, stays open with it: the client may log in and repeat the handshake.
async fn refuse(
    refused: Refused,
    client: Client,
    limits: ResponseLimits,
    own: Option<&OnOwn>,
) -> Result<Response<Body>, LocalReply> {
    let may_bind = |on: &&OnOwn| on.is_bound || refused.status == StatusCode::UNAUTHORIZED;
    let Some(OnOwn { own, is_bound }) = own.filter(may_bind) else {
        return pass_on(refused, client, limits).await;
    };
    let failed = |error: &dyn Display| {
        tracing::debug!(%client, error = %error, "upstream failed");
        LocalReply::BadGateway
    };
    let connection = Http1Connection::resume(refused.answer, limits).await;
    let mut connection = Box::new(connection.map_err(|error| failed(&error))?);
    let unsent = Request::new(Upload::default());
    let answer = connection.send(unsent, None, |_interim| {}).await;
    let (mut head, incoming) = answer.map_err(|error| failed(&error))?.into_parts();
    head.headers = hop_by_hop::of_response(head.headers);
    head.version = Version::HTTP_11;
    // The rejection starts an NTLM login, or the connection is logged in already.
    let home = if *is_bound || binding::is_offered(head.status, &head.headers) {
        own.bind();
        Home::Own(own.clone())
    } else {
        let close = header::HeaderValue::from_static("close");
        head.headers.insert(header::CONNECTION, close);
        Home::Nowhere
    };
    let body = Body::on(connection, incoming, home);
    Ok(Response::from_parts(head, body))
}

/// Resolves within [`HANG_UP_CHECK`] of `condition` becoming true; never without a condition.
async fn until(condition: Option<&dyn Fn() -> bool>) {
    let Some(condition) = condition else {
        return future::pending().await;
    };
    while !condition() {
        time::sleep(HANG_UP_CHECK).await;
    }
}
