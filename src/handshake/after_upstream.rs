//! The opening handshake of a client that gets its upstream's own answer: because its route says
//! so, or because an early one is likely to be wrong for it. What an early route declines, which
//! is compression, it declines here, too: only when it answers is another matter.
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
//! * Nothing that a client sent behind its handshake goes upstream before both have their
//!   `101`.
//! * A client that leaves while it waits takes the attempt with it.
//! * An answer that is kept occupies no connection: the upstream may serve one at a time.
//! * What the client is told of compression is what the upstream has agreed to, and at most
//!   more strictly that the client must not take over its context, which every client obeys
//!   and no server needs to know (RFC 7692 §7.1.1.2).

use std::{fmt::Display, future, mem, rc::Rc, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response, StatusCode, Version, header,
    http::{request::Parts, response},
};
use tokio::time;

use super::{
    accept::{self, Accepted},
    rejected,
};
use crate::{
    client_addr::Client,
    headers::hop_by_hop,
    http_client::{http1::Http1Connection, upload::Upload},
    local_reply::{Refusal, Shortage},
    proxy::{
        binding::{self, Home, OnOwn},
        bodies::Body,
    },
    route::{Accept, Route},
    session::{self, Agreed},
    state::{route_stats::RouteStats, worker::WorkerState},
    transport::Transport,
    upstream::{
        self, Attempts, ConnectError, Endpoint, HandshakeOutcome, OpeningRequest, Refused,
        ResponseLimits, Switched, Terms,
    },
    websocket::{
        Opened,
        extension::{self, Agreement, Malformed, Offer},
    },
};

/// How often a client that waits is looked at, in case it has gone: behind bytes that it has
/// sent too early, hyper does not notice.
const HANG_UP_CHECK: Duration = Duration::from_secs(1);

/// How much of the body of an answer is kept while the upstream is asked again, in bytes.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// How long that may take to arrive.
const KEEP_TIME: Duration = Duration::from_secs(1);

/// The connection to an upstream whose answer a client has got.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) upstream: Opened<Transport>,
    pub(crate) attempts: Attempts,
}

/// Asks the route's upstream and returns its answer, and what a `101` of it has accepted.
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
) -> Result<(Response<Body>, Option<Accepted>), Refusal> {
    let started = time::Instant::now();
    let shared = &local.shared;
    let context = &shared.session;
    let handshake = accept::check(request, route, shared)?;
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
        () = context.drain.begun() => return Err(Refusal::Unavailable(Shortage::Draining)),
        () = until(is_client_gone) => return Err(Refusal::ClientGone),
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

/// The attempts for one client, which count as those of no session where none takes them.
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

/// What the upstream has said, for the client.
enum Said {
    Switched(Box<Switched>),
    Refused(Result<Response<Body>, Refusal>),
    /// The latest that might have been another a moment later.
    Unavailable(Result<Response<Body>, Refusal>),
}

/// Nothing that a client can be given as the upstream's answer.
struct Unanswered(Refusal, Blamed);

/// The party at fault.
enum Blamed {
    Upstream,
    /// Not the upstream's: the client has a part in it, or the proxy.
    Nobody,
}

impl From<ConnectError> for Unanswered {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Shortage => {
                Self(Refusal::Unavailable(Shortage::Descriptors), Blamed::Nobody)
            }
            ConnectError::Refused(_) | ConnectError::Subprotocol(_) => {
                Self(Refusal::BadGateway, Blamed::Nobody)
            }
            ConnectError::Broken(_) | ConnectError::Tls(_) => {
                Self(Refusal::BadGateway, Blamed::Upstream)
            }
        }
    }
}

/// The upstream's answer; at the gate's deadline the latest that was not final.
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
    let mut kept = own.and_then(|on| on.own.take_stream());
    let asked = async {
        loop {
            let answer = upstream::ask(endpoint, opening, attempts, kept.take()).await;
            match answer.map_err(Unanswered::from)? {
                HandshakeOutcome::Switched(switched) => return Ok(Said::Switched(switched)),
                HandshakeOutcome::Refused(refused) => {
                    return Ok(Said::Refused(refuse(refused, client, limits, own).await));
                }
                // On another connection nobody would be logged in.
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
            Unanswered(Refusal::GatewayTimeout, who)
        }),
    }
}

/// Puts the upstream's refusal into `latest` and closes its connection; without its body
/// where that does not come as a whole within the bounds.
async fn keep(
    refused: Refused,
    client: Client,
    limits: ResponseLimits,
    latest: &mut Option<Result<Response<Body>, Refusal>>,
) {
    match pass_on(refused, client, limits).await {
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            let spelling = body.take_spelling();
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

/// An answer of which only the head is there, and what that says of the body is gone.
fn without_body(mut head: response::Parts) -> Response<Body> {
    let names: Vec<_> = head.headers.keys().cloned().collect();
    for name in names {
        if name.as_str().starts_with("content-") {
            head.headers.remove(name);
        }
    }
    Response::from_parts(head, Body::default())
}

/// What of the client's offers the upstream gets to see.
///
/// Where the ready message is kept from the client, no other may refer to it.
fn offers(request: &Parts, settings: &session::Settings) -> Result<Vec<Offer>, Refusal> {
    let lines = request.headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let mut offers = extension::offers(lines)
        .map_err(|Malformed| Refusal::BadRequest("illegal Sec-WebSocket-Extensions"))?;
    if settings.gate.withholds_messages() {
        for offer in &mut offers {
            offer.server_no_context_takeover = true;
        }
    }
    Ok(offers)
}

/// What the client is told of what the upstream has chosen.
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

/// The upstream's refusal, after which the connection is closed: what the client may have
/// sent behind its handshake is no request.
async fn pass_on(
    refused: Refused,
    client: Client,
    limits: ResponseLimits,
) -> Result<Response<Body>, Refusal> {
    let status = refused.status;
    tracing::debug!(%client, %status, "upstream refused the WebSocket");
    let spelling = rejected::check(&refused.answer, limits).map_err(|error| {
        tracing::debug!(%client, error, "upstream failed");
        Refusal::BadGateway
    })?;
    let response = rejected::response(refused.answer, limits, spelling).await;
    let mut response = response.map_err(|error| {
        tracing::debug!(%client, %error, "upstream failed");
        Refusal::BadGateway
    })?;
    let close = header::HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    Ok(response)
}

/// The upstream's refusal. Where its connection is the client's, or is to be, both go on: the
/// client may log in, and ask again.
async fn refuse(
    refused: Refused,
    client: Client,
    limits: ResponseLimits,
    own: Option<&OnOwn>,
) -> Result<Response<Body>, Refusal> {
    let may_bind = |on: &&OnOwn| on.is_bound || refused.status == StatusCode::UNAUTHORIZED;
    let Some(OnOwn { own, is_bound }) = own.filter(may_bind) else {
        return pass_on(refused, client, limits).await;
    };
    let failed = |error: &dyn Display| {
        tracing::debug!(%client, error = %error, "upstream failed");
        Refusal::BadGateway
    };
    let connection = Http1Connection::resume(refused.answer, limits).await;
    let mut connection = Box::new(connection.map_err(|error| failed(&error))?);
    let unsent = Request::new(Upload::default());
    let answer = connection.send(unsent, None, |_interim| {}).await;
    let (mut head, incoming) = answer.map_err(|error| failed(&error))?.into_parts();
    head.headers = hop_by_hop::of_response(head.headers);
    head.version = Version::HTTP_11;
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

/// Resolves some time after `condition` has become true; never without one.
async fn until(condition: Option<&dyn Fn() -> bool>) {
    let Some(condition) = condition else {
        return future::pending().await;
    };
    while !condition() {
        time::sleep(HANG_UP_CHECK).await;
    }
}
