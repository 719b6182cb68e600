//! A mistake with its place in the file.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Snippet, normalize_untrusted_str as plain};

use super::{mistake::Mistake, variables::Variables};

/// A mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config_file) struct Problem {
    pub(super) mistake: Mistake,
    /// In bytes; `None` when it is not in the file.
    pub(super) span: Option<Range<usize>>,
    /// A related span, with its label.
    context: Option<(Range<usize>, &'static str)>,
    /// Set when something is missing, perhaps only because of a syntax error.
    pub(super) is_absence: bool,
}

impl Problem {
    pub(in crate::config_file) fn at(span: Range<usize>, mistake: Mistake) -> Self {
        Self {
            mistake,
            span: Some(span),
            context: None,
            is_absence: false,
        }
    }

    pub(in crate::config_file) fn nowhere(mistake: Mistake) -> Self {
        Self {
            mistake,
            span: None,
            context: None,
            is_absence: false,
        }
    }

    pub(super) fn without_userinfo(self) -> Self {
        Self {
            mistake: self.mistake.without_userinfo(),
            ..self
        }
    }

    pub(in crate::config_file) fn absence(self) -> Self {
        Self {
            is_absence: true,
            ..self
        }
    }

    pub(in crate::config_file) fn context(self, span: Range<usize>, label: &'static str) -> Self {
        Self {
            context: Some((span, label)),
            ..self
        }
    }

    /// Hides the values of those `variables` that are in the spans of the problem.
    pub(in crate::config_file) fn hide(mut self, variables: &[Variables]) -> Self {
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

    pub(super) fn group<'a>(&'a self, level: Level<'a>, name: &'a str, text: &'a str) -> Group<'a> {
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
