//! One section of the file: a table and its keys, each of which is one row.
//!
//! ```text
//! section! {
//!     /// Text above the header of the section.
//!     pub(in crate::config_file) TUNNEL: timeouts::Settings = "route[].tunnel", websockets;
//!
//!     /// Text above the key, for the file, the schema and the reference.
//!     close_timeout: POSITIVE_TIME = "5s";
//!     │              │               └ default, as a file has it
//!     │              └ how the value is written, and what it is read as
//!     └ name of the key, and field of `timeouts::Settings`; another field: `=> path.to.field`
//! }
//! ```
//!
//! Whatever else is to be known of a key follows as a flag, which is a method of [`Row`]:
//! `required`, `optional`, `restart` and so on. Those of the whole section follow its name and
//! are methods of [`Section`].
//!
//! # Invariants
//!
//! * A value of the wrong type for its field does not compile.
//! * Rows without a text share the one of the row above.

use super::{
    reader::{Table, Value, expand},
    values::Notation,
};

/// One key: everything about it but the field that it sets.
#[derive(Debug)]
pub(super) struct Row {
    /// Name within its section.
    pub(super) name: &'static str,
    /// Lines of its text, each behind a space; empty: those of the row above.
    pub(super) text: &'static str,
    pub(super) notation: fn() -> Notation,
    /// Default, as a file has it; of a required key an example.
    pub(super) default: &'static str,
    pub(super) presence: Presence,
    /// Value in the shipped file, where that is not the default.
    pub(super) example: Option<&'static str>,
    pub(super) concerns: Option<Concerns>,
    /// Set when a change needs a restart.
    pub(super) is_fixed: bool,
}

/// Meaning of a key that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It has its default value.
    Defaulted,
    /// A mistake.
    Required,
    /// Nothing: there is no default, and the one of the row is an example.
    Optional,
}

/// Requests that a key of a route concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concerns {
    /// Every request of the route.
    #[default]
    All,
    /// Sessions alone, and their opening handshakes.
    WebSockets,
    /// Requests that do not become sessions.
    PlainRequests,
}

/// One table of the file, or its top.
#[derive(Debug)]
pub(super) struct Section {
    /// Name with those of the tables around it, such as `route[].gate`, where `[]` is a list;
    /// empty at the top.
    pub(super) name: &'static str,
    /// Lines of the text above its header, each behind a space.
    pub(super) text: &'static str,
    pub(super) rows: &'static [Row],
    pub(super) layout: Layout,
    pub(super) concerns: Concerns,
    /// Notation of the values of user-defined keys.
    pub(super) own_keys: Option<fn() -> Notation>,
}

/// Layout of a section in the shipped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// With its header.
    Written,
    /// Commented out, because it is for some alone.
    CommentedOut,
    /// As one key of the section around it.
    Inline,
    /// Only with its text: the keys are in an example.
    InExample,
}

/// The rows of a section together with the fields of `S` that they set.
pub(super) struct Keys<S: 'static> {
    pub(super) section: Section,
    /// In the order of the rows.
    pub(super) fields: &'static [Field<S>],
}

/// Destination of the value of a key.
pub(super) struct Field<S> {
    /// Reads a value and sets the field, or reports what is wrong with the value.
    pub(super) read: fn(&mut S, Value<'_>),
    /// Compares the field of two, where a change needs a restart.
    pub(super) differs: Option<fn(&S, &S) -> bool>,
}

impl<S> Keys<S> {
    /// Sets the fields of `settings` for which `table` has keys.
    pub(super) fn read(&self, table: &mut Table<'_>, settings: &mut S) {
        for (row, field) in self.section.rows.iter().zip(self.fields) {
            if let Some(value) = table.value(row.name) {
                (field.read)(settings, value);
            }
        }
    }

    /// The settings in the table of this section within `parent`.
    pub(super) fn table(&self, parent: &mut Table<'_>) -> S
    where
        S: Default,
    {
        parent.table(self.section.key(), |table| {
            let mut settings = S::default();
            self.read(table, &mut settings);
            settings
        })
    }

    /// Names of the keys that differ between the two and need a restart.
    pub(super) fn fixed_differences(&self, old: &S, new: &S) -> impl Iterator<Item = String> {
        let fields = self.section.rows.iter().zip(self.fields);
        fields.filter_map(move |(row, field)| {
            let differs = field.differs.is_some_and(|differs| differs(old, new));
            differs.then(|| self.section.key_name(row))
        })
    }
}

impl Row {
    pub(super) const fn new(
        name: &'static str,
        text: &'static str,
        notation: fn() -> Notation,
        default: &'static str,
    ) -> Self {
        Self {
            name,
            text,
            notation,
            default,
            presence: Presence::Defaulted,
            example: None,
            concerns: None,
            is_fixed: false,
        }
    }

    /// Has to be there.
    pub(super) const fn required(mut self) -> Self {
        self.presence = Presence::Required;
        self
    }

    /// May be left out, and then there is no such thing.
    pub(super) const fn optional(mut self) -> Self {
        self.presence = Presence::Optional;
        self
    }

    /// Is shown with this value in the shipped file.
    pub(super) const fn example(mut self, example: &'static str) -> Self {
        self.example = Some(example);
        self
    }

    /// Cannot change while the program runs.
    pub(super) const fn restart(mut self) -> Self {
        self.is_fixed = true;
        self
    }

    /// Bears on sessions alone.
    pub(super) const fn websockets(mut self) -> Self {
        self.concerns = Some(Concerns::WebSockets);
        self
    }

    /// Bears on all requests, though its section does not.
    pub(super) const fn all(mut self) -> Self {
        self.concerns = Some(Concerns::All);
        self
    }

    /// The default, without what variables in it may be; of a required key an example.
    pub(super) fn default_value(&self) -> serde_json::Value {
        let text = format!("default = {}", self.default);
        let mut table: toml::Table = text.parse().expect("a test reads the shipped file");
        let value = match table.remove("default") {
            Some(toml::Value::String(text)) => Some(without_variables(&text)),
            other => other,
        };
        serde_json::to_value(value).expect("what TOML can say, JSON can")
    }

    /// The value in the shipped file.
    pub(super) fn shipped(&self) -> &'static str {
        self.example.unwrap_or(self.default)
    }
}

impl Section {
    pub(super) const fn new(name: &'static str, text: &'static str, rows: &'static [Row]) -> Self {
        Self {
            name,
            text,
            rows,
            layout: Layout::Written,
            concerns: Concerns::All,
            own_keys: None,
        }
    }

    /// Is commented out in the shipped file.
    pub(super) const fn commented_out(mut self) -> Self {
        self.layout = Layout::CommentedOut;
        self
    }

    /// Is one key of the section around it in the shipped file.
    pub(super) const fn inline(mut self) -> Self {
        self.layout = Layout::Inline;
        self
    }

    /// Is in an example of the shipped file.
    pub(super) const fn in_example(mut self) -> Self {
        self.layout = Layout::InExample;
        self
    }

    /// Bears on sessions alone.
    pub(super) const fn websockets(mut self) -> Self {
        self.concerns = Concerns::WebSockets;
        self
    }

    /// Has keys whose names are the user's own; the rows are those that have a default.
    pub(super) const fn own_keys(mut self, notation: fn() -> Notation) -> Self {
        self.own_keys = Some(notation);
        self
    }

    /// Bears on requests alone that do not become sessions.
    pub(super) const fn plain_requests(mut self) -> Self {
        self.concerns = Concerns::PlainRequests;
        self
    }

    /// Returns whether the shipped file has this section, and not as an example.
    pub(super) fn is_shipped(&self) -> bool {
        matches!(self.layout, Layout::Written | Layout::Inline)
    }

    /// Name of the section within the one around it.
    pub(super) fn key(&self) -> &'static str {
        let key = self.name.rsplit('.').next().unwrap_or_default();
        key.trim_end_matches("[]")
    }

    /// Name of a key with those of the tables around it.
    pub(super) fn key_name(&self, row: &Row) -> String {
        match self.name {
            "" => row.name.to_owned(),
            section => format!("{section}.{}", row.name),
        }
    }

    /// Name of a key with those of the tables around it, as an inline table would have it.
    pub(super) fn written_name(&self, row: &Row) -> String {
        self.key_name(row).replace("[]", "")
    }

    /// The rows of keys that may be left out because they have a default.
    pub(super) fn rows_with_defaults(&self) -> impl Iterator<Item = &'static Row> {
        let rows = self.rows.iter();
        rows.filter(|row| row.presence == Presence::Defaulted)
    }

    /// The rows, each with its own text or the one that it shares.
    pub(super) fn rows_with_texts(&self) -> impl Iterator<Item = (&'static Row, String)> {
        let mut text = "";
        self.rows.iter().map(move |row| {
            if !row.text.is_empty() {
                text = row.text;
            }
            (row, lines(text).collect::<Vec<_>>().join("\n"))
        })
    }
}

fn without_variables(text: &str) -> toml::Value {
    let expanded = expand(text, &|_| None);
    expanded.map_or_else(|_| text.into(), |expanded| expanded.text.into())
}

/// The lines of a text that was written as a doc comment.
pub(super) fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    let lines = text.lines();
    lines.map(|line| line.strip_prefix(' ').unwrap_or(line))
}

/// Declares the keys of a section; see the module's documentation.
macro_rules! section {
    (
        $(#[doc = $section_text:literal])*
        $visibility:vis $keys:ident: $settings:ty = $section:literal $(, $section_flag:ident)*;
        $(
            $(#[doc = $text:literal])*
            $key:ident: $kind:path = $default:tt
                $(=> $($field:ident).+)?
                $(, $flag:ident $(($argument:tt))?)*;
        )*
    ) => {
        $visibility static $keys: $crate::config_file::section::Keys<$settings> =
            $crate::config_file::section::Keys {
                section: $crate::config_file::section::Section::new(
                    $section,
                    concat!($($section_text, "\n"),*),
                    &[$(
                        $crate::config_file::section::Row::new(
                            stringify!($key),
                            concat!($($text, "\n"),*),
                            || $crate::config_file::values::Kind::notation(&$kind),
                            stringify!($default),
                        )
                        $(.$flag($(stringify!($argument))?))*
                    ),*],
                )
                $(.$section_flag())*,
                fields: &[$(
                    $crate::config_file::section::Field {
                        read: |settings, value| {
                            if let Some(value) = $crate::config_file::values::Kind::read(&$kind, value) {
                                section!(@field settings $key $($($field).+)?) = value;
                            }
                        },
                        differs: section!(@differs [$key $($($field).+)?] $($flag)*),
                    }
                ),*],
            };
    };
    (@field $settings:ident $key:ident) => { $settings.$key };
    (@field $settings:ident $key:ident $($field:ident).+) => { $settings.$($field).+ };
    (@differs [$($field:tt)+] restart $($flag:ident)*) => {
        Some(|old, new| {
            section!(@field old $($field)+) != section!(@field new $($field)+)
        })
    };
    (@differs [$($field:tt)+] $other:ident $($flag:ident)*) => {
        section!(@differs [$($field)+] $($flag)*)
    };
    (@differs [$($field:tt)+]) => { None };
}

pub(super) use section;
