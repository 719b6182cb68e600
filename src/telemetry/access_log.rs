//! The one log line that a session ends with.
//!
//! # Invariants
//!
//! * Nothing that a client or an upstream wrote is in it but the path: no query string, no
//!   header, no payload.

use std::time::Duration;

use crate::session::{Report, ledger::Account, state::SessionState};

/// Where a session came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client's address.
    pub client: &'a str,
    /// Whether its session is a stream of an HTTP/2 connection.
    pub is_http2: bool,
    /// The path it asked for, without the query.
    pub path: &'a str,
    /// The route's path prefix.
    pub route: &'a str,
}

/// Logs the end of a session: a warning when messages were not delivered or the proxy or
/// the upstream failed, otherwise information.
pub fn session_ended(report: &Report, origin: Origin<'_>) {
    macro_rules! log {
        ($level:expr) => {{
            let ledger = &report.ledger;
            tracing::event!(
                $level,
                client = origin.client,
                http = if origin.is_http2 { "2" } else { "1.1" },
                path = origin.path,
                route = origin.route,
                ended_by = report.cause.initiator().name(),
                reason = report.cause.name(),
                detail = %report.cause,
                state = report.state.name(),
                client_code = report.client_code.map(crate::websocket::CloseCode::get),
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
                upstream_attempts = report.attempts,
                upstream_error = report.last_connect_error.as_deref(),
                trail = %report.trail,
                "session ended"
            );
        }};
    }
    if is_warning(report) {
        log!(tracing::Level::WARN);
    } else {
        log!(tracing::Level::INFO);
    }
}

fn is_warning(report: &Report) -> bool {
    use crate::session::termination::Initiator;
    let failed = report.trail.state() == SessionState::Failed;
    report.ledger.undelivered() > 0 || failed && report.cause.initiator() != Initiator::Client
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
