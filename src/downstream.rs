//! One client connection: its bytes, its version of HTTP, its requests and their log.
//!
//! ```text
//!  bytes ──► detect ──┬── HTTP/1.1 ──► http1, over io ──────────┐
//!                     └── HTTP/2 ────► http2, over gated_io ────┤
//!                                                               ▼
//!                      strict framing, client address, request id, limits, host, route
//!                                  │                        │                 │
//!                                  ▼                        ▼                 ▼
//!                           local reply: 4xx, 5xx     proxy::forward     handshake ──► session
//! ```
//!
//! A [`LocalReply`] found on the way becomes the response; every request, however it ends, becomes
//! one line of the request log (`request_log`).
//!
//! # Invariants
//!
//! * hyper's parser is lenient; what it accepts and two parsers may read differently is rejected
//!   by [`framing`](crate::headers::framing), never repaired.
//! * After the `101` nothing of HTTP/1.1 is left: the session gets the transport and the bytes
//!   that were read beyond the head, and the connection is closed when it ends. Over HTTP/2 the
//!   transport is one stream, and the connection continues beside it.
//! * What goes upstream is built from the parsed request; a client's raw header bytes are never
//!   forwarded.
//! * A connection stays on the thread of one worker, as do the sessions that it becomes.

mod detect;
mod http1;
mod http2;
mod io;
mod request_deadline;
pub(crate) mod request_log;
mod spelling;

use std::{pin::Pin, rc::Rc, sync::Arc};

use hyper::{Request, Response};

use self::{
    detect::{Spoken, Unknown},
    request_log::RequestLog,
};
use crate::{
    client_addr::{Client, Endpoints},
    config_file::Config,
    headers::{forwarded, host, request_id::RequestId},
    limits::connections::Admission,
    local_reply::LocalReply,
    proxy::bodies::Body,
    route::Route,
    state::worker::WorkerState,
    transport::Transport,
    websocket::spelling::Spelling,
};

/// Returns the route of a request that is within the limits on its target and its headers.
///
/// A request without a host matches only routes for any host.
///
/// # Errors
///
/// The target or the headers exceed their limits, the host is malformed, a header value is not
/// ASCII although the route requires that, or no route matches.
pub fn find_route<'a, B>(
    request: &Request<B>,
    config: &'a Config,
) -> Result<&'a Arc<Route>, LocalReply> {
    let Config { limits, routes, .. } = config;
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > limits.max_uri_bytes) {
        return Err(LocalReply::TargetTooLong);
    }
    if request.headers().len() > limits.max_headers {
        return Err(LocalReply::HeadersTooLarge);
    }
    let host = host::host(request)?.unwrap_or_default();
    let route = routes.find(host, request.uri().path())?;
    if !route.http.non_ascii.allows(request.headers().values()) {
        return Err(LocalReply::BadRequest("header value is not ASCII"));
    }
    Ok(route)
}

/// Versions of HTTP that a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersions {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, negotiated by ALPN in the TLS handshake.
    Http2,
    /// Either: the client's first bytes tell (RFC 9113 §3.3).
    Either,
}

/// Serves one connection to its end, or until it becomes a session, which is returned.
///
/// The session is to run in a task of its own: it would otherwise keep hyper's state for hours,
/// and each message would pass through more layers of futures.
pub fn serve(
    stream: Transport,
    protocol: HttpVersions,
    ends: Endpoints,
    admission: Admission,
    local: &Rc<WorkerState>,
) -> Pin<Box<impl Future<Output = Option<impl Future<Output = ()> + use<>>> + use<>>> {
    let config = local.config();
    let trusted = &config.trusted_proxies;
    let connection = ClientConnection {
        client: Client {
            address: ends.client,
            peer: ends.client,
            server: ends.server,
            is_trusted: ends.is_known && trusted.trusts(ends.client),
            is_tls: stream.is_tls(),
        },
        admission,
        local: Rc::clone(local),
    };
    Box::pin(connection.serve(stream, protocol))
}

/// State that the requests of one connection share, in either version of HTTP.
struct ClientConnection {
    /// The client as its socket shows it, before any forwarding header is applied.
    client: Client,
    admission: Admission,
    local: Rc<WorkerState>,
}

impl ClientConnection {
    /// Serves requests until the connection ends, or becomes one session, which is returned.
    async fn serve(
        self,
        stream: Transport,
        protocol: HttpVersions,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let (spoken, stream) = match protocol {
            HttpVersions::Http1 => (Spoken::Http1, stream.into()),
            HttpVersions::Http2 => (Spoken::Http2, stream.into()),
            HttpVersions::Either => {
                let timeout = self.local.config().limits.header_timeout;
                let drained = self.local.drain().begun();
                match detect::sniff(stream, timeout, drained).await {
                    Ok(sniffed) => sniffed,
                    Err(Unknown::Silent) => return None,
                    Err(Unknown::Slow(stream)) => {
                        http1::end_unknown(stream, self.client, &self.local).await;
                        return None;
                    }
                }
            }
        };
        match spoken {
            Spoken::Http1 => http1::serve(stream, self).await,
            Spoken::Http2 => {
                // Boxed so that a connection of HTTP/1.1 needs no room for it.
                Box::pin(http2::serve(stream, self)).await;
                None
            }
        }
    }

    /// Starts the log of a request, and with it resolves its client's address and its id.
    fn meter<B>(&self, request: &Request<B>) -> RequestLog {
        let config = self.local.config();
        let headers = request.headers();
        let client = forwarded::client(self.client, headers, &config.trusted_proxies);
        let identity = RequestId::of(headers, client.is_trusted, &self.local.request_ids);
        let requests = config.log.requests;
        RequestLog::start(request, client, identity, requests, &self.local)
    }

    /// The local reply to a rejected request, which is counted and logged.
    fn refuse(&self, refusal: LocalReply, meter: &RequestLog) -> Response<Body> {
        self.local.shared.rejections.count(refusal);
        meter.set_refused(refusal);
        let response = refusal.into_response(meter.identity());
        response.map(|text| Body::from(text).spelled(Spelling::default()))
    }

    /// Admits a request, finds its route, and sets its `Host` and its id for everything behind.
    fn route<B>(
        &self,
        request: &mut Request<B>,
        meter: &RequestLog,
    ) -> Result<Arc<Route>, LocalReply> {
        // Rejected here and not when it was accepted, so that the client gets a response.
        match self.admission {
            Admission::Admitted => {}
            Admission::OverLimit => return Err(LocalReply::Connections),
            Admission::OverAddressLimit => {
                return Err(LocalReply::AddressConnections);
            }
        }
        let config = self.local.config();
        let route = find_route(request, &config)?;
        meter.set_route(route, &self.local);
        host::settle_host(request)?;
        meter.identity().tag(request.headers_mut());
        Ok(Arc::clone(route))
    }
}
