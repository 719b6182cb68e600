//! The reference: a page of Markdown with every key of the file.

use super::{
    keys,
    section::{Presence, Row, Section, lines},
};

const INTRODUCTION: &str = "\
# Configuration

<!-- The rows in src/config_file/keys make this page: readygate config reference > docs/configuration.md -->

Every key of `proxy.toml`. A file needs `upstream` in one `[[route]]`; a key that is left out has its
default, and an unknown key is an error. `readygate config default` prints a file with all of them,
`readygate config show` what is in effect and where that comes from.

* A **duration** is a whole number with a unit: `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"1h\"`.
* A **size** is a number of bytes or has a unit, a multiple of 1024: `\"64KiB\"`, `\"1MiB\"`, `\"1GiB\"`.
* A **share** is a part of the memory that the process may have: `\"25%\"`.
* **Variables** in any text come from the environment: `${NAME}`, `${NAME:-default}`; `$$` stands for `$`.
  A number, boolean or word may be written as a text that is one: `workers = \"${WORKERS:-auto}\"`.
";

/// Returns the page.
#[must_use]
pub fn reference() -> String {
    let sections = keys::sections().map(about_section);
    INTRODUCTION.to_owned() + &sections.collect::<String>()
}

fn about_section(section: &Section) -> String {
    let mut page = format!("\n## {}\n", heading(section));
    paragraphs(&mut page, &text(section.text));
    if let Some(notation) = section.own_keys {
        let defaults = section.rows.iter();
        let defaults = defaults.map(|row| format!("`{} = {}`", row.name, row.default));
        let defaults = defaults.collect::<Vec<_>>().join(", ");
        let notation = notation().to_string();
        page.extend(["\nEach ", &notation, ", default ", &defaults, ".\n"]);
        return page;
    }
    let mut rows = section.rows_with_texts().peekable();
    while let Some((row, text)) = rows.next() {
        page.extend(["\n### `", &section.written_name(row), "`\n\n"]);
        page.push_str(&about_value(row));
        // Rows with one text have it below the last of them.
        if rows.peek().is_none_or(|(_, next)| *next != text) {
            paragraphs(&mut page, &text);
        }
    }
    page
}

fn heading(section: &Section) -> String {
    let path = section.name.replace("[]", "");
    match section.name {
        "" => "At the top of the file".to_owned(),
        name if name.ends_with("[]") => format!("`[[{path}]]`"),
        _ => format!("`[{path}]`"),
    }
}

/// Describes notation and default of a key.
fn about_value(row: &Row) -> String {
    let notation = (row.notation)();
    let default = row.default;
    let presence = match row.presence {
        Presence::Defaulted => format!("default `{default}`"),
        Presence::Required => format!("required, such as `{default}`"),
        Presence::Optional => format!("no default, such as `{default}`"),
    };
    let restart = if row.is_fixed {
        "; a change needs a restart"
    } else {
        ""
    };
    format!("*{notation}; {presence}{restart}*\n")
}

fn text(text: &'static str) -> String {
    lines(text).collect::<Vec<_>>().join("\n")
}

/// Appends a text; its indented lines become a code block.
fn paragraphs(page: &mut String, text: &str) {
    let mut is_indented = false;
    if !text.is_empty() {
        page.push('\n');
    }
    for line in text.lines() {
        let begins = line.starts_with("  ");
        if begins != is_indented {
            page.push_str(if begins { "\n```text\n" } else { "```\n\n" });
        }
        is_indented = begins;
        let line = match line.strip_prefix("  ") {
            Some(line) => line.to_owned(),
            None => escaped(line),
        };
        page.push_str(&(line + "\n"));
    }
    if is_indented {
        page.push_str("```\n");
    }
}

/// Escapes characters that are special in Markdown, except in code spans.
fn escaped(line: &str) -> String {
    let parts = line.split('`').enumerate().map(|(index, part)| {
        if index % 2 == 0 {
            let part = part.replace('\\', "\\\\");
            part.replace('*', "\\*").replace('<', "\\<")
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("`")
}
