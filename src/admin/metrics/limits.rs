//! Use of each limit, and the limit.

use std::fmt;

use super::{Labels, labels, page::Page};
use crate::{limits::per_ip::Busiest, state::process::ProcessState};

/// Use and limits at one instant.
#[derive(Debug)]
pub(super) struct LimitFigures {
    connections: u64,
    connections_accepted: u64,
    max_connections: u64,
    held_bytes: u64,
    max_held_bytes: u64,
    busiest: Busiest,
    session_rate_used: Option<f64>,
    /// Bytes in use and the limit, if there is one.
    memory: Option<(u64, u64)>,
    /// Held requests and their limit, by route.
    held_requests: Vec<(String, u64, u64)>,
}

impl LimitFigures {
    pub(super) fn of(shared: &ProcessState) -> Self {
        Self {
            connections: shared.connections().taken() as u64,
            connections_accepted: shared.connections().accepted(),
            max_connections: shared.config().limits.max_connections as u64,
            held_bytes: shared.budget().used_bytes() as u64,
            max_held_bytes: shared.budget().max_bytes() as u64,
            busiest: shared.addresses().busiest(),
            session_rate_used: shared.session_rate_used(),
            memory: shared.memory().used_and_max_bytes(),
            held_requests: (shared.held().usage().into_iter())
                .map(|(label, held, max)| (label, held as u64, max as u64))
                .collect(),
        }
    }

    pub(super) fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "readygate_connections",
            "Connections of clients, and sessions that share one: what the limit is for.",
            self.connections,
        )?;
        page.gauge(
            "readygate_connections_limit",
            "The most connections of clients (limits.max_connections).",
            self.max_connections,
        )?;
        page.counters(
            "readygate_connections_accepted",
            "Connections of clients so far, those over the limit included.",
            [(Labels::new(), self.connections_accepted)],
        )?;
        page.gauge(
            "readygate_held_bytes",
            "Accounted bytes that all sessions hold.",
            self.held_bytes,
        )?;
        page.gauge(
            "readygate_held_limit_bytes",
            "Most accounted bytes that all sessions may hold (limits.max_held_bytes).",
            self.max_held_bytes,
        )?;
        if let Some((used, max)) = self.memory {
            page.gauge(
                "readygate_memory_bytes",
                "Memory in use, as it counts against the limit.",
                used,
            )?;
            page.gauge(
                "readygate_memory_limit_bytes",
                "Memory in use above which new sessions are rejected (limits.max_memory_bytes).",
                max,
            )?;
        }
        if let Some((used, max)) = self.busiest.connections {
            page.gauge(
                "readygate_busiest_address_connections",
                "Connections of the address that has the most.",
                used as u64,
            )?;
            page.gauge(
                "readygate_address_connections_limit",
                "The most connections of one address (limits.max_connections_per_address).",
                max as u64,
            )?;
        }
        if let Some(used) = self.busiest.session_rate {
            page.real_gauge(
                "readygate_busiest_address_session_rate_used_ratio",
                "Used share of the burst of limits.session_rate_per_address, of the address that has used the most.",
                used,
            )?;
        }
        if let Some(used) = self.session_rate_used {
            page.real_gauge(
                "readygate_session_rate_used_ratio",
                "Used share of the burst of new sessions (limits.session_rate).",
                used,
            )?;
        }
        let held = self.held_requests.iter();
        page.gauges(
            "readygate_http_held_requests",
            "Plain HTTP requests that wait for their upstream to listen.",
            (held.clone()).map(|(route, held, _)| (labels(&[("route", route)]), *held)),
        )?;
        page.gauges(
            "readygate_http_held_requests_limit",
            "Most plain HTTP requests that may wait (route.http.max_held_requests).",
            held.map(|(route, _, max)| (labels(&[("route", route)]), *max)),
        )
    }
}
