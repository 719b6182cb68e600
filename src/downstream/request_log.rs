//! One request from its arrival to the end of its response: its counts, and its line in the log.
//!
//! # Invariants
//!
//! * A request has at most one line: when all of its response has been sent, when the client no
//!   longer waits for it, or when the process ends before. A request that becomes a session has
//!   none, for the session has its own.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use hyper::{Method, Request, Response, StatusCode, Uri, Version, body::Body as _};
use tokio::time::Instant;

use crate::{
    client_addr::Client,
    headers::request_id::RequestId,
    local_reply::LocalReply,
    observability::{
        RequestLogging,
        access_log::{self, RequestEnded},
        error_chain::ErrorChain,
    },
    proxy::bodies::{Body, BodyObserver},
    route::Route,
    session::EndReason,
    state::worker::{WorkerState, route_stats::RouteStats},
};

/// Counts and logs one request of a client.
pub(crate) struct RequestLog {
    kind: Cell<RequestKind>,
    refusal: Cell<Option<LocalReply>>,
    line: RequestLine,
}

/// Kinds of requests, which are counted apart.
#[derive(Clone, Copy)]
enum RequestKind {
    Plain,
    Handshake,
    Session,
}

impl RequestLog {
    /// Starts the log of a request of `client` whose route is not known yet.
    pub(crate) fn start<B>(
        request: &Request<B>,
        client: Client,
        identity: RequestId,
        requests: RequestLogging,
        local: &WorkerState,
    ) -> Self {
        Self {
            kind: Cell::new(RequestKind::Plain),
            refusal: Cell::default(),
            line: RequestLine {
                client,
                identity,
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
                started: Instant::now(),
                requests,
                is_due: requests == RequestLogging::All,
                tally: RefCell::new(local.tallies.unrouted()),
                answer: None,
                end: ResponseEnd::Open,
                length: None,
                response_bytes: 0,
                is_cut_off: Rc::clone(&local.is_cut_off),
            },
        }
    }

    /// Returns the client.
    pub(crate) const fn client(&self) -> Client {
        self.line.client
    }

    /// Returns the request's id.
    pub(crate) const fn identity(&self) -> &RequestId {
        &self.line.identity
    }

    /// Counts the request for `route`.
    pub(crate) fn set_route(&self, route: &Arc<Route>, local: &WorkerState) {
        self.line.tally.replace(local.tallies.of(route));
    }

    /// Counts the request as an opening handshake.
    pub(crate) fn set_handshake(&self) {
        self.kind.set(RequestKind::Handshake);
    }

    /// Counts the request as accepted, and leaves its line to the session.
    pub(crate) fn set_session(&self) {
        self.kind.set(RequestKind::Session);
    }

    /// Notes why the request gets a local reply.
    pub(crate) fn set_refused(&self, refusal: LocalReply) {
        self.refusal.set(Some(refusal));
    }

    /// Counts the response, and observes its body to the end if the log needs that.
    pub(crate) fn answered(self, response: Response<Body>) -> Response<Body> {
        let Self {
            kind,
            refusal,
            mut line,
        } = self;
        let (refusal, status) = (refusal.get(), response.status());
        line.tally.borrow().change(|totals| match kind.get() {
            RequestKind::Plain => totals.add_answer(status, line.started.elapsed()),
            RequestKind::Handshake => totals.handshakes_refused += 1,
            RequestKind::Session => totals.handshakes_accepted += 1,
        });
        let is_session = matches!(kind.get(), RequestKind::Session);
        if matches!(refusal, Some(LocalReply::BreakerOpen { .. })) {
            // All of a second share one line.
            line.requests = RequestLogging::None;
        }
        line.is_due = match line.requests {
            RequestLogging::None => false,
            RequestLogging::Errors => refusal.is_some() && !is_session,
            RequestLogging::All => !is_session,
        };
        line.answer = Some((status, refusal));
        // A response whose rest is still to come may break off, which counts as an error.
        let may_break = line.requests == RequestLogging::Errors
            && !is_session
            && !response.body().is_end_stream();
        if !line.is_due && !may_break {
            return response;
        }
        response.map(|body| body.observed(Box::new(line)))
    }
}

/// The line of a request in the log, which is written on drop.
#[derive(Debug)]
pub(crate) struct RequestLine {
    client: Client,
    identity: RequestId,
    method: Method,
    uri: Uri,
    version: Version,
    started: Instant,
    requests: RequestLogging,
    is_due: bool,
    tally: RefCell<Rc<RouteStats>>,
    /// `None` for a client that left before its response.
    answer: Option<(StatusCode, Option<LocalReply>)>,
    end: ResponseEnd,
    /// Length of the response's body in bytes, if known.
    length: Option<u64>,
    response_bytes: u64,
    /// Set while the process ends, and with it what is still in progress.
    is_cut_off: Rc<Cell<bool>>,
}

/// Progress of the response's body.
#[derive(Debug)]
enum ResponseEnd {
    /// More is to be sent; on drop, the client has not had it.
    Open,
    /// All of it has been handed to hyper.
    Whole,
    /// The upstream broke off, with the error for the log.
    Broken(String),
}

impl BodyObserver for RequestLine {
    fn set_length(&mut self, bytes: Option<u64>) {
        self.length = bytes;
    }

    fn add_bytes(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
        // hyper's server does not poll beyond the announced length.
        if self.length == Some(self.response_bytes) {
            self.end = ResponseEnd::Whole;
        }
    }

    fn set_whole(&mut self) {
        self.end = ResponseEnd::Whole;
    }

    fn set_broken(&mut self, error: &hyper::Error) {
        self.end = ResponseEnd::Broken(ErrorChain(error).to_string());
        self.is_due |= self.requests != RequestLogging::None;
    }
}

impl RequestLine {
    /// Returns why the request did not get a whole response of the upstream, as a name and a
    /// text.
    fn reason(&self) -> Option<(&'static str, String)> {
        let refusal = self.answer.and_then(|(_, refusal)| refusal);
        if self.is_cut_off.get() {
            let aborted = EndReason::Aborted;
            return Some((aborted.name(), aborted.to_string()));
        }
        match (refusal, &self.end) {
            (Some(refusal), _) => Some((refusal.reason(), refusal.to_string())),
            (None, ResponseEnd::Whole) => None,
            (None, ResponseEnd::Open) => {
                let detail = if self.answer.is_some() {
                    "the client has not read all of the response"
                } else {
                    "the client has not waited for the response"
                };
                Some((LocalReply::ClientGone.reason(), detail.to_owned()))
            }
            (None, ResponseEnd::Broken(error)) => {
                let detail = format!("the response of the upstream broke off: {error}");
                Some((LocalReply::BadGateway.reason(), detail))
            }
        }
    }
}

impl Drop for RequestLine {
    fn drop(&mut self) {
        let is_cut_off = self.is_cut_off.get() && self.answer.is_none();
        let is_due = self.is_due || is_cut_off && self.requests != RequestLogging::None;
        if !is_due {
            return;
        }
        let refusal = self.answer.and_then(|(_, refusal)| refusal);
        access_log::request_ended(&RequestEnded {
            request_id: self.identity.id(),
            trace: self.identity.trace(),
            client: self.client.address,
            http: match self.version {
                Version::HTTP_2 => "2",
                Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            method: self.method.as_str(),
            path: self.uri.path(),
            route: self.tally.borrow().label(),
            status: self.answer.map(|(status, _)| status.as_u16()),
            is_refused: refusal.is_some(),
            reason: self.reason(),
            is_warning: self.is_cut_off.get()
                || refusal.is_some_and(LocalReply::is_failure)
                || matches!(self.end, ResponseEnd::Broken(_)),
            duration: self.started.elapsed(),
            response_bytes: self.response_bytes,
        });
    }
}
