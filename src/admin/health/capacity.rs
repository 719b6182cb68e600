//! Capacity for new clients: limits of the process that refuse every new client once they are
//! reached.
//!
//! Limits that refuse only some clients are not checked: those per address, per route, and of new
//! sessions per second.
//!
//! # Invariants
//!
//! * Hysteresis: a limit stays reached until 5 % of it is free, so that a load balancer that
//!   follows the response does not flap with each client.

use std::{cell::Cell, io};

use super::HealthCheck;
use crate::{state::process::ProcessState, transport::descriptors};

/// Divisor for the part of a limit that has to become free before there is capacity again.
const RELIEF: usize = 20;

/// Limits that were reached at the last check.
#[derive(Debug, Default)]
pub(in crate::admin) struct Room {
    connections: CapacityLimit,
    held_bytes: CapacityLimit,
}

impl Room {
    /// Checks each limit of the process.
    pub(super) fn checks(&self, shared: &ProcessState) -> [HealthCheck; 4] {
        let connections = shared.connections().taken();
        let max_connections = shared.config().limits.max_connections;
        let budget = shared.budget();
        let problems = [
            (
                "limits.max_connections",
                self.connections.problem(connections, max_connections),
            ),
            (
                "limits.max_held_bytes",
                (self.held_bytes).problem(budget.used_bytes(), budget.max_bytes()),
            ),
            ("limits.max_memory_bytes", memory(shared)),
            ("file descriptors", descriptors()),
        ];
        problems.map(|(name, problem)| HealthCheck {
            name: name.to_owned(),
            problem,
        })
    }
}

/// State of one limit: reached at the last check or not.
#[derive(Debug, Default)]
struct CapacityLimit(Cell<bool>);

impl CapacityLimit {
    fn problem(&self, used: usize, max: usize) -> Option<String> {
        let room_below = max - max / RELIEF;
        // Two thresholds: the limit to become reached, the lower one to become free.
        let is_reached = used >= if self.0.get() { room_below } else { max };
        self.0.set(is_reached);
        is_reached.then(|| format!("{used} of {max}; there is room below {room_below}"))
    }
}

/// Checks the memory; its hysteresis is that of the decision about new sessions.
fn memory(shared: &ProcessState) -> Option<String> {
    let (used, max) = shared.memory().used_and_max_bytes()?;
    let is_short = shared.memory().is_high();
    is_short.then(|| format!("{used} of {max} bytes are in use"))
}

/// Checks that there are descriptors for clients, which otherwise wait to be accepted.
fn descriptors() -> Option<String> {
    // Any descriptor serves to ask; standard error is always open.
    let are_left = descriptors::are_left(&io::stderr());
    (!are_left).then(|| "only those for operators are left".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_reached_until_a_twentieth_of_it_is_free_again() {
        let bound = CapacityLimit::default();

        for (used, expected) in [
            (0, false),
            (99, false),
            (100, true),
            (99, true),
            (140, true),
            (95, true),
            (94, false),
            (99, false),
            (100, true),
        ] {
            assert_eq!(bound.problem(used, 100).is_some(), expected, "{used}");
        }
    }

    #[test]
    fn a_small_bound_is_reached_until_there_is_room_for_one() {
        let bound = CapacityLimit::default();

        for (used, expected) in [(2, false), (3, true), (2, false)] {
            assert_eq!(bound.problem(used, 3).is_some(), expected, "{used}");
        }
    }
}
