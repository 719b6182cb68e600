//! Forwarding of plain HTTP: a request to the upstream and its response back, both streamed.
//!
//! ```text
//!  pool ──► connection ──► send ──► response
//!   dial ──────▲   │         │
//!    ▲ │           │         └─► closed without a response: perhaps sent again
//!    └─┘ held: the upstream does not listen yet
//! ```
//!
//! # Invariants
//!
//! * A request is sent again when none of it has been written. After a kept connection that
//!   closes without a byte of a response it is sent again if it is idempotent (RFC 9110 §9.2.2)
//!   and none of its body has been read: that connection may have been closing already. A new
//!   connection may close because of the request: a safe one (§9.2.1) without a body is sent once
//!   more.
//! * Any request with an unread body is sent again when the upstream says that it has not
//!   processed it (RFC 9113 §8.7), a few times.
//! * A request whose client has left while it was held does not reach the upstream.
//! * No upgrade is forwarded, and an unsolicited `101` is not passed on.
//! * `Via` is passed on and not added to, as Envoy and nginx do: a server that sees it may
//!   withhold compression, and RFC 9110 §7.6.3 wants it to find loops, which a gateway with one
//!   upstream for each route does not make.

use std::{rc::Rc, sync::Arc};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
};

use super::{
    binding::{self, Home, Own},
    bodies::Body,
    client_side::Downstream,
    connector::Connecting,
};
use crate::{
    headers::{forwarded, framing::responses::Interim, hop_by_hop, host},
    http_client::{
        http1::{Http1Connection, SendError},
        http2::StreamSlot,
        pool::Pool,
        upload::{self, Upload, UploadProgress, UploadState},
    },
    local_reply::LocalReply,
    route::Route,
    state::{process::ProcessState, worker::WorkerState},
    transport::backlog::Unread,
    upstream::{self, protocol::Protocol},
};

/// `Allow` of the `405` to any other method.
pub(crate) const METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// Sends one request to the route's upstream and returns the response.
///
/// # Errors
///
/// The method or the expectation is not for a reverse proxy, no slot is free to be held in, the
/// body is broken, or there is no response.
///
/// # Cancel safety
///
/// Dropping the future closes the connection to the upstream.
pub async fn forward(
    request: Request<Incoming>,
    downstream: Downstream<'_>,
    route: &Arc<Route>,
    local: &WorkerState,
) -> Result<Response<Body>, LocalReply> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(LocalReply::MethodNotAllowed { allow: METHODS });
    }
    check_expectation(request.headers())?;
    let pool = local.pools.of(route, || local.config().routes.clone());
    let (parts, body) = request.into_parts();
    if upload::is_too_large(&body, &route.http) {
        return Err(LocalReply::BodyTooLarge);
    }
    let unread = downstream.backlog.map(Unread::begin);
    let is_broken = downstream.is_body_broken;
    let (upload, progress) = Upload::new(body, &route.http, is_broken, unread);
    let own = downstream
        .binding
        .filter(|binding| binding.includes(route, downstream.client.address))
        .map(|binding| Own::new(binding, route, downstream.client.address));
    let asked = Asked {
        logs_in: binding::is_carried(&parts.headers),
        own,
        head: Request::from_parts(parts, ()),
        progress,
        downstream,
        route,
    };
    let answered = asked.send(upload, &pool, &local.shared).await?;
    // Without an upgrade in its request, a client cannot tell where HTTP ends.
    if answered.answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(LocalReply::BadGateway);
    }
    Ok(asked.answer(answered, pool))
}

/// Returns the `Host` for a request whose client names none (HTTP/1.0).
fn own_host(upstream: &upstream::Settings) -> Result<HeaderValue, LocalReply> {
    HeaderValue::try_from(upstream.authority()).or(Err(LocalReply::BadGateway))
}

/// Rejects any expectation but `100-continue`, which hyper fulfils when the body is first read:
/// that is when the upstream is there to take it.
fn check_expectation(headers: &HeaderMap) -> Result<(), LocalReply> {
    let is_known = headers
        .get_all(header::EXPECT)
        .iter()
        .all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_known {
        Ok(())
    } else {
        Err(LocalReply::UnknownExpectation)
    }
}

/// A client's request, and the facts that decide whether it may be sent again.
struct Asked<'a> {
    head: Request<()>,
    /// `None` for a request without a body.
    progress: Option<Rc<UploadProgress>>,
    downstream: Downstream<'a>,
    route: &'a Arc<Route>,
    /// The upstream connection bound to its client.
    own: Option<Own>,
    /// Set when it carries credentials that authenticate its connection.
    logs_in: bool,
}

/// The upstream's response, and the connection that carries its body.
struct Forwarded {
    answer: Response<Incoming>,
    carrier: Carrier,
}

/// The connection of a response.
enum Carrier {
    /// A connection that carries this request only.
    Alone(Box<Http1Connection>),
    Shared(StreamSlot),
}

impl Asked<'_> {
    /// Sends the request until there is a response, as often as that is safe.
    async fn send(
        &self,
        upload: Upload,
        pool: &Pool,
        shared: &ProcessState,
    ) -> Result<Forwarded, LocalReply> {
        let request = self.upstream_request(upload)?;
        let connecting = Connecting::new(self.route, self.downstream, pool, shared);
        match self.route.http.version {
            Protocol::Http1 => self.send_alone(request, connecting, pool).await,
            Protocol::Http2 => Box::pin(self.send_shared(request, connecting, pool)).await,
        }
    }

    /// Sends the request on a connection of its own: first on the one bound to its client, or one
    /// from the pool.
    async fn send_alone(
        &self,
        request: Request<Upload>,
        mut connecting: Connecting<'_>,
        pool: &Pool,
    ) -> Result<Forwarded, LocalReply> {
        let mut request = request;
        // Never a pooled one for a client that is logged in on its own.
        let mut pooled = match &self.own {
            Some(own) => own.take(),
            None => pool.take(),
        };
        loop {
            let is_fresh = pooled.is_none();
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                None => Box::pin(connecting.connect()).await?,
            };
            let timeout = self.route.http.response_timeout;
            let sent = connection.send(request, timeout, |interim| self.pass_on(interim));
            match sent.await {
                Ok(answer) => {
                    if is_fresh {
                        pool.turns.set_forward();
                    }
                    let carrier = Carrier::Alone(connection);
                    return Ok(Forwarded { answer, carrier });
                }
                Err(error) => request = self.again(error, is_fresh, &mut connecting).await?,
            }
        }
    }

    /// Sends the request on a shared connection.
    async fn send_shared(
        &self,
        request: Request<Upload>,
        mut connecting: Connecting<'_>,
        pool: &Pool,
    ) -> Result<Forwarded, LocalReply> {
        let mut request = request;
        let mut opened = pool.multiplexed.stream();
        loop {
            let is_fresh = opened.is_none();
            let stream = match opened.take() {
                Some(stream) => stream,
                None => connecting.share().await?,
            };
            match stream.send(request, self.route.http.response_timeout).await {
                Ok(answer) => {
                    if is_fresh {
                        pool.turns.set_forward();
                    }
                    let carrier = Carrier::Shared(stream);
                    return Ok(Forwarded { answer, carrier });
                }
                Err(error) => request = self.again(error, is_fresh, &mut connecting).await?,
            }
        }
    }

    /// Prepares the request for another attempt, if this error of a connection allows one.
    ///
    /// A connection `is_fresh` when it carried nothing before.
    async fn again(
        &self,
        error: SendError,
        is_fresh: bool,
        connecting: &mut Connecting<'_>,
    ) -> Result<Request<Upload>, LocalReply> {
        match error {
            SendError::NotSent(unsent) => {
                if is_fresh {
                    // A kept connection may have been closed long ago; this one just now.
                    connecting.set_back()?;
                }
                Ok(*unsent)
            }
            SendError::NoAnswer
                if !is_fresh
                    && self.head.method().is_idempotent()
                    && let Some(upload) = self.unread_upload() =>
            {
                self.upstream_request(upload)
            }
            SendError::Refused
                if connecting.may_insist()
                    && let Some(upload) = self.unread_upload() =>
            {
                self.upstream_request(upload)
            }
            SendError::NoAnswer if is_fresh && self.is_harmless() && connecting.may_repeat() => {
                Box::pin(connecting.pause()).await?;
                self.upstream_request(Upload::default())
            }
            error => Err(self.refusal(&error)),
        }
    }
}

impl Asked<'_> {
    /// Builds the request for the upstream: the same target in origin form (RFC 9112 §3.2.1), the
    /// end-to-end headers, and the forwarding headers.
    fn upstream_request(&self, upload: Upload) -> Result<Request<Upload>, LocalReply> {
        let head = &self.head;
        let mut headers = hop_by_hop::of_request(head.headers(), self.route.http.underscores);
        forwarded::set(
            &mut headers,
            head.headers(),
            self.downstream.client,
            host::host(head)?,
        );
        let mut request = Request::new(upload);
        if !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, own_host(&self.route.upstream)?);
        }
        *request.method_mut() = head.method().clone();
        *request.uri_mut() = match self.route.http.version {
            Protocol::Http1 => host::origin_form(head.uri()),
            Protocol::Http2 => {
                let is_tls = self.route.upstream.tls.is_some();
                host::with_authority(head.uri(), is_tls, &mut headers)?
            }
        };
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Returns whether sending the request twice has the effect of sending it once.
    fn is_harmless(&self) -> bool {
        self.head.method().is_safe() && self.progress.is_none()
    }

    /// Takes back the body for another attempt, if none of it has been read.
    fn unread_upload(&self) -> Option<Upload> {
        let Some(progress) = &self.progress else {
            return Some(Upload::default());
        };
        let body = progress.take_unread()?;
        Some(Upload::again(body, &self.route.http, progress))
    }

    fn pass_on(&self, interim: &Interim) {
        // A client that expects `100` gets the proxy's own, when its body is first read.
        let is_for_client = interim.status != StatusCode::CONTINUE
            || !self.head.headers().contains_key(header::EXPECT);
        if is_for_client && self.head.version() >= Version::HTTP_11 {
            let headers = hop_by_hop::of_interim(&interim.headers);
            let status = interim.status;
            let spelling = interim.spelling.clone();
            (self.downstream.send_interim)(&Interim {
                status,
                headers,
                spelling,
            });
        }
    }

    fn refusal(&self, error: &SendError) -> LocalReply {
        let client = self.downstream.client;
        tracing::debug!(%client, %error, "upstream failed");
        match (
            self.progress.as_ref().map(|progress| progress.state()),
            error,
        ) {
            (Some(UploadState::Broken), _) => LocalReply::BadRequest("broken body"),
            (Some(UploadState::TooSlow), _) => LocalReply::RequestTimeout,
            (Some(UploadState::TooLarge), _) => LocalReply::BodyTooLarge,
            (_, SendError::TimedOut) => LocalReply::NoAnswer,
            (_, _) => LocalReply::BadGateway,
        }
    }

    /// Chooses the destination of the connection after its response.
    fn home(&self, answer: &Response<Incoming>, pool: Rc<Pool>) -> Home {
        let Downstream {
            binding, client, ..
        } = self.downstream;
        if let Some(own) = &self.own {
            return Home::Own(own.clone());
        }
        if !self.logs_in && !binding::is_offered(answer.status(), answer.headers()) {
            return Home::Pool(pool);
        }
        binding.map_or(Home::Nowhere, |binding| {
            let own = Own::new(binding, self.route, client.address);
            own.bind();
            Home::Own(own)
        })
    }

    fn answer(self, answered: Forwarded, pool: Rc<Pool>) -> Response<Body> {
        let Forwarded { answer, carrier } = answered;
        let home = self.home(&answer, pool);
        // The extensions of hyper's client (the reason phrase) are dropped, for hyper's server
        // would send them.
        let (mut head, incoming) = answer.into_parts();
        head.headers = hop_by_hop::of_response(head.headers);
        head.version = Version::HTTP_11;
        let uploading = self
            .progress
            .filter(|progress| progress.state() != UploadState::Complete);
        if let Some(progress) = &uploading {
            // `body_timeout` does not apply to the rest of the body.
            progress.set_answered();
        }
        let body = match carrier {
            Carrier::Alone(connection) if uploading.is_some() => {
                Body::during_upload(connection, incoming, home)
            }
            Carrier::Alone(connection) => Body::on(connection, incoming, home),
            Carrier::Shared(stream) => Body::shared(stream, incoming),
        };
        Response::from_parts(head, body.while_uploading(uploading))
    }
}
