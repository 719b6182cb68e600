//! What the comparison of proxies is made with: a load generator, an echo backend, and a
//! raw relay as the yardstick.
//!
//! ```text
//!   load ──► proxy under test ──► echo
//! ```
//!
//! Each is one thread with one `epoll` instance, so that a core can be given to each side.
//! They speak only with loopback addresses. `run` beside `Cargo.toml` puts them together;
//! nothing else needs to call them.

mod arguments;
mod cpu;
mod echo;
mod histogram;
mod load;
mod poll;
mod relay;
mod socket;
mod websocket;

use std::{env, error::Error, process::ExitCode};

use arguments::Arguments;

/// Whatever stops a tool; it is only ever shown.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: readygate-peers echo  --listen ADDR
       readygate-peers relay --listen ADDR --to ADDR [--splice]
       readygate-peers load echo|connect|http|hold|flush --to ADDR [--OPTION VALUE]...";

fn main() -> ExitCode {
    match run(env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("readygate-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: impl Iterator<Item = String>) -> Result<()> {
    let mut arguments = Arguments::parse(words)?;
    match arguments.word().as_deref() {
        Some("echo") => echo::run(arguments),
        Some("relay") => relay::run(arguments),
        Some("load") => load::run(arguments),
        _ => Err(USAGE.into()),
    }
}
