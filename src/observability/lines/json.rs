//! Lines as JSON objects.

use std::fmt::{Debug, Display, Write};

use tracing::{
    Event,
    field::{Field, Visit},
};

use super::escape::{Escaped, Escaping};

/// Writer of one JSON object.
pub(crate) struct Object<'a> {
    line: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `line`.
    pub(crate) fn begin(line: &'a mut String) -> Self {
        line.push('{');
        Self::members(line)
    }

    /// Begins an object whose braces are written by the caller.
    pub(crate) fn members(line: &'a mut String) -> Self {
        Self {
            line,
            is_empty: true,
        }
    }

    pub(crate) fn end(self) {
        self.line.push('}');
    }

    fn key(&mut self, key: &str) {
        if !std::mem::take(&mut self.is_empty) {
            self.line.push(',');
        }
        self.line.push('"');
        let _ = Escaped::new(self.line, Escaping::Json).write_str(key);
        self.line.push_str("\":");
    }

    pub(crate) fn text(&mut self, key: &str, value: impl Display) {
        self.key(key);
        self.line.push('"');
        let _ = write!(Escaped::new(self.line, Escaping::Json), "{value}");
        self.line.push('"');
    }

    /// Writes a number or a boolean.
    pub(crate) fn plain(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let _ = write!(self.line, "{value}");
    }

    /// Writes a nested object, unless it is empty.
    pub(crate) fn object(&mut self, key: &str, members: &str) {
        if !members.is_empty() {
            self.key(key);
            let _ = write!(self.line, "{{{members}}}");
        }
    }
}

/// Visitor that makes every field of an event a member of the object, the message included.
impl Visit for Object<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field.name(), format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has neither infinities nor NaN.
        if value.is_finite() {
            self.plain(field.name(), value);
        } else {
            self.text(field.name(), value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), value);
    }
}

/// Writes an event that happened at `time`.
pub(crate) fn write(line: &mut String, time: &str, event: &Event<'_>) {
    let mut object = Object::begin(line);
    object.text("timestamp", time);
    object.text("level", event.metadata().level());
    event.record(&mut object);
    object.text("target", event.metadata().target());
    object.end();
}
