//! Variables in the values of the file, and their concealment in what is said about these.
//!
//! # Invariants
//!
//! * The value of a variable may be a secret: a problem shows the variable.

use std::ops::Range;

/// A text whose variables are replaced.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config_file) struct Expanded {
    pub(in crate::config_file) text: String,
    /// Values of the variables.
    pub(in crate::config_file) values: Vec<String>,
}

/// A value of the file in which there are variables.
#[derive(Debug)]
pub(in crate::config_file) struct Variables {
    /// Span in bytes.
    pub(in crate::config_file) place: Range<usize>,
    /// The text with the names of the variables, and with what they are.
    pub(in crate::config_file) written: String,
    pub(in crate::config_file) expanded: Expanded,
}

/// `shown` with these variables as they are written; `None` when it says something of what
/// they are in another way.
pub(in crate::config_file) fn hide(shown: &str, variables: &[&Variables]) -> Option<String> {
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

/// Returns whether a piece of `value` is in `text`, which is in lower case.
fn has_piece(text: &str, value: &str) -> bool {
    /// Least length of a piece in characters, unless it is the whole value.
    const LENGTH: usize = 3;
    let value: Vec<_> = value.to_lowercase().chars().collect();
    let length = value.len().min(LENGTH);
    let mut pieces = value.windows(length.max(1));
    pieces.any(|piece| text.contains(&piece.iter().collect::<String>()))
}

/// `text` as it has to be written in the file to stand for itself.
pub(in crate::config_file) fn escape(text: &str) -> String {
    if text.contains("$$") || text.contains("${") {
        text.replace('$', "$$")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
