//! One header section while it is decoded, and its replacement for h2.

use hyper::{HeaderMap, header::HeaderName};

use crate::{
    downstream::http2::{
        MAX_HEADER_LIST_BYTES,
        hpack::{self, Field, FieldKind},
    },
    local_reply::LocalReply,
};

/// The longest section, counted as RFC 9113 §6.5.2 does.
pub(crate) const MAX_LIST_BYTES: usize = MAX_HEADER_LIST_BYTES as usize;

/// Capacity that is kept for the next section.
const KEPT_BYTES: usize = 4 * 1024;

/// Carries the reason for a rejection; a client that sends it itself is rejected for that.
static REFUSED: HeaderName = HeaderName::from_static("readygate-refused");

/// Reasons to reject a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Field,
    Fragment,
    Content,
    TooLarge,
}

impl Fault {
    const ALL: [Self; 4] = [Self::Field, Self::Fragment, Self::Content, Self::TooLarge];

    const fn value(self) -> &'static [u8] {
        match self {
            Self::Field => b"field",
            Self::Fragment => b"fragment",
            Self::Content => b"content",
            Self::TooLarge => b"too large",
        }
    }

    const fn refusal(self) -> LocalReply {
        match self {
            Self::Field => LocalReply::BadRequest("illegal header field"),
            Self::Fragment => LocalReply::BadRequest("fragment in the request target"),
            Self::Content => LocalReply::BadRequest("CONNECT has no content"),
            Self::TooLarge => LocalReply::HeadersTooLarge,
        }
    }
}

/// Rejects a request whose header section was found to be at fault.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), LocalReply> {
    let Some(value) = headers.get(&REFUSED) else {
        return Ok(());
    };
    let mut all = Fault::ALL.into_iter();
    let fault = all.find(|fault| fault.value() == value.as_bytes());
    Err(fault.unwrap_or(Fault::Field).refusal())
}

/// A section while it is decoded.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// The stream of a section that has not ended.
    pub(crate) stream: Option<u32>,
    is_request: bool,
    pub(crate) ends_stream: bool,
    pub(crate) continuations: usize,
    /// Bytes received in frames after the first.
    pub(crate) bytes: usize,
    /// A field that has not come whole.
    pub(crate) pending: Vec<u8>,
    /// The replacement's fields, and the length of the pseudo-header fields in front.
    pub(crate) block: Vec<u8>,
    pseudo_length: usize,
    /// The kinds of fields that have come, one bit each.
    kinds: u16,
    list_bytes: usize,
    is_connect: bool,
    fault: Option<Fault>,
}

impl Section {
    pub(crate) fn begin(&mut self, is_request: bool, ends_stream: bool) {
        let block = reused(std::mem::take(&mut self.block));
        *self = Self {
            is_request,
            ends_stream,
            block,
            ..Self::default()
        };
    }

    /// Returns whether the section has had a field.
    pub(crate) fn has_begun(&self) -> bool {
        self.kinds != 0
    }

    pub(crate) fn add(&mut self, field: Field<'_>) {
        let Field {
            name,
            value,
            kind,
            is_legal,
        } = field;
        self.list_bytes = self
            .list_bytes
            .saturating_add(name.len() + value.len() + 32);
        let is_first = self.kinds & bit(kind) == 0;
        // Only a first pseudo-header field is replaced: repeated ones would make the replacement
        // grow with the section.
        self.kinds |= bit(kind);
        if self.list_bytes >= MAX_LIST_BYTES {
            self.fault = Some(Fault::TooLarge);
            if is_first {
                self.add_instead(kind);
            }
            return;
        }
        if !is_legal || name == REFUSED.as_str().as_bytes() {
            self.set(Fault::Field);
            self.add_instead(kind);
            return;
        }
        match kind {
            FieldKind::Method => self.is_connect = value == b"CONNECT",
            FieldKind::Path if value.contains(&b'#') => self.set(Fault::Fragment),
            // The bytes of a tunnel are not content, but h2 would count them against the length.
            FieldKind::ContentLength if self.is_connect => {
                if value != b"0" || !is_first {
                    self.set(Fault::Content);
                }
                return;
            }
            _ => {}
        }
        hpack::encode(name, value, &mut self.block);
        if kind.is_pseudo() {
            self.pseudo_length = self.block.len();
        }
    }

    /// Adds a pseudo-header field that every request must have in place of an illegal one.
    fn add_instead(&mut self, kind: FieldKind) {
        let (name, value) = match kind {
            FieldKind::Method => (":method", "GET"),
            FieldKind::Path => (":path", "/"),
            FieldKind::Scheme => (":scheme", "http"),
            _ => return,
        };
        hpack::encode(name.as_bytes(), value.as_bytes(), &mut self.block);
        self.pseudo_length = self.block.len();
    }

    fn set(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Completes the replacement, and returns whether it differs from the client's section.
    pub(crate) fn end(&mut self) -> bool {
        let Some(fault) = self.fault else {
            let has_length = self.kinds & bit(FieldKind::ContentLength) != 0;
            return self.is_connect && has_length;
        };
        if !self.is_request {
            // A trailer section gets no response that could carry the reason: a field that HTTP/2
            // does not allow makes h2 reset the stream (RFC 9113 §8.2.2).
            self.block.clear();
            hpack::encode(b"connection", b"close", &mut self.block);
            return true;
        }
        if fault == Fault::TooLarge {
            self.block.truncate(self.pseudo_length);
        }
        hpack::encode(REFUSED.as_str().as_bytes(), fault.value(), &mut self.block);
        true
    }
}

/// Empties a buffer for reuse, or drops it if it has grown large.
pub(crate) fn reused(mut buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > KEPT_BYTES {
        return Vec::new();
    }
    buffer.clear();
    buffer
}

const fn bit(kind: FieldKind) -> u16 {
    1 << kind as u16
}
