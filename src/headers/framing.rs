//! Strict framing of requests, checked beside hyper on the bytes themselves.
//!
//! hyper accepts a request with both `Content-Length` and `Transfer-Encoding`, repeated lengths,
//! `chunked` twice and bare line feeds, and its parsed request no longer shows them. Each of them
//! lets two parsers disagree about where a request ends, which is how requests are smuggled. So
//! the bytes that hyper reads are followed here as well, head by head, and every request gets a
//! verdict before it is processed.
//!
//! [`responses`] does the same for the responses of an upstream.
//!
//! A later minor version than 1.1 is replaced by 1.1 before hyper reads it, which knows no other:
//! a recipient treats a message of HTTP/1.2 as one of the highest version that it knows (RFC 9110
//! §2.5).
//!
//! # Invariants
//!
//! * There is one verdict for each head that hyper can have parsed.
//! * After a head that is rejected, and after bytes that are not a head, nothing more is
//!   followed, and every further verdict is a rejection: such a connection is closed.

pub mod responses;

use std::{cell::Cell, collections::VecDeque, mem::MaybeUninit, rc::Rc};

use bytes::BytesMut;
use hyper::header::{self, HeaderMap};

use crate::websocket::{
    handshake::{find_head_end, has_bare_line_feed},
    spelling::Spelling,
};

/// Maximum number of header lines, which is hyper's default: no head with more gets a verdict.
const MAX_HEADERS: usize = 100;

/// Longest line of a chunked body (a size with its extensions, or a trailer) in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// `Ok` for a head that is framed strictly, or its flaw.
pub type Verdict = Result<(), Flaw>;

/// Flaws of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.what())]
pub enum Flaw {
    /// Malformed, or readable in two ways.
    Malformed(&'static str),
    /// A target over the limit.
    TargetTooLong,
    /// A transfer coding other than `chunked` (RFC 9112 §6.1).
    UnknownCoding,
}

impl Flaw {
    /// Describes the flaw.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Malformed(what) => what,
            Self::TargetTooLong => "target too long",
            Self::UnknownCoding => "unknown Transfer-Encoding",
        }
    }
}

impl From<&'static str> for Flaw {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

/// Parser of the request boundaries on one connection.
#[derive(Debug)]
pub struct Framing {
    max_header_bytes: usize,
    max_target_bytes: usize,
    position: Position,
    /// Beginning of a head or of a line that has not ended yet.
    partial: BytesMut,
    /// Verdicts in order, each with the spelling of the head's names if it asks for an upgrade.
    verdicts: VecDeque<(Verdict, Spelling)>,
    /// Spelling of the request whose verdict was taken last.
    spelling: Spelling,
    is_body_broken: Rc<Cell<bool>>,
}

/// Place of the next byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Head {
        searched: usize,
    },
    /// In a body, or in a chunk with its line end, with the bytes left in it.
    Body {
        left: u64,
    },
    ChunkSize,
    Chunk {
        left: u64,
    },
    Trailers,
    Lost,
}

/// End of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyEnd {
    After(u64),
    Chunked,
}

impl BodyEnd {
    const fn is_chunked(self) -> bool {
        matches!(self, Self::Chunked)
    }
}

impl Framing {
    /// Starts a connection on which heads have at most `max_header_bytes`, and targets
    /// `max_target_bytes`.
    #[must_use]
    pub fn new(max_header_bytes: usize, max_target_bytes: usize) -> Self {
        Self {
            max_header_bytes,
            max_target_bytes,
            position: Position::Head { searched: 0 },
            partial: BytesMut::new(),
            verdicts: VecDeque::new(),
            spelling: Spelling::default(),
            is_body_broken: Rc::default(),
        }
    }

    /// Returns a flag that is set when the body of the latest request turns out to be badly
    /// framed, though hyper may accept it.
    #[must_use]
    pub fn is_body_broken(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.is_body_broken)
    }

    /// Follows the next bytes of the connection, and replaces a later version of HTTP/1 in them
    /// by 1.1.
    pub fn watch(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let bytes = &mut bytes[at..];
            at += match self.position {
                Position::Head { searched } => self.watch_head(bytes, searched),
                Position::Body { left } => {
                    let (skipped, left) = skip(bytes, left);
                    self.position = if left == 0 {
                        HEAD
                    } else {
                        Position::Body { left }
                    };
                    skipped
                }
                Position::Chunk { left } => {
                    let (skipped, left) = skip(bytes, left);
                    self.position = if left == 0 {
                        Position::ChunkSize
                    } else {
                        Position::Chunk { left }
                    };
                    skipped
                }
                Position::ChunkSize => self.watch_line(bytes, after_chunk_size),
                Position::Trailers => self.watch_line(bytes, after_trailer),
                Position::Lost => return,
            };
        }
    }

    /// Returns whether a head has begun and not ended.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        matches!(self.position, Position::Head { .. }) && !self.partial.is_empty()
    }

    /// Returns whether the bytes so far end at the end of a request, or with a rejected one.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        match self.position {
            Position::Head { .. } => self.partial.is_empty(),
            Position::Lost => !self.is_body_broken.get(),
            _ => false,
        }
    }

    /// Takes the verdict on the next request of the connection.
    ///
    /// # Errors
    ///
    /// The flaw of its head.
    pub fn next_verdict(&mut self) -> Verdict {
        let next = self.verdicts.pop_front();
        let malformed = Err(Flaw::Malformed("malformed request"));
        let (verdict, spelling) = next.unwrap_or((malformed, Spelling::default()));
        self.spelling = spelling;
        verdict
    }

    /// Takes the spelling of the names in the head whose verdict was taken last, if that asks for
    /// an upgrade: its handshake is written again for an upstream.
    pub fn take_spelling(&mut self) -> Spelling {
        std::mem::take(&mut self.spelling)
    }

    /// Follows a head, or the part of it that is there, and returns the number of bytes.
    fn watch_head(&mut self, bytes: &mut [u8], searched: usize) -> usize {
        // Empty lines before a request line are skipped (RFC 9112 §2.2).
        let empty = if self.partial.is_empty() {
            let is_empty = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            bytes.iter().take_while(is_empty).count()
        } else {
            0
        };
        let bytes = &mut bytes[empty..];
        let known = self.partial.len();
        // Most heads come in one piece and need no copy.
        if known == 0
            && let Some(end) = find_head_end(bytes, 0)
        {
            self.judge(&mut bytes[..end]);
            return empty + end;
        }
        self.partial.extend_from_slice(bytes);
        // hyper parses partial heads, so the version is replaced as soon as it is there.
        if let Some(at) = lower_version(&mut self.partial, known) {
            bytes[at - known] = b'1';
        }
        if let Some(end) = find_head_end(&self.partial, searched) {
            let mut head = std::mem::take(&mut self.partial);
            self.judge(&mut head[..end]);
            // The `known` bytes of the head came with earlier calls.
            return empty + end - known;
        }
        self.keep_partial_head();
        empty + bytes.len()
    }

    fn keep_partial_head(&mut self) {
        let searched = self.partial.len();
        self.position = Position::Head { searched };
        // hyper rejects such a head by itself, so that no verdict is asked for.
        if searched > self.max_header_bytes {
            self.lose();
        }
    }

    fn judge(&mut self, head: &mut [u8]) {
        let mut judged = judge(head, self.max_target_bytes);
        // Rare enough to be looked for only in a head that does not parse.
        if judged.is_err() && lower_version(head, 0).is_some() {
            judged = judge(head, self.max_target_bytes);
        }
        let (verdict, spelling) = match judged {
            Ok((end, spelling)) => {
                self.position = match end {
                    BodyEnd::After(0) => HEAD,
                    BodyEnd::After(left) => Position::Body { left },
                    BodyEnd::Chunked => Position::ChunkSize,
                };
                (Ok(()), spelling)
            }
            Err(flaw) => {
                self.lose();
                (Err(flaw), Spelling::default())
            }
        };
        self.verdicts.push_back((verdict, spelling));
    }

    /// Follows one line, and returns the number of its bytes in `bytes`; `next` gets the whole
    /// line with its line feed and returns the position after it.
    fn watch_line(&mut self, bytes: &[u8], next: impl FnOnce(&[u8]) -> Option<Position>) -> usize {
        let feed = bytes.iter().position(|byte| *byte == b'\n');
        let taken = feed.map_or(bytes.len(), |feed| feed + 1);
        self.partial.extend_from_slice(&bytes[..taken]);
        if self.partial.len() > MAX_LINE_BYTES {
            self.lose_body();
        } else if feed.is_some() {
            let line = std::mem::take(&mut self.partial);
            match next(&line) {
                Some(position) => self.position = position,
                None => self.lose_body(),
            }
        }
        taken
    }

    fn lose_body(&mut self) {
        self.is_body_broken.set(true);
        self.lose();
    }

    fn lose(&mut self) {
        self.position = Position::Lost;
        self.partial = BytesMut::new();
    }
}

const HEAD: Position = Position::Head { searched: 0 };

/// Returns how many of at most `left` bytes are there, and how many are left then.
fn skip(bytes: &[u8], left: u64) -> (usize, u64) {
    let skipped = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (skipped, left - skipped as u64)
}

/// Replaces a later minor version in the request line that `head` begins with by 1.1, and returns
/// the index of the replaced digit; the first `known` bytes have been checked before.
fn lower_version(head: &mut [u8], known: usize) -> Option<usize> {
    const PREFIX: &[u8] = b" HTTP/1.";
    let is_last = |next: Option<&u8>| matches!(next, None | Some(b'\r'));
    let at = (known.max(PREFIX.len())..head.len()).find(|&at| {
        matches!(head[at], b'2'..=b'9')
            && head[..at].ends_with(PREFIX)
            && is_last(head.get(at + 1))
            && !head[..at].contains(&b'\n')
    })?;
    head[at] = b'1';
    Some(at)
}

fn after_chunk_size(line: &[u8]) -> Option<Position> {
    match chunk_size(line)? {
        0 => Some(Position::Trailers),
        // A line end follows the chunk's data.
        size => size.checked_add(2).map(|left| Position::Chunk { left }),
    }
}

fn after_trailer(line: &[u8]) -> Option<Position> {
    let trailer = line.strip_suffix(b"\r\n")?;
    Some(if trailer.is_empty() {
        HEAD
    } else {
        Position::Trailers
    })
}

/// Parses the size in a chunk's first line: hexadecimal digits, then its end or an extension (RFC
/// 9112 §7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.split(|byte| *byte == b';').next()?;
    let digits = str::from_utf8(digits).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Finds the end of the body after `head`, if there is only one way to read that, and the
/// spelling of its names if it asks for an upgrade.
fn judge(head: &[u8], max_target_bytes: usize) -> Result<(BodyEnd, Spelling), Flaw> {
    if has_bare_line_feed(head) {
        return Err(Flaw::Malformed("bare line feed"));
    }
    let mut lines = no_lines();
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(head, &mut lines);
    if !parsed.is_ok_and(|status| status.is_complete()) {
        return Err(Flaw::Malformed("malformed request"));
    }
    let target = request.path.unwrap_or_default();
    if target.len() > max_target_bytes {
        return Err(Flaw::TargetTooLong);
    }
    // A fragment is never sent, and characters outside ASCII are percent-encoded (RFC 3986 §2);
    // hyper accepts both, and cuts the fragment off.
    if !target.is_ascii() || target.contains('#') {
        return Err(Flaw::Malformed("illegal request target"));
    }
    if !is_in_its_form(request.method.unwrap_or_default(), target) {
        return Err(Flaw::Malformed(
            "request target is not in a form for this method",
        ));
    }
    let end = body_end(request.headers)?.unwrap_or(BodyEnd::After(0));
    let asks_for_upgrade = values(request.headers, "upgrade").next().is_some();
    let spelling = if asks_for_upgrade {
        Spelling::of(&request.headers.iter().map(|line| line.name))
    } else {
        Spelling::default()
    };
    Ok((end, spelling))
}

/// Returns whether a target has a form that its method allows (RFC 9112 §3.2); hyper turns some
/// illegal ones into a path.
fn is_in_its_form(method: &str, target: &str) -> bool {
    if target.starts_with('/') || method == "CONNECT" {
        return true;
    }
    if target == "*" {
        return method == "OPTIONS";
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return false;
    };
    let is_served = ["http", "https", "ws", "wss"]
        .iter()
        .any(|served| scheme.eq_ignore_ascii_case(served));
    // Without a path, `OPTIONS` asks about the server as with `*` (RFC 9112 §3.2.4); hyper adds a
    // path, which would change the question.
    let after_authority = rest.find(['/', '?']).map(|start| &rest[start..]);
    is_served && (method != "OPTIONS" || after_authority.is_some_and(|it| it.starts_with('/')))
}

/// Room for the lines of a head, uninitialised: to initialise it would take longer than to parse
/// a usual head.
const fn no_lines<'a>() -> [MaybeUninit<httparse::Header<'a>>; MAX_HEADERS] {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// Finds the end of the body in a head with these `lines`; `None` if they do not state it.
fn body_end(lines: &[httparse::Header<'_>]) -> Result<Option<BodyEnd>, Flaw> {
    let mut codings = values(lines, "transfer-encoding");
    let mut lengths = values(lines, "content-length");
    Err(Flaw::Malformed(match (codings.next(), lengths.next()) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => "both Content-Length and Transfer-Encoding",
        (Some(coding), None) => {
            if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
                return Ok(Some(BodyEnd::Chunked));
            }
            return Err(unknown_coding(values(lines, "transfer-encoding")));
        }
        (None, Some(_)) if lengths.next().is_some() => "more than one Content-Length",
        (None, Some(length)) => match content_length(length) {
            Some(length) => return Ok(Some(BodyEnd::After(length))),
            None => "illegal Content-Length",
        },
    }))
}

/// Classifies codings other than `chunked` alone: they may be unknown, but unless they end with
/// `chunked` the end of the body is unknown (RFC 9112 §6.3).
fn unknown_coding<'a>(values: impl Iterator<Item = &'a [u8]>) -> Flaw {
    let codings = values.flat_map(|value| value.split(|byte| *byte == b','));
    let mut is_chunked = false;
    for coding in codings.map(<[u8]>::trim_ascii) {
        if is_chunked || coding.is_empty() {
            return Flaw::Malformed("illegal Transfer-Encoding");
        }
        is_chunked = coding.eq_ignore_ascii_case(b"chunked");
    }
    if is_chunked {
        Flaw::UnknownCoding
    } else {
        Flaw::Malformed("Transfer-Encoding does not end with chunked")
    }
}

/// Returns whether `headers` contain no length, or a legal one once (RFC 9112 §6.3).
pub(crate) fn has_one_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    length.is_none_or(|length| content_length(length.as_bytes()).is_some())
        && lengths.next().is_none()
}

fn values<'a>(
    lines: &'a [httparse::Header<'a>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> {
    lines
        .iter()
        .filter(move |line| line.name.eq_ignore_ascii_case(name))
        .map(|line| line.value)
}

/// Parses the value of one `Content-Length` (RFC 9110 §8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests;
