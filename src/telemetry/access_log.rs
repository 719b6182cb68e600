//! The one log line that a session ends with, and that of a plain request.
//!
//! # Invariants
//!
//! * Nothing that a client or an upstream wrote is in it but the method, the path, and the ids
//!   of the request and its trace: no query string, no other header, no payload.

use std::time::Duration;

use super::trace::Trace;
use crate::{
    client::ClientAddr,
    session::{Cause, Report, ledger::Account, state::SessionState, termination::Initiator},
    websocket::CloseCode,
};

/// Where a session came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its number.
    pub session: u64,
    /// The id of the request that it began with.
    pub request_id: &'a str,
    /// The trace that it is part of.
    pub trace: Option<Trace>,
    /// The client's address.
    pub client: ClientAddr,
    /// Whether its session is a stream of an HTTP/2 connection.
    pub is_http2: bool,
    /// The path it asked for, without the query.
    pub path: &'a str,
    /// The name of its route.
    pub route: &'a str,
    /// The address of the upstream that it was connected to.
    pub upstream_address: Option<&'a str>,
}

/// A request that did not become a session.
#[derive(Clone, Debug)]
pub struct Answered<'a> {
    /// Its id.
    pub request_id: &'a str,
    /// The trace that it is part of.
    pub trace: Option<Trace>,
    /// The client's address.
    pub client: ClientAddr,
    /// The version of HTTP that it came over: `1.0`, `1.1` or `2`.
    pub http: &'static str,
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// The name of its route.
    pub route: &'a str,
    /// The status of its answer, if it got one.
    pub status: Option<u16>,
    /// Whether the proxy has answered it itself.
    pub is_refused: bool,
    /// Why it has no whole answer of the upstream: a name, and in words.
    pub reason: Option<(&'static str, String)>,
    /// Whether that is the fault of the upstream, or of the proxy.
    pub is_warning: bool,
    /// From its head to the end of the answer.
    pub duration: Duration,
    /// How long the body of the answer was, as far as it was sent.
    pub response_bytes: u64,
}

/// What a client has begun, and never became a request.
#[derive(Clone, Copy, Debug)]
pub struct NoRequest<'a> {
    /// The id in the answer, if that has one.
    pub request_id: Option<&'a str>,
    /// The client's address.
    pub client: ClientAddr,
    /// The status of the answer, if there is one.
    pub status: Option<u16>,
    /// Why it is none: a name, and in words.
    pub refusal: (&'static str, &'a str),
}

/// Logs an event at one of two levels, which `tracing` wants to know when it is compiled.
macro_rules! log {
    ($is_warning:expr, $($fields:tt)*) => {
        if $is_warning {
            tracing::warn!($($fields)*);
        } else {
            tracing::info!($($fields)*);
        }
    };
}

/// Logs the end of a session: a warning when messages were not delivered or the proxy or
/// the upstream failed, otherwise information.
pub fn session_ended(report: &Report, origin: Origin<'_>) {
    let ledger = &report.ledger;
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
pub fn request_ended(answered: &Answered<'_>) {
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

/// Logs that what a client of HTTP/1.1 has sent is no request, with what is known of it.
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
    report.ledger.undelivered() > 0 || failed && report.cause.initiator() != Initiator::Client
}

/// The code that whoever has closed first has sent.
fn closed_with(cause: &Cause) -> Option<CloseCode> {
    match cause {
        Cause::ClientClosed(frame) | Cause::UpstreamClosed(frame) => frame.code,
        _ => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
