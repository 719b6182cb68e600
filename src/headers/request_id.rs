//! The id of a request, and the trace that it belongs to.
//!
//! # Invariants
//!
//! * Every request has an id: the one given by a trusted proxy, or else one of the proxy's own,
//!   whatever the client sends. The upstream gets it in `X-Request-Id`, as does the client with a
//!   local reply; the log has it.
//! * An id is at most [`MAX_ID_BYTES`] long and contains nothing that would need quotes.

use std::cell::Cell;

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use crate::observability::trace::Trace;

/// The header field of the id.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is adopted.
const MAX_ID_BYTES: usize = 128;

/// Generator of one worker's ids: a prefix that is unlikely to occur in any other worker of any
/// process, and a number.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: String,
    given: Cell<u64>,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self {
            prefix: format!("{:012x}-", rand::random::<u64>() >> 16),
            given: Cell::default(),
        }
    }
}

impl RequestIds {
    fn next(&self) -> HeaderValue {
        let number = self.given.get() + 1;
        self.given.set(number);
        // By hand: every request has one, and `format!` takes ten times as long.
        let digits = (number.ilog2() / 4 + 1) as usize;
        let mut id = String::with_capacity(self.prefix.len() + digits);
        id.push_str(&self.prefix);
        let digit = |place| u32::try_from(number >> (4 * place) & 0xf).ok();
        let digits = (0..digits).rev().filter_map(digit);
        id.extend(digits.filter_map(|digit| char::from_digit(digit, 16)));
        HeaderValue::try_from(id).expect("digits and a hyphen")
    }
}

/// A request's id, and its trace if it has one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId {
    id: HeaderValue,
    trace: Option<Trace>,
}

impl RequestId {
    /// Reads `X-Request-Id` from trusted clients; generates an id otherwise.
    pub(crate) fn of(headers: &HeaderMap, is_trusted: bool, ids: &RequestIds) -> Self {
        let given = headers
            .get(X_REQUEST_ID)
            .filter(|id| is_trusted && is_id(id));
        Self {
            id: given.map_or_else(|| ids.next(), HeaderValue::clone),
            trace: Trace::of(headers),
        }
    }

    /// Generates the id of a request whose headers never came.
    pub(crate) fn unknown(ids: &RequestIds) -> Self {
        Self {
            id: ids.next(),
            trace: None,
        }
    }

    /// Reads the id of a request whose headers have been [tagged](Self::tag).
    ///
    /// # Panics
    ///
    /// The headers have no id.
    pub(crate) fn tagged(headers: &HeaderMap) -> Self {
        Self {
            id: headers[X_REQUEST_ID].clone(),
            trace: Trace::of(headers),
        }
    }

    /// Sets the id in `headers`, in place of any that they had.
    pub(crate) fn tag(&self, headers: &mut HeaderMap) {
        headers.insert(X_REQUEST_ID, self.id.clone());
    }

    /// Returns the id.
    pub(crate) fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// Returns the trace.
    pub(crate) const fn trace(&self) -> Option<Trace> {
        self.trace
    }
}

/// Returns whether an id may be adopted.
fn is_id(id: &HeaderValue) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:+/=@".contains(&byte);
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().copied().all(is_legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ids: &RequestIds, is_trusted: bool, given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, given.parse().unwrap());
        RequestId::of(&headers, is_trusted, ids).id().to_owned()
    }

    #[test]
    fn only_a_trusted_proxy_names_a_request_and_only_so() {
        let ids = RequestIds::default();
        let given = "01JD3-a.b_c~d:e+f/g=@";

        assert_eq!(id(&ids, true, given), given);
        for (is_trusted, given) in [
            (false, given),
            (true, ""),
            (true, "a b"),
            (true, "\"a\""),
            (true, &"a".repeat(MAX_ID_BYTES + 1)),
        ] {
            assert_ne!(id(&ids, is_trusted, given), given);
        }
    }

    #[test]
    fn no_two_requests_have_the_same_id() {
        let (one, other) = (RequestIds::default(), RequestIds::default());
        let all: std::collections::BTreeSet<_> = [&one, &other, &one, &other]
            .map(|ids| id(ids, false, "a"))
            .into();

        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|id| id.len() == 14), "{all:?}");
    }
}
