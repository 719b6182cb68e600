//! Parts of the opening handshake that its two sides share (RFC 6455 §4).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::HeaderValue;
use memchr::memchr_iter;

/// The only version of the protocol (RFC 6455 §4.1).
pub const VERSION: &str = "13";

/// A connection whose opening handshake is complete.
#[derive(Debug)]
pub struct Opened<S> {
    /// The byte stream, now WebSocket frames in both directions.
    pub stream: S,
    /// Bytes that the HTTP parser read beyond the handshake; they are the first frames.
    pub read_buf: Bytes,
}

/// Limits on the header section of an upstream's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseLimits {
    /// Size in bytes; default 64 KiB.
    pub max_header_bytes: u32,
    /// Number of header lines; default 100.
    pub max_headers: u16,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 * 1024,
            max_headers: 100,
        }
    }
}

/// Number of header lines that are parsed without an allocation.
const USUAL_HEADERS: usize = 100;

/// A head that cannot be read as a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Not valid HTTP/1.1.
    Malformed,
    /// More header lines than allowed.
    TooManyHeaders,
}

/// Parses the complete `head` of a response with at most `max_headers` header lines, and passes it
/// to `read`.
///
/// # Errors
///
/// See [`NoAnswer`].
pub fn read_answer<T>(
    head: &[u8],
    max_headers: usize,
    read: impl FnOnce(&httparse::Response<'_, '_>) -> T,
) -> Result<T, NoAnswer> {
    // Left uninitialized: clearing the array would cost as much as parsing a short head.
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
    let mut many = Vec::new();
    let config = httparse::ParserConfig::default();
    let mut answer = httparse::Response::new(&mut []);
    let mut parsed = config.parse_response_with_uninit_headers(&mut answer, head, &mut usual);
    // Rare enough to parse twice: most heads never pay for the larger array.
    if parsed == Err(httparse::Error::TooManyHeaders) && max_headers > USUAL_HEADERS {
        many.resize(max_headers, MaybeUninit::uninit());
        answer = httparse::Response::new(&mut []);
        parsed = config.parse_response_with_uninit_headers(&mut answer, head, &mut many);
    }
    match parsed {
        Ok(httparse::Status::Complete(_)) if answer.headers.len() <= max_headers => {
            Ok(read(&answer))
        }
        Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            Err(NoAnswer::TooManyHeaders)
        }
        Ok(httparse::Status::Partial) | Err(_) => Err(NoAnswer::Malformed),
    }
}

/// Iterates over the elements of a comma-separated list header, which may span several lines (RFC
/// 9110 §5.6.1), trimmed and without empty ones.
///
/// A line that is not visible ASCII counts as one element that equals nothing.
pub fn list<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
) -> impl Iterator<Item = &'a str> {
    values
        .into_iter()
        // NUL is in no token, so such a line matches none of the names it is compared with.
        .flat_map(|value| value.to_str().unwrap_or("\u{0}").split(','))
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
}

/// Returns whether `key` is the base64 of 16 bytes, as a `Sec-WebSocket-Key` must be.
///
/// The unused bits of the last character are not checked: the key is never decoded.
#[must_use]
pub fn is_key(key: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix(b"==")
        .is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_base64))
}

/// Finds the end of the HTTP/1 head at the start of `received`. The first `searched` bytes have
/// been searched before, so that a head that arrives in many pieces is scanned once.
///
/// A bare line feed counts as a line ending here, so that a head with one is rejected at once
/// rather than waited for.
#[must_use]
pub fn find_head_end(received: &[u8], searched: usize) -> Option<usize> {
    // The terminator may begin in the last two bytes that were searched.
    let from = searched.saturating_sub(2).min(received.len());
    memchr_iter(b'\n', &received[from..]).find_map(|found| {
        let at = from + found + 1;
        match &received[at..] {
            [b'\n', ..] => Some(at + 1),
            [b'\r', b'\n', ..] => Some(at + 2),
            _ => None,
        }
    })
}

/// Replaces a later minor version in a response's status line by 1.1, which a recipient that does
/// not know the version takes it for (RFC 9110 §2.5). The line begins with `known` and continues in
/// `bytes`; returns whether `bytes` was changed.
pub fn lower_version(known: &[u8], bytes: &mut [u8]) -> bool {
    let Some((begun, rest)) = b"HTTP/1.".split_at_checked(known.len()) else {
        return false;
    };
    let is_later = known == begun
        && bytes.starts_with(rest)
        && matches!(bytes.get(rest.len()), Some(b'2'..=b'9'));
    if is_later {
        bytes[rest.len()] = b'1';
    }
    is_later
}

/// Returns whether a line of `head` ends with a bare line feed. RFC 9112 §2.2 lets a recipient
/// accept one, so two of them may see different heads.
#[must_use]
pub fn has_bare_line_feed(head: &[u8]) -> bool {
    memchr_iter(b'\n', head).any(|at| !head[..at].ends_with(b"\r"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_base64_of_exactly_16_bytes() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));

        for wrong in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25jZQ== ",
            "dGhlIHNhbXBsZSBub25j_Q==",
        ] {
            assert!(!is_key(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_later_minor_version_of_an_answer_becomes_1_1() {
        for (answer, expected) in [
            ("HTTP/1.2 200", "HTTP/1.1 200"),
            ("HTTP/1.9 200", "HTTP/1.1 200"),
            ("HTTP/1.0 200", "HTTP/1.0 200"),
            ("HTTP/2.2 200", "HTTP/2.2 200"),
            ("SSH-2.0-9", "SSH-2.0-9"),
            ("HTTP/1.", "HTTP/1."),
        ] {
            for known in 0..answer.len() {
                let (known, rest) = answer.as_bytes().split_at(known);
                let mut rest = rest.to_vec();
                let is_lowered = lower_version(known, &mut rest);
                let is_lowering = answer != expected && known.len() <= 7;
                let all = [known, &rest].concat();

                assert_eq!(is_lowered, is_lowering, "{answer} {known:?}");
                let expected = if is_lowering { expected } else { answer };
                assert_eq!(all, expected.as_bytes());
            }
        }
    }

    #[test]
    fn a_list_spans_header_lines_and_has_no_empty_elements() {
        let values = ["a, b\t,,", "", "c"].map(HeaderValue::from_static);

        let elements: Vec<_> = list(&values).collect();

        assert_eq!(elements, ["a", "b", "c"]);
    }
}
