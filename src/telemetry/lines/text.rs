//! Lines for people.

use std::fmt::{Debug, Display, Write};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::escape::{Escaped, Form};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Writes an event that happened at `time`.
pub(super) fn write(line: &mut String, time: &str, event: &Event<'_>, is_colored: bool) {
    let metadata = event.metadata();
    let level = metadata.level();
    if is_colored {
        let _ = write!(
            line,
            "{DIM}{time}{PLAIN} {}{level:>5}{PLAIN}",
            color(*level)
        );
    } else {
        let _ = write!(line, "{time} {level:>5}");
    }
    if *level > Level::INFO {
        let _ = write!(line, " {}:", metadata.target());
    }
    event.record(&mut Fields { line, is_colored });
}

const fn color(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

struct Fields<'a> {
    line: &'a mut String,
    is_colored: bool,
}

impl Fields<'_> {
    fn field(&mut self, field: &Field, value: impl Display) {
        self.line.push(' ');
        if field.name() == "message" {
            let _ = write!(Escaped::new(self.line, Form::Bare), "{value}");
            return;
        }
        let (dim, plain) = if self.is_colored {
            (DIM, PLAIN)
        } else {
            ("", "")
        };
        let _ = write!(self.line, "{dim}{}={plain}", field.name());
        let value = value.to_string();
        let form = if needs_quotes(&value) {
            Form::Quoted
        } else {
            Form::Bare
        };
        let quote = if form == Form::Quoted { "\"" } else { "" };
        self.line.push_str(quote);
        let _ = Escaped::new(self.line, form).write_str(&value);
        self.line.push_str(quote);
    }
}

/// Whether one could not tell where a value ends, or what it is.
fn needs_quotes(value: &str) -> bool {
    let is_odd = |it: char| it.is_whitespace() || it.is_control() || matches!(it, '"' | '=' | '\\');
    value.is_empty() || value.contains(is_odd)
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }
}
