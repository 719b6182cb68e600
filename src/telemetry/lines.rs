//! What is logged, a line each: text for people, JSON, or JSON as Cloud Logging reads it.
//!
//! # Invariants
//!
//! * An event is one line, whatever is in it: what others wrote is [escaped](escape).
//! * Whoever logs does not wait: lines go to a [`Sink`].

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

/// What a thread keeps of the memory for its lines, in bytes.
const KEPT_BYTES: usize = 16 * 1024;

thread_local! {
    /// The line that is written; empty between lines.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Writes every event of a subscriber.
pub(super) struct Lines {
    form: Form,
    sink: Sink,
}

/// What a line looks like.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// Text for people.
    Text {
        /// Whether it goes to a terminal that shows colours.
        is_colored: bool,
    },
    /// A JSON object.
    Json,
    /// A JSON object with the names of Cloud Logging.
    Gcp(Platform),
}

impl Lines {
    pub(super) const fn new(form: Form, sink: Sink) -> Self {
        Self { form, sink }
    }

    fn write(&self, line: &mut String, event: &Event<'_>) {
        let mut time = String::with_capacity(32);
        // The clock of the machine can be read.
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
        // Taken, for what is logged may log something itself.
        let mut line = LINE.take();
        self.write(&mut line, event);
        self.sink.push(line.as_bytes());
        line.clear();
        line.shrink_to(KEPT_BYTES);
        LINE.set(line);
    }
}
