//! One header section while it is read, and as h2 is to read it.

use hyper::{HeaderMap, header::HeaderName};

use crate::{
    downstream::http2::{
        MAX_HEADER_LIST_BYTES,
        hpack::{self, Field, FieldKind},
    },
    local_reply::Refusal,
};

/// The longest section, counted as RFC 9113 §6.5.2 does.
pub(crate) const MAX_LIST_BYTES: usize = MAX_HEADER_LIST_BYTES as usize;

/// What is kept of a buffer that is empty.
const KEPT_BYTES: usize = 4 * 1024;

/// Says why a request is to be refused; a client that sends it is refused for that.
static REFUSED: HeaderName = HeaderName::from_static("readygate-refused");

/// Why a request is to be refused.
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

    const fn refusal(self) -> Refusal {
        match self {
            Self::Field => Refusal::BadRequest("illegal header field"),
            Self::Fragment => Refusal::BadRequest("fragment in the request target"),
            Self::Content => Refusal::BadRequest("CONNECT has no content"),
            Self::TooLarge => Refusal::HeadersTooLarge,
        }
    }
}

/// Why a request with these headers is to be refused, if a section has shown that.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(value) = headers.get(&REFUSED) else {
        return Ok(());
    };
    let mut all = Fault::ALL.into_iter();
    let fault = all.find(|fault| fault.value() == value.as_bytes());
    Err(fault.unwrap_or(Fault::Field).refusal())
}

/// A section while it is read.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// The stream of one that has not ended.
    pub(crate) stream: Option<u32>,
    is_request: bool,
    pub(crate) ends_stream: bool,
    pub(crate) continuations: usize,
    /// What has come of it on the wire in further frames.
    pub(crate) bytes: usize,
    /// A field that has not come whole.
    pub(crate) pending: Vec<u8>,
    /// The fields as h2 is to read them, and where those of the first line end.
    pub(crate) block: Vec<u8>,
    pseudo_length: usize,
    /// The kinds of fields that have come, each a bit.
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

    /// Whether it has had a field.
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
            // A tunnel's bytes are no content, and h2 would count them as that.
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

    /// Adds what a request must have, in place of what h2 would not read.
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

    /// Completes what h2 is to read, and returns whether that is not what the client has sent.
    pub(crate) fn end(&mut self) -> bool {
        let Some(fault) = self.fault else {
            let has_length = self.kinds & bit(FieldKind::ContentLength) != 0;
            return self.is_connect && has_length;
        };
        if !self.is_request {
            // Trailers have nobody to say it to: the stream is reset for a field that HTTP/2
            // does not have (RFC 9113 §8.2.2).
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

/// The buffer, empty, unless it has grown large.
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
