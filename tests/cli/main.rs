//! The program as its users start it: arguments in, text and an exit status out.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod arguments;
mod check;
mod config;
mod demo;
mod descriptors;
mod explain;
mod operate;
mod run;
mod support;
mod terminal;
mod version;
mod warnings;
