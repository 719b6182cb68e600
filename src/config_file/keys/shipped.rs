//! The shipped file: every key with its default and its text.

use std::fmt::Write;

use super::{PARTS, Part, sections};
use crate::config_file::section::{Layout, Row, Section, lines};

/// Returns the shipped file.
#[must_use]
pub fn default_file() -> String {
    let parts = PARTS.iter().filter_map(|part| match part {
        Part::Text(text) => Some((*text).to_owned()),
        Part::Section(section) => written(section),
    });
    parts.collect::<Vec<_>>().join("\n")
}

/// Returns the section with its header; `None` for an inline one.
fn written(section: &Section) -> Option<String> {
    let mut text = comment(section.text);
    let prefix = match section.layout {
        Layout::Inline => return None,
        Layout::InExample => return Some(text),
        Layout::CommentedOut => "#",
        Layout::Written => "",
    };
    let path = section.name.replace("[]", "");
    match section.name {
        "" => {}
        name if name.ends_with("[]") => writeln(&mut text, format_args!("{prefix}[[{path}]]")),
        _ => writeln(&mut text, format_args!("{prefix}[{path}]")),
    }
    for (index, row) in section.rows.iter().enumerate() {
        // Those at the top have nothing else that would hold them apart.
        if section.name.is_empty() && index > 0 {
            text.push('\n');
        }
        text += &comment(row.text);
        writeln(&mut text, format_args!("{prefix}{}", assignment(row)));
    }
    for inline in sections().filter(|inline| is_inline_in(inline, section)) {
        let rows: Vec<_> = inline.rows.iter().map(assignment).collect();
        text += &comment(inline.text);
        let (key, rows) = (inline.key(), rows.join(", "));
        writeln(&mut text, format_args!("{key} = {{ {rows} }}"));
    }
    Some(text)
}

fn is_inline_in(inline: &Section, section: &Section) -> bool {
    let around = inline.name.rsplit_once('.').map(|(around, _)| around);
    inline.layout == Layout::Inline && around == Some(section.name)
}

fn assignment(row: &Row) -> String {
    format!("{} = {}", row.name, row.shipped())
}

fn comment(text: &'static str) -> String {
    let lines = lines(text).map(|line| match line {
        "" => "#\n".to_owned(),
        line => format!("# {line}\n"),
    });
    lines.collect()
}

fn writeln(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}
