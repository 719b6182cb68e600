//! Conditions on messages; used by the gate and by the message rules.
//!
//! Every matcher inspects the payload alone, whether the message is text or binary: some clients
//! send their JSON in binary messages, and a text message has a first byte like any other.
//!
//! A matcher sees at most the first `inspect_bytes` of a message. A condition that would need the
//! rest does not match, so that no message is classified by bytes that were not seen. A regular
//! expression is the exception: its `$` also matches at the cut.
//!
//! # Invariants
//!
//! * Matching takes time linear in the sample, whatever the sample is.

pub mod json;

pub use self::json::{Json, Scalar};

/// A message, or its beginning, as a matcher sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// True for text, false for binary (RFC 6455 §5.6).
    pub is_text: bool,
    /// Unmasked payload, at most its first `inspect_bytes`.
    pub payload: &'a [u8],
    /// True if `payload` is the whole message.
    pub is_whole: bool,
}

/// A condition on one message.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// The whole message is this text.
    Text(String),
    /// The message starts with this text.
    Prefix(String),
    /// The expression is found in the message.
    Regex(regex::bytes::Regex),
    /// The message starts with these bytes.
    BinaryPrefix(Vec<u8>),
    /// The message is a JSON document with the given values at the given pointers.
    Json(Json),
}

impl PartialEq for Matcher {
    /// Compares conditions as they are written: two equivalent expressions may differ.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) | (Self::Prefix(one), Self::Prefix(other)) => {
                one == other
            }
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            (Self::BinaryPrefix(one), Self::BinaryPrefix(other)) => one == other,
            (Self::Json(one), Self::Json(other)) => one == other,
            _ => false,
        }
    }
}

impl Matcher {
    /// Returns whether `sample` meets the condition.
    #[must_use]
    pub fn matches(&self, sample: &Sample<'_>) -> bool {
        match self {
            // A message that was cut may continue differently.
            Self::Text(text) => sample.is_whole && sample.payload == text.as_bytes(),
            Self::Prefix(prefix) => sample.payload.starts_with(prefix.as_bytes()),
            Self::Regex(regex) => regex.is_match(sample.payload),
            Self::BinaryPrefix(prefix) => sample.payload.starts_with(prefix),
            Self::Json(json) => json.matches(sample),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(payload: &[u8]) -> Sample<'_> {
        Sample {
            is_text: true,
            payload,
            is_whole: true,
        }
    }

    fn beginning(payload: &[u8]) -> Sample<'_> {
        Sample {
            is_whole: false,
            ..whole(payload)
        }
    }

    #[test]
    fn a_text_matches_the_whole_message_only() {
        let ready = Matcher::Text("ready".to_owned());

        assert!(ready.matches(&whole(b"ready")));
        assert!(!ready.matches(&whole(b"ready ")));
        assert!(!ready.matches(&beginning(b"ready")));
    }

    #[test]
    fn a_prefix_matches_a_beginning_that_holds_all_of_it() {
        let prefix = Matcher::Prefix("0{".to_owned());

        assert!(prefix.matches(&whole(b"0{\"sid\":1}")));
        assert!(prefix.matches(&beginning(b"0{\"s")));
        assert!(!prefix.matches(&beginning(b"0")));
    }

    #[test]
    fn a_binary_prefix_matches_bytes_that_are_not_text() {
        let prefix = Matcher::BinaryPrefix(vec![0x0a, 0xff]);

        assert!(prefix.matches(&whole(&[0x0a, 0xff, 0x00])));
        assert!(!prefix.matches(&whole(&[0x0a])));
    }

    #[test]
    fn a_regex_is_found_anywhere_unless_it_is_anchored() {
        let found = Matcher::Regex(regex::bytes::Regex::new("ready|started").unwrap());
        let anchored = Matcher::Regex(regex::bytes::Regex::new("^ready$").unwrap());

        assert!(found.matches(&whole(b"\xffserver started")));
        assert!(!anchored.matches(&whole(b"not ready")));
        assert!(anchored.matches(&whole(b"ready")));
    }

    #[test]
    fn the_kind_of_the_message_does_not_matter() {
        let ready = Matcher::Text("ready".to_owned());
        let binary = Sample {
            is_text: false,
            ..whole(b"ready")
        };

        assert!(ready.matches(&binary));
    }
}
