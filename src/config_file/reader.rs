//! The file as it is written: tables whose keys are taken one by one, values with their
//! places.
//!
//! A derived `Deserialize` stops at the first error. Here, whoever reads a key says what is
//! wrong with its value and goes on, so that the user sees every problem at once; a table
//! that has been read reports the keys that nobody asked for.

mod expand;
mod noted;
mod table;
mod value;

use std::{cell::RefCell, collections::BTreeMap, ops::Range};

use toml::de::DeTable;

pub use self::noted::Origin;
use self::noted::Revealed;
pub(super) use self::{expand::expand, noted::Noted, table::Table, value::Value};
use super::{
    Environment,
    report::{Mistake, Problem, Variables, any_of, similar},
};

/// State shared by all readers of one file.
pub(super) struct File<'a> {
    text: &'a str,
    environment: Environment<'a>,
    problems: RefCell<Vec<Problem>>,
    /// Valid values that are most likely not intended.
    cautions: RefCell<Vec<Problem>>,
    /// Full name of every key that was looked up, and whether the file has it.
    lookups: RefCell<BTreeMap<String, bool>>,
    unknown_keys: RefCell<Vec<UnknownKey>>,
    /// Values in effect that the file does not set.
    noted_elsewhere: RefCell<Noted>,
    /// Values of the file by their keys, with the indices of lists.
    noted: RefCell<Vec<(String, Value<'a>)>>,
    /// Expanded values that may be shown, by their offsets.
    revealed: RefCell<Revealed>,
    /// Values with variables.
    variables: RefCell<Vec<Variables>>,
}

impl<'a> File<'a> {
    pub(super) fn new(text: &'a str, environment: Environment<'a>) -> Self {
        Self {
            text,
            environment,
            problems: RefCell::default(),
            cautions: RefCell::default(),
            lookups: RefCell::default(),
            unknown_keys: RefCell::default(),
            noted_elsewhere: RefCell::default(),
            noted: RefCell::default(),
            revealed: RefCell::default(),
            variables: RefCell::default(),
        }
    }

    /// Reads the file's top level.
    pub(super) fn read<T>(
        &'a self,
        root: &'a DeTable<'a>,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> T {
        let place = Some(String::new());
        self.read_table(String::new(), place, Some(root), 0..0, read)
    }

    fn read_table<T>(
        &'a self,
        name: String,
        place: Option<String>,
        entries: Option<&'a DeTable<'a>>,
        span: Range<usize>,
        read: impl FnOnce(&mut Table<'a>) -> T,
    ) -> T {
        let mut table = Table {
            file: self,
            name,
            place,
            span,
            entries,
            known: Vec::new(),
            problems_before: self.problems.borrow().len(),
        };
        let result = read(&mut table);
        table.note_unknown_keys();
        result
    }

    /// Returns the values set so far, as they may be shown.
    pub(super) fn noted(&self) -> Noted {
        let mut noted = self.noted_elsewhere.borrow().clone();
        let revealed = self.revealed.borrow();
        for (key, value) in self.noted.borrow().iter() {
            let shown = noted::shown(value.content, value.place.start, &revealed);
            noted.insert(key.clone(), shown);
        }
        noted
    }

    pub(super) fn environment(&self, name: &str) -> Option<String> {
        (self.environment)(name)
    }

    /// Conceals further values in problems and cautions.
    pub(super) fn conceal(&self, values: impl Iterator<Item = Variables>) {
        self.variables.borrow_mut().extend(values);
    }

    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Records a value that is valid but most likely not intended.
    pub(super) fn caution(&self, caution: Problem) {
        self.cautions.borrow_mut().push(caution);
    }

    /// Takes the cautions, with variables unexpanded; to be called before `take_problems`.
    pub(super) fn take_cautions(&self) -> Vec<Problem> {
        let variables = self.variables.borrow();
        let cautions = self.cautions.take().into_iter();
        cautions.map(|caution| caution.hide(&variables)).collect()
    }

    /// Takes the problems, with variables unexpanded.
    ///
    /// The unknown keys come last, because the place where one belongs may be read after
    /// the place where it stands.
    pub(super) fn take_problems(&self) -> Vec<Problem> {
        let lookups = self.lookups.take();
        let unknown_keys = self.unknown_keys.take().into_iter();
        let unknown_keys = unknown_keys.map(|unknown| unknown.problem(&lookups));
        let mut problems = self.problems.take();
        problems.extend(unknown_keys);
        let variables = self.variables.take();
        let problems = problems.into_iter();
        problems.map(|problem| problem.hide(&variables)).collect()
    }

    #[cfg(test)]
    pub(super) fn lookups(&self) -> BTreeMap<String, bool> {
        self.lookups.borrow().clone()
    }
}

/// A key that no reader looked up.
struct UnknownKey {
    span: Range<usize>,
    key: String,
    /// The full name of the table, and the keys that it knows.
    table: String,
    known: Vec<&'static str>,
}

impl UnknownKey {
    fn problem(self, lookups: &BTreeMap<String, bool>) -> Problem {
        let place = if self.table.is_empty() {
            "the top of the file has no such key".to_owned()
        } else {
            format!("`{}` has no such key", self.table)
        };
        let what = format!("unknown key `{}`", self.key);
        let mistake = Mistake::new(what, place).help(self.help(lookups));
        Problem::at(self.span, mistake)
    }

    fn help(&self, lookups: &BTreeMap<String, bool>) -> String {
        if lookups.contains_key(&self.key) {
            let key = &self.key;
            return format!("`{key}` belongs to the top of the file, above the first [table]");
        }
        if let Some(meant) = similar(&self.key, self.known.iter().copied()) {
            return format!("did you mean `{meant}`?");
        }
        let is_same = |name: &&str| name.rsplit('.').next() == Some(&self.key);
        let elsewhere: Vec<_> = lookups.keys().map(String::as_str).filter(is_same).collect();
        if elsewhere.is_empty() {
            format!("expected {}", any_of(self.known.iter().copied()))
        } else {
            format!("did you mean {}?", any_of(elsewhere))
        }
    }
}
