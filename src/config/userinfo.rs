//! Names and passwords in URLs: they have no place in a configuration, and somebody who writes
//! them there nevertheless is told so without them.
//!
//! Problems go to the log and to the admin listener, and on a terminal to whoever looks on, or
//! to the records of a build; so they are hidden wherever a problem is shown.

use std::borrow::Cow;

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

/// The same of a text that is one word, whatever is in it.
#[must_use]
pub fn hide_in_word(word: &str) -> String {
    let mut hidden = String::with_capacity(word.len());
    hide_in(word, &mut hidden);
    hidden
}

/// What URLs stand between, in the file and in what is said about it.
const QUOTES: [char; 3] = ['"', '\'', '`'];

/// Where the word ends that `text` begins with, after this quote.
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
    found.map_or(text.len(), |(at, _)| at)
}

/// Appends `word`, with stars up to its last `@` if that ends a name and a password.
fn hide_in(word: &str, hidden: &mut String) {
    let authority = word.rsplit_once('@').and_then(|(before, _)| {
        let start = before.find("://").map(|scheme| scheme + "://".len());
        start
            .or_else(|| has_password(before).then_some(0))
            .map(|start| (start, before.len()))
    });
    let (start, end) = authority.unwrap_or_default();
    *hidden += &word[..start];
    hidden.extend((start..end).map(|_| '*'));
    *hidden += &word[end..];
}

/// Whether this is a name (RFC 3986 §3.2.1), which may be empty, or a scheme that lacks a slash,
/// with a colon behind it.
fn has_password(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=/".contains(&byte);
    text.split_once(':')
        .is_some_and(|(name, _)| name.bytes().all(is_legal))
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
