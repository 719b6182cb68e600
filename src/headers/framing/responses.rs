//! Strict framing of an upstream's responses, checked beside hyper on the bytes themselves.
//!
//! hyper's client accepts a response with both `Content-Length` and `Transfer-Encoding`, and
//! skips `1xx` responses. Here the former are rejected, and the latter kept to be passed on.
//!
//! # Invariants
//!
//! * Between two calls of [`expect`](Answers::expect) one final head is followed and none of its
//!   body: bytes after the end of a response are hyper's to notice, which then closes the
//!   connection.
//! * At most [`MAX_INTERIMS`] interim responses are kept.

use bytes::BytesMut;
use hyper::{
    HeaderMap, StatusCode,
    header::{HeaderName, HeaderValue},
};

use super::{Flaw, body_end};
use crate::{
    headers::head::write_headers,
    websocket::{
        handshake::{
            NoAnswer, ResponseLimits, find_head_end, has_bare_line_feed, lower_version, read_answer,
        },
        spelling::Spelling,
    },
};

/// Maximum number of `1xx` responses before the final one.
pub const MAX_INTERIMS: usize = 10;

/// A `1xx` response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interim {
    /// Status; never `101`.
    pub status: StatusCode,
    /// All header fields, unfiltered.
    pub headers: HeaderMap,
    /// Spelling of their names.
    pub spelling: Spelling,
}

impl Interim {
    /// Appends the head in the form of HTTP/1.1.
    pub fn write(&self, head: &mut Vec<u8>) {
        let start = head.len();
        let reason = self.status.canonical_reason().unwrap_or_default();
        head.extend_from_slice(
            format!("HTTP/1.1 {} {reason}\r\n", self.status.as_str()).as_bytes(),
        );
        write_headers(head, &self.headers);
        self.spelling.apply(&mut head[start..]);
    }
}

/// Parser of the responses on one upstream connection.
#[derive(Debug)]
pub struct Answers {
    limits: ResponseLimits,
    /// Set while a final head is still to come.
    is_expecting: bool,
    has_begun: bool,
    /// Beginning of a head that has not ended yet.
    partial: BytesMut,
    searched: usize,
    interims: Vec<Interim>,
    interim_count: usize,
    verdict: Result<(), &'static str>,
    /// Spelling of the names in the last final head; `None` if it is not wanted.
    spelling: Option<Spelling>,
}

impl Answers {
    /// Starts a connection without a request, whose responses have heads within `limits`.
    #[must_use]
    pub fn new(limits: ResponseLimits) -> Self {
        Self {
            limits,
            is_expecting: false,
            has_begun: false,
            partial: BytesMut::new(),
            searched: 0,
            interims: Vec::new(),
            interim_count: 0,
            verdict: Ok(()),
            spelling: None,
        }
    }

    /// Expects the response to the request that is about to be written.
    pub fn expect(&mut self) {
        self.is_expecting = true;
        self.has_begun = false;
        self.interim_count = 0;
    }

    /// Returns whether any byte of the response has come.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Returns whether the heads so far are framed strictly.
    ///
    /// # Errors
    ///
    /// The flaw of the final head, or of an interim one before it.
    pub const fn verdict(&self) -> Result<(), &'static str> {
        self.verdict
    }

    /// Keeps the spelling of the names as well.
    #[must_use]
    pub fn with_spelling(self) -> Self {
        let spelling = Some(Spelling::default());
        Self { spelling, ..self }
    }

    /// Takes the spelling of the names in the last final head, if it is kept.
    pub fn take_spelling(&mut self) -> Spelling {
        self.spelling.take().unwrap_or_default()
    }

    /// Takes the interim responses that have come since the last call.
    pub fn take_interims(&mut self) -> Vec<Interim> {
        std::mem::take(&mut self.interims)
    }

    /// Follows the next bytes of the connection, and replaces a later version of HTTP/1 in them
    /// by 1.1.
    pub fn watch(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while self.is_expecting && at < bytes.len() {
            self.has_begun = true;
            at += self.watch_head(&mut bytes[at..]);
        }
    }

    /// Follows a head, or the part of it that is there, and returns the number of bytes.
    fn watch_head(&mut self, bytes: &mut [u8]) -> usize {
        let known = self.partial.len();
        // Most heads come in one piece and need no copy.
        if known == 0
            && let Some(end) = find_head_end(bytes, 0)
        {
            self.judge(&mut bytes[..end]);
            return end;
        }
        // hyper parses partial heads, so the version is replaced as soon as it is there.
        lower_version(&self.partial, bytes);
        self.partial.extend_from_slice(bytes);
        if let Some(end) = find_head_end(&self.partial, self.searched) {
            let mut head = std::mem::take(&mut self.partial);
            self.judge(&mut head[..end]);
            self.searched = 0;
            return end - known;
        }
        self.searched = self.partial.len();
        if self.searched > self.limits.max_header_bytes as usize {
            self.refuse("header section too large");
        }
        bytes.len()
    }

    fn judge(&mut self, head: &mut [u8]) {
        if head.len() > self.limits.max_header_bytes as usize {
            return self.refuse("header section too large");
        }
        let max_headers = usize::from(self.limits.max_headers);
        let is_spelled = self.spelling.is_some();
        let mut judged = judge(head, max_headers, is_spelled);
        if judged.is_err() && lower_version(&[], head) {
            judged = judge(head, max_headers, is_spelled);
        }
        match judged {
            Ok(Head::Final(spelling)) => {
                self.is_expecting = false;
                if spelling.is_some() {
                    self.spelling = spelling;
                }
            }
            Ok(Head::Interim(_)) if self.interim_count == MAX_INTERIMS => {
                self.refuse("too many interim responses");
            }
            Ok(Head::Interim(interim)) => {
                self.interim_count += 1;
                self.interims.push(interim);
            }
            Err(wrong) => self.refuse(wrong),
        }
    }

    fn refuse(&mut self, wrong: &'static str) {
        self.verdict = Err(wrong);
        self.is_expecting = false;
        self.partial = BytesMut::new();
    }
}

/// A parsed head.
enum Head {
    Interim(Interim),
    /// A final response, with the spelling of its names if that is wanted.
    Final(Option<Spelling>),
}

/// Parses `head`, if there is only one way to read it.
fn judge(head: &[u8], max_headers: usize, is_spelled: bool) -> Result<Head, &'static str> {
    if has_bare_line_feed(head) {
        return Err("bare line feed");
    }
    let judged = read_answer(head, max_headers, |answer| judge_parsed(answer, is_spelled));
    judged.map_err(|no_answer| match no_answer {
        NoAnswer::Malformed => "malformed response",
        NoAnswer::TooManyHeaders => "too many headers",
    })?
}

fn judge_parsed(
    answer: &httparse::Response<'_, '_>,
    is_spelled: bool,
) -> Result<Head, &'static str> {
    let Some(code) = answer.code else {
        return Err("malformed response");
    };
    if matches!(code, 100 | 102..=199) {
        return interim(code, answer.headers).map(Head::Interim);
    }
    let end = body_end(answer.headers).map_err(Flaw::what)?;
    let is_chunked = end.is_some_and(super::BodyEnd::is_chunked);
    if is_chunked && answer.version == Some(0) {
        return Err("Transfer-Encoding in HTTP/1.0");
    }
    let spelling = || Spelling::of(&answer.headers.iter().map(|line| line.name));
    Ok(Head::Final(is_spelled.then(spelling)))
}

fn interim(code: u16, lines: &[httparse::Header<'_>]) -> Result<Interim, &'static str> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_bytes(line.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err("malformed interim response");
        };
        headers.append(name, value);
    }
    let status = StatusCode::from_u16(code).or(Err("malformed interim response"))?;
    let spelling = Spelling::of(&lines.iter().map(|line| line.name));
    Ok(Interim {
        status,
        headers,
        spelling,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows one connection's `input`, which arrives in pieces of `piece` bytes.
    fn watched(input: &str, piece: usize) -> Answers {
        let mut answers = Answers::new(ResponseLimits {
            max_header_bytes: 1024,
            max_headers: 3,
        });
        answers.expect();
        for piece in input.to_owned().into_bytes().chunks_mut(piece) {
            answers.watch(piece);
        }
        answers
    }

    #[test]
    fn interim_responses_are_kept_until_a_final_one_in_any_pieces() {
        let input = "HTTP/1.1 100 Continue\r\n\r\n\
            HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1\n\n";
        for piece in 1..input.len() {
            let mut answers = watched(input, piece);

            assert_eq!(answers.verdict(), Ok(()), "pieces of {piece}");
            let interims = answers.take_interims();
            assert_eq!(interims.len(), 2, "pieces of {piece}");
            assert_eq!(interims[0].status, StatusCode::CONTINUE);
            assert_eq!(interims[1].headers.get_all("link").iter().count(), 2);
            assert!(!answers.is_expecting);
        }
    }

    // Each case is one that two parsers could read differently, or that exceeds a limit.
    #[test]
    fn an_answer_that_can_be_read_in_two_ways_is_refused() {
        let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
        for bad in [
            head("Content-Length: 3\r\nTransfer-Encoding: chunked"),
            head("Content-Length: 3\r\nContent-Length: 4"),
            head("Transfer-Encoding: gzip, chunked"),
            head("Transfer-Encoding: chunked").replace("1.1", "1.0"),
            head("X: a\nSet-Cookie: b"),
            head("X: a\rb"),
            head("X: a\0b"),
            "HTTP/1.1 102 Processing\r\n\r\n".repeat(11),
            format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2000)),
            "SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned(),
        ] {
            assert!(watched(&bad, 9).verdict().is_err(), "{bad:?}");
        }
        for good in [
            head("Transfer-Encoding: Chunked"),
            head("Content-Length: 3").replace("1.1", "1.0"),
            "HTTP/1.1 102 Processing\r\n\r\n".repeat(10) + &head("A: b"),
        ] {
            assert_eq!(watched(&good, 9).verdict(), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn whether_an_answer_has_begun_counts_from_the_request() {
        let mut answers = watched("HTTP/1.1 204 No Content\r\n\r\n", 100);
        assert!(answers.has_begun());

        answers.expect();
        assert!(!answers.has_begun());

        answers.watch(&mut b"H".to_owned());
        assert!(answers.has_begun());
    }
}
