//! Logs, and counters for metrics.
//!
//! Events come from `tracing`; `lines` formats them, and `sink` writes them to standard output
//! without blocking any worker.

pub mod access_log;
pub mod error_chain;
pub mod histogram;
mod lines;
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

/// Longest time for which the end of the program waits for its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Human-readable text.
    Text,
    /// JSON, one object per line.
    Json,
    /// JSON with the field names of Cloud Logging, one object per line.
    Gcp,
}

/// Formats by name.
pub const FORMATS: [(&str, Format); 4] = [
    ("auto", Format::Auto),
    ("text", Format::Text),
    ("json", Format::Json),
    ("gcp", Format::Gcp),
];

/// Requests that are logged although they do not become sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestLogging {
    /// No request.
    None,
    /// Requests that the proxy answers itself, as its responses carry their ids, and those whose
    /// response the upstream breaks off.
    #[default]
    Errors,
    /// Every request.
    All,
}

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Least severe level that is logged; default info.
    pub level: tracing::Level,
    /// Format of the lines.
    pub format: Format,
    /// Requests that are logged.
    pub requests: RequestLogging,
    /// Labels and project for [`Format::Gcp`].
    pub platform: Platform,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: tracing::Level::INFO,
            format: Format::default(),
            requests: RequestLogging::default(),
            platform: Platform::default(),
        }
    }
}

/// Levels by name, the most severe first.
pub const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

/// The log, of which `tracing` allows one per process.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    filter: reload::Handle<Targets, Registry>,
    sink: Sink,
}

/// Error of a process that does not log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not log")]
pub struct NotLogging;

/// Changes the log's level.
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

/// Returns the least severe level that is logged at the moment: in lower case, or `off`.
#[must_use]
pub fn level() -> String {
    LevelFilter::current().to_string()
}

/// Starts logging to standard output.
///
/// # Errors
///
/// No thread or no file descriptor is available.
///
/// # Panics
///
/// When the process already logs.
pub fn init(settings: &Settings) -> io::Result<()> {
    let sink = Sink::to_stdout(|lines| {
        tracing::warn!(lines, "log lines were dropped: standard output is too slow");
    })?;
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    let lines = Lines::new(form(settings), sink.clone());
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    let filter = handle;
    let _first = LOG.set(Log { filter, sink });
    // After the subscriber is installed, because a failure is logged.
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

/// Waits until the log is written, but at most a second: its reader may have stopped.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(FLUSH_TIMEOUT);
    }
}

/// State of the log's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// Bytes waiting to be written, at most [`MAX_QUEUED_BYTES`].
    pub bytes: usize,
    /// Lines dropped so far: the queue was full, or standard output is closed.
    pub dropped_lines: u64,
}

/// Returns the state of the log's queue; zeros when the process does not log.
#[must_use]
pub fn queue() -> QueueFigures {
    LOG.get()
        .map_or_else(QueueFigures::default, |log| QueueFigures {
            bytes: log.sink.queued_bytes(),
            dropped_lines: log.sink.dropped_lines(),
        })
}

/// Passes the crate's own events down to `level`, and warnings of its dependencies: their more
/// detailed events contain data from clients.
fn filter(level: tracing::Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        .with_default(level.min(LevelFilter::WARN))
}

/// Choice of colours for the process, if one was made.
static COLORS: OnceLock<bool> = OnceLock::new();

/// Turns colours on or off for all human-readable text of the process.
pub fn set_colored(is_colored: bool) {
    let _first = COLORS.set(is_colored);
}

/// Returns whether text for `stream` has colours: by the [choice](set_colored) made for the
/// process, else on a terminal unless `NO_COLOR` is set (<https://no-color.org>).
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
