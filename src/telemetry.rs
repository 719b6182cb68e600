//! Logs, and what is counted for metrics.

pub mod access_log;
pub mod connections;
pub mod histogram;
pub mod rejections;
pub mod totals;

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

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
}

/// The log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The least severe level that is logged; default info.
    pub level: tracing::Level,
    /// Its form.
    pub format: Format,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: tracing::Level::INFO,
            format: Format::default(),
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

/// What is logged; there is one log in a process, as `tracing` has it.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

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
    let handle = FILTER.get().ok_or(NotLogging)?;
    handle.reload(filter(level)).or(Err(NotLogging))?;
    tracing::info!(%level, "the log's level was set");
    Ok(())
}

/// Starts logging to standard output.
///
/// # Panics
///
/// When the process already logs.
pub fn init(settings: &Settings) {
    let stdout = io::stdout();
    let is_text = match settings.format {
        Format::Auto => stdout.is_terminal(),
        Format::Text => true,
        Format::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stdout);
    let layer = if is_text {
        layer.with_ansi(is_colored(&stdout)).boxed()
    } else {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed()
    };
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    let _first = FILTER.set(handle);
}

/// Our own events down to `level`, those of our dependencies only when they warn: what
/// they say in detail contains what clients send.
fn filter(level: tracing::Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        .with_default(level.min(LevelFilter::WARN))
}

/// Whether text for `stream` has colours: on a terminal, unless `NO_COLOR` is set
/// (<https://no-color.org>).
#[must_use]
pub fn is_colored(stream: &impl IsTerminal) -> bool {
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
