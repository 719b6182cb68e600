//! The program as its users start it: arguments in, text and an exit status out.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod arguments;
mod check;
mod demo;
mod descriptors;
mod run;
mod support;
