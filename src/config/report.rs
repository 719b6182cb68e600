//! Problems of a configuration, each shown under its line.
//!
//! # Invariants
//!
//! * Whatever shows a problem shows no name and password of a URL ([`userinfo`]).

use std::{borrow::Cow, error::Error, fmt, ops::Range};

use annotate_snippets::{
    AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str as plain,
};

use super::{
    expand::{Variables, hide},
    userinfo,
};

/// What is wrong with one value, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    what: Cow<'static, str>,
    expected: Cow<'static, str>,
    help: Option<String>,
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

    /// The same, unless it says so already.
    pub(super) fn or_help(self, help: impl Into<String>) -> Self {
        Self {
            help: self.help.or_else(|| Some(help.into())),
            ..self
        }
    }

    /// Shows `variables` as they are written. What was put together from their values in a way
    /// that cannot be undone is replaced by less.
    fn hide(&mut self, variables: &[&Variables]) {
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

    /// Hides the name and the password that are in `value`, which this is about, whatever is in
    /// them.
    pub(super) fn about(mut self, value: &str) -> Self {
        if let Some(concealed) = userinfo::conceal(value, 0..0) {
            self.hide(&[&concealed]);
        }
        self
    }

    fn without_userinfo(self) -> Self {
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

/// A mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    mistake: Mistake,
    /// In bytes; `None` when it is not in the file.
    span: Option<Range<usize>>,
    /// Another place that has to do with it, and how.
    context: Option<(Range<usize>, &'static str)>,
    /// Whether something is missing, which may be the consequence of a syntax error.
    is_absence: bool,
}

impl Problem {
    pub(super) fn at(span: Range<usize>, mistake: Mistake) -> Self {
        Self {
            mistake,
            span: Some(span),
            context: None,
            is_absence: false,
        }
    }

    pub(super) fn nowhere(mistake: Mistake) -> Self {
        Self {
            mistake,
            span: None,
            context: None,
            is_absence: false,
        }
    }

    fn without_userinfo(self) -> Self {
        Self {
            mistake: self.mistake.without_userinfo(),
            ..self
        }
    }

    pub(super) fn absence(self) -> Self {
        Self {
            is_absence: true,
            ..self
        }
    }

    pub(super) fn context(self, span: Range<usize>, label: &'static str) -> Self {
        Self {
            context: Some((span, label)),
            ..self
        }
    }

    /// Shows those of `variables` as they are written that are in the values which this is
    /// about.
    pub(super) fn hide(mut self, variables: &[Variables]) -> Self {
        let context = self.context.as_ref().map(|(span, _)| span);
        let spans: Vec<_> = self.span.iter().chain(context).collect();
        let is_there = |place: &Range<usize>| {
            let mut spans = spans.iter();
            spans.any(|span| span.start < place.end && place.start < span.end)
        };
        let variables = variables.iter().filter(|it| is_there(&it.place));
        self.mistake.hide(&variables.collect::<Vec<_>>());
        self
    }

    fn group<'a>(&'a self, level: Level<'a>, name: &'a str, text: &'a str) -> Group<'a> {
        let title = level.primary_title(&*self.mistake.what);
        let help = self.mistake.help.as_deref();
        let help = help.map(|help| Level::HELP.message(plain(help)));
        let Some(span) = self.span.clone() else {
            let expected = Level::NOTE.message(plain(&self.mistake.expected));
            return title.element(expected).elements(help);
        };
        let primary = AnnotationKind::Primary.span(span);
        let context = self.context.clone();
        let snippet = Snippet::source(text)
            .path(name)
            .annotation(primary.label(plain(&self.mistake.expected)))
            .annotations(
                context.map(|(span, label)| AnnotationKind::Context.span(span).label(label)),
            );
        title.element(snippet).elements(help)
    }
}

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    name: String,
    text: String,
    all: Vec<Problem>,
}

impl Problems {
    /// The problems in the file `name`, which contains `text`: without names and passwords.
    ///
    /// What stands on a line with a syntax error, or is missing when there are any, is left
    /// out: it is most likely the same problem once more.
    pub(super) fn new(
        name: &str,
        text: String,
        syntax: Vec<Problem>,
        meaning: Vec<Problem>,
    ) -> Self {
        let line = |problem: &Problem| {
            let start = problem.span.as_ref().map(|span| span.start)?;
            Some(text[..start].matches('\n').count())
        };
        let broken: Vec<_> = syntax.iter().map(line).collect();
        let meaning = meaning.into_iter().filter(|problem| {
            broken.is_empty() || !problem.is_absence && !broken.contains(&line(problem))
        });
        let mut all: Vec<_> = meaning
            .chain(syntax)
            .map(Problem::without_userinfo)
            .collect();
        all.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        Self {
            name: name.to_owned(),
            text,
            all,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All problems as text for people, with ANSI colours if `is_colored`.
    #[must_use]
    pub fn render(&self, is_colored: bool) -> String {
        let renderer = renderer(is_colored);
        let mut report = String::new();
        for problem in &self.all {
            let group = problem.group(Level::ERROR, &self.name, &self.text);
            report += &renderer.render(&[group]);
            report += "\n\n";
        }
        let summary = match self.all.len() {
            1 => format!("{} has a problem", self.name),
            count => format!("{} has {count} problems", self.name),
        };
        let summary = Level::ERROR.primary_title(summary);
        report += &renderer.render(&[Group::with_title(summary)]);
        report
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(false))
    }
}

impl Error for Problems {}

/// What is valid in a file and most likely not what is meant, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cautions {
    name: String,
    /// Without names and passwords; empty where there is no caution.
    text: String,
    all: Vec<Problem>,
}

impl Cautions {
    /// Those about the file `name`, which contains `text`: without names and passwords.
    pub(super) fn new(name: &str, text: &str, all: Vec<Problem>) -> Self {
        if all.is_empty() {
            return Self::default();
        }
        let mut all: Vec<_> = all.into_iter().map(Problem::without_userinfo).collect();
        all.sort_by_key(|caution| caution.span.as_ref().map(|span| span.start));
        // A value may have been read twice.
        all.dedup();
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            all,
        }
    }

    /// All of them as text for people, with ANSI colours if `is_colored`; empty if there is
    /// none.
    #[must_use]
    pub fn render(&self, is_colored: bool) -> String {
        let renderer = renderer(is_colored);
        let groups = self.all.iter().map(|caution| {
            let group = caution.group(Level::WARNING, &self.name, &self.text);
            renderer.render(&[group]) + "\n\n"
        });
        groups.collect()
    }

    /// Each in a line that begins with its place.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(|caution| {
            let start = caution.span.as_ref().map_or(0, |span| span.start);
            let line = self.text[..start].matches('\n').count() + 1;
            format!("{}:{line}: {}", self.name, caution.mistake)
        })
    }
}

fn renderer(is_colored: bool) -> Renderer {
    if is_colored {
        Renderer::styled()
    } else {
        Renderer::plain()
    }
}

/// The one of `known` that somebody who wrote `unknown` most likely meant.
pub(super) fn similar<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// From half of the letters on, two words are taken for the same.
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
pub(super) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}
