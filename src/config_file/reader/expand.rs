//! Environment variables in the strings of the file.
//!
//! # Invariants
//!
//! * The value of a variable may be a secret: a problem shows the variable.

use std::ops::Range;

use crate::config_file::report::{Expanded, Mistake};

/// A mistake in a variable, and its place in the text.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config_file) struct BadVariable {
    /// Range of the variable.
    pub(in crate::config_file) written: Range<usize>,
    pub(in crate::config_file) mistake: Mistake,
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$$` becomes `$`, and any other `$` stays.
///
/// As in a shell, the default also stands in for a variable that is empty. It cannot
/// contain a closing brace. What a variable contains is not looked at again.
pub(in crate::config_file) fn expand(
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

/// Returns a `$NAME` without braces in `text` that is most likely meant as a variable: in capitals,
/// or set.
pub(in crate::config_file) fn bare<'a>(
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

/// Mistake of a `$name` without braces.
pub(in crate::config_file) fn bare_variable(name: &str) -> Mistake {
    Mistake::new(format!("`${name}` is no variable"), "is taken as it stands")
        .help(format!("write ${{{name}}}, or $${name} for the text"))
}

/// Adds the missing braces as help, unless the mistake has another one.
pub(in crate::config_file) fn with_variable(mistake: Mistake, name: &str) -> Mistake {
    mistake.or_help(format!("for the variable write ${{{name}}}"))
}

fn unclosed(written: Range<usize>) -> BadVariable {
    let mistake = Mistake::new("this variable has no end", "expected `}` after the name")
        .help("for a literal `${` write `$${`");
    BadVariable { written, mistake }
}

/// Returns the value of the variable between the braces.
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
    use crate::config_file::report::escape;

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
