//! Whether there is room for new clients: the bounds of the process that, once they are
//! reached, refuse whoever comes.
//!
//! What refuses only some is none of them: the bounds of an address, of a route, and of new
//! sessions in a second, of which some are let in all the same.
//!
//! # Invariants
//!
//! * A bound that was found reached is so until a twentieth of it is free again: whoever sends
//!   clients by the answer is not told something else with each of them.

use std::{cell::Cell, io};

use super::Check;
use crate::{http::Shared, transport::descriptors};

/// Which part of a bound has to become free until there is room again.
const RELIEF: usize = 20;

/// Which bounds were last found reached.
#[derive(Debug, Default)]
pub(in crate::admin) struct Room {
    connections: Bound,
    held_bytes: Bound,
}

impl Room {
    /// A check for each bound of the process.
    pub(super) fn checks(&self, shared: &Shared) -> [Check; 4] {
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
        problems.map(|(name, problem)| Check {
            name: name.to_owned(),
            problem,
        })
    }
}

/// Whether a bound was last found reached.
#[derive(Debug, Default)]
struct Bound(Cell<bool>);

impl Bound {
    fn problem(&self, used: usize, max: usize) -> Option<String> {
        let room_below = max - max / RELIEF;
        let is_reached = used >= if self.0.get() { room_below } else { max };
        self.0.set(is_reached);
        is_reached.then(|| format!("{used} of {max}; there is room below {room_below}"))
    }
}

/// It has a relief of its own, as whether it is short decides about each new session.
fn memory(shared: &Shared) -> Option<String> {
    let (used, max) = shared.memory().used_and_max_bytes()?;
    let is_short = shared.memory().is_high();
    is_short.then(|| format!("{used} of {max} bytes are in use"))
}

/// None is left for clients, who wait to be accepted.
fn descriptors() -> Option<String> {
    let are_left = descriptors::are_left(&io::stderr());
    (!are_left).then(|| "only those for operators are left".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_reached_until_a_twentieth_of_it_is_free_again() {
        let bound = Bound::default();

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
        let bound = Bound::default();

        for (used, expected) in [(2, false), (3, true), (2, false)] {
            assert_eq!(bound.problem(used, 3).is_some(), expected, "{used}");
        }
    }
}
