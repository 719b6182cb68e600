//! Formatting of log lines: text, JSON, or JSON for Cloud Logging.
//!
//! # Invariants
//!
//! * An event is one line, whatever it contains: text from other parties is [escaped](escape).
//! * Logging never blocks: lines go to a [`Sink`].

mod escape;
mod gcp;
mod json;
mod text;

use std::cell::RefCell;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::Context,
};

pub use self::gcp::Platform;
use super::sink::Sink;

/// Capacity that a thread's line buffer keeps, in bytes.
const KEPT_BYTES: usize = 16 * 1024;

thread_local! {
    /// Line being written; empty between lines.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Layer that writes every event of a subscriber.
pub(crate) struct Lines {
    form: Form,
    sink: Sink,
}

/// Form of a line.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// Human-readable text.
    Text {
        /// True for a terminal that shows colours.
        is_colored: bool,
    },
    /// A JSON object.
    Json,
    /// A JSON object with the field names of Cloud Logging.
    Gcp(Platform),
}

impl Lines {
    pub(crate) const fn new(form: Form, sink: Sink) -> Self {
        Self { form, sink }
    }

    fn write(&self, line: &mut String, event: &Event<'_>) {
        let mut time = String::with_capacity(32);
        // Reading the clock does not fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        match &self.form {
            Form::Text { is_colored } => text::write(line, &time, event, *is_colored),
            Form::Json => json::write(line, &time, event),
            Form::Gcp(platform) => gcp::write(line, &time, event, platform),
        }
        line.push('\n');
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        // Taken out, as a value that is being formatted may log an event itself.
        let mut line = LINE.take();
        self.write(&mut line, event);
        self.sink.push(line.as_bytes());
        line.clear();
        // One huge line must not occupy a thread's memory for good.
        line.shrink_to(KEPT_BYTES);
        LINE.set(line);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const EVIL: &str = "a\r\n\u{1b}[31m\u{9b}1m\u{202e}\"b\\";

    /// The one line of an event that is full of what others wrote.
    fn written(form: Form) -> String {
        let (reader, writer) = pipe().unwrap();
        let sink = Sink::to(writer, |_lines| ()).unwrap();
        let lines = Lines::new(form, sink.clone());
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(text = EVIL, shown = %EVIL, debugged = ?EVIL, number = -1, "{EVIL}");
        });
        sink.push(b"end\n");
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let line = lines.next().unwrap();
        assert_eq!(lines.next().as_deref(), Some("end"), "{line}");
        line
    }

    #[test]
    fn json_keeps_what_others_wrote_and_escapes_all_controls() {
        for form in [Form::Json, Form::Gcp(Platform::default())] {
            let line = written(form);

            assert!(
                !line.contains(|it: char| it.is_control() || it == '\u{202e}'),
                "{line:?}"
            );
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            for field in ["message", "text", "shown"] {
                assert_eq!(read[field], EVIL, "{line}");
            }
            assert_eq!(read["debugged"], format!("{EVIL:?}"));
            assert_eq!(read["number"], -1);
        }
    }

    #[test]
    fn text_has_no_terminal_controls_but_its_own_colours() {
        let colored = written(Form::Text { is_colored: true });
        let plain = written(Form::Text { is_colored: false });

        let mut uncolored = colored.clone();
        for code in ["\x1b[2m", "\x1b[33m", "\x1b[0m"] {
            assert!(colored.contains(code), "{colored:?}");
            uncolored = uncolored.replace(code, "");
        }
        for line in [&uncolored, &plain] {
            assert!(
                !line.contains(|it: char| it.is_control() || it == '\u{202e}'),
                "{line:?}"
            );
            assert!(
                line.contains(r#" text="a\r\n\u{1b}[31m\u{9b}1m\u{202e}\"b\\" "#),
                "{line}"
            );
        }
    }
}
