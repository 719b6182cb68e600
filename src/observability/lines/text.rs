//! Human-readable log lines.

use std::{
    fmt::{self, Debug, Display, Write},
    time::Duration,
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
    level_filters::LevelFilter,
};

use super::escape::{Escaped, Escaping};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Writes an event that happened at `time`.
pub(crate) fn write(line: &mut String, time: &str, event: &Event<'_>, is_colored: bool) {
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
    // From info up messages speak for themselves.
    if *level > Level::INFO {
        let _ = write!(line, " {}:", metadata.target());
    }
    // At debug the log is read for details, so all fields are shown.
    if LevelFilter::current() < LevelFilter::DEBUG && EndLine::is(event) {
        let mut ended = EndLine::default();
        event.record(&mut ended);
        line.push(' ');
        let _ = write!(Escaped::new(line, Escaping::Bare), "{ended}");
        return;
    }
    event.record(&mut TextFields { line, is_colored });
}

/// Summary of the end of a session or of a request.
#[derive(Default)]
struct EndLine {
    session: Option<u64>,
    method: String,
    path: String,
    /// Close code that the client received.
    code: Option<u64>,
    status: Option<u64>,
    reason: String,
    detail: String,
    upstream_error: String,
    is_connected: bool,
    duration: Duration,
    accepted: u64,
    lost: u64,
    unknown: u64,
}

impl EndLine {
    /// Returns whether `event` ends a session or a request: no other has these fields.
    fn is(event: &Event<'_>) -> bool {
        let fields = event.metadata().fields();
        fields.field("ended_by").is_some() || fields.field("answered_by").is_some()
    }
}

impl Visit for EndLine {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "detail" {
            self.detail = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let known = match field.name() {
            "method" => &mut self.method,
            "path" => &mut self.path,
            "reason" => &mut self.reason,
            "detail" => &mut self.detail,
            "upstream_error" => &mut self.upstream_error,
            _ => return,
        };
        value.clone_into(known);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "session" => self.session = Some(value),
            "client_code" => self.code = Some(value),
            "status" => self.status = Some(value),
            "connected_ms" => self.is_connected = true,
            "duration_ms" => self.duration = Duration::from_millis(value),
            "accepted" => self.accepted = value,
            "shed" | "expired" | "discarded" => self.lost += value,
            "unknown" => self.unknown = value,
            _ => {}
        }
    }
}

/// `/agent 1013 ready_timeout after 4.0 s, 3 of 3 lost (#12)`
impl Display for EndLine {
    fn fmt(&self, line: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.duration.as_secs_f64();
        let Some(session) = self.session else {
            let names = [&self.method, &self.path].into_iter();
            for name in names.filter(|name| !name.is_empty()) {
                write!(line, "{name} ")?;
            }
            match self.status {
                Some(status) => write!(line, "{status}")?,
                None => write!(line, "no response")?,
            }
            if !self.reason.is_empty() {
                write!(line, " {}", self.reason)?;
            }
            write!(line, " after {seconds:.3} s")?;
            return match self.detail.as_str() {
                "" => Ok(()),
                detail => write!(line, ": {detail}"),
            };
        };
        write!(line, "{} ", self.path)?;
        if let Some(code) = self.code {
            write!(line, "{code} ")?;
        }
        write!(line, "{} after {seconds:.1} s", self.reason)?;
        let accepted = self.accepted;
        match (self.lost, self.unknown) {
            (0, 0) => write!(line, ", {accepted} delivered")?,
            (lost, 0) => write!(line, ", {lost} of {accepted} lost")?,
            (0, unknown) => write!(line, ", {unknown} of {accepted} may be lost")?,
            (lost, unknown) => {
                write!(line, ", {lost} of {accepted} lost, {unknown} more may be")?;
            }
        }
        write!(line, " (#{session})")?;
        match self.upstream_error.as_str() {
            // The last error matters only if no later attempt succeeded.
            error if !error.is_empty() && !self.is_connected => write!(line, ": {error}"),
            _ => Ok(()),
        }
    }
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

struct TextFields<'a> {
    line: &'a mut String,
    is_colored: bool,
}

impl TextFields<'_> {
    fn field(&mut self, field: &Field, value: impl Display) {
        self.line.push(' ');
        if field.name() == "message" {
            let _ = write!(Escaped::new(self.line, Escaping::Bare), "{value}");
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
            Escaping::Quoted
        } else {
            Escaping::Bare
        };
        let quote = if form == Escaping::Quoted { "\"" } else { "" };
        self.line.push_str(quote);
        let _ = Escaped::new(self.line, form).write_str(&value);
        self.line.push_str(quote);
    }
}

/// Returns whether the bare value would be ambiguous, or run into the next field.
fn needs_quotes(value: &str) -> bool {
    let is_odd = |it: char| it.is_whitespace() || it.is_control() || matches!(it, '"' | '=' | '\\');
    value.is_empty() || value.contains(is_odd)
}

impl Visit for TextFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }
}
