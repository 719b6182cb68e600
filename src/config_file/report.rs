//! Problems of a configuration, each shown under its line.
//!
//! # Invariants
//!
//! * No output about a problem contains user names and passwords of URLs ([`userinfo`]).

mod mistake;
mod problem;
pub mod userinfo;
mod variables;

use std::{error::Error, fmt};

use annotate_snippets::{Group, Level, Renderer};

pub use self::mistake::Mistake;
pub(super) use self::mistake::{any_of, similar};
pub(super) use self::problem::Problem;
pub(super) use self::variables::{Expanded, Variables, escape};

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
    /// Problems on a line with a syntax error, and missing keys when there are any, are left out:
    /// most likely they are consequences.
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

    /// Renders all problems, with ANSI colours if `is_colored`.
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

/// Valid values that are most likely not intended, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cautions {
    name: String,
    /// Without names and passwords; empty where there is no caution.
    text: String,
    all: Vec<Problem>,
}

impl Cautions {
    /// Cautions about the file `name`, which contains `text`: without names and passwords.
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

    /// Renders all cautions, with ANSI colours if `is_colored`; empty without any.
    #[must_use]
    pub fn render(&self, is_colored: bool) -> String {
        let renderer = renderer(is_colored);
        let groups = self.all.iter().map(|caution| {
            let group = caution.group(Level::WARNING, &self.name, &self.text);
            renderer.render(&[group]) + "\n\n"
        });
        groups.collect()
    }

    /// Returns each caution as a line that begins with its place.
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
