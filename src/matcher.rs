//! What a message is compared with; used by the gate and by the message rules.

/// One message, or its beginning, as a matcher sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Whether it is a text message (RFC 6455 §5.6); otherwise it is binary.
    pub is_text: bool,
    /// The unmasked payload, at most its first `inspect_bytes`.
    pub payload: &'a [u8],
    /// Whether `payload` is the whole message.
    pub is_whole: bool,
}

/// A condition on one message.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// The whole message is this text.
    Text(String),
}

impl Matcher {
    /// Whether `sample` meets the condition.
    #[must_use]
    pub fn matches(&self, sample: &Sample<'_>) -> bool {
        match self {
            Self::Text(text) => sample.is_whole && sample.payload == text.as_bytes(),
        }
    }
}
