//! `readygate sessions`: live and recent sessions of a running readygate.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Exit,
    admin_client::{NoResponse, Which},
    print,
};

const EXAMPLES: &str = "\
Examples:
  readygate sessions
      The newest hundred.

  readygate sessions --waiting
      Those that wait for their backend, the longest first, with the last error.

  readygate sessions 12
      One in full: its states, its messages, its errors.

  readygate sessions --json --limit 1000 | jq .by_state
      The response of the admin listener, unchanged.

Exit status:
  0   they are shown
  1   no admin listener, or no such session
  2   the command line is wrong
  78  the configuration is wrong";

/// Characters of a route that are percent-encoded (RFC 3986 §2.1): `/` and `*` are left readable.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'*');

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct SessionsArguments {
    /// Show all of the session with this number
    #[arg(value_name = "ID", conflicts_with_all = ["waiting", "ended", "route", "limit"])]
    id: Option<u64>,
    /// Only those that wait for their upstream, the longest first
    #[arg(long, conflicts_with = "ended")]
    waiting: bool,
    /// Only those that ended recently
    #[arg(long)]
    ended: bool,
    /// Only those of ROUTE: its host and path, as the list has them
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Show at most N, up to 1000
    #[arg(long, value_name = "N", default_value = "100")]
    limit: u16,
    /// Write the JSON of the admin listener
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

impl SessionsArguments {
    pub(super) fn execute(&self) -> Exit {
        self.which.ask_with(async |listener| {
            let text = listener.ask(Method::GET, &self.path()).await?;
            let value: Value = match serde_json::from_str(&text) {
                Ok(value) if !self.json => value,
                // A response that is not JSON is shown unchanged: it may be an explanation.
                _ => {
                    print(&(text + "\n"));
                    return Ok(());
                }
            };
            print(&match self.id {
                Some(_) => one(&value),
                None => table(&value),
            });
            Ok::<_, NoResponse>(())
        })
    }

    fn path(&self) -> String {
        if let Some(id) = self.id {
            return format!("/sessions/{id}");
        }
        let mut path = format!("/sessions?limit={}", self.limit);
        if self.waiting {
            path += "&sort=waiting";
        }
        if self.ended {
            path += "&ended=true";
        }
        if let Some(route) = &self.route {
            path += "&route=";
            path.extend(utf8_percent_encode(route, ENCODED));
        }
        path
    }
}

/// Formats a line per session, with the facts that fit.
fn table(list: &Value) -> String {
    let none = Vec::new();
    let sessions = list["sessions"].as_array().unwrap_or(&none);
    let header = [
        "ID", "STATE", "AGE", "HELD", "MESSAGES", "CLIENT", "PATH", "UPSTREAM",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(sessions.iter().map(|it| {
        [
            it["id"].to_string(),
            shown(&it["state"]),
            age(&it["age_ms"]),
            it["queue"]["messages"].to_string(),
            format!("{}/{}", it["delivered"], it["accepted"]),
            shown(&it["client"]),
            shown(&it["path"]),
            upstream(it),
        ]
    }));
    let widths = header.iter().enumerate();
    let widths: Vec<_> = widths
        // Counted in characters: a path may have others than ASCII.
        .map(|(column, _)| rows.iter().map(|row| row[column].chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.extend([line.trim_end(), "\n"]);
    }
    let (matching, total) = (&list["matching"], &list["total"]);
    let _ = writeln!(
        text,
        "{} of {matching} shown, {total} in all",
        sessions.len()
    );
    text
}

/// Formats the outcome of the session, or its upstream's address, or the connect error.
fn upstream(session: &Value) -> String {
    let end = &session["end"];
    if !end.is_null() {
        return match end["client_code"].as_u64() {
            Some(code) => format!("ended: {code} {}", shown(&end["reason"])),
            None => format!("ended: {}", shown(&end["reason"])),
        };
    }
    let address = &session["upstream_address"];
    let error = &session["last_connect_error"];
    match (address.is_null(), error.is_null()) {
        (false, _) => shown(address),
        (true, false) => format!("{} attempts: {}", session["attempts"], shown(error)),
        (true, true) => "-".to_owned(),
    }
}

/// Formats a session in full: a line per field, and its states with their times.
fn one(session: &Value) -> String {
    let mut text = String::new();
    for (name, value) in session.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            // It has lines of its own below.
            _ if name == "trail" => {}
            Value::Object(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    // Accounts and counters at zero would hide the others.
                    .filter(|(_, value)| !value.is_null() && **value != 0)
                    .map(|(name, value)| format!("{name} {}", shown(value)))
                    .collect();
                let _ = writeln!(text, "{name:<20}{}", fields.join(", "));
            }
            value => {
                let _ = writeln!(text, "{name:<20}{}", shown(value));
            }
        }
    }
    for entry in session["trail"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "{:<20}{} ({})",
            format!("after {}", age(&entry["after_ms"])),
            shown(&entry["state"]),
            shown(&entry["reason"]),
        );
    }
    text
}

/// Formats a value without quotes; escaped, because clients' text must not control the terminal.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let escape = |it: char| match it {
        it if it.is_control() || !it.is_ascii() && !it.is_alphanumeric() => {
            it.escape_unicode().to_string()
        }
        it => it.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Formats milliseconds in a fitting unit.
fn age(milliseconds: &Value) -> String {
    let age = Duration::from_millis(milliseconds.as_u64().unwrap_or_default());
    match age.as_secs() {
        0..60 => format!("{:.1}s", age.as_secs_f64()),
        seconds @ 60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
    }
}
