//! Escaping of text from other parties, so that it cannot forge lines, move the cursor, or pass for
//! something else.

use std::fmt::{self, Write};

/// Writer that escapes what it appends to a line.
pub(crate) struct Escaped<'a> {
    line: &'a mut String,
    form: Escaping,
}

/// Manner of escaping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escaping {
    /// For a JSON string (RFC 8259 §7).
    Json,
    /// For text between quotes.
    Quoted,
    /// For text without quotes.
    Bare,
}

impl<'a> Escaped<'a> {
    pub(crate) const fn new(line: &'a mut String, form: Escaping) -> Self {
        Self { line, form }
    }

    fn is_plain(&self, character: char) -> bool {
        match character {
            '"' | '\\' => self.form == Escaping::Bare,
            _ => !is_invisible(character),
        }
    }

    fn escape(&mut self, character: char) -> fmt::Result {
        match (character, self.form) {
            ('"' | '\\', _) => write!(self.line, "\\{character}"),
            ('\n', _) => self.line.write_str("\\n"),
            ('\r', _) => self.line.write_str("\\r"),
            ('\t', _) => self.line.write_str("\\t"),
            // JSON escapes characters beyond the first plane as surrogate pairs.
            (_, Escaping::Json) => character
                .encode_utf16(&mut [0; 2])
                .iter()
                .try_for_each(|unit| write!(self.line, "\\u{unit:04x}")),
            (_, _) => write!(self.line, "{}", character.escape_unicode()),
        }
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in text.char_indices() {
            if !self.is_plain(character) {
                self.line.push_str(&text[plain..at]);
                self.escape(character)?;
                plain = at + character.len_utf8();
            }
        }
        self.line.push_str(&text[plain..]);
        Ok(())
    }
}

/// Returns whether a character is invisible but alters the text around it: control characters (C0,
/// C1), line separators, marks of writing direction, and characters without width.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str, form: Escaping) -> String {
        let mut line = String::new();
        Escaped::new(&mut line, form).write_str(text).unwrap();
        line
    }

    #[test]
    fn what_would_do_something_is_escaped() {
        let text = "a\r\n\t\x1b[31m\u{9b}\u{202e}\u{2028}\u{7f}\u{0}\u{e0041}ü€😀";

        assert_eq!(
            escaped(text, Escaping::Json),
            "a\\r\\n\\t\\u001b[31m\\u009b\\u202e\\u2028\\u007f\\u0000\\udb40\\udc41ü€😀"
        );
        let text_form = "a\\r\\n\\t\\u{1b}[31m\\u{9b}\\u{202e}\\u{2028}\\u{7f}\\u{0}\\u{e0041}ü€😀";
        assert_eq!(escaped(text, Escaping::Quoted), text_form);
        assert_eq!(escaped(text, Escaping::Bare), text_form);
    }

    #[test]
    fn quotes_are_escaped_between_quotes() {
        assert_eq!(escaped(r#"a "b\""#, Escaping::Json), r#"a \"b\\\""#);
        assert_eq!(escaped(r#"a "b\""#, Escaping::Quoted), r#"a \"b\\\""#);
        assert_eq!(escaped(r#"a "b\""#, Escaping::Bare), r#"a "b\""#);
    }

    #[test]
    fn every_character_survives_json() {
        for character in ('\0'..='\u{3000}').chain('\u{fe00}'..='\u{ffff}') {
            let json = format!("\"{}\"", escaped(&character.to_string(), Escaping::Json));
            let read: String = serde_json::from_str(&json).unwrap();
            assert_eq!(read, character.to_string());
        }
    }
}
