//! The file as it is written: tables whose keys are taken one by one, values with their
//! places.
//!
//! A derived `Deserialize` stops at the first error. Here, whoever reads a key says what is
//! wrong with its value and goes on, so that the user sees every problem at once; a table
//! that has been read reports the keys that nobody asked for.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    Environment, cautions,
    effective::{self, Effective, Origin, Revealed},
    expand::{self, Variables},
    report::{Mistake, Problem, any_of, similar},
    units, userinfo,
};

/// What all readers of one file share.
pub(super) struct File<'a> {
    text: &'a str,
    environment: Environment<'a>,
    problems: RefCell<Vec<Problem>>,
    /// What is valid and most likely not what is meant.
    cautions: RefCell<Vec<Problem>>,
    /// The full name of every key that was looked for, and whether it was there.
    lookups: RefCell<BTreeMap<String, bool>>,
    unknown_keys: RefCell<Vec<UnknownKey>>,
    /// What is in effect although the file does not say it.
    effective: RefCell<Effective>,
    /// The keys of all values, with the numbers of lists.
    noted: RefCell<Vec<(String, Value<'a>)>>,
    /// What values from the environment are, by where they are written.
    revealed: RefCell<Revealed>,
    /// The values that have variables in them.
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
            effective: RefCell::default(),
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

    /// What the file says, as far as it has been read.
    pub(super) fn effective(&self) -> Effective {
        let mut effective = self.effective.borrow().clone();
        let revealed = self.revealed.borrow();
        for (key, value) in self.noted.borrow().iter() {
            let (shown, origin) = effective::shown(value.content, value.place.start, &revealed);
            effective.note(key.clone(), shown, origin);
        }
        effective
    }

    pub(super) fn environment(&self, name: &str) -> Option<String> {
        (self.environment)(name)
    }

    /// Hides what else is not to be shown.
    pub(super) fn conceal(&self, values: impl Iterator<Item = Variables>) {
        self.variables.borrow_mut().extend(values);
    }

    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Notes what is no problem, but most likely not what is meant.
    pub(super) fn caution(&self, caution: Problem) {
        self.cautions.borrow_mut().push(caution);
    }

    /// All of what was noted, without what variables are; before the problems are taken.
    pub(super) fn take_cautions(&self) -> Vec<Problem> {
        let variables = self.variables.borrow();
        let cautions = self.cautions.take().into_iter();
        cautions.map(|caution| caution.hide(&variables)).collect()
    }

    /// Everything that was reported, without what variables are.
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

/// A key that the reader of its table did not ask for.
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

/// One table of the file, or one that the file does not have and that is therefore empty.
pub(super) struct Table<'a> {
    file: &'a File<'a>,
    /// With dots, as in a header; empty at the top.
    name: String,
    /// The same with the numbers of lists; `None` within a value that is shown whole.
    place: Option<String>,
    span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
    problems_before: usize,
}

impl<'a> Table<'a> {
    pub(super) fn file(&self) -> &'a File<'a> {
        self.file
    }

    /// Where the table begins: its header, or all of an inline table.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Whether nothing was reported since the reading of this table began, so that its
    /// values can be compared with each other.
    pub(super) fn is_sound(&self) -> bool {
        self.file.problems.borrow().len() == self.problems_before
    }

    pub(super) fn problem_at(&self, span: Range<usize>, mistake: Mistake) {
        self.file.report(Problem::at(span, mistake));
    }

    /// Reports that `key` is missing from the table, unless a letter of it is wrong.
    pub(super) fn lacks(&self, key: &'static str, mistake: Mistake) {
        if !self.has_like(key) {
            let problem = Problem::at(self.span(), mistake);
            self.file.report(problem.absence());
        }
    }

    /// Whether there is a key that nobody knows, and by which most likely `key` is meant.
    pub(super) fn has_like(&self, key: &'static str) -> bool {
        let mut entries = self.all_entries();
        entries.any(|(_, it, _)| !self.known.contains(&it) && similar(it, [key]).is_some())
    }

    /// The value of `key`, as `read` understands it.
    ///
    /// `None` when there is no such key, and when `read` has reported what is wrong.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.value(key).and_then(read)
    }

    /// Like [`take`](Self::take) for a value that is written in some notation.
    pub(super) fn parse<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Mistake>,
    ) -> Option<T> {
        self.take(key, |value| value.parse(parse))
    }

    /// The same for what is no secret: a number, a size, a duration, a truth value or an address.
    pub(super) fn measure<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Mistake>,
    ) -> Option<T> {
        self.take(key, |value| value.measure(parse))
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.measure(key, units::duration)
    }

    /// A duration other than zero.
    pub(super) fn some_time(&mut self, key: &'static str) -> Option<Duration> {
        self.measure(key, units::some_time)
    }

    /// The table `key`, read to its end; an empty one when it is not there.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        let name = self.full_name(key);
        let place = self.full_place(key);
        let value = self.lookup(key);
        let entries = value.and_then(|value| match value.content {
            DeValue::Table(entries) => Some(entries),
            _ => value.mismatch("a table"),
        });
        let span = value.map_or_else(|| self.span(), |value| value.span());
        self.file.read_table(name, place, entries, span, read)
    }

    /// The tables of the list `key`, each read to its end.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Self) -> T,
    ) -> Vec<T> {
        let name = self.full_name(key);
        let place = self.full_place(key);
        let mut index = 0..;
        let Some(value) = self.lookup(key) else {
            return Vec::new();
        };
        let mut read_one = |table: Value<'a>| {
            let DeValue::Table(entries) = table.content else {
                return table.mismatch("a table");
            };
            let (name, span) = (name.clone(), table.span());
            let place = place.as_ref().zip(index.next());
            let place = place.map(|(place, index)| format!("{place}[{index}]"));
            Some(
                self.file
                    .read_table(name, place, Some(entries), span, &mut read),
            )
        };
        if let DeValue::Array(_) = value.content {
            return value
                .list()
                .into_iter()
                .flatten()
                .filter_map(read_one)
                .collect();
        }
        let what = format!("`{name}` is a list of tables");
        let mistake = Mistake::new(what, "expected a list of tables");
        value.report(mistake.help(format!("write [[{name}]]")));
        // A table with single brackets is most likely meant to be the only one.
        match value.content {
            DeValue::Table(_) => read_one(value).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The value of `key`, which is noted as it is written.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        let value = self.lookup(key)?;
        Some(self.noted(value))
    }

    fn noted(&self, value: Value<'a>) -> Value<'a> {
        if let Some(place) = self.full_place(value.key) {
            self.file.noted.borrow_mut().push((place, value));
        }
        value
    }

    /// Notes what is in effect although the file does not say it.
    pub(super) fn note(&self, key: &str, value: String, origin: Origin) {
        if let Some(place) = self.full_place(key) {
            let mut effective = self.file.effective.borrow_mut();
            effective.note(place, value.into(), origin);
        }
    }

    /// The value of `key`, for somebody who reads or looks at it in another way, too.
    pub(super) fn lookup(&mut self, key: &'static str) -> Option<Value<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let entry = self.entries.and_then(|entries| entries.get_key_value(key));
        let mut lookups = self.file.lookups.borrow_mut();
        *lookups.entry(self.full_name(key)).or_default() |= entry.is_some();
        entry.map(|(_, value)| Value {
            file: self.file,
            key,
            content: value.get_ref(),
            place: Place::new(value.span()),
        })
    }

    /// All keys with their places and values, for a table whose keys are the user's own.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Range<usize>, &'a str, Value<'a>)> {
        self.all_entries()
            .map(|(span, key, value)| (span, key, self.noted(value)))
    }

    fn all_entries(&self) -> impl Iterator<Item = (Range<usize>, &'a str, Value<'a>)> + use<'a> {
        let file = self.file;
        let entries = self.entries.into_iter().flatten();
        entries.map(move |(key, value)| {
            let name: &'a str = key.get_ref();
            let value = Value {
                file,
                key: name,
                content: value.get_ref(),
                place: Place::new(value.span()),
            };
            (key.span(), name, value)
        })
    }

    fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn full_place(&self, key: &str) -> Option<String> {
        let place = self.place.as_ref()?;
        Some(if place.is_empty() {
            key.to_owned()
        } else {
            format!("{place}.{key}")
        })
    }

    fn note_unknown_keys(&self) {
        // A table that was read through `entries` knows no keys of its own.
        if self.known.is_empty() {
            return;
        }
        let entries = self.all_entries();
        let unknown = entries.filter(|(_, key, _)| !self.known.contains(key));
        let unknown = unknown.map(|(span, key, _)| UnknownKey {
            span,
            key: key.to_owned(),
            table: self.name.clone(),
            known: self.known.clone(),
        });
        self.file.unknown_keys.borrow_mut().extend(unknown);
    }
}

/// Where a value is; a `Range` that can be copied.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
}

impl Place {
    fn new(span: Range<usize>) -> Self {
        Self {
            start: span.start,
            end: span.end,
        }
    }
}

/// One value of the file.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    file: &'a File<'a>,
    key: &'a str,
    content: &'a DeValue<'a>,
    place: Place,
}

impl<'a> Value<'a> {
    pub(super) fn span(&self) -> Range<usize> {
        self.place.start..self.place.end
    }

    /// Reports what is wrong with this value.
    pub(super) fn report(&self, mistake: Mistake) {
        self.file.report(Problem::at(self.span(), mistake));
    }

    /// Reports what is wrong with this value; always `None`, for the reader to return.
    pub(super) fn problem<T>(&self, mistake: Mistake) -> Option<T> {
        self.report(mistake);
        None
    }

    /// Reports that this is not `expected`, which is a noun with its article.
    pub(super) fn mismatch<T>(&self, expected: &str) -> Option<T> {
        let what = format!("`{}` cannot be {}", self.key, kind(self.content));
        self.problem(Mistake::new(what, format!("expected {expected}")))
    }

    pub(super) fn content(&self) -> &'a DeValue<'a> {
        self.content
    }

    /// The value as the file has it; less where that are several lines.
    pub(super) fn written(&self) -> &'a str {
        let written = &self.file.text[self.span()];
        if written.contains('\n') {
            "…"
        } else {
            written
        }
    }

    /// The value, unless it is a list; what a list is written as instead is the `help`.
    pub(super) fn alone(self, expected: &'static str, help: &str) -> Option<Self> {
        if !matches!(self.content, DeValue::Array(_)) {
            return Some(self);
        }
        let what = format!("`{}` cannot be a list", self.key);
        self.problem(Mistake::new(what, expected).help(help))
    }

    /// A string, with its variables replaced.
    pub(super) fn string(self) -> Option<String> {
        match self.content {
            DeValue::String(text) => self.expand(text),
            _ => self.mismatch("a string"),
        }
    }

    /// What `parse` makes of a string or of a number's or truth value's own text: `8`, `"8"`
    /// and `"${WORKERS}"` are the same.
    pub(super) fn parse<T>(self, parse: impl FnOnce(&str) -> Result<T, Mistake>) -> Option<T> {
        let text = self.text()?;
        parse(&text).map_or_else(|mistake| self.refused(mistake), Some)
    }

    /// Notes what is no problem of this value, but most likely not what is meant.
    pub(super) fn caution(&self, mistake: Mistake) {
        self.file.caution(Problem::at(self.span(), mistake));
    }

    /// The same for what is no secret: a number, a size, a duration, a truth value or an address.
    pub(super) fn measure<T>(self, parse: impl FnOnce(&str) -> Result<T, Mistake>) -> Option<T> {
        let text = self.text()?;
        let value = parse(&text).map_or_else(|mistake| self.refused(mistake), Some)?;
        self.reveal(text);
        Some(value)
    }

    /// Reports what is wrong with the text; that its variables have no braces may be the reason.
    fn refused<T>(&self, mistake: Mistake) -> Option<T> {
        let bare = match self.content {
            DeValue::String(text) => expand::bare(text, self.file.environment),
            _ => None,
        };
        self.problem(match bare {
            Some(name) => cautions::with_variable(mistake, name),
            None => mistake,
        })
    }

    /// What a string, a number or a truth value is in words.
    fn text(&self) -> Option<String> {
        match self.content {
            DeValue::String(text) => self.expand(text),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(truth) => Some(truth.to_string()),
            _ => self.mismatch("a string or a number"),
        }
    }

    /// Has the value shown with its variables replaced.
    fn reveal(&self, text: String) {
        let is_from_environment =
            matches!(self.content, DeValue::String(written) if **written != *text);
        if is_from_environment {
            let mut revealed = self.file.revealed.borrow_mut();
            revealed.insert(self.place.start, text);
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Option<T> {
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

    /// The elements of a list.
    pub(super) fn list(self) -> Option<impl Iterator<Item = Self>> {
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

    /// A table, read to its end.
    pub(super) fn table<T>(self, read: impl FnOnce(&mut Table<'a>) -> T) -> Option<T> {
        let DeValue::Table(entries) = self.content else {
            return self.mismatch("a table");
        };
        let name = self.key.to_owned();
        let span = self.span();
        Some(self.file.read_table(name, None, Some(entries), span, read))
    }

    fn expand(&self, text: &str) -> Option<String> {
        if let Some(name) = expand::bare(text, self.file.environment) {
            self.caution(cautions::bare_variable(name));
        }
        match expand::expand(text, self.file.environment) {
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

/// What a value is, with its article.
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

/// Replaces a default by what the file says, if it says something.
pub(super) fn override_with<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}
