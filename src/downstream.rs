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
//!   refused by [`framing`](crate::headers::framing), never repaired.
//! * After the `101` nothing of HTTP/1.1 is left: the session gets the transport and the
//!   bytes that were read beyond the head, and the connection is closed when it ends. Over
//!   HTTP/2 the transport is one stream, and the connection goes on beside it.
//! * What goes upstream is written anew from the parsed request; raw header bytes of a
//!   client never are.

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
    local_reply::{Refusal, Shortage},
    proxy::bodies::Body,
    route::Route,
    state::worker::WorkerState,
    transport::Transport,
};

/// The route of a request that is within the limits, and for one host or, where its client does
/// not say, for any.
///
/// # Errors
///
/// It is not, or there is none.
pub fn find_route<'a, B>(
    request: &Request<B>,
    config: &'a Config,
) -> Result<&'a Arc<Route>, Refusal> {
    let Config { limits, routes, .. } = config;
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > limits.max_uri_bytes) {
        return Err(Refusal::TargetTooLong);
    }
    if request.headers().len() > limits.max_headers {
        return Err(Refusal::HeadersTooLarge);
    }
    let host = host::host(request)?.unwrap_or_default();
    let route = routes.find(host, request.uri().path())?;
    if !route.http.non_ascii.allows(request.headers().values()) {
        return Err(Refusal::BadRequest("header value is not ASCII"));
    }
    Ok(route)
}

/// Which versions of HTTP a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersions {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, as was agreed in the TLS handshake.
    Http2,
    /// Either: the first bytes of the client tell (RFC 9113 §3.3).
    Either,
}

/// Serves one connection to its end, or until it becomes that of a session, which is returned.
///
/// The session is to be run in a task of its own: that has nothing of hyper's for hours, and a
/// message has less to go through in it.
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

/// What the requests of one connection share, whatever their version.
struct ClientConnection {
    /// Before any of its headers is known.
    client: Client,
    admission: Admission,
    local: Rc<WorkerState>,
}

impl ClientConnection {
    /// Serves requests until the connection ends, or becomes that of one session, which is
    /// returned.
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
                Box::pin(http2::serve(stream, self)).await;
                None
            }
        }
    }

    /// Counts a request that has come, and knows from then on who has sent it.
    fn meter<B>(&self, request: &Request<B>) -> RequestLog {
        let config = self.local.config();
        let headers = request.headers();
        let client = forwarded::client(self.client, headers, &config.trusted_proxies);
        let identity = RequestId::of(headers, client.is_trusted, &self.local.request_ids);
        let requests = config.log.requests;
        RequestLog::start(request, client, identity, requests, &self.local)
    }

    /// The answer to a request that is not served.
    fn refuse(&self, refusal: Refusal, meter: &RequestLog) -> Response<Body> {
        self.local.shared.rejections.count(refusal.into());
        meter.set_refused(refusal);
        refusal.into_response(meter.identity())
    }

    /// The route of a request that may be served at all, and has its id from then on.
    fn route<B>(
        &self,
        request: &mut Request<B>,
        meter: &RequestLog,
    ) -> Result<Arc<Route>, Refusal> {
        match self.admission {
            Admission::Admitted => {}
            Admission::OverLimit => return Err(Refusal::Unavailable(Shortage::Connections)),
            Admission::OverAddressLimit => {
                return Err(Refusal::Unavailable(Shortage::AddressConnections));
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
