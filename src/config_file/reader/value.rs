//! One value of the file, with its place.

use std::ops::Range;

use toml::de::DeValue;

use super::{
    File, Table,
    expand::{self, expand},
};
use crate::config_file::report::{Mistake, Problem, Variables, any_of, similar, userinfo};

/// Span of a value; a `Range` that is `Copy`.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Place {
    pub(super) fn new(span: Range<usize>) -> Self {
        Self {
            start: span.start,
            end: span.end,
        }
    }
}

/// One value of the file.
#[derive(Clone, Copy)]
pub(in crate::config_file) struct Value<'a> {
    pub(super) file: &'a File<'a>,
    pub(super) key: &'a str,
    pub(super) content: &'a DeValue<'a>,
    pub(super) place: Place,
}

impl<'a> Value<'a> {
    pub(in crate::config_file) fn span(&self) -> Range<usize> {
        self.place.start..self.place.end
    }

    /// Returns the name of its key.
    pub(in crate::config_file) fn key(&self) -> &'a str {
        self.key
    }

    /// Reports a problem of this value.
    pub(in crate::config_file) fn report(&self, mistake: Mistake) {
        self.file.report(Problem::at(self.span(), mistake));
    }

    /// Reports a problem of this value; always `None`, for the reader to return.
    pub(in crate::config_file) fn problem<T>(&self, mistake: Mistake) -> Option<T> {
        self.report(mistake);
        None
    }

    /// Reports that the value is not `expected`, a noun with its article.
    pub(in crate::config_file) fn mismatch<T>(&self, expected: &str) -> Option<T> {
        let what = format!("`{}` cannot be {}", self.key, kind(self.content));
        self.problem(Mistake::new(what, format!("expected {expected}")))
    }

    pub(in crate::config_file) fn content(&self) -> &'a DeValue<'a> {
        self.content
    }

    /// Returns the value as written; abbreviated when it spans several lines.
    pub(in crate::config_file) fn written(&self) -> &'a str {
        let written = &self.file.text[self.span()];
        if written.contains('\n') {
            "…"
        } else {
            written
        }
    }

    /// Returns the value unless it is a list; `help` says what to write instead of one.
    pub(in crate::config_file) fn alone(self, expected: &'static str, help: &str) -> Option<Self> {
        if !matches!(self.content, DeValue::Array(_)) {
            return Some(self);
        }
        let what = format!("`{}` cannot be a list", self.key);
        self.problem(Mistake::new(what, expected).help(help))
    }

    /// Returns a string with its variables expanded.
    pub(in crate::config_file) fn string(self) -> Option<String> {
        match self.content {
            DeValue::String(text) => self.expand(text),
            _ => self.mismatch("a string"),
        }
    }

    /// Parses a string, or the text of a number or boolean: `8`, `"8"` and `"${WORKERS}"` are
    /// equivalent.
    pub(in crate::config_file) fn parse<T>(
        self,
        parse: impl FnOnce(&str) -> Result<T, Mistake>,
    ) -> Option<T> {
        let text = self.text()?;
        parse(&text).map_or_else(|mistake| self.refused(mistake), Some)
    }

    /// Records that this value is valid but most likely not intended.
    pub(in crate::config_file) fn caution(&self, mistake: Mistake) {
        self.file.caution(Problem::at(self.span(), mistake));
    }

    /// Parses a value that is no secret, which may be shown expanded: a number, size, duration,
    /// boolean or address.
    pub(in crate::config_file) fn measure<T>(
        self,
        parse: impl FnOnce(&str) -> Result<T, Mistake>,
    ) -> Option<T> {
        let text = self.text()?;
        let value = parse(&text).map_or_else(|mistake| self.refused(mistake), Some)?;
        self.reveal(text);
        Some(value)
    }

    /// Reports a problem of the text, with a hint when a variable lacks its braces.
    fn refused<T>(&self, mistake: Mistake) -> Option<T> {
        let bare = match self.content {
            DeValue::String(text) => expand::bare(text, self.file.environment),
            _ => None,
        };
        self.problem(match bare {
            Some(name) => expand::with_variable(mistake, name),
            None => mistake,
        })
    }

    /// Returns the text of a string, number or boolean.
    fn text(&self) -> Option<String> {
        match self.content {
            DeValue::String(text) => self.expand(text),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(truth) => Some(truth.to_string()),
            _ => self.mismatch("a string or a number"),
        }
    }

    /// Allows the value to be shown with its variables expanded.
    fn reveal(&self, text: String) {
        let is_from_environment =
            matches!(self.content, DeValue::String(written) if **written != *text);
        if is_from_environment {
            let mut revealed = self.file.revealed.borrow_mut();
            revealed.insert(self.place.start, text);
        }
    }

    /// Reads one of several words.
    pub(in crate::config_file) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            self.reveal(text);
            return Some(*choice);
        }
        let words = || choices.iter().map(|(word, _)| *word);
        let what = format!("`{}` cannot be `{text}`", self.key);
        let mistake = Mistake::new(what, format!("expected {}", any_of(words())));
        self.problem(match similar(&text, words()) {
            Some(meant) => mistake.help(format!("did you mean `{meant}`?")),
            None => mistake,
        })
    }

    /// Returns the elements of a list.
    pub(in crate::config_file) fn list(self) -> Option<impl Iterator<Item = Self>> {
        let DeValue::Array(elements) = self.content else {
            let what = format!("`{}` cannot be {}", self.key, kind(self.content));
            let help = format!("write [{}]", self.written());
            return self.problem(Mistake::new(what, "expected a list").help(help));
        };
        Some(elements.iter().map(move |element| Self {
            content: element.get_ref(),
            place: Place::new(element.span()),
            ..self
        }))
    }

    /// Reads a table to its end.
    pub(in crate::config_file) fn table<T>(
        self,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> Option<T> {
        let DeValue::Table(entries) = self.content else {
            return self.mismatch("a table");
        };
        let name = self.key.to_owned();
        let span = self.span();
        Some(self.file.read_table(name, None, Some(entries), span, read))
    }

    fn expand(&self, text: &str) -> Option<String> {
        if let Some(name) = expand::bare(text, self.file.environment) {
            self.caution(expand::bare_variable(name));
        }
        match expand(text, self.file.environment) {
            Ok(expanded) => {
                let replaced = expanded.text.clone();
                if !expanded.values.is_empty() {
                    self.file.variables.borrow_mut().push(Variables {
                        place: self.span(),
                        written: userinfo::hide_in_word(text),
                        expanded,
                    });
                }
                Some(replaced)
            }
            Err(error) => {
                let written = &text[error.written];
                // In a string with escapes the variable may be written differently.
                let source = &self.file.text[self.span()];
                let span = source.find(written).map_or_else(
                    || self.span(),
                    |offset| {
                        let start = self.place.start + offset;
                        start..start + written.len()
                    },
                );
                self.file.report(Problem::at(span, error.mistake));
                None
            }
        }
    }
}

/// Type of a value, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date or a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
