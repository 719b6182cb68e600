//! A connection that speaks HTTP/1.1: requests one after the other, until one of them becomes a
//! WebSocket.
//!
//! hyper parses and writes; [`ClientIo`] beneath it adds what hyper's server lacks. An accepted
//! WebSocket leaves hyper without a response: its service stays pending, the `101` is written
//! here, and the transport goes to the session together with the bytes that hyper had read.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{self, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, time};

use super::{
    ClientConnection, detect::Sniffed, io::ClientIo, request_deadline::RequestDeadline,
    request_log::RequestLog,
};
use crate::{
    client_addr::Client,
    handshake::{self, accept::Accepted},
    headers::{framing::Framing, head, request_id::RequestId},
    limits::drain::Drain,
    local_reply::{LocalReply, rejections::Dropped},
    observability::{
        self,
        access_log::{self, NoRequest},
        error_chain::ErrorChain,
    },
    proxy::{binding::Binding, bodies::Body, client_side::Downstream, forward},
    state::worker::WorkerState,
    transport::Transport,
    websocket::{Opened, handshake::list},
};

/// Time that a client has to stop sending after its last response, and to finish a request that
/// it had begun when the drain started.
const LINGER: Duration = Duration::from_secs(1);

/// Serves requests until the connection ends, or a client has its `101`: then returns its
/// session.
pub(crate) async fn serve(
    stream: Sniffed,
    connection: ClientConnection,
) -> Option<impl Future<Output = ()> + use<>> {
    let client = connection.client;
    let local = Rc::clone(&connection.local);
    let shared = &local.shared;
    let limits = shared.config().limits.clone();
    let framing = Framing::new(limits.max_header_bytes, limits.max_uri_bytes);
    let patience = RequestDeadline::new(limits.header_timeout, limits.keep_alive_timeout);
    let stream = ClientIo::new(stream, framing, patience, limits.write_timeout);
    let requests = Rc::new(Http1Service {
        connection,
        stream: stream.clone(),
        is_body_broken: stream.is_body_broken(),
        switching: RefCell::new(None),
        binding: Rc::default(),
    });

    let mut http = http1::Builder::new()
        // hyper has one timeout for a head and for the idle time before it; `RequestDeadline`
        // tells them apart.
        .header_read_timeout(None)
        .max_header_size(limits.max_header_bytes)
        .serve_connection(
            TokioIo::new(stream),
            service_fn({
                let requests = Rc::clone(&requests);
                move |request| respond(Rc::clone(&requests), request)
            }),
        );
    let ended = run_until_drained(&mut http, &requests, &shared.session.drain).await;

    let parts = http.into_parts();
    let mut stream = parts.io.into_inner();
    // `into_inner` below succeeds only once the other handles are gone.
    drop(parts.service);
    // A connection that failed gets no `101`, whatever was accepted on it.
    let switching = requests.switching.take().filter(|_| ended.is_ok());
    drop(requests);
    let accepted = match switching {
        Some(Switching { head, accepted }) => stream.send(&head).await.ok().map(|()| accepted),
        None => None,
    };
    if stream.is_stalled() {
        shared.rejections.count_dropped(Dropped::WriteTimeout);
    }
    let is_too_slow = stream.is_too_slow();
    let mut stream = stream.into_inner()?;
    // Without unparsed bytes the client has simply left, or was idle.
    let has_begun = !parts.read_buf.is_empty();
    match (ended, accepted) {
        (Ok(()), Some(accepted)) => {
            let read_buf = parts.read_buf;
            let opened = Opened { stream, read_buf };
            return Some(handshake::accept::session(opened, accepted, &local));
        }
        (Err(error), _) => {
            tracing::debug!(client = %client.address, error = %ErrorChain(&error), "connection ended");
            let refused = has_begun.then(|| refusal_of(&error)).flatten();
            if let Some((refusal, answered_by)) = refused {
                let detail = ErrorChain(&error).to_string();
                let answer = no_request(refusal, answered_by, &detail, client, &local);
                // A client that does not take these few bytes at once is too slow to read them as
                // well.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
        (Ok(()), None) if is_too_slow && has_begun => {
            let (refusal, answered_by) = (LocalReply::HeaderTimeout, AnsweredBy::Proxy);
            let detail = "the header section did not come in time";
            let answer = no_request(refusal, answered_by, detail, client, &local);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        (Ok(()), None) => {}
    }
    close(stream, &shared.session.drain).await;
    None
}

/// The author of the response to bytes that are not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnsweredBy {
    /// hyper, with a bare status line.
    Hyper,
    Proxy,
    /// No response, for the client would not understand one.
    Nobody,
}

/// Maps hyper's error to the reason why a client's bytes are not a request; those never reach
/// [`respond`].
fn refusal_of(error: &hyper::Error) -> Option<(LocalReply, AnsweredBy)> {
    // hyper tells some of its errors apart by their texts only.
    let has_word = |word| error.to_string().contains(word);
    if error.is_parse_too_large() && has_word("URI") {
        Some((LocalReply::TargetTooLong, AnsweredBy::Hyper))
    } else if error.is_parse_too_large() {
        Some((LocalReply::HeadersTooLarge, AnsweredBy::Hyper))
    } else if error.is_parse() && has_word("HTTP2 preface") {
        Some((LocalReply::BadRequest("no HTTP/2 here"), AnsweredBy::Nobody))
    } else if error.is_parse() {
        Some((
            LocalReply::BadRequest("malformed request"),
            AnsweredBy::Hyper,
        ))
    } else {
        None
    }
}

/// Ends a connection on which too little came in time to tell its version of HTTP.
pub(crate) async fn end_unknown(stream: Transport, client: Client, local: &WorkerState) {
    let detail = "this may become HTTP/1.1 or HTTP/2";
    no_request(
        LocalReply::HeaderTimeout,
        AnsweredBy::Nobody,
        detail,
        client,
        local,
    );
    close(stream, &local.shared.session.drain).await;
}

/// Counts and logs bytes that are not a request; returns the response that is still to be sent,
/// empty if there is none.
fn no_request(
    refusal: LocalReply,
    answered_by: AnsweredBy,
    detail: &str,
    client: Client,
    local: &WorkerState,
) -> String {
    let is_ours = answered_by == AnsweredBy::Proxy;
    let identity = is_ours.then(|| RequestId::unknown(&local.request_ids));
    let status = (answered_by != AnsweredBy::Nobody).then(|| refusal.status().as_u16());
    local.shared.rejections.count(refusal);
    if local.config().log.requests != observability::RequestLogging::None {
        access_log::no_request(&NoRequest {
            request_id: identity.as_ref().map(RequestId::id),
            client: client.address,
            status,
            refusal: (refusal.reason(), detail),
        });
    }
    identity.map_or_else(String::new, |identity| refusal.to_http1(&identity))
}

/// Closes a connection so that the client can still read its last response.
///
/// Closing a socket with unread bytes, say of a rejected body, resets the connection and takes
/// the response with it (RFC 9112 §9.6). So the write side is closed first, and the client's
/// bytes are drained for a moment.
async fn close(stream: Transport, drain: &Drain) {
    let mut stream = stream;
    if stream.shutdown().await.is_ok() {
        drain.run_until_begun(linger(stream)).await;
    }
}

/// Drains what a client still sends after our write side is closed, for [`LINGER`] at most.
pub(crate) async fn linger(stream: Transport) {
    let mut stream = stream;
    let mut nowhere = tokio::io::sink();
    let _ = time::timeout(LINGER, tokio::io::copy(&mut stream, &mut nowhere)).await;
}

/// Runs hyper's side of a connection until it ends, a client is due its `101`, or a request
/// missed its deadline.
///
/// On drain it ends after the response in progress; a request that does not come whole soon after
/// the drain began does not delay that.
async fn run_until_drained<S>(
    http: &mut http1::Connection<TokioIo<ClientIo>, S>,
    requests: &Http1Service,
    drain: &Drain,
) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Unpin,
{
    tokio::select! {
        // Biased: hyper reads a request that has arrived before it is told to take no more.
        biased;
        ended = poll_fn(|context| poll_served(http, requests, context)) => return ended,
        () = drain.begun() => Pin::new(&mut *http).graceful_shutdown(),
    }
    tokio::select! {
        ended = poll_fn(|context| poll_served(http, requests, context)) => ended,
        () = requests.no_longer_answered() => Ok(()),
    }
}

/// Polls hyper's side of a connection.
///
/// Becomes ready also when a client is due its `101` and all responses before that have gone out,
/// when a request missed its deadline, and when a client that sends no more has its response.
fn poll_served<S>(
    http: &mut http1::Connection<TokioIo<ClientIo>, S>,
    requests: &Http1Service,
    context: &mut Context<'_>,
) -> Poll<hyper::Result<()>>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Unpin,
{
    let served = http.poll_without_shutdown(context);
    if served.is_ready() {
        return served;
    }
    if requests.stream.poll_ended(context).is_ready() {
        // The client has left, so its `101` would have no reader.
        requests.switching.take();
        return Poll::Ready(Ok(()));
    }
    // hyper flushes earlier responses by itself, and polls its stream for that.
    let is_switching = requests.switching.borrow().is_some() && requests.stream.is_flushed();
    if is_switching {
        return Poll::Ready(Ok(()));
    }
    // hyper may have begun or ended a request in this poll.
    requests.stream.poll_too_slow(context).map(Ok)
}

/// A client that is due its `101`.
struct Switching {
    /// The head, written by the proxy: hyper would add `close` to `Connection` for a client that
    /// sent it.
    head: Vec<u8>,
    accepted: Accepted,
}

/// State that the requests of one connection share.
struct Http1Service {
    connection: ClientConnection,
    stream: ClientIo,
    is_body_broken: Rc<Cell<bool>>,
    /// Set in place of a response by hyper.
    switching: RefCell<Option<Switching>>,
    /// Upstream connections that are bound to this client connection.
    binding: Rc<Binding>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

fn respond(requests: Rc<Http1Service>, request: Request<Incoming>) -> Answer {
    // Taken before the future is polled, for hyper reads on before that and must find the request
    // in progress.
    let under_way = requests.stream.under_way();
    Box::pin(async move {
        let is_http_1_0 = request.version() == Version::HTTP_10;
        let meter = requests.connection.meter(&request);
        let answer = requests.answer(request, &meter).await;
        let mut response = match answer {
            Ok((response, Some(accepted))) => {
                let response = meter.answered(response);
                let head = head::switching_protocols(&response);
                let switching = Switching { head, accepted };
                *requests.switching.borrow_mut() = Some(switching);
                // Never a response by hyper: `poll_served` sees `switching` and ends hyper's
                // part.
                return future::pending().await;
            }
            Ok((response, None)) => response,
            Err(refusal) => requests.connection.refuse(refusal, &meter),
        };
        // The request is in progress until its response has been sent.
        response.body_mut().keep(under_way);
        if requests.connection.local.drain().is_announced() {
            // hyper closes the connection then, without a `Connection: close` that tells the
            // client.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if is_http_1_0 {
            say_whether_it_ends(&mut response);
        }
        if let Some(spelling) = response.body_mut().take_spelling() {
            requests.stream.spell_next(spelling);
        }
        Ok(meter.answered(response))
    })
}

/// Tells an HTTP/1.0 client that the connection ends with its response, where it does: closing
/// delimits a body of unknown length (RFC 9112 §6.3).
///
/// hyper would say `keep-alive` to a client that asks for it (RFC 9112 §9.3), and close.
fn say_whether_it_ends(response: &mut Response<Body>) {
    let body = response.body();
    let is_without = matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let is_open = body.size_hint().exact().is_none() && !body.is_end_stream() && !is_without;
    if is_open || list(response.headers().get_all(CONNECTION)).any(|it| it == "close") {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        *response.version_mut() = Version::HTTP_10;
    }
}

impl Http1Service {
    /// Resolves when no request is in progress and nothing is left to be written, after
    /// [`LINGER`] in which a request could still have come.
    async fn no_longer_answered(&self) {
        loop {
            time::sleep(LINGER).await;
            if self.stream.is_idle() && self.stream.is_flushed() {
                return;
            }
        }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        meter: &RequestLog,
    ) -> Result<(Response<Body>, Option<Accepted>), LocalReply> {
        self.stream.next_verdict()?;
        let local = &self.connection.local;
        let client = meter.client();
        let route = self.connection.route(&mut request, meter)?;
        if handshake::accept::is_websocket(request.headers()) {
            meter.set_handshake();
            let (mut parts, _body) = request.into_parts();
            // The handshake for the upstream repeats the client's spelling of names.
            parts.extensions.insert(self.stream.take_spelling());
            // A WebSocket is useless to a client that has closed its write side.
            self.stream.set_held(true);
            let is_client_gone = || self.stream.is_gone();
            let answer = handshake::answer(
                &parts,
                client,
                &route,
                local,
                Some(&is_client_gone),
                Some(&self.binding),
            );
            let answer = answer.await;
            if matches!(answer, Ok((_, Some(_)))) {
                meter.set_session();
            } else {
                self.stream.set_held(false);
            }
            return answer;
        }
        let downstream = Downstream {
            client,
            is_body_broken: Some(&self.is_body_broken),
            is_gone: &|| self.stream.is_gone(),
            set_held: &|is_held| self.stream.set_held(is_held),
            send_interim: &|interim| self.stream.send_interim(interim),
            backlog: None,
            binding: Some(&self.binding),
        };
        let response = forward::forward(request, downstream, &route, local).await;
        self.stream.set_held(false);
        Ok((response?, None))
    }
}
