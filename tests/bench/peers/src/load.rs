//! The load generator: one thread that plays all clients.
//!
//! Everything is bounded in count and time, and whatever comes back is compared with what
//! was sent. Each scenario prints one line of JSON with its result.

mod closed_loop;
mod connect;
mod flush;
mod hold;
mod http;
mod message;
mod opening;
mod window;

use std::io::{self, BufRead, Write};

use crate::{Result, arguments::Arguments};

/// Runs the scenario that the next word names.
pub fn run(mut arguments: Arguments) -> Result<()> {
    match arguments.word().as_deref() {
        Some("echo") => closed_loop::run_echo(arguments),
        Some("http") => closed_loop::run_http(arguments),
        Some("connect") => connect::run(arguments),
        Some("hold") => hold::run(arguments),
        Some("flush") => flush::run(arguments),
        _ => Err("load what? echo, connect, http, hold or flush".into()),
    }
}

/// Prints one line at once.
fn say(line: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

/// Says that a step is reached, and waits until a line, or the end, comes on standard input.
///
/// Between steps the caller looks at the proxy: attaches a tracer, reads its memory.
fn pause(step: &str) -> Result<()> {
    say(&format!(r#"{{"step":"{step}"}}"#))?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
