//! How strictly requests are framed, seen beside hyper in the bytes themselves.
//!
//! hyper takes a request with both `Content-Length` and `Transfer-Encoding`, repeated
//! lengths, `chunked` twice and bare line feeds, and its parsed request no longer shows
//! them. Each of them lets two parsers disagree about where a request ends, which is how
//! requests are smuggled. So the bytes that hyper reads are followed here as well, head by
//! head, and every request gets a verdict before it is looked at.
//!
//! [`answers`] does the same for what an upstream says.
//!
//! # Invariants
//!
//! * There is one verdict for each head that hyper can have parsed.
//! * After a head that is refused, and after what is no head at all, nothing more is
//!   followed, and every further verdict is a refusal: such a connection is closed.

pub mod answers;

use std::{cell::Cell, collections::VecDeque, mem::MaybeUninit, rc::Rc};

use bytes::{Buf, BytesMut};
use hyper::header::{self, HeaderMap};

use crate::websocket::handshake::{find_head_end, has_bare_line_feed};

/// How many header lines hyper takes by default, and no head with more reaches a verdict.
const MAX_HEADERS: usize = 100;

/// The longest line of a chunked body (a size with its extensions, or a trailer) in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Whether a head is framed strictly, or what is wrong with it.
pub type Verdict = Result<(), Flaw>;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is none, or can be read in two ways.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its target is longer than any that is served.
    #[error("target too long")]
    TargetTooLong,
}

impl From<&'static str> for Flaw {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct Framing {
    max_header_bytes: usize,
    max_target_bytes: usize,
    position: Position,
    /// The beginning of a head or of a line that has not ended yet.
    partial: BytesMut,
    verdicts: VecDeque<Verdict>,
    is_body_broken: Rc<Cell<bool>>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Head {
        searched: usize,
    },
    /// A body, or a chunk with its line end, of which so much is to come.
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

/// Where a body ends.
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
    /// The start of a connection on which heads are at most `max_header_bytes` long, and
    /// targets `max_target_bytes`.
    #[must_use]
    pub fn new(max_header_bytes: usize, max_target_bytes: usize) -> Self {
        Self {
            max_header_bytes,
            max_target_bytes,
            position: Position::Head { searched: 0 },
            partial: BytesMut::new(),
            verdicts: VecDeque::new(),
            is_body_broken: Rc::default(),
        }
    }

    /// Set when the body of the request whose head came last is found to be none, though
    /// hyper may take it.
    #[must_use]
    pub fn is_body_broken(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.is_body_broken)
    }

    /// Follows the next bytes of the connection.
    pub fn watch(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            match self.position {
                Position::Head { searched } => self.watch_head(&mut bytes, searched),
                Position::Body { left } => {
                    let left = skip(&mut bytes, left);
                    self.position = if left == 0 {
                        HEAD
                    } else {
                        Position::Body { left }
                    };
                }
                Position::Chunk { left } => {
                    let left = skip(&mut bytes, left);
                    self.position = if left == 0 {
                        Position::ChunkSize
                    } else {
                        Position::Chunk { left }
                    };
                }
                Position::ChunkSize => self.watch_line(&mut bytes, after_chunk_size),
                Position::Trailers => self.watch_line(&mut bytes, after_trailer),
                Position::Lost => return,
            }
        }
    }

    /// The verdict on the next request of the connection.
    ///
    /// # Errors
    ///
    /// What is wrong with its head.
    pub fn next_verdict(&mut self) -> Verdict {
        self.verdicts
            .pop_front()
            .unwrap_or(Err(Flaw::Malformed("malformed request")))
    }

    fn watch_head(&mut self, bytes: &mut &[u8], searched: usize) {
        // Empty lines before a request line are skipped (RFC 9112 §2.2).
        if self.partial.is_empty() {
            let empty = bytes
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'));
            bytes.advance(empty.count());
        }
        let known = self.partial.len();
        // A head in one piece, as most are, is not copied.
        let end = if known == 0 {
            find_head_end(bytes, 0)
        } else {
            self.partial.extend_from_slice(bytes);
            find_head_end(&self.partial, searched)
        };
        match end {
            Some(end) if known == 0 => {
                self.judge(&bytes[..end]);
                bytes.advance(end);
            }
            Some(end) => {
                let head = std::mem::take(&mut self.partial);
                self.judge(&head[..end]);
                bytes.advance(end - known);
            }
            None => self.keep_partial_head(bytes, known),
        }
    }

    fn keep_partial_head(&mut self, bytes: &mut &[u8], known: usize) {
        if known == 0 {
            self.partial.extend_from_slice(bytes);
        }
        bytes.advance(bytes.len());
        let searched = self.partial.len();
        self.position = Position::Head { searched };
        if searched > self.max_header_bytes {
            self.lose();
        }
    }

    fn judge(&mut self, head: &[u8]) {
        let judged = judge(head, self.max_target_bytes);
        self.verdicts.push_back(judged.map(|_| ()));
        match judged {
            Ok(BodyEnd::After(0)) => self.position = HEAD,
            Ok(BodyEnd::After(left)) => self.position = Position::Body { left },
            Ok(BodyEnd::Chunked) => self.position = Position::ChunkSize,
            Err(_) => self.lose(),
        }
    }

    /// Follows one line, whose bytes including the line feed say what comes next.
    fn watch_line(&mut self, bytes: &mut &[u8], next: impl FnOnce(&[u8]) -> Option<Position>) {
        let feed = bytes.iter().position(|byte| *byte == b'\n');
        let taken = feed.map_or(bytes.len(), |feed| feed + 1);
        self.partial.extend_from_slice(&bytes[..taken]);
        bytes.advance(taken);
        if self.partial.len() > MAX_LINE_BYTES {
            self.lose_body();
        } else if feed.is_some() {
            let line = std::mem::take(&mut self.partial);
            match next(&line) {
                Some(position) => self.position = position,
                None => self.lose_body(),
            }
        }
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

/// Steps over at most `left` bytes and returns how many are then left.
fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let skipped = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    bytes.advance(skipped);
    left - skipped as u64
}

fn after_chunk_size(line: &[u8]) -> Option<Position> {
    match chunk_size(line)? {
        0 => Some(Position::Trailers),
        // The chunk's data is followed by a line end.
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

/// The size in a chunk's first line: hexadecimal digits, then its end or an extension
/// (RFC 9112 §7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.split(|byte| *byte == b';').next()?;
    let digits = str::from_utf8(digits).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Where the body after `head` ends, if there is only one way to read that.
fn judge(head: &[u8], max_target_bytes: usize) -> Result<BodyEnd, Flaw> {
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
    // A fragment is never sent, and other characters than ASCII are percent-encoded (RFC
    // 3986 §2); hyper takes both, and cuts the former off.
    if !target.is_ascii() || target.contains('#') {
        return Err(Flaw::Malformed("illegal request target"));
    }
    if !is_in_its_form(request.method.unwrap_or_default(), target) {
        return Err(Flaw::Malformed(
            "request target is not in a form for this method",
        ));
    }
    if !request.headers.iter().all(|line| is_text(line.value)) {
        return Err(Flaw::Malformed("header value is not ASCII"));
    }
    Ok(body_end(request.headers)?.unwrap_or(BodyEnd::After(0)))
}

/// Whether a target has the form that its method needs (RFC 9112 §3.2); hyper makes a path of
/// some that have not.
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
    // Without a path `OPTIONS` asks about the server, as with `*` (RFC 9112 §3.2.4); hyper
    // adds a path, with which it would ask about that.
    let after_authority = rest.find(['/', '?']).map(|start| &rest[start..]);
    is_served && (method != "OPTIONS" || after_authority.is_some_and(|it| it.starts_with('/')))
}

/// Whether a header's value is what every server reads in the same way (RFC 9110 §5.5): the
/// other bytes that the grammar knows have no agreed meaning.
pub(super) fn is_text(value: &[u8]) -> bool {
    value.is_ascii()
}

/// Room for the lines of a head; not initialised, which for this many would take longer
/// than to parse a usual head.
const fn no_lines<'a>() -> [MaybeUninit<httparse::Header<'a>>; MAX_HEADERS] {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// Where a head with these `lines` says that its body ends, if it says that at all and in
/// only one way.
fn body_end(lines: &[httparse::Header<'_>]) -> Result<Option<BodyEnd>, &'static str> {
    let mut codings = values(lines, "transfer-encoding");
    let mut lengths = values(lines, "content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err("both Content-Length and Transfer-Encoding"),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => match codings.next() {
            None => Ok(Some(BodyEnd::Chunked)),
            Some(_) => Err("more than one Transfer-Encoding"),
        },
        (Some(_), None) => Err("unknown Transfer-Encoding"),
        (None, Some(_)) if lengths.next().is_some() => Err("more than one Content-Length"),
        (None, Some(length)) => content_length(length)
            .map(|length| Some(BodyEnd::After(length)))
            .ok_or("illegal Content-Length"),
    }
}

/// Whether `headers` say nothing of a length, or say it once (RFC 9112 §6.3).
pub(super) fn has_one_length(headers: &HeaderMap) -> bool {
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

/// The length that the value of one `Content-Length` says (RFC 9110 §8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// The verdicts on all requests in `input`, which arrives in pieces of `piece` bytes.
    fn verdicts(input: &str, piece: usize) -> Vec<Verdict> {
        let mut framing = Framing::new(1024, 100);
        for piece in input.as_bytes().chunks(piece) {
            framing.watch(piece);
        }
        framing.verdicts.into()
    }

    fn with(lines: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
    }

    #[test]
    fn every_request_of_a_pipeline_gets_its_verdict_however_it_is_split() {
        let pipeline = [
            "\r\n",
            GET,
            &with("Content-Length: 5\r\n"),
            "G\n\r\n\n",
            &with("Transfer-Encoding: chunked\r\n"),
            "5;name=\"value\"\r\nGET /\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
            &with("Content-Length: 0\r\n"),
            GET,
            "GET / HTTP/1.1\nHost: a\n\n",
            GET,
        ]
        .concat();
        let expected = [
            Ok(()),
            Ok(()),
            Ok(()),
            Ok(()),
            Ok(()),
            Err(Flaw::Malformed("bare line feed")),
        ];

        for piece in 1..pipeline.len() {
            assert_eq!(verdicts(&pipeline, piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
        ] {
            let verdicts = verdicts(&with(lines), 7);

            assert!(matches!(verdicts[..], [Err(_)]), "{lines:?}: {verdicts:?}");
        }
        for target in ["/a#b", "/\u{e9}"] {
            let verdicts = verdicts(&GET.replace('/', target), 7);
            assert!(matches!(verdicts[..], [Err(_)]), "{target}: {verdicts:?}");
        }
        assert!(verdicts(&with("A: \u{e9}\r\n"), 7)[0].is_err());
        assert!(verdicts(&with("A: a\tb ~!\r\n"), 7)[0].is_ok());
    }

    #[test]
    fn a_target_may_be_long_but_not_too_long() {
        let verdict = |bytes: usize| {
            let mut framing = Framing::new(1024 * 1024, 8192);
            let target = format!("/{}", "a".repeat(bytes - 1));
            framing.watch(GET.replacen('/', &target, 1).as_bytes());
            framing.next_verdict()
        };

        assert_eq!(verdict(8192), Ok(()));
        assert_eq!(verdict(8192 + 1), Err(Flaw::TargetTooLong));
    }

    #[test]
    fn nothing_after_a_broken_chunk_is_taken_for_a_request() {
        for body in [
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
            "3\nabc\n0\n\n",
            "\r\n",
        ] {
            let input = with("Transfer-Encoding: chunked\r\n") + body + GET;

            let mut framing = Framing::new(1024, 100);
            framing.watch(input.as_bytes());

            assert_eq!(framing.verdicts, [Ok(())], "{body:?}");
            assert!(framing.is_body_broken().get(), "{body:?}");
        }
    }

    #[test]
    fn a_request_without_a_verdict_is_refused() {
        assert!(Framing::new(1024, 100).next_verdict().is_err());
    }

    #[test]
    fn no_more_than_the_longest_head_is_kept() {
        let mut framing = Framing::new(1024, 100);
        for _ in 0..1025 {
            framing.watch(b"x");
        }

        assert_eq!(framing.position, Position::Lost);
        assert_eq!(framing.partial.capacity(), 0);
    }
}
