//! The log on standard output: whole lines, no secrets, and no effect of its reader on sessions.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod lines;
mod metadata;
mod output;
mod secrets;
mod subprotocols;
mod support;
