//! JSON pointers (RFC 6901) and the values that a message must have there.
//!
//! `serde_json` reads the document as a stream. The pointers form a trie, which is walked along
//! with the document: values off the way to a pointer are skipped without being stored. Skipping is
//! not recursive in `serde_json`, and the walk is only as deep as the pointers are, so that a
//! deeply nested document costs no more than a flat one.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Sample;

/// Values that a JSON document must have at certain pointers.
///
/// All conditions must hold. Where a key occurs twice in an object, the last one counts, as in a
/// browser.
#[derive(Clone, Debug, PartialEq)]
pub struct Json {
    root: Node,
    conditions: usize,
}

/// A value to compare with; TOML cannot express JSON's `null`.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A string.
    String(String),
    /// A number.
    Number(Number),
    /// A boolean.
    Bool(bool),
}

/// A number that is compared by value: `1`, `1.0` and `1e0` are equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An integer.
    Whole(i128),
    /// Any other number, including an integer that does not fit.
    Other(f64),
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        // Within this bound the conversion is exact, and JSON's integers are inside it.
        const BOUND: f64 = 1e30;
        if number.fract() == 0.0 && number.abs() < BOUND {
            #[expect(clippy::cast_possible_truncation, reason = "whole and in bounds")]
            Self::Whole(number as i128)
        } else {
            Self::Other(number)
        }
    }
}

impl From<i64> for Scalar {
    fn from(number: i64) -> Self {
        Self::Number(Number::Whole(number.into()))
    }
}

/// Reason why a string is not a JSON pointer (RFC 6901 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// The string is not empty and does not begin with a slash.
    #[error("a JSON pointer begins with `/`")]
    NoSlash,
    /// A `~` is not followed by `0` or `1`.
    #[error("in a JSON pointer `~` is written `~0`, and a `/` inside a key `~1`")]
    Escape,
}

/// A position in the document, with the condition on it and those below.
#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    condition: Option<Condition>,
    children: Vec<(Token, Self)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    index: usize,
    /// Accepted values; one of them must match.
    values: Vec<Scalar>,
}

/// One step of a pointer: the key of an object's member or the index of an array's element.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    key: String,
    index: Option<usize>,
}

impl Json {
    /// Creates a matcher for documents in which every pointer leads to one of its values.
    ///
    /// # Errors
    ///
    /// An error for the first string that is not a JSON pointer.
    pub fn new<'a>(
        conditions: impl IntoIterator<Item = (&'a str, Vec<Scalar>)>,
    ) -> Result<Self, PointerError> {
        let mut json = Self {
            root: Node::default(),
            conditions: 0,
        };
        for (pointer, values) in conditions {
            let mut node = &mut json.root;
            for token in tokens(pointer)? {
                node = node.child(token);
            }
            node.condition = Some(Condition {
                index: json.conditions,
                values,
            });
            json.conditions += 1;
        }
        Ok(json)
    }

    /// Returns whether the document meets all conditions.
    ///
    /// A truncated document does if all values were seen before the cut.
    #[must_use]
    pub fn matches(&self, sample: &Sample<'_>) -> bool {
        let Some(text) = readable(sample) else {
            return false;
        };
        let mut met = vec![false; self.conditions];
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let walk = Walk {
            node: &self.root,
            met: &mut met,
        };
        let read = walk
            .deserialize(&mut deserializer)
            // Nothing may follow the document.
            .and_then(|()| deserializer.end());
        let is_legal = match read {
            Ok(()) => true,
            // A document that was cut must end early; any other error is bad JSON.
            Err(error) => error.is_eof() && !sample.is_whole,
        };
        is_legal && met.iter().all(|met| *met)
    }
}

/// Returns the part of `sample` that can be read as JSON text; `None` when it is not UTF-8.
///
/// A truncated document may end inside a character or a number. The start of a number would read as
/// a whole one, so it is removed.
fn readable<'a>(sample: &Sample<'a>) -> Option<&'a str> {
    let text = match std::str::from_utf8(sample.payload) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() && !sample.is_whole => {
            std::str::from_utf8(&sample.payload[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if sample.is_whole {
        return Some(text);
    }
    let rest = text.trim_end_matches(|c: char| c.is_ascii_digit() || "+-.eE".contains(c));
    // `true` also ends in `e`, so the removed part must begin like a number.
    let ends_in_number = text[rest.len()..].starts_with(|c: char| c.is_ascii_digit() || c == '-');
    Some(if ends_in_number { rest } else { text })
}

fn tokens(pointer: &str) -> Result<Vec<Token>, PointerError> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let path = pointer.strip_prefix('/').ok_or(PointerError::NoSlash)?;
    path.split('/').map(Token::parse).collect()
}

impl Token {
    fn parse(escaped: &str) -> Result<Self, PointerError> {
        let mut key = String::with_capacity(escaped.len());
        let mut characters = escaped.chars();
        while let Some(character) = characters.next() {
            key.push(match character {
                '~' => match characters.next() {
                    Some('0') => '~',
                    Some('1') => '/',
                    _ => return Err(PointerError::Escape),
                },
                character => character,
            });
        }
        // RFC 6901 §4: an index has no leading zero and no sign.
        let is_index = key == "0" || key.starts_with(|c: char| ('1'..='9').contains(&c));
        let index = if is_index { key.parse().ok() } else { None };
        Ok(Self { key, index })
    }
}

impl Node {
    fn child(&mut self, token: Token) -> &mut Self {
        let position = self.children.iter().position(|(known, _)| *known == token);
        let position = position.unwrap_or_else(|| {
            self.children.push((token, Self::default()));
            self.children.len() - 1
        });
        &mut self.children[position].1
    }

    fn find(&self, is_wanted: impl Fn(&Token) -> bool) -> Option<&Self> {
        let child = self.children.iter().find(|(token, _)| is_wanted(token));
        child.map(|(_, node)| node)
    }

    /// Clears the conditions met at this node and below: a later member of the same name replaces
    /// it.
    fn forget(&self, met: &mut [bool]) {
        if let Some(condition) = &self.condition {
            met[condition.index] = false;
        }
        for (_, child) in &self.children {
            child.forget(met);
        }
    }
}

/// Reads the value at `node` and records the conditions that are met there and below.
struct Walk<'a> {
    node: &'a Node,
    met: &'a mut [bool],
}

impl Walk<'_> {
    fn compare(self, is_equal: impl Fn(&Scalar) -> bool) {
        if let Some(condition) = &self.node.condition {
            self.met[condition.index] = condition.values.iter().any(is_equal);
        }
    }

    fn compare_number(self, number: Number) {
        self.compare(|wanted| *wanted == Scalar::Number(number));
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    // `null` equals no value that can be configured.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.compare(|wanted| *wanted == Scalar::Bool(value));
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.compare_number(Number::Whole(value.into()));
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.compare_number(Number::Whole(value.into()));
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.compare_number(value.into());
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.compare(|wanted| matches!(wanted, Scalar::String(wanted) if wanted == value));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(child) = members.next_key_seed(Key(self.node))? {
            if let Some(node) = child {
                node.forget(self.met);
                let met = &mut *self.met;
                members.next_value_seed(Walk { node, met })?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        // Every element is read, even behind the last wanted one: the parser must see the array's
        // end.
        for index in 0.. {
            let element = match self.node.find(|token| token.index == Some(index)) {
                Some(node) => {
                    let met = &mut *self.met;
                    elements.next_element_seed(Walk { node, met })?
                }
                None => elements.next_element::<IgnoredAny>()?.map(|_| ()),
            };
            if element.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Reads the key of an object's member and finds the child node for it.
struct Key<'a>(&'a Node);

impl<'de, 'a> DeserializeSeed<'de> for Key<'a> {
    type Value = Option<&'a Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Key<'a> {
    type Value = Option<&'a Node>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.find(|token| token.key == key))
    }
}

#[cfg(test)]
mod tests;
