//! Environment variables in the strings of the file.
//!
//! # Invariants
//!
//! * What a variable contains may be a secret: a problem shows the variable.

use std::ops::Range;

use super::report::Mistake;

/// What is wrong with a variable, and where in the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadVariable {
    /// The variable as it is written.
    pub(super) written: Range<usize>,
    pub(super) mistake: Mistake,
}

/// A text whose variables are replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// What the variables are.
    pub(super) values: Vec<String>,
}

/// A value of the file in which there are variables.
#[derive(Debug)]
pub(super) struct Variables {
    /// Where it is, in bytes.
    pub(super) place: Range<usize>,
    /// The text with the names of the variables, and with what they are.
    pub(super) written: String,
    pub(super) expanded: Expanded,
}

/// `shown` with these variables as they are written; `None` when it says something of what
/// they are in another way.
pub(super) fn hide(shown: &str, variables: &[&Variables]) -> Option<String> {
    let mut parts = vec![Part::Shown(shown)];
    for it in variables {
        parts = parts.into_iter().flat_map(|part| it.split(part)).collect();
    }
    let values: Vec<_> = variables
        .iter()
        .flat_map(|it| &it.expanded.values)
        .collect();
    let is_said = parts.iter().any(|part| match part {
        Part::Shown(text) => {
            let text = text.to_lowercase();
            values.iter().any(|value| has_piece(&text, value))
        }
        Part::Written(_) => false,
    });
    let texts = parts.iter().map(|part| match part {
        Part::Shown(text) | Part::Written(text) => *text,
    });
    (!is_said).then(|| texts.collect())
}

/// A part of what is shown.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// As it was to be shown.
    Shown(&'a str),
    /// A value as it is written.
    Written(&'a str),
}

impl Variables {
    /// Takes the value out of `part`.
    fn split<'a>(&'a self, part: Part<'a>) -> Vec<Part<'a>> {
        let text = self.expanded.text.as_str();
        match part {
            Part::Shown(shown) if !text.is_empty() => {
                let mut parts = Vec::new();
                for shown in shown.split(text) {
                    parts.extend([Part::Written(&self.written), Part::Shown(shown)]);
                }
                parts.split_off(1)
            }
            part => vec![part],
        }
    }
}

/// Whether a piece of `value` is in `text`, which is in lower case.
fn has_piece(text: &str, value: &str) -> bool {
    /// How long a piece is at least, in characters, if it is not the whole.
    const LENGTH: usize = 3;
    let value: Vec<_> = value.to_lowercase().chars().collect();
    let length = value.len().min(LENGTH);
    let mut pieces = value.windows(length.max(1));
    pieces.any(|piece| text.contains(&piece.iter().collect::<String>()))
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$$` becomes `$`, and any other `$` stays.
///
/// As in a shell, the default also stands in for a variable that is empty. It cannot
/// contain a closing brace. What a variable contains is not looked at again.
pub(super) fn expand(
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Expanded, BadVariable> {
    let mut expanded = String::with_capacity(text.len());
    let mut values = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded += &rest[..dollar];
        let start = text.len() - rest.len() + dollar;
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}');
            let end = end.ok_or_else(|| unclosed(start..text.len()))?;
            let written = start..start + "${}".len() + end;
            let value = variable(&after[..end], environment)
                .map_err(|mistake| BadVariable { written, mistake })?;
            expanded += &value;
            values.push(value);
            rest = &after[end + 1..];
        } else {
            expanded.push('$');
        }
    }
    expanded += rest;
    Ok(Expanded {
        text: expanded,
        values,
    })
}

/// The name behind a `$` in `text` that is most likely meant to be replaced, and is not: in
/// capitals, or one that is set.
pub(super) fn bare<'a>(
    text: &'a str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('$')?;
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        let name = &after[..after.find(|c| !is_part(c)).unwrap_or(after.len())];
        let is_name = name.len() > 1 && !name.starts_with(|c: char| c.is_ascii_digit());
        let is_shouted = !name.contains(|c: char| c.is_ascii_lowercase());
        if is_name && (is_shouted || environment(name).is_some()) {
            return Some(name);
        }
        rest = after;
    }
}

/// `text` as it has to be written in the file to stand for itself.
pub(super) fn escape(text: &str) -> String {
    if text.contains("$$") || text.contains("${") {
        text.replace('$', "$$")
    } else {
        text.to_owned()
    }
}

fn unclosed(written: Range<usize>) -> BadVariable {
    let mistake = Mistake::new("this variable has no end", "expected `}` after the name")
        .help("for a literal `${` write `$${`");
    BadVariable { written, mistake }
}

/// The value of what stands between the braces.
fn variable(inner: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, Mistake> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let is_name = !name.starts_with(|character: char| character.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        let what = format!("`{name}` is not the name of an environment variable");
        return Err(Mistake::new(what, "expected letters, digits and `_`")
            .help("for a literal `${` write `$${`"));
    }
    match (environment(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Mistake::new(
            format!("the environment variable `{name}` is not set"),
            "expected it to be set",
        )
        .help(format!("give it a default: `${{{name}:-value}}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, BadVariable> {
        let expanded = expand(text, &|name| match name {
            "HOST" => Some("backend".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        });
        expanded.map(|expanded| expanded.text)
    }

    #[test]
    fn what_variables_are_is_hidden_also_in_pieces() {
        let variables = |written: &str, text: &str, value: &str| Variables {
            place: 0..1,
            written: written.to_owned(),
            expanded: Expanded {
                text: text.to_owned(),
                values: vec![value.to_owned()],
            },
        };
        let hidden = |variables: &Variables, shown| hide(shown, &[variables]);
        let token = variables("(${T}", "(Canary", "Canary");

        let is_wrong = hidden(&token, "`(Canary` is wrong");
        assert_eq!(is_wrong.unwrap(), "`(${T}` is wrong");
        assert_eq!(hidden(&token, "something else").unwrap(), "something else");
        assert_eq!(hidden(&token, "`Canary` is wrong"), None);
        assert_eq!(hidden(&token, "write \"cana\""), None);
        let short = variables("${T}", "x", "x");
        assert_eq!(hidden(&short, "`x`").unwrap(), "`${T}`");
        let empty = variables("${T}", "", "");
        assert_eq!(hidden(&empty, "`` is wrong").unwrap(), "`` is wrong");
        // Both have what is in the other.
        let other = variables("${T}.key", "Canary.key", "Canary");
        assert_eq!(
            hide("`(Canary` and `Canary.key`", &[&token, &other]).unwrap(),
            "`(${T}` and `${T}.key`"
        );
    }

    #[test]
    fn variables_are_replaced_once() {
        assert_eq!(expanded("http://${HOST}:1").unwrap(), "http://backend:1");
        assert_eq!(expanded("${HOST}${HOST}").unwrap(), "backendbackend");
        assert_eq!(expanded("${NESTED}").unwrap(), "${HOST}");
        assert_eq!(expanded("${EMPTY}").unwrap(), "");
    }

    #[test]
    fn a_default_stands_in_for_what_is_unset_or_empty() {
        assert_eq!(expanded("${PORT:-8080}").unwrap(), "8080");
        assert_eq!(expanded("${EMPTY:-8080}").unwrap(), "8080");
        assert_eq!(expanded("${HOST:-8080}").unwrap(), "backend");
        assert_eq!(expanded("${PORT:-}").unwrap(), "");
    }

    #[test]
    fn other_dollars_stay() {
        assert_eq!(expanded("^ready$").unwrap(), "^ready$");
        assert_eq!(expanded("$HOST").unwrap(), "$HOST");
        assert_eq!(expanded("$${HOST}").unwrap(), "${HOST}");
        assert_eq!(expanded("5 $$").unwrap(), "5 $");
    }

    #[test]
    fn what_is_escaped_stands_for_itself() {
        for text in [
            "",
            "a",
            "$",
            "^ready$",
            "${HOST}",
            "$${HOST}",
            "$$",
            "${",
            "$a${HOST}$$$",
        ] {
            assert_eq!(expanded(&escape(text)).unwrap(), text);
        }
        assert_eq!(escape("^ready$"), "^ready$");
    }

    #[test]
    fn what_is_wrong_is_found_in_its_place() {
        let place = |text: &str| text[expanded(text).unwrap_err().written].to_owned();

        assert_eq!(place("${HOST} ${MISSING} ${HOST}"), "${MISSING}");
        assert_eq!(place("a ${} b"), "${}");
        assert_eq!(place("a ${1A:-x}"), "${1A:-x}");
        assert_eq!(place("é ${HOST"), "${HOST");
    }
}
