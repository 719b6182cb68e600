//! One request from its arrival to its answer: what is counted of it, and its line in the log.
//!
//! # Invariants
//!
//! * A request has at most one line, when all of its answer has been sent or nobody waits for
//!   it any more, or when it is cut off with the process before it has one. One that becomes a
//!   session has none: the session has its own.

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
    local_reply::Refusal,
    observability::{
        RequestLogging,
        access_log::{self, RequestEnded},
        error_chain::ErrorChain,
        rejections::Rejection,
    },
    proxy::bodies::{Body, BodyObserver},
    route::Route,
    session::EndReason,
    state::worker::{WorkerState, route_stats::RouteStats},
};

/// Counts one request of a client.
pub(crate) struct RequestLog {
    kind: Cell<RequestKind>,
    refusal: Cell<Option<Refusal>>,
    line: RequestLine,
}

/// What a request turns out to be.
#[derive(Clone, Copy)]
enum RequestKind {
    Plain,
    Handshake,
    Session,
}

impl RequestLog {
    /// A request of `client` has come, whose route is not known yet.
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

    /// Who has sent it.
    pub(crate) const fn client(&self) -> Client {
        self.line.client
    }

    /// What it is called.
    pub(crate) const fn identity(&self) -> &RequestId {
        &self.line.identity
    }

    /// It is for `route`.
    pub(crate) fn set_route(&self, route: &Arc<Route>, local: &WorkerState) {
        self.line.tally.replace(local.tallies.of(route));
    }

    /// It is an opening handshake.
    pub(crate) fn set_handshake(&self) {
        self.kind.set(RequestKind::Handshake);
    }

    /// It has become a session.
    pub(crate) fn set_session(&self) {
        self.kind.set(RequestKind::Session);
    }

    /// It is not served.
    pub(crate) fn set_refused(&self, refusal: Refusal) {
        self.refusal.set(Some(refusal));
    }

    /// Its answer begins, whose body is watched to its end if the log wants to know.
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
        if matches!(refusal, Some(Refusal::BreakerOpen { .. })) {
            // All of a second have one line together.
            line.requests = RequestLogging::None;
        }
        line.is_due = match line.requests {
            RequestLogging::None => false,
            RequestLogging::Errors => refusal.is_some() && !is_session,
            RequestLogging::All => !is_session,
        };
        line.answer = Some((status, refusal));
        // An answer of which more is to come may still break off, which is an error, too.
        let may_break = line.requests == RequestLogging::Errors
            && !is_session
            && !response.body().is_end_stream();
        if !line.is_due && !may_break {
            return response;
        }
        response.map(|body| body.observed(Box::new(line)))
    }
}

/// What the log says of a request, when it is dropped.
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
    /// `None` when nobody has waited for it.
    answer: Option<(StatusCode, Option<Refusal>)>,
    end: ResponseEnd,
    /// Of its body.
    length: Option<u64>,
    response_bytes: u64,
    /// Whether the process ends at this instant.
    is_cut_off: Rc<Cell<bool>>,
}

/// How far the body of an answer has come.
#[derive(Debug)]
enum ResponseEnd {
    /// More of it is to be sent, and when it is dropped that is not.
    Open,
    /// All of it has been handed on.
    Whole,
    /// The upstream has not sent all of it, with the words for the log.
    Broken(String),
}

impl BodyObserver for RequestLine {
    fn set_length(&mut self, bytes: Option<u64>) {
        self.length = bytes;
    }

    fn add_bytes(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
        // Whatever may come behind that, hyper's server does not ask for it.
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
    /// Why the request did not get a whole answer of the upstream, by name and in words.
    fn reason(&self) -> Option<(&'static str, String)> {
        let refusal = self.answer.and_then(|(_, refusal)| refusal);
        if self.is_cut_off.get() {
            let aborted = EndReason::Aborted;
            return Some((aborted.name(), aborted.to_string()));
        }
        match (refusal, &self.end) {
            (Some(refusal), _) => Some((Rejection::from(refusal).name(), refusal.to_string())),
            (None, ResponseEnd::Whole) => None,
            (None, ResponseEnd::Open) => {
                let detail = if self.answer.is_some() {
                    "the client has not taken all of the answer"
                } else {
                    "the client has not waited for the answer"
                };
                Some((Rejection::ClientGone.name(), detail.to_owned()))
            }
            (None, ResponseEnd::Broken(error)) => {
                let detail = format!("the answer of the upstream has no end: {error}");
                Some((Rejection::UpstreamFailed.name(), detail))
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
        let is_refused = self.answer.is_some_and(|(_, refusal)| refusal.is_some());
        // What the proxy does not know is the client's to ask for: no client writes warnings.
        let is_failure = is_refused
            && self.answer.is_some_and(|(status, _)| {
                status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
            });
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
            is_refused,
            reason: self.reason(),
            is_warning: self.is_cut_off.get()
                || is_failure
                || matches!(self.end, ResponseEnd::Broken(_)),
            duration: self.started.elapsed(),
            response_bytes: self.response_bytes,
        });
    }
}
