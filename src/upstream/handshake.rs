//! The opening handshake towards the upstream (RFC 6455 §4.1).
//!
//! tungstenite's client is not used: it accepts an extension that was never offered, a `101` that
//! announces a body, two accept keys and bare line feeds, fails on a `100` or `103` before the
//! `101`, and compares the whole `Connection` header with `Upgrade`.

use std::{fmt, io, str};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use crate::{
    transport::Stream,
    websocket::{
        Opened,
        extension::{self, Agreement, Offer},
        handshake::{
            NoAnswer, ResponseLimits, VERSION, find_head_end, has_bare_line_feed, list,
            lower_version, read_answer,
        },
        spelling::Spelling,
        subprotocol::ShownOffers,
    },
};

/// Number of interim responses (`100`, `103`) that are skipped.
const MAX_INTERIM_ANSWERS: usize = 10;

/// An opening handshake as it is sent upstream, except for its key.
#[derive(Clone, Debug)]
pub struct OpeningRequest {
    /// Preamble, request line and all header lines except the key's, which is fresh for each
    /// attempt.
    head: Bytes,
    /// Length of the preamble in `head`.
    preamble_bytes: u16,
    expected: Expected,
    limits: ResponseLimits,
}

/// Choices that the upstream may make.
#[derive(Clone, Debug)]
enum Expected {
    /// Only what the client was already given; it may also select no subprotocol.
    Told(Terms),
    /// Anything that the client offered; the client waits for it. Compression offers in order of
    /// preference.
    Offered(Vec<Offer>),
}

/// Parameters negotiated by an opening handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Selected subprotocol.
    pub subprotocol: Option<String>,
    /// Parameters of permessage-deflate, if it was negotiated.
    pub compression: Option<Agreement>,
}

impl OpeningRequest {
    /// Creates a request for `target` (path and query) with `headers`, for a client that was
    /// already given `subprotocol`.
    ///
    /// `headers` are written in their order. They must not contain fields of the handshake itself:
    /// `Connection`, `Upgrade`, the key, the version, extensions, a body.
    #[must_use]
    pub fn new(target: &str, headers: &HeaderMap, subprotocol: Option<String>) -> Self {
        let terms = Terms {
            subprotocol,
            compression: None,
        };
        Self::expecting(target, headers, &[], Expected::Told(terms))
    }

    /// Creates a request for a client that waits for the upstream's choice among the subprotocols
    /// in `headers` and the `compression` offers, which are in order of preference; otherwise like
    /// [`new`](Self::new).
    #[must_use]
    pub fn asking(target: &str, headers: &HeaderMap, compression: Vec<Offer>) -> Self {
        let offers = compression.clone();
        Self::expecting(target, headers, &offers, Expected::Offered(compression))
    }

    /// Spells the header names as the client did, and all others as in the RFCs.
    #[must_use]
    pub fn spelled(mut self, spelling: &Spelling) -> Self {
        let mut head = Vec::from(self.head);
        spelling.apply(&mut head[usize::from(self.preamble_bytes)..]);
        self.head = head.into();
        self
    }

    /// Sets the `terms` that the client was already given.
    #[must_use]
    pub fn told(self, terms: Terms) -> Self {
        Self {
            expected: Expected::Told(terms),
            ..self
        }
    }

    fn expecting(target: &str, headers: &HeaderMap, offers: &[Offer], expected: Expected) -> Self {
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(b"GET ");
        head.extend_from_slice(target.as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in headers {
            write_header(&mut head, name.as_str(), value.as_bytes());
        }
        write_header(&mut head, "connection", b"Upgrade");
        write_header(&mut head, "upgrade", b"websocket");
        write_header(&mut head, "sec-websocket-version", VERSION.as_bytes());
        if !offers.is_empty() {
            let offers: Vec<_> = offers.iter().map(|offer| offer.to_element()).collect();
            let offers = offers.join(", ");
            write_header(&mut head, "sec-websocket-extensions", offers.as_bytes());
        }
        Self {
            head: head.into(),
            preamble_bytes: 0,
            expected,
            limits: ResponseLimits::default(),
        }
    }

    /// Sets limits on the responses.
    #[must_use]
    pub fn within(self, limits: ResponseLimits) -> Self {
        Self { limits, ..self }
    }

    /// Prepends `preamble` to the connection.
    ///
    /// # Panics
    ///
    /// When `preamble` is longer than 64 KiB.
    #[must_use]
    pub fn behind(self, preamble: &[u8]) -> Self {
        Self {
            head: [preamble, self.request()].concat().into(),
            preamble_bytes: u16::try_from(preamble.len()).expect("a preamble is short"),
            ..self
        }
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        let line = self.request().split(|byte| *byte == b'\r').next();
        let mut words = line.unwrap_or_default().split(|byte| *byte == b' ');
        let target = words.nth(1).and_then(|target| str::from_utf8(target).ok());
        target.unwrap_or_default()
    }

    /// Iterates over the values of the headers with this name, in their order, including those that
    /// the handshake itself adds, except for its key.
    pub fn values_of(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        let lines = self.request().split(|byte| *byte == b'\n');
        let lines = lines.filter_map(|line| line.strip_suffix(b"\r"));
        lines.filter_map(move |line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (found, value) = (&line[..colon], &line[colon + 1..]);
            let is_it = found.eq_ignore_ascii_case(name.as_str().as_bytes());
            is_it.then(|| value.trim_ascii())
        })
    }

    /// Iterates over the subprotocols that the client offers, in its order.
    pub fn offers(&self) -> impl Iterator<Item = &str> {
        let lines = self.values_of(&header::SEC_WEBSOCKET_PROTOCOL);
        let lines = lines.filter_map(|line| str::from_utf8(line).ok());
        let offers = lines.flat_map(|line| line.split(','));
        offers
            .map(|offer| offer.trim_matches([' ', '\t']))
            .filter(|offer| !offer.is_empty())
    }

    /// First bytes of a connection, before any handshake; empty without the PROXY protocol.
    pub(super) fn preamble(&self) -> &[u8] {
        &self.head[..usize::from(self.preamble_bytes)]
    }

    fn request(&self) -> &[u8] {
        &self.head[usize::from(self.preamble_bytes)..]
    }

    fn with_key(&self, key: &str) -> Vec<u8> {
        let mut request = Vec::with_capacity(self.head.len() + 64);
        request.extend_from_slice(self.request());
        write_header(&mut request, "Sec-WebSocket-Key", key.as_bytes());
        request.extend_from_slice(b"\r\n");
        request
    }
}

fn write_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// A valid `101` of an upstream.
#[derive(Debug)]
pub struct Switched<S> {
    /// Connection with the frames read so far.
    pub opened: Opened<S>,
    /// Parameters that the upstream selected.
    pub terms: Terms,
    /// All header fields of the `101`.
    pub headers: HeaderMap,
    /// Spelling of their names.
    pub spelling: Spelling,
}

/// A response other than a `101`.
#[derive(Debug)]
pub struct RejectedHandshake<S> {
    /// Status of the response.
    pub status: StatusCode,
    /// Connection on which the response is still unread, from its first byte.
    pub answer: Opened<S>,
}

/// Reason why an opening handshake failed.
#[derive(Debug)]
pub(super) enum AnswerError<S> {
    /// The connection ended before the response was complete.
    Lost(io::Error),
    /// A response other than a `101`.
    Refused(RejectedHandshake<S>),
    /// An invalid response.
    Broken(Broken),
    /// A valid `101` that selects a subprotocol which the client cannot be given.
    Subprotocol(Mismatch),
}

impl<S> From<io::Error> for AnswerError<S> {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl<S> From<Broken> for AnswerError<S> {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Defect of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// A subprotocol that an upstream selected and its client cannot be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Subprotocol that the client was already given, if any.
    pub told: Option<String>,
    /// Subprotocol that the upstream selected.
    pub chosen: String,
    /// True if the client offered that.
    pub is_offered: bool,
}

/// Text for the log, which omits anything that looks like a token.
impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            told,
            chosen,
            is_offered,
        } = self;
        write!(
            formatter,
            "upstream chose the subprotocol {}, ",
            ShownOffers(chosen)
        )?;
        match told {
            _ if !is_offered => formatter.write_str("which the client did not offer"),
            Some(told) => write!(formatter, "and the client was told {}", ShownOffers(told)),
            None => formatter.write_str("and the client was told none"),
        }
    }
}

/// Sends `request` with a fresh key and validates the response.
///
/// Writes nothing but the request.
pub(super) async fn perform<S: Stream>(
    mut stream: S,
    request: &OpeningRequest,
) -> Result<Switched<S>, AnswerError<S>> {
    let key = generate_key();
    stream.write_all(&request.with_key(&key)).await?;

    let limits = request.limits;
    let mut received = BytesMut::with_capacity(1024);
    for _ in 0..=MAX_INTERIM_ANSWERS {
        let mut head = read_head(&mut stream, &mut received, limits).await?;
        let answer = HandshakeResponse::parse(&head, limits)?;
        match answer.status {
            StatusCode::SWITCHING_PROTOCOLS => {
                answer.check(&key)?;
                let terms = answer.terms(request)?;
                // Bytes behind the head are the first frames.
                let read_buf = received.freeze();
                return Ok(Switched {
                    opened: Opened { stream, read_buf },
                    terms,
                    headers: answer.headers,
                    spelling: answer.spelling,
                });
            }
            status if status.is_informational() => {}
            status => {
                // Returned unread: the response may have to be forwarded as it is.
                head.unsplit(received);
                let read_buf = head.freeze();
                let answer = Opened { stream, read_buf };
                return Err(AnswerError::Refused(RejectedHandshake { status, answer }));
            }
        }
    }
    Err(Broken("too many interim responses").into())
}

/// Reads up to the end of one head; bytes behind it stay in `received`.
async fn read_head<S: Stream>(
    stream: &mut S,
    received: &mut BytesMut,
    limits: ResponseLimits,
) -> Result<BytesMut, AnswerError<S>> {
    let max_bytes = limits.max_header_bytes as usize;
    let too_large = || Broken("header section too large");
    let mut searched = 0;
    loop {
        // Fails at the first wrong byte rather than waiting for a head that never ends.
        if !may_be_http(received) {
            return Err(Broken("not HTTP").into());
        }
        if let Some(end) = find_head_end(received, searched) {
            if end > max_bytes {
                return Err(too_large().into());
            }
            lower_version(&[], received);
            return Ok(received.split_to(end));
        }
        searched = received.len();
        if searched >= max_bytes {
            return Err(too_large().into());
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Returns whether an HTTP/1 response can begin with `received`.
fn may_be_http(received: &[u8]) -> bool {
    received
        .iter()
        .zip(b"HTTP/1.")
        .all(|(got, want)| got == want)
}

/// Parsed head of a response.
struct HandshakeResponse {
    is_http_11: bool,
    status: StatusCode,
    headers: HeaderMap,
    spelling: Spelling,
    has_bare_line_feed: bool,
}

impl HandshakeResponse {
    fn parse(head: &[u8], limits: ResponseLimits) -> Result<Self, Broken> {
        let max_headers = usize::from(limits.max_headers);
        let read = read_answer(head, max_headers, |parsed| Self::of(head, parsed));
        read.map_err(|no_answer| match no_answer {
            NoAnswer::Malformed => Broken("not HTTP"),
            NoAnswer::TooManyHeaders => Broken("too many headers"),
        })?
    }

    fn of(head: &[u8], parsed: &httparse::Response<'_, '_>) -> Result<Self, Broken> {
        let (Some(version), Some(code)) = (parsed.version, parsed.code) else {
            return Err(Broken("not HTTP"));
        };
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for line in &*parsed.headers {
            let name = HeaderName::from_bytes(line.name.as_bytes());
            let value = HeaderValue::from_bytes(line.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(Broken("illegal header"));
            };
            headers.append(name, value);
        }
        Ok(Self {
            is_http_11: version == 1,
            status: StatusCode::from_u16(code).map_err(|_| Broken("illegal status"))?,
            headers,
            spelling: Spelling::of(&parsed.headers.iter().map(|line| line.name)),
            has_bare_line_feed: has_bare_line_feed(head),
        })
    }

    /// Validates a `101` as RFC 6455 §4.1 demands, and more strictly where two recipients might
    /// read it differently.
    fn check(&self, key: &str) -> Result<(), Broken> {
        if !self.is_http_11 {
            return Err(Broken("not HTTP/1.1"));
        }
        if self.has_bare_line_feed {
            return Err(Broken("bare line feed"));
        }
        // A `101` ends at its empty line whatever its headers say (RFC 9112 §6.3): common
        // frameworks write a length of 0 or `chunked` into every response. If it announces bytes,
        // they may or may not be frames.
        let mut lengths = self.headers.get_all(header::CONTENT_LENGTH).iter();
        if !lengths.all(is_zero) {
            return Err(Broken("has a body"));
        }
        if !self
            .only(&header::UPGRADE)?
            .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
        {
            return Err(Broken("Upgrade is not websocket"));
        }
        if !list(self.headers.get_all(header::CONNECTION))
            .any(|token| token.eq_ignore_ascii_case("upgrade"))
        {
            return Err(Broken("Connection does not say upgrade"));
        }
        if self.only(&header::SEC_WEBSOCKET_ACCEPT)?
            != Some(derive_accept_key(key.as_bytes()).as_str())
        {
            return Err(Broken("wrong Sec-WebSocket-Accept"));
        }
        Ok(())
    }

    /// Returns the upstream's selection, which must be among the expected ones.
    fn terms<S>(&self, request: &OpeningRequest) -> Result<Terms, AnswerError<S>> {
        let subprotocol = self.subprotocol(request)?;
        let extensions = self.headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
        let compression = match &request.expected {
            Expected::Told(told) => {
                // Even an empty header responds to an offer that was never made.
                if told.compression.is_none() && self.has(&header::SEC_WEBSOCKET_EXTENSIONS) {
                    return Err(Broken("extension that was not offered").into());
                }
                let compression = extension::agreement(extensions).map_err(Broken)?;
                if compression != told.compression {
                    return Err(Broken("another extension than the client was told").into());
                }
                compression
            }
            Expected::Offered(offers) => extension::answer(extensions, offers).map_err(Broken)?,
        };
        Ok(Terms {
            subprotocol,
            compression,
        })
    }

    /// Returns the subprotocol that the upstream selects, if any.
    ///
    /// Selecting none although the client was given one is not an error: a client may continue
    /// without (RFC 6455 §4.1), and so does a server that knows of none.
    fn subprotocol<S>(&self, request: &OpeningRequest) -> Result<Option<String>, AnswerError<S>> {
        let named = self.only(&header::SEC_WEBSOCKET_PROTOCOL)?;
        let Some(chosen) = named.filter(|named| !named.is_empty()) else {
            return Ok(None);
        };
        let is_offered = || request.offers().any(|offer| offer == chosen);
        let (told, is_expected) = match &request.expected {
            Expected::Told(Terms { subprotocol, .. }) => {
                (subprotocol.clone(), subprotocol.as_deref() == Some(chosen))
            }
            Expected::Offered(_) => (None, is_offered()),
        };
        let chosen = chosen.to_owned();
        if is_expected {
            return Ok(Some(chosen));
        }
        let is_offered = is_offered();
        Err(AnswerError::Subprotocol(Mismatch {
            told,
            chosen,
            is_offered,
        }))
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.headers.contains_key(name)
    }

    /// Returns the value of a header that may occur at most once.
    fn only(&self, name: &HeaderName) -> Result<Option<&str>, Broken> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => Ok(Some(value.to_str().map_err(|_| Broken("illegal header"))?)),
            // Two recipients might each use another of them.
            (Some(_), Some(_)) => Err(Broken("header twice")),
        }
    }
}

fn is_zero(length: &HeaderValue) -> bool {
    !length.is_empty() && length.as_bytes().iter().all(|digit| *digit == b'0')
}

#[cfg(test)]
mod tests;
