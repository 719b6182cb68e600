//! Logs, and what is counted for metrics.

pub mod access_log;
pub mod connections;
pub mod histogram;
pub mod rejections;
pub mod totals;

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
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
    tracing_subscriber::registry()
        .with(layer.with_filter(filter(settings.level)))
        .init();
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
