//! Header sections of a client, inspected before the h2 crate reads them.
//!
//! A section that breaks the rules of HTTP is the fault of one stream, and behind a proxy of one
//! client among many. For some of these h2 ends the connection, for another one hyper does, and
//! others are read so that the fault no longer shows. Here such a section is replaced by one that
//! they can read and that carries the reason why its request is to be rejected.
//!
//! | a request | without this |
//! |---|---|
//! | `CONNECT` with content (RFC 9113 §8.5) | hyper ends the connection without a response |
//! | `CONNECT` with `content-length: 0` | h2 resets the stream at the tunnel's first byte |
//! | `#` in `:path` (§8.3.1) | the http crate cuts the path there |
//! | a name or a value that HTTP does not have (§8.2.1) | h2 ends the connection |
//! | a section of more than 64 KiB, or in more than six frames | h2 ends the connection |
//! | an ill-formed section in more than one frame | h2 ends the connection |
//! | a stream that depends on itself (§5.3.1 of RFC 7540) | h2's table of fields goes out of step with the client's |
//!
//! # Invariants
//!
//! * Sections pass unchanged until one has to be changed. From then on all of them are encoded
//!   again without the dynamic table, for h2's no longer equals the client's.
//! * Between a section's first byte and its last h2 gets nothing.
//! * Bytes that are not HTTP/2 are passed on for h2 to reject.
//! * At most [`MAX_PENDING_BYTES`] of a section are buffered, and [`MAX_LIST_BYTES`] of its
//!   replacement.

mod section;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

pub(crate) use self::section::check;
use self::section::{Section, reused};
use super::hpack::{Decoder, Field, HpackError};

/// Longest frame; h2 does not announce a larger one to clients (RFC 9113 §4.2).
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// Longest field that may be split across frames; longest section on the wire in several frames,
/// and the most frames after its first.
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

/// Parser of the frames that a client sends on one connection.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    state: SectionState,
    /// Received part of a frame's header.
    header: [u8; HEADER_LENGTH],
    header_length: usize,
    /// Received part of the payload of a frame that belongs to a section.
    payload: Vec<u8>,
    decoder: Decoder,
    section: Section,
    /// The highest stream that has begun; a section on a lower one is a trailer section.
    last_stream: u32,
    is_rewriting: bool,
    /// Bytes that h2 has to read before any others.
    output: BytesMut,
}

/// Position of the next byte.
#[derive(Clone, Copy, Debug)]
enum SectionState {
    /// In the preface, or in the payload of a frame that passes unchanged, with the bytes left in
    /// it.
    Passing(usize),
    /// In a frame's header.
    Header,
    /// In a frame that belongs to a section, with the bytes left in it.
    Section(Http2FrameHeader, usize),
    /// Irrelevant, for h2 is about to end the connection.
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

    /// Returns whether the frame belongs to a header section that is inspected; a frame that is
    /// too long is left for h2 to reject.
    const fn is_of_section(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION)
            && self.length <= MAX_FRAME_BYTES
            && self.stream != 0
    }
}

/// The handling of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Passed on unchanged.
    AsItIs,
    /// Replaced by bytes that are, or will be, in the output.
    Taken,
}

impl HeadReader {
    /// Returns whether there are bytes that h2 has to read first.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Moves output into `buffer`.
    pub(crate) fn read(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = buffer.remaining().min(self.output.len());
        buffer.put_slice(&self.output[..length]);
        self.output.advance(length);
        if self.output.is_empty() {
            // The allocation of one large section is not kept.
            self.output = BytesMut::new();
        }
    }

    /// Inspects the client's next bytes, and returns how many of them pass unchanged; the rest
    /// goes into the output.
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

    /// Inspects at least one byte, and returns how many.
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
        // The common case: the header and the payload are whole, so nothing is copied.
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

    /// Lets a frame pass whose header has come.
    fn pass_frame(&mut self, header: Http2FrameHeader) {
        // A frame within a section is an error of the connection (RFC 9113 §4.3), which h2 only
        // sees if it has seen the section begin.
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
            // An error of the connection (RFC 9113 §6.10), which is h2's to find.
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
        // h2 does not decode the section of a stream that depends on itself, so its table lacks
        // those entries afterwards.
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
            // More empty frames than h2 accepts in one section.
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

    /// Decodes the complete fields of `block`, and keeps the rest until more has come.
    fn decode(&mut self, header: Http2FrameHeader, block: &[u8]) -> Result<(), HpackError> {
        let section = &mut self.section;
        let mut has_begun = section.has_begun();
        let each = |field: Field<'_>| section.add(field);
        let read = self.decoder.decode(block, &mut has_begun, each)?;
        if read < block.len() {
            // A field cannot continue after the end of its section.
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

    /// Makes h2 end the connection for a section that cannot be decoded.
    fn write_malformed(&mut self, stream: u32) {
        let header = Http2FrameHeader {
            length: 1,
            kind: HEADERS,
            flags: END_HEADERS,
            stream,
        };
        header.write(&mut self.output);
        // Index 0 is a decoding error (RFC 7541 §6.1).
        self.output.extend_from_slice(&[0x80]);
        self.state = SectionState::Lost;
    }

    /// Makes h2 end the connection for a section that does not end, by the number of
    /// `continuations` or by the next frame of another kind.
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

/// Splits off the field block in the payload of a `HEADERS` frame, and the stream that it depends
/// on; `None` when the payload is malformed.
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
