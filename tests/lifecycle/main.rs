//! The program from its start to its end: signals, drain, reload.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod breaker;
mod counts;
mod crowd;
mod drain;
mod reload;
mod service;
mod signals;

mod support;
mod waiting;
