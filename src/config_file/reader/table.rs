//! One table of the file, whose keys are taken one by one.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{
    File, Origin, UnknownKey,
    value::{Place, Value},
};
use crate::config_file::report::{Mistake, Problem, similar};

/// A table of the file; one that the file lacks is empty.
pub(in crate::config_file) struct Table<'a> {
    pub(super) file: &'a File<'a>,
    /// Dotted name, as in a header; empty at the top.
    pub(super) name: String,
    /// Dotted name with the indices of lists; `None` within a value that is shown whole.
    pub(super) place: Option<String>,
    pub(super) span: Range<usize>,
    pub(super) entries: Option<&'a DeTable<'a>>,
    pub(super) known: Vec<&'static str>,
    pub(super) problems_before: usize,
}

impl<'a> Table<'a> {
    pub(in crate::config_file) fn file(&self) -> &'a File<'a> {
        self.file
    }

    /// Span of the header, or of the whole inline table.
    pub(in crate::config_file) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Returns whether nothing was reported since the reading of this table began, so that its
    /// values can be compared with each other.
    pub(in crate::config_file) fn is_sound(&self) -> bool {
        self.file.problems.borrow().len() == self.problems_before
    }

    pub(in crate::config_file) fn problem_at(&self, span: Range<usize>, mistake: Mistake) {
        self.file.report(Problem::at(span, mistake));
    }

    /// Reports that `key` is missing, unless a key is a misspelling of it.
    pub(in crate::config_file) fn lacks(&self, key: &'static str, mistake: Mistake) {
        if !self.has_like(key) {
            let problem = Problem::at(self.span(), mistake);
            self.file.report(problem.absence());
        }
    }

    /// Returns whether an unknown key is most likely a misspelling of `key`.
    pub(in crate::config_file) fn has_like(&self, key: &'static str) -> bool {
        let mut entries = self.all_entries();
        entries.any(|(_, it, _)| !self.known.contains(&it) && similar(it, [key]).is_some())
    }

    /// Reads the value of `key`.
    ///
    /// Returns `None` without the key, and after `read` reported a problem.
    pub(in crate::config_file) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.value(key).and_then(read)
    }

    /// Reads the table `key` to its end; an empty one without the key.
    pub(in crate::config_file) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
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

    /// Reads each table of the list `key` to its end.
    pub(in crate::config_file) fn tables<T>(
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

    /// Returns the value of `key`, and records it for the values in effect.
    pub(in crate::config_file) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        let value = self.lookup(key)?;
        Some(self.noted(value))
    }

    fn noted(&self, value: Value<'a>) -> Value<'a> {
        if let Some(place) = self.full_place(value.key) {
            self.file.noted.borrow_mut().push((place, value));
        }
        value
    }

    /// Records a value in effect that the file does not set.
    pub(in crate::config_file) fn note(&self, key: &str, value: String, origin: Origin) {
        if let Some(place) = self.full_place(key) {
            let mut noted = self.file.noted_elsewhere.borrow_mut();
            noted.insert(place, (value.into(), origin));
        }
    }

    /// Returns the value of `key` without recording it.
    pub(in crate::config_file) fn lookup(&mut self, key: &'static str) -> Option<Value<'a>> {
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

    /// Returns all keys with spans and values, for a table with user-defined keys.
    pub(in crate::config_file) fn entries(
        &self,
    ) -> impl Iterator<Item = (Range<usize>, &'a str, Value<'a>)> {
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

    pub(super) fn note_unknown_keys(&self) {
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
