//! Tables of the documentation against the rows of the code that they are made from.

use std::{collections::BTreeSet, fs, path::Path};

use readygate::{
    local_reply::{LOCAL_REPLIES, rejections::DROPPED},
    session::{ledger::Account, rules::Priority, state::SessionState, termination::ENDINGS},
    upstream::{Failure, breaker::BreakerState},
    websocket::CloseCode,
};

const REGENERATE: &str = "UPDATE_DOCS=1 cargo test --test architecture tables";

/// Every table that is made from rows: its page, its name and its lines.
fn tables() -> [(&'static str, &'static str, String); 4] {
    [
        ("sessions.md", "statuses", statuses()),
        ("sessions.md", "dropped", dropped()),
        ("sessions.md", "reasons", reasons()),
        ("admin.md", "labels", labels()),
    ]
}

fn table(head: &str, rows: Vec<String>) -> String {
    let columns = head.matches('|').count() - 1;
    let head = [head.to_owned(), format!("|{}", "---|".repeat(columns))];
    let lines = head.into_iter().chain(rows);
    lines.map(|line| line + "\n").collect()
}

fn statuses() -> String {
    let mut rows: Vec<_> = LOCAL_REPLIES.iter().collect();
    rows.sort_by_key(|row| row.status);
    let rows = rows.into_iter().map(|row| {
        let (status, reason, cause) = (row.status.as_u16(), row.reason, row.cause);
        let retry = if row.retry_after {
            "; with `Retry-After`"
        } else {
            ""
        };
        format!("| {status} | `{reason}` | {cause}{retry} |")
    });
    table("| status | reason | for |", rows.collect())
}

fn dropped() -> String {
    let rows = DROPPED.iter();
    let rows = rows.map(|row| format!("| `{}` | {} |", row.reason, row.cause));
    table("| reason | cause |", rows.collect())
}

fn reasons() -> String {
    let mut rows: Vec<_> = ENDINGS.iter().collect();
    rows.sort_by_key(|row| row.client_code.map(CloseCode::get));
    let rows = rows.into_iter().map(|row| {
        let code = row.client_code;
        let code = code.map_or_else(|| "–".to_owned(), |code| code.get().to_string());
        let (name, by, cause) = (row.name, row.initiator.name(), row.cause);
        format!("| {code} | `{name}` | `{by}` | {cause} |")
    });
    table("| code | name | ended by | cause |", rows.collect())
}

/// Values of the metrics' labels whose sets do not depend on the configuration.
fn labels() -> String {
    let initiators = ENDINGS.iter().map(|row| row.initiator.name());
    let replies = LOCAL_REPLIES.iter().map(|row| row.reason);
    let dropped = DROPPED.iter().map(|row| row.reason);
    let ends = "sessions_ended_total";
    let failures = "upstream_attempt_failures_total";
    let rows = [
        values(
            "sessions",
            "state",
            SessionState::ALL.map(SessionState::name),
        ),
        values(ends, "initiator", initiators),
        values(ends, "reason", ENDINGS.iter().map(|row| row.name)),
        values(
            "messages_settled_total",
            "account",
            Account::ALL.map(Account::name),
        ),
        values(
            "queued_messages",
            "priority",
            Priority::ALL.map(Priority::name),
        ),
        values(failures, "reason", Failure::ALL.map(Failure::name)),
        values(
            "breaker_state",
            "state",
            BreakerState::ALL.map(BreakerState::name),
        ),
        values("rejections_total", "reason", replies.chain(dropped)),
    ];
    table("| metric | label | values |", rows.concat())
}

/// Rows with the values of one label, each once, and as many as a line holds.
fn values(
    metric: &str,
    label: &str,
    values: impl IntoIterator<Item = &'static str>,
) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let values = values.into_iter().filter(|value| seen.insert(*value));
    let values: Vec<_> = values.map(|value| format!("`{value}`")).collect();
    let rows = values.chunks(6).enumerate().map(|(index, values)| {
        let values = values.join(", ");
        match index {
            0 => format!("| `{metric}` | `{label}` | {values} |"),
            _ => format!("| | | {values} |"),
        }
    });
    rows.collect()
}

#[test]
fn each_table_is_what_the_rows_say() {
    let mut stale = Vec::new();
    for (page, name, table) in tables() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("docs")
            .join(page);
        let text = fs::read_to_string(&path).unwrap();
        let marker = format!("<!-- generated: {name} -->\n");
        let (before, rest) = text.split_once(&marker).expect(name);
        let (current, after) = rest.split_once("<!-- end -->").expect(name);
        if current == table {
            continue;
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let text = format!("{before}{marker}{table}<!-- end -->{after}");
            fs::write(&path, text).unwrap();
        } else {
            stale.push(format!("{name} in docs/{page}"));
        }
    }
    assert!(stale.is_empty(), "run {REGENERATE}, for {stale:?}");
}

/// What the runbook's tables say below a heading that begins with `heading`, by row: the cells
/// of that column and of all columns.
fn entries(heading: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let page = include_str!("../../docs/troubleshooting.md");
    let mut entries = Vec::new();
    let mut column = None;
    for line in page.lines() {
        let Some(row) = line.strip_prefix("| ").and_then(|it| it.strip_suffix(" |")) else {
            if !line.starts_with("|--") {
                column = None;
            }
            continue;
        };
        let cells: Vec<_> = row.split(" | ").collect();
        let headed = |cell: &&str| cell.starts_with(heading);
        match column {
            None => column = Some(cells.iter().position(headed).unwrap_or(usize::MAX)),
            Some(at) => entries.extend(cells.get(at).map(|cell| (*cell, cells.clone()))),
        }
    }
    assert!(
        !entries.is_empty(),
        "no table of the runbook has a column {heading}"
    );
    entries
}

#[test]
fn the_runbook_has_an_entry_for_each_reason() {
    let entries = entries("reason");
    let ends = ENDINGS.iter().map(|row| row.name);
    let replies = LOCAL_REPLIES.iter().map(|row| row.reason);
    let dropped = DROPPED.iter().map(|row| row.reason);
    let failures = Failure::ALL.into_iter().map(Failure::name);

    let all: BTreeSet<_> = ends.chain(replies).chain(dropped).chain(failures).collect();

    let is_explained = |name: &&str| {
        let name = format!("`{name}`");
        entries.iter().any(|(cell, _)| cell.contains(&name))
    };
    let missing: Vec<_> = all.iter().filter(|name| !is_explained(name)).collect();
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md lacks {missing:?}"
    );
}

#[test]
fn the_runbook_has_the_status_of_each_reply() {
    let entries = entries("status");
    let rows = LOCAL_REPLIES.iter();
    // 429 and 503 stand in the heading of a table of limits.
    let rows = rows.filter(|row| !matches!(row.status.as_u16(), 429 | 503));
    for row in rows.filter(|row| row.reason != "client_gone") {
        let status = row.status.as_u16().to_string();
        let reason = format!("`{}`", row.reason);
        let is_in = |(cell, cells): &(&str, Vec<&str>)| {
            cell.contains(&status) && cells.iter().any(|cell| cell.contains(&reason))
        };
        assert!(
            entries.iter().any(is_in),
            "{status} {reason} is not in the runbook"
        );
    }
}
