//! What the program writes to standard output: whole lines, no secrets, and whatever happens
//! to whoever reads them.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod lines;
mod metadata;
mod output;
mod secrets;
mod subprotocols;
mod support;
