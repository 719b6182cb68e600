//! One mistake: what is wrong with a value, what was expected, and what to write instead.

use std::{borrow::Cow, error::Error, fmt};

use super::{
    userinfo,
    variables::{Variables, hide},
};

/// A mistake in one value, independent of its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub(super) what: Cow<'static, str>,
    pub(super) expected: Cow<'static, str>,
    pub(super) help: Option<String>,
}

impl Mistake {
    /// A value that is not what was `expected`.
    #[must_use]
    pub fn new(what: impl Into<Cow<'static, str>>, expected: impl Into<Cow<'static, str>>) -> Self {
        Self {
            what: what.into(),
            expected: expected.into(),
            help: None,
        }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    /// Adds a help unless there is one.
    pub(in crate::config_file) fn or_help(self, help: impl Into<String>) -> Self {
        Self {
            help: self.help.or_else(|| Some(help.into())),
            ..self
        }
    }

    /// Replaces the values of `variables` by the variables; a text derived from them in another way
    /// is replaced by a shorter one.
    pub(super) fn hide(&mut self, variables: &[&Variables]) {
        let Some(first) = variables.first() else {
            return;
        };
        let Self {
            what,
            expected,
            help,
        } = self;
        // A borrowed text is one of the program's own.
        if let Cow::Owned(text) = what {
            let hidden = hide(text, variables);
            let less = || format!("this cannot be `{}`", first.written);
            *what = hidden.unwrap_or_else(less).into();
        }
        if let Cow::Owned(text) = expected {
            let hidden = hide(text, variables).map(Cow::Owned);
            *expected = hidden.unwrap_or("expected another value".into());
        }
        *help = help.take().and_then(|text| hide(&text, variables));
    }

    /// Hides the user name and password in `value`, the subject of the mistake, whatever characters
    /// they have.
    pub(in crate::config_file) fn about(mut self, value: &str) -> Self {
        if let Some(concealed) = userinfo::conceal(value, 0..0) {
            self.hide(&[&concealed]);
        }
        self
    }

    pub(super) fn without_userinfo(self) -> Self {
        let hide = |text: &str| userinfo::hide(text).into_owned();
        Self {
            what: hide(&self.what).into(),
            expected: hide(&self.expected).into(),
            help: self.help.as_deref().map(hide),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            expected,
            help,
        } = self.clone().without_userinfo();
        write!(formatter, "{what}: {expected}")?;
        if let Some(help) = help {
            write!(formatter, " ({help})")?;
        }
        Ok(())
    }
}

impl Error for Mistake {}

/// Returns the word of `known` that `unknown` is most likely a misspelling of.
pub(in crate::config_file) fn similar<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// Least similarity of a misspelling.
    const ENOUGH: f64 = 0.5;
    let unknown = unknown.to_lowercase();
    known
        .into_iter()
        .map(|word| {
            let similarity = strsim::normalized_damerau_levenshtein(&unknown, word);
            (similarity, word)
        })
        .filter(|(similarity, _)| *similarity > ENOUGH)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, word)| word)
}

/// `a`, `b` or `c`, with each in backticks.
pub(in crate::config_file) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}
