//! State that connections share: of the process, and of each worker.
//!
//! # Invariants
//!
//! * State of a worker never leaves its thread and has no locks; other threads read it through
//!   its [handle](worker_handle).
//! * A reload replaces the configuration of the process; connections, sessions and requests
//!   that have begun keep theirs.

pub mod endpoints;
pub mod process;
pub(crate) mod recent;
pub(crate) mod recent_refusals;
pub(crate) mod subprotocols;
pub mod worker;
pub mod worker_handle;
