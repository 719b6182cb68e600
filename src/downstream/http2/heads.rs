//! The header sections that a client sends, looked at before the h2 crate reads them.
//!
//! A section that breaks the rules of HTTP is the fault of one stream, and behind a proxy of
//! one client among many. h2 ends the connection for some of them, hyper for another, and
//! others cannot be told from what they say when they have read it. Here such a section becomes
//! one that they can read, and that says why its request is to be refused.
//!
//! | a request | without this |
//! |---|---|
//! | `CONNECT` with content (RFC 9113 §8.5) | hyper ends the connection, without a word |
//! | `CONNECT` with `content-length: 0` | h2 resets the stream at the tunnel's first byte |
//! | `#` in `:path` (§8.3.1) | the http crate cuts the path there |
//! | a name or a value that HTTP does not have (§8.2.1) | h2 ends the connection |
//! | a section of more than 64 KiB, or in more than six frames | h2 ends the connection |
//! | an ill-formed section in more than one frame | h2 ends the connection |
//! | a stream that depends on itself (§5.3.1 of RFC 7540) | h2 loses its place in the table |
//!
//! # Invariants
//!
//! * Sections go on as they are until one has to be changed. From then on all of them are
//!   written anew, without a table: that of h2 is no longer the client's.
//! * Between a section's first byte and its last h2 gets nothing.
//! * What is no HTTP/2 is handed on, for h2 to say so.
//! * Of a section [`MAX_PENDING_BYTES`] are kept, and [`MAX_LIST_BYTES`] for h2.

mod section;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

pub(crate) use self::section::check;
use self::section::{Section, reused};
use super::hpack::{Decoder, Field, HpackError};

/// The longest frame, which h2 has not told clients to exceed (RFC 9113 §4.2).
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// The longest field that may be split into frames, and the longest section on the wire in as
/// many frames.
const MAX_PENDING_BYTES: usize = 64 * 1024;
const MAX_BLOCK_BYTES: usize = 256 * 1024;
const MAX_CONTINUATIONS: usize = 64;

const PREFACE_LENGTH: usize = 24;
const HEADER_LENGTH: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// Follows the frames that a client sends on one connection.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    state: SectionState,
    /// What has come of a frame's header.
    header: [u8; HEADER_LENGTH],
    header_length: usize,
    /// What has come of the payload of a frame with a section.
    payload: Vec<u8>,
    decoder: Decoder,
    section: Section,
    /// The stream of the last request.
    last_stream: u32,
    is_rewriting: bool,
    /// What h2 is still to read before it gets anything else.
    output: BytesMut,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug)]
enum SectionState {
    /// Of the preface, or of the payload of a frame, which has so many left.
    Passing(usize),
    /// Of a frame's header.
    Header,
    /// Of a frame with a section, which has so many left.
    Section(Http2FrameHeader, usize),
    /// No matter: h2 is about to end the connection.
    Lost,
}

impl Default for SectionState {
    fn default() -> Self {
        Self::Passing(PREFACE_LENGTH)
    }
}

#[derive(Clone, Copy, Debug)]
struct Http2FrameHeader {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Http2FrameHeader {
    fn parse(bytes: [u8; HEADER_LENGTH]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    fn write(self, output: &mut BytesMut) {
        let length = u32::try_from(self.length).expect("a frame is short");
        output.extend_from_slice(&length.to_be_bytes()[1..]);
        output.extend_from_slice(&[self.kind, self.flags]);
        output.extend_from_slice(&self.stream.to_be_bytes());
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A frame that is too long is h2's to refuse.
    const fn is_of_section(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION)
            && self.length <= MAX_FRAME_BYTES
            && self.stream != 0
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes on.
    AsItIs,
    /// It is in the output, or will be.
    Taken,
}

impl HeadReader {
    /// Whether there is something that h2 has to read first.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Hands it on.
    pub(crate) fn read(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = buffer.remaining().min(self.output.len());
        buffer.put_slice(&self.output[..length]);
        self.output.advance(length);
        if self.output.is_empty() {
            // So that it does not keep what one large section has taken.
            self.output = BytesMut::new();
        }
    }

    /// Follows what the client has sent next, and returns how much of it goes on as it is; the
    /// rest goes into the output.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> usize {
        debug_assert!(self.output.is_empty(), "h2 reads in order");
        let mut rest = bytes;
        let mut passed = 0;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let (length, verdict) = self.step(rest);
            if verdict == Verdict::AsItIs {
                if at == passed && self.output.is_empty() {
                    passed += length;
                } else {
                    self.output.extend_from_slice(&rest[..length]);
                }
            }
            rest = &rest[length..];
        }
        passed
    }

    /// Follows at least one byte, and returns how many.
    fn step(&mut self, bytes: &[u8]) -> (usize, Verdict) {
        match self.state {
            SectionState::Lost => (bytes.len(), Verdict::AsItIs),
            SectionState::Passing(left) => {
                let length = left.min(bytes.len());
                self.state = passing(left - length);
                (length, Verdict::AsItIs)
            }
            SectionState::Header => self.step_header(bytes),
            SectionState::Section(header, left) => {
                let length = left.min(bytes.len());
                self.payload.extend_from_slice(&bytes[..length]);
                if length < left {
                    self.state = SectionState::Section(header, left - length);
                } else {
                    self.end_section_frame(header);
                }
                (length, Verdict::Taken)
            }
        }
    }

    fn step_header(&mut self, bytes: &[u8]) -> (usize, Verdict) {
        // Mostly a header is whole, and so is a section.
        if self.header_length == 0
            && let Some((header, rest)) = bytes.split_first_chunk()
        {
            let header = Http2FrameHeader::parse(*header);
            if !header.is_of_section() {
                self.pass_frame(header);
                return (HEADER_LENGTH, Verdict::AsItIs);
            }
            if let Some(payload) = rest.get(..header.length) {
                self.state = SectionState::Header;
                let verdict = self.section_frame(header, payload);
                return (HEADER_LENGTH + header.length, verdict);
            }
        }
        let length = (HEADER_LENGTH - self.header_length).min(bytes.len());
        self.header[self.header_length..][..length].copy_from_slice(&bytes[..length]);
        self.header_length += length;
        if self.header_length == HEADER_LENGTH {
            self.header_length = 0;
            let header = Http2FrameHeader::parse(self.header);
            if !header.is_of_section() {
                self.pass_frame(header);
                self.output.extend_from_slice(&self.header);
            } else if header.length == 0 {
                self.end_section_frame(header);
            } else {
                self.state = SectionState::Section(header, header.length);
            }
        }
        (length, Verdict::Taken)
    }

    /// Lets a frame go on whose header has come.
    fn pass_frame(&mut self, header: Http2FrameHeader) {
        // None may come within a section, which h2 must have seen begin.
        match self.section.stream {
            Some(stream) => self.write_unfinished(stream, 0),
            None => self.state = passing(header.length),
        }
    }

    fn end_section_frame(&mut self, header: Http2FrameHeader) {
        self.state = SectionState::Header;
        let payload = std::mem::take(&mut self.payload);
        if self.section_frame(header, &payload) == Verdict::AsItIs {
            header.write(&mut self.output);
            self.output.extend_from_slice(&payload);
        }
        self.payload = reused(payload);
    }

    fn section_frame(&mut self, header: Http2FrameHeader, payload: &[u8]) -> Verdict {
        match (header.kind, self.section.stream) {
            (HEADERS, None) => self.begin_section(header, payload),
            (CONTINUATION, Some(stream)) if stream == header.stream => {
                self.continue_section(header, payload)
            }
            (_, stream) => {
                if let Some(stream) = stream {
                    self.write_unfinished(stream, 0);
                }
                self.state = SectionState::Lost;
                Verdict::AsItIs
            }
        }
    }

    fn begin_section(&mut self, header: Http2FrameHeader, payload: &[u8]) -> Verdict {
        let Some((block, dependency)) = block_of(header, payload) else {
            self.state = SectionState::Lost;
            return Verdict::AsItIs;
        };
        let is_request = header.stream > self.last_stream;
        self.last_stream = self.last_stream.max(header.stream);
        self.section.begin(is_request, header.has(END_STREAM));
        // h2 would not read the section of a stream that depends on itself.
        if dependency == Some(header.stream) || !header.has(END_HEADERS) {
            self.is_rewriting = true;
        }
        self.section.stream = Some(header.stream);
        if self.decode(header, block).is_err() {
            self.write_malformed(header.stream);
            return Verdict::Taken;
        }
        if !header.has(END_HEADERS) {
            return Verdict::Taken;
        }
        self.end_section(header.stream)
    }

    fn continue_section(&mut self, header: Http2FrameHeader, payload: &[u8]) -> Verdict {
        let section = &mut self.section;
        section.continuations += 1;
        section.bytes += payload.len();
        if section.continuations > MAX_CONTINUATIONS
            || section.bytes > MAX_BLOCK_BYTES
            || section.pending.len() + payload.len() > MAX_PENDING_BYTES
        {
            self.write_unfinished(header.stream, 2 * MAX_CONTINUATIONS);
            return Verdict::Taken;
        }
        let mut block = std::mem::take(&mut self.section.pending);
        block.extend_from_slice(payload);
        if self.decode(header, &block).is_err() {
            self.write_malformed(header.stream);
            return Verdict::Taken;
        }
        if header.has(END_HEADERS) {
            return self.end_section(header.stream);
        }
        Verdict::Taken
    }

    /// Reads what of `block` is whole, and keeps the rest until more has come.
    fn decode(&mut self, header: Http2FrameHeader, block: &[u8]) -> Result<(), HpackError> {
        let section = &mut self.section;
        let mut has_begun = section.has_begun();
        let each = |field: Field<'_>| section.add(field);
        let read = self.decoder.decode(block, &mut has_begun, each)?;
        if read < block.len() {
            if header.has(END_HEADERS) {
                return Err(HpackError);
            }
            self.section.pending.extend_from_slice(&block[read..]);
        }
        Ok(())
    }

    fn end_section(&mut self, stream: u32) -> Verdict {
        let section = &mut self.section;
        section.stream = None;
        self.is_rewriting |= section.end();
        if !self.is_rewriting {
            return Verdict::AsItIs;
        }
        let end_stream = if section.ends_stream { END_STREAM } else { 0 };
        let header = Http2FrameHeader {
            length: section.block.len(),
            kind: HEADERS,
            flags: END_HEADERS | end_stream,
            stream,
        };
        header.write(&mut self.output);
        self.output.extend_from_slice(&section.block);
        Verdict::Taken
    }

    /// Tells h2 of a section that cannot be read, which ends the connection.
    fn write_malformed(&mut self, stream: u32) {
        let header = Http2FrameHeader {
            length: 1,
            kind: HEADERS,
            flags: END_HEADERS,
            stream,
        };
        header.write(&mut self.output);
        // There is no entry 0 (RFC 7541 §6.1).
        self.output.extend_from_slice(&[0x80]);
        self.state = SectionState::Lost;
    }

    /// Tells h2 of a section that does not end, and of so many more frames of it: too many of
    /// them, or whatever comes next, end the connection.
    fn write_unfinished(&mut self, stream: u32, continuations: usize) {
        for index in 0..=continuations {
            let kind = if index == 0 { HEADERS } else { CONTINUATION };
            let header = Http2FrameHeader {
                length: 0,
                kind,
                flags: 0,
                stream,
            };
            header.write(&mut self.output);
        }
        self.section = Section::default();
        self.state = SectionState::Lost;
    }
}

const fn passing(left: usize) -> SectionState {
    if left == 0 {
        SectionState::Header
    } else {
        SectionState::Passing(left)
    }
}

/// The part of a section in the payload of a `HEADERS` frame, and on which stream its own
/// depends; `None`: it is none.
fn block_of(header: Http2FrameHeader, payload: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let mut block = payload;
    let mut padding = 0;
    if header.has(PADDED) {
        let (length, rest) = block.split_first()?;
        (padding, block) = (usize::from(*length), rest);
    }
    let mut dependency = None;
    if header.has(PRIORITY) {
        let (priority, rest) = block.split_at_checked(5)?;
        let stream = priority
            .first_chunk()
            .map(|stream| u32::from_be_bytes(*stream));
        dependency = stream.map(|stream| stream & 0x7fff_ffff);
        block = rest;
    }
    let length = block.len().checked_sub(padding)?;
    Some((&block[..length], dependency))
}

#[cfg(test)]
mod tests;
