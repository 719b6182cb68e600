//! User names and passwords in URLs, which are not allowed in the configuration and are hidden in
//! the report that says so.
//!
//! Problems go to the log and to the admin listener, and on a terminal to whoever looks on, or
//! to the records of a build; so they are hidden wherever a problem is shown.

use std::{borrow::Cow, ops::Range};

use toml::de::{DeTable, DeValue};

use super::variables::{Expanded, Variables};

/// `text` with stars for the names and passwords of the URLs in it, as many as these have bytes:
/// what is found at a place in `text` is at the same one in the result.
///
/// A URL is taken to end with the quotes that it began in, so that there may be anything in a
/// password. What looks like one without its scheme, `name:password@host`, counts, too.
#[must_use]
pub fn hide(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return text.into();
    }
    let mut hidden = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let quote = QUOTES.contains(&first).then_some(first);
        let (opening, inner) = rest.split_at(quote.map_or(0, char::len_utf8));
        let (word, after) = inner.split_at(end(inner, quote));
        hidden += opening;
        hide_in(word, &mut hidden);
        // What ends it belongs to no word; a quote there would begin another one.
        let closing = match (after.chars().next(), quote) {
            (Some(it), Some(quote)) if it == quote => quote.len_utf8(),
            (Some(it), _) if it.is_whitespace() => it.len_utf8(),
            _ => 0,
        };
        hidden += &after[..closing];
        rest = &after[closing..];
    }
    hidden.into()
}

/// Hides the user name and password in one word, whatever characters it has.
#[must_use]
pub fn hide_in_word(word: &str) -> String {
    let mut hidden = String::with_capacity(word.len());
    hide_in(word, &mut hidden);
    hidden
}

/// Quotes around URLs, in the file and in reports.
const QUOTES: [char; 3] = ['"', '\'', '`'];

/// Returns the end of the word at the start of `text`, behind this quote.
fn end(text: &str, quote: Option<char>) -> usize {
    let mut is_escaped = false;
    let ends = |(_, it): &(usize, char)| match quote {
        Some(_) if is_escaped => {
            is_escaped = false;
            false
        }
        Some(quote) => {
            is_escaped = *it == '\\' && quote == '"';
            *it == quote || *it == '\n'
        }
        None => it.is_whitespace() || QUOTES.contains(it),
    };
    let found = text.char_indices().find(ends);
    let end = found.map_or(text.len(), |(at, _)| at);
    let (word, after) = text.split_at(end);
    // A string with a line break in it is none, and its password no less secret.
    let is_cut = after.starts_with('\n') && word.contains("://") && !word.contains('@');
    match quote {
        Some('"') if is_cut => after.find('"').map_or(end, |more| end + more),
        _ => end,
    }
}

/// Appends `word`, with stars up to its last `@` if that ends a name and a password.
fn hide_in(word: &str, hidden: &mut String) {
    let Range { start, end } = place(word).unwrap_or_default();
    *hidden += &word[..start];
    hide_all(&word[start..end], hidden);
    *hidden += &word[end..];
}

/// Appends stars for `text`, whose lines stay as many as they are.
fn hide_all(text: &str, hidden: &mut String) {
    let star = |byte| if byte == b'\n' { '\n' } else { '*' };
    hidden.extend(text.bytes().map(star));
}

/// Returns the range of user name and password in `word`.
fn place(word: &str) -> Option<Range<usize>> {
    let (before, _) = word.rsplit_once('@')?;
    let start = before.find("://").map(|scheme| scheme + "://".len());
    let start = start.or_else(|| has_password(before).then_some(0))?;
    Some(start..before.len())
}

/// Returns whether this begins with a user name (RFC 3986 §3.2.1), perhaps empty, or a scheme that
/// lacks a slash, and a colon.
fn has_password(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=/".contains(&byte);
    text.split_once(':')
        .is_some_and(|(name, _)| name.bytes().all(is_legal))
}

/// A key or a value of a file that is a URL with a name and a password.
pub(in crate::config_file) struct Named {
    /// Span in bytes, with its quotes.
    place: Range<usize>,
    /// Text without escapes.
    text: String,
}

/// Returns all URLs with user names and passwords in `table`.
pub(in crate::config_file) fn named(table: &DeTable<'_>) -> Vec<Named> {
    let mut found = Vec::new();
    look_into(table, &mut found);
    found
}

fn look_into(table: &DeTable<'_>, found: &mut Vec<Named>) {
    for (key, value) in table {
        found.extend(Named::new(key.get_ref(), key.span()));
        look_at(value.get_ref(), value.span(), found);
    }
}

fn look_at(value: &DeValue<'_>, place: Range<usize>, found: &mut Vec<Named>) {
    match value {
        DeValue::String(text) => found.extend(Named::new(text, place)),
        DeValue::Array(values) => {
            for value in values {
                look_at(value.get_ref(), value.span(), found);
            }
        }
        DeValue::Table(table) => look_into(table, found),
        _ => {}
    }
}

/// `text`, the file, with stars where these are written in such a way that [`hide`] would not
/// find them.
pub(in crate::config_file) fn hide_named(text: &str, named: &[Named]) -> String {
    let mut hidden = String::with_capacity(text.len());
    let mut end = 0;
    let mut places: Vec<_> = named.iter().filter(|it| !it.is_plain_in(text)).collect();
    places.sort_by_key(|it| it.place.start);
    for Named { place, .. } in places {
        // A key of several tables is found with each.
        if place.start < end {
            continue;
        }
        let written = &text[place.clone()];
        let inner = written.trim_matches(QUOTES);
        let quotes = written.len() - written.trim_start_matches(QUOTES).len();
        hidden += &text[end..place.start + quotes];
        hide_all(inner, &mut hidden);
        end = place.start + quotes + inner.len();
    }
    hidden += &text[end..];
    hide(&hidden).into_owned()
}

impl Named {
    fn new(text: &str, place: Range<usize>) -> Option<Self> {
        self::place(text).map(|_| Self {
            place,
            text: text.to_owned(),
        })
    }

    /// Returns whether the file has the text itself, unescaped, between quotes.
    fn is_plain_in(&self, file: &str) -> bool {
        !is_unusual(&self.text) && file[self.place.clone()].trim_matches(QUOTES) == self.text
    }

    /// Returns what hides it in reports, if [`hide`] does not.
    pub(in crate::config_file) fn concealed(&self) -> Option<Variables> {
        conceal(&self.text, self.place.clone())
    }
}

/// Returns what hides user name and password of `word` in reports, if [`hide`] would not find its
/// end.
pub(in crate::config_file) fn conceal(word: &str, place: Range<usize>) -> Option<Variables> {
    let secret = &word[self::place(word)?];
    is_unusual(word).then(|| Variables {
        place,
        written: hide_in_word(word),
        expanded: Expanded {
            text: word.to_owned(),
            values: vec![secret.to_owned()],
        },
    })
}

/// Returns whether `word` has a character that could end it.
fn is_unusual(word: &str) -> bool {
    word.contains(|it: char| it.is_whitespace() || it.is_control() || it == '\\')
        || word.contains(QUOTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_one_word_there_may_be_anything() {
        for (word, expected) in [
            ("http://u:p w@h", "http://*****@h"),
            ("http://u:p'w`@h", "http://******@h"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(hide_in_word(word), expected);
        }
    }

    #[test]
    fn names_and_passwords_are_hidden_byte_for_byte() {
        for (text, expected) in [
            (
                "upstream = \"http://u:pw@h:1\"",
                "upstream = \"http://****@h:1\"",
            ),
            ("upstream='https://token@h'", "upstream='https://*****@h'"),
            ("`http://u:p@w@h` is none", "`http://*****@h` is none"),
            (
                "write \"http://u:ü@h/a\" here",
                "write \"http://****@h/a\" here",
            ),
            // Whatever is in a password.
            ("\"http://u:p/w?#@h\"", "\"http://*******@h\""),
            ("\"http://u:p \\\"w'@h\"", "\"http://********@h\""),
            ("'http://u:p\"w @h' x", "'http://******@h' x"),
            ("# don't write http://u:pw@h", "# don't write http://****@h"),
            // Without the scheme, or half of it.
            ("\"u:pw@h\"", "\"****@h\""),
            ("\"http:/u:pw@h\"", "\"**********@h\""),
            ("--upstream //u:pw@h", "--upstream ******@h"),
            ("\"my$user:pw@h\"", "\"**********@h\""),
            ("\":pw@h\"", "\"***@h\""),
            // The quotes are not closed, or only those of another line are.
            (
                "a = \"http://u:pw@h\nb = \"@\"",
                "a = \"http://****@h\nb = \"@\"",
            ),
            (
                "[\"http://u:pw@h\",\"http://v:x@h\"]",
                "[\"http://****@h\",\"http://***@h\"]",
            ),
        ] {
            let hidden = hide(text);
            assert_eq!(hidden, expected);
            assert_eq!(hidden.len(), text.len(), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_with_a_name_stays_as_it_is() {
        for text in [
            "",
            "\"http://127.0.0.1:8081\" # ask ops@example.org",
            "text = \"me@here\"",
            "regex = \"^(a:b@\"",
            "\"@\" '@' @ : \"a\" b@c: d",
            "unix:/run/a.sock",
        ] {
            assert_eq!(hide(text), text);
        }
    }
}
