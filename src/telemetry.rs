//! Logs, and what is counted for metrics.
//!
//! `tracing` says what happened, `lines` writes it down, and `sink` takes it to standard
//! output without keeping anybody waiting.

pub mod access_log;
pub mod connections;
pub mod histogram;
mod lines;
pub mod rejections;
pub mod reloads;
mod sink;
pub mod totals;
pub mod trace;

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
    time::Duration,
};

use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

pub use self::{lines::Platform, sink::MAX_QUEUED_BYTES};
use self::{
    lines::{Form, Lines},
    sink::Sink,
};

/// How long the end of the program may wait for its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
    /// One JSON object a line, with the names of Cloud Logging.
    Gcp,
}

/// The forms by name.
pub const FORMATS: [(&str, Format); 4] = [
    ("auto", Format::Auto),
    ("text", Format::Text),
    ("json", Format::Json),
    ("gcp", Format::Gcp),
];

/// Which requests that do not become sessions have a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requests {
    /// None.
    None,
    /// Those that the proxy answers itself, for their ids are in the answers, and those whose
    /// answer the upstream breaks off.
    #[default]
    Errors,
    /// All.
    All,
}

/// The log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The least severe level that is logged; default info.
    pub level: tracing::Level,
    /// Its form.
    pub format: Format,
    /// Which requests have a line.
    pub requests: Requests,
    /// What [`Format::Gcp`] says about the process.
    pub platform: Platform,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: tracing::Level::INFO,
            format: Format::default(),
            requests: Requests::default(),
            platform: Platform::default(),
        }
    }
}

/// The levels by name, the most severe first.
pub const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

/// There is one log in a process, as `tracing` has it.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    filter: reload::Handle<Targets, Registry>,
    sink: Sink,
}

/// The process does not log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not log")]
pub struct NotLogging;

/// Logs down to `level` from now on.
///
/// # Errors
///
/// [`init`] was not called.
pub fn set_level(level: tracing::Level) -> Result<(), NotLogging> {
    let log = LOG.get().ok_or(NotLogging)?;
    log.filter.reload(filter(level)).or(Err(NotLogging))?;
    tracing::info!(%level, "the log's level was set");
    Ok(())
}

/// The least severe level that is logged at the moment: in lower case, or `off`.
#[must_use]
pub fn level() -> String {
    LevelFilter::current().to_string()
}

/// Starts logging to standard output.
///
/// # Errors
///
/// There is no thread to be had, or no file descriptor.
///
/// # Panics
///
/// When the process already logs.
pub fn init(settings: &Settings) -> io::Result<()> {
    let sink = Sink::to_stdout(|lines| {
        tracing::warn!(lines, "lines of the log were dropped: nobody took them");
    })?;
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    let lines = Lines::new(form(settings), sink.clone());
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    let filter = handle;
    let _first = LOG.set(Log { filter, sink });
    if settings.format == Format::Gcp {
        settings.platform.look_up_project()?;
    }
    Ok(())
}

fn form(settings: &Settings) -> Form {
    let stdout = io::stdout();
    match settings.format {
        Format::Auto if !stdout.is_terminal() => Form::Json,
        Format::Auto | Format::Text => Form::Text {
            is_colored: is_colored(&stdout),
        },
        Format::Json => Form::Json,
        Format::Gcp => Form::Gcp(settings.platform.clone()),
    }
}

/// Waits until what was logged is written, but no longer than a second: whoever reads it may
/// have stopped doing so.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(FLUSH_TIMEOUT);
    }
}

/// The queue of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// How much of it waits to be written, at most [`MAX_QUEUED_BYTES`].
    pub bytes: usize,
    /// How many lines were dropped so far: it was full, or standard output is closed.
    pub dropped_lines: u64,
}

/// How the log is getting on; nothing where there is none.
#[must_use]
pub fn queue() -> Queue {
    LOG.get().map_or_else(Queue::default, |log| Queue {
        bytes: log.sink.queued_bytes(),
        dropped_lines: log.sink.dropped_lines(),
    })
}

/// Our own events down to `level`, those of our dependencies only when they warn: what
/// they say in detail contains what clients send.
fn filter(level: tracing::Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        .with_default(level.min(LevelFilter::WARN))
}

/// Whether text has colours, if somebody has said so; there is one answer in a process.
static COLORS: OnceLock<bool> = OnceLock::new();

/// Has all text for people from now on with colours, or without, wherever it goes.
pub fn set_colored(is_colored: bool) {
    let _first = COLORS.set(is_colored);
}

/// Whether text for `stream` has colours, if [nobody](set_colored) has said so: on a terminal,
/// unless `NO_COLOR` is set (<https://no-color.org>).
#[must_use]
pub fn is_colored(stream: &impl IsTerminal) -> bool {
    if let Some(is_colored) = COLORS.get() {
        return *is_colored;
    }
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_unwanted
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn dependencies_are_heard_only_when_they_warn() {
        let debug = filter(Level::DEBUG);

        assert!(debug.would_enable("readygate::session", &Level::DEBUG));
        assert!(!debug.would_enable("readygate::session", &Level::TRACE));
        assert!(debug.would_enable("hyper::proto", &Level::WARN));
        assert!(!debug.would_enable("hyper::proto", &Level::INFO));
        assert!(!filter(Level::ERROR).would_enable("hyper::proto", &Level::WARN));
    }
}
