//! Access log: one line for each session, and one for a plain request.
//!
//! # Invariants
//!
//! * Of the data that a client or an upstream sent, a line contains only the method, the path, and
//!   the ids of the request and its trace: no query string, no other header, no payload.

use std::time::Duration;

use super::trace::Trace;
use crate::{
    client_addr::ClientAddr,
    session::{EndReason, Report, ledger::Account, state::SessionState, termination::Initiator},
    websocket::CloseCode,
};

/// Origin of a session.
#[derive(Clone, Copy, Debug)]
pub struct RequestSource<'a> {
    /// Number of the session.
    pub session: u64,
    /// Id of the request that opened the session.
    pub request_id: &'a str,
    /// Trace of that request.
    pub trace: Option<Trace>,
    /// Address of the client.
    pub client: ClientAddr,
    /// True if the session is a stream of an HTTP/2 connection.
    pub is_http2: bool,
    /// Requested path, without the query.
    pub path: &'a str,
    /// Name of the route.
    pub route: &'a str,
    /// Address of the upstream connection.
    pub upstream_address: Option<&'a str>,
}

/// A request that did not become a session.
#[derive(Clone, Debug)]
pub struct RequestEnded<'a> {
    /// Id of the request.
    pub request_id: &'a str,
    /// Trace of the request.
    pub trace: Option<Trace>,
    /// Address of the client.
    pub client: ClientAddr,
    /// Version of HTTP: `1.0`, `1.1` or `2`.
    pub http: &'static str,
    /// Request method.
    pub method: &'a str,
    /// Requested path, without the query.
    pub path: &'a str,
    /// Name of the route.
    pub route: &'a str,
    /// Status of the response, if there was one.
    pub status: Option<u16>,
    /// True if the proxy made the response itself.
    pub is_refused: bool,
    /// Reason why there is no complete response of the upstream: a name, and in words.
    pub reason: Option<(&'static str, String)>,
    /// True if the reason is a failure of the upstream or of the proxy.
    pub is_warning: bool,
    /// Time from the request's head to the end of the response.
    pub duration: Duration,
    /// Length of the response body, as far as it was sent.
    pub response_bytes: u64,
}

/// Input of a client that never became a request.
#[derive(Clone, Copy, Debug)]
pub struct NoRequest<'a> {
    /// Id in the response, if it has one.
    pub request_id: Option<&'a str>,
    /// Address of the client.
    pub client: ClientAddr,
    /// Status of the response, if there was one.
    pub status: Option<u16>,
    /// Reason: a name, and in words.
    pub refusal: (&'static str, &'a str),
}

/// Logs an event at one of two levels; `tracing` needs a level at compile time.
macro_rules! log {
    ($is_warning:expr, $($fields:tt)*) => {
        if $is_warning {
            tracing::warn!($($fields)*);
        } else {
            tracing::info!($($fields)*);
        }
    };
}

/// Logs the end of a session: at level warn when messages were lost, or the proxy or the upstream
/// failed; otherwise at info.
pub fn session_ended(report: &Report, origin: RequestSource<'_>) {
    let ledger = &report.ledger;
    // An extended `CONNECT` is accepted with 200 (RFC 8441 §5).
    let (method, status) = if origin.is_http2 {
        ("CONNECT", 200_u16)
    } else {
        ("GET", 101)
    };
    log!(
        is_warning(report),
        session = origin.session,
        client = origin.client.to_string().as_str(),
        http = http(origin.is_http2),
        method,
        path = origin.path,
        route = origin.route,
        status,
        ended_by = report.cause.initiator().name(),
        reason = report.cause.name(),
        detail = %report.cause,
        state = report.state.name(),
        close_code = closed_with(&report.cause).map(CloseCode::get),
        client_code = report.client_code.map(CloseCode::get),
        upstream_code = report.upstream_code.map(CloseCode::get),
        duration_ms = millis(report.duration),
        connected_ms = report.connected_after.map(millis),
        ready_ms = report.ready_after.map(millis),
        flush_us = report.flush_time.map(micros),
        accepted = ledger.accepted(),
        delivered = ledger.of(Account::Delivered),
        shed = ledger.of(Account::Shed),
        expired = ledger.of(Account::Expired),
        discarded = ledger.of(Account::Discarded),
        unknown = ledger.of(Account::Unknown),
        client_bytes = report.traffic.client_bytes,
        upstream_bytes = report.traffic.upstream_bytes,
        upstream_messages = report.traffic.upstream_messages,
        upstream_address = origin.upstream_address,
        upstream_attempts = report.attempts,
        upstream_error = report.last_connect_error.as_deref(),
        trail = %report.trail,
        request_id = origin.request_id,
        trace_id = origin.trace.map(|trace| trace.id()),
        span_id = origin.trace.and_then(|trace| trace.span_id()),
        trace_sampled = origin.trace.map(|trace| trace.is_sampled),
        "session ended"
    );
}

/// Logs the end of a request that did not become a session.
pub fn request_ended(answered: &RequestEnded<'_>) {
    let by = if answered.is_refused {
        "proxy"
    } else {
        "upstream"
    };
    let reason = answered.reason.as_ref();
    log!(
        answered.is_warning,
        client = answered.client.to_string().as_str(),
        http = answered.http,
        method = answered.method,
        path = answered.path,
        route = answered.route,
        status = answered.status,
        answered_by = answered.status.map(|_| by),
        reason = reason.map(|(name, _)| *name),
        detail = reason.map(|(_, words)| words.as_str()),
        duration_ms = millis(answered.duration),
        response_bytes = answered.response_bytes,
        request_id = answered.request_id,
        trace_id = answered.trace.map(|trace| trace.id()),
        span_id = answered.trace.and_then(|trace| trace.span_id()),
        trace_sampled = answered.trace.map(|trace| trace.is_sampled),
        "request ended"
    );
}

/// Logs input on HTTP/1.1 that is not a request.
pub fn no_request(refused: &NoRequest<'_>) {
    let (reason, detail) = refused.refusal;
    tracing::info!(
        client = refused.client.to_string().as_str(),
        http = http(false),
        status = refused.status,
        answered_by = refused.status.map(|_| "proxy"),
        reason,
        detail,
        request_id = refused.request_id,
        "request ended"
    );
}

const fn http(is_http2: bool) -> &'static str {
    if is_http2 { "2" } else { "1.1" }
}

fn is_warning(report: &Report) -> bool {
    let failed = report.trail.state() == SessionState::Failed;
    // A client that leaves is not a failure of the proxy or the upstream.
    report.ledger.undelivered() > 0 || failed && report.cause.initiator() != Initiator::Client
}

/// Returns the close code of the side that closed first.
fn closed_with(cause: &EndReason) -> Option<CloseCode> {
    match cause {
        EndReason::ClientClosed(frame) | EndReason::UpstreamClosed(frame) => frame.code,
        _ => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
