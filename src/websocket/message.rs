//! Whole messages, assembled from the frames they came in (RFC 6455 §5.4).
//!
//! A message keeps the bytes it had on the wire: its frames with their headers and masks. Control
//! frames between its fragments are taken out and reported separately.
//!
//! # Invariants
//!
//! * The wire bytes of a message, sent on any connection in the same direction, are the
//!   message again, byte for byte.
//! * Memory follows what has arrived, never what a header announces.

use super::{
    close_code::ProtocolError,
    deflate,
    frame::{Compression, FrameHeader, FrameScanner, Opcode, Role, starts_compressed},
    mask,
    utf8::Utf8Validator,
};

/// A complete data message as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// All frames, headers and masks included.
    pub wire: Vec<u8>,
    /// True for text, false for binary (RFC 6455 §5.6).
    pub is_text: bool,
    /// Compressed payload (RFC 7692 §6).
    pub is_compressed: bool,
}

impl Message {
    /// Copies the first `max_bytes` of the payload, still compressed but unmasked and without frame
    /// headers; returns them and whether that is the whole payload.
    #[must_use]
    pub fn payload(&self, sender: Role, max_bytes: usize) -> (Vec<u8>, bool) {
        let mut payload = Vec::with_capacity(self.wire.len().min(max_bytes));
        let mut rest = &self.wire[..];
        // The frames were legal when they were assembled, so the loop ends at the end of the
        // message.
        while let Ok(Some((header, header_bytes))) = FrameHeader::parse(rest, sender) {
            rest = &rest[header_bytes..];
            let frame_bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
            let room = max_bytes - payload.len();
            let start = payload.len();
            payload.extend_from_slice(&rest[..frame_bytes.min(room)]);
            if let Some(key) = header.mask {
                mask::apply(&mut payload[start..], key, 0);
            }
            if frame_bytes > room {
                return (payload, false);
            }
            rest = &rest[frame_bytes..];
        }
        (payload, true)
    }

    /// Copies the first `max_bytes` of the message's data, inflated if it is compressed; returns
    /// them and whether that is the whole message.
    ///
    /// A compressed message must not depend on any before it.
    ///
    /// # Errors
    ///
    /// Within the part that was read: a payload that cannot be inflated, and compressed text that
    /// is not UTF-8. Uncompressed text was validated when it was assembled.
    pub fn sample(&self, sender: Role, max_bytes: usize) -> Result<(Vec<u8>, bool), ProtocolError> {
        if !self.is_compressed {
            return Ok(self.payload(sender, max_bytes));
        }
        let (compressed, is_all) = self.payload(sender, max_compressed_bytes(max_bytes));
        let (plain, is_whole) = deflate::inflate(compressed, is_all, max_bytes)?;
        if self.is_text {
            let mut utf8 = Utf8Validator::default();
            utf8.feed(&plain)?;
            if is_whole {
                utf8.finish()?;
            }
        }
        Ok((plain, is_whole))
    }
}

/// Compressed bytes to read for `max_bytes` of a message: incompressible data grows by 0.1 %, and
/// anything that grows more was made to keep the proxy busy.
#[must_use]
pub const fn max_compressed_bytes(max_bytes: usize) -> usize {
    max_bytes.saturating_mul(2).saturating_add(1024)
}

/// A complete control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Ping, pong or close.
    pub opcode: Opcode,
    /// The unmasked payload, at most 125 bytes.
    pub payload: Vec<u8>,
    /// The frame as it was on the wire.
    pub wire: Vec<u8>,
}

impl Control {
    /// Takes the control frame at the front of `input`, where `scanner` has stopped at its header;
    /// returns `None` until the whole frame has arrived.
    pub fn take_next(scanner: &FrameScanner, input: &mut &[u8]) -> Option<Self> {
        let (header, header_bytes) = scanner.peek(input).ok()??;
        Self::take(&header, header_bytes, input)
    }

    /// Takes the control frame that `header` starts from the front of `input`; returns `None` until
    /// the whole frame has arrived.
    pub fn take(header: &FrameHeader, header_bytes: usize, input: &mut &[u8]) -> Option<Self> {
        let payload_bytes = usize::try_from(header.payload_bytes).ok()?;
        let (wire, rest) = input.split_at_checked(header_bytes + payload_bytes)?;
        let mut payload = wire[header_bytes..].to_vec();
        if let Some(key) = header.mask {
            mask::apply(&mut payload, key, 0);
        }
        *input = rest;
        Some(Self {
            opcode: header.opcode,
            payload,
            wire: wire.to_vec(),
        })
    }
}

/// An item that an [`Assembler`] completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assembled {
    /// A complete data message.
    Message(Message),
    /// A control frame, perhaps from between the fragments of a message.
    Control(Control),
}

/// Reason why a message cannot be assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// The sender broke RFC 6455.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The message exceeds the limit; reported as soon as a header shows it.
    #[error("message longer than {max_bytes} bytes")]
    TooLong {
        /// Limit on a message's wire bytes.
        max_bytes: usize,
    },
}

/// Assembles the bytes that one side sends into whole messages and control frames.
#[derive(Debug)]
pub struct Assembler {
    scanner: FrameScanner,
    wire: Vec<u8>,
    max_bytes: usize,
    key: Option<[u8; 4]>,
    /// Offset in `wire` of the current frame's payload.
    payload_start: usize,
    is_text: bool,
    is_compressed: bool,
    /// FIN bit of the current frame.
    is_last_frame: bool,
    utf8: Utf8Validator,
}

impl Assembler {
    /// Creates an assembler for the frames of `sender`, with at most `max_bytes` on the wire per
    /// message.
    #[must_use]
    pub fn new(sender: Role, max_bytes: usize) -> Self {
        Self {
            scanner: FrameScanner::new(sender),
            wire: Vec::new(),
            max_bytes,
            key: None,
            payload_start: 0,
            is_text: false,
            is_compressed: false,
            is_last_frame: false,
            utf8: Utf8Validator::default(),
        }
    }

    /// Sets whether `compression` was negotiated on the connection.
    #[must_use]
    pub fn with(mut self, compression: Compression) -> Self {
        self.scanner = self.scanner.with(compression);
        self
    }

    /// Memory of the incomplete message, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.wire.capacity()
    }

    /// Lifts the limit on the length of messages.
    pub fn lift_limit(&mut self) {
        self.max_bytes = usize::MAX;
    }

    /// Returns whether a message has begun and not ended.
    #[must_use]
    pub fn is_in_message(&self) -> bool {
        self.scanner.is_in_message()
    }

    /// Ends assembling. Returns the wire bytes of the incomplete message, and the scanner behind
    /// them.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, FrameScanner) {
        (self.wire, self.scanner)
    }

    /// Takes bytes from the front of `input` until a message or a control frame is complete.
    ///
    /// Returns `None` when more bytes are needed. What is then left in `input` (part of a header,
    /// or of a control frame: at most 138 bytes) must be passed again, with more behind it, in the
    /// next call.
    ///
    /// # Errors
    ///
    /// Violations of RFC 6455, text that is not UTF-8 as soon as it shows, and messages over the
    /// limit. Nothing can be assembled after an error. Compressed payloads are not validated.
    pub fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Assembled>, AssembleError> {
        loop {
            if !self.scanner.is_at_boundary() {
                let (taken, ended) = self.scanner.take_payload(input.len());
                let (payload, rest) = input.split_at(taken);
                *input = rest;
                self.append(payload)?;
                if ended {
                    return self.finish().map(Some);
                }
            }
            if input.is_empty() {
                return Ok(None);
            }
            let Some((header, header_bytes)) = self.scanner.peek(input)? else {
                return Ok(None);
            };
            if header.opcode.is_control() {
                return Ok(Control::take(&header, header_bytes, input).map(Assembled::Control));
            }
            // True for an empty last frame, which has no payload to wait for.
            if self.begin(&header, header_bytes, input)? {
                return self.finish().map(Some);
            }
        }
    }

    /// Steps over the header of a data frame; returns whether the message ended with it.
    fn begin(
        &mut self,
        header: &FrameHeader,
        header_bytes: usize,
        input: &mut &[u8],
    ) -> Result<bool, AssembleError> {
        // Checked before anything is reserved: a header may announce up to 2^63 bytes.
        let frame_bytes = header.payload_bytes.saturating_add(header_bytes as u64);
        let room = self.max_bytes.saturating_sub(self.wire.len()) as u64;
        if frame_bytes > room {
            return Err(AssembleError::TooLong {
                max_bytes: self.max_bytes,
            });
        }
        if header.opcode != Opcode::Continuation {
            self.is_text = header.opcode == Opcode::Text;
            self.is_compressed = starts_compressed(input);
        }
        self.is_last_frame = header.fin;
        self.reserve(frame_bytes, input.len());
        self.wire.extend_from_slice(&input[..header_bytes]);
        *input = &input[header_bytes..];
        self.key = header.mask;
        self.payload_start = self.wire.len();
        Ok(self.scanner.enter(header))
    }

    /// Reserves room for `available` bytes of the `frame_bytes` to come: exactly the rest of the
    /// message where its end is known, else half as much again, and never beyond the limit.
    fn reserve(&mut self, frame_bytes: u64, available: usize) {
        let frame_bytes = usize::try_from(frame_bytes).unwrap_or(usize::MAX);
        let needed = frame_bytes.min(available);
        if self.wire.capacity() - self.wire.len() < needed {
            // Only the last frame tells where the message ends.
            let in_sight = if self.is_last_frame {
                frame_bytes
            } else {
                usize::MAX
            };
            let room = self.max_bytes - self.wire.len();
            self.wire
                .reserve_exact(needed.max(self.wire.len() / 2).min(in_sight).min(room));
        }
    }

    fn append(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        self.reserve(
            // The scanner has already stepped over `payload`.
            self.scanner.payload_left() + payload.len() as u64,
            payload.len(),
        );
        if self.is_text && !self.is_compressed {
            self.validate(payload)?;
        }
        self.wire.extend_from_slice(payload);
        Ok(())
    }

    fn validate(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        let Some(key) = self.key else {
            return self.utf8.feed(payload);
        };
        // Masked bytes are unmasked in a copy: `wire` keeps them as they came.
        let mut offset = self.wire.len() - self.payload_start;
        let mut plain = [0; 1024];
        for chunk in payload.chunks(plain.len()) {
            let plain = &mut plain[..chunk.len()];
            plain.copy_from_slice(chunk);
            mask::apply(plain, key, offset);
            self.utf8.feed(plain)?;
            offset += chunk.len();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Assembled, AssembleError> {
        if self.is_text && !self.is_compressed {
            self.utf8.finish()?;
        }
        let mut wire = std::mem::take(&mut self.wire);
        // The message may be held for long.
        wire.shrink_to_fit();
        Ok(Assembled::Message(Message {
            wire,
            is_text: self.is_text,
            is_compressed: self.is_compressed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor, Read, Write};

    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{
        self, WebSocket,
        protocol::{Role as OtherRole, WebSocketConfig},
    };

    use super::*;
    use crate::websocket::{CloseCode, CloseFrame, samples};

    /// What comes out of a stream, and how it ends.
    type Assembly = (Vec<Assembled>, Result<Vec<u8>, AssembleError>);

    fn assemble_up_to(max_bytes: usize, sender: Role, pieces: &[&[u8]]) -> Assembly {
        let mut assembler = Assembler::new(sender, max_bytes);
        let mut all = Vec::new();
        let mut inbox = Vec::new();
        for piece in pieces {
            inbox.extend_from_slice(piece);
            let mut input = &inbox[..];
            loop {
                match assembler.advance(&mut input) {
                    Ok(None) => break,
                    Ok(Some(found)) => all.push(found),
                    Err(error) => return (all, Err(error)),
                }
                assert!(assembler.held_bytes() <= max_bytes);
            }
            assert!(input.len() <= 138, "{} bytes are left", input.len());
            let taken = inbox.len() - input.len();
            inbox.drain(..taken);
        }
        let (mut partial, _) = assembler.into_parts();
        partial.extend(inbox);
        (all, Ok(partial))
    }

    fn assemble(sender: Role, pieces: &[&[u8]]) -> Assembly {
        assemble_up_to(1 << 20, sender, pieces)
    }

    fn violation(sender: Role, wire: &[u8]) -> AssembleError {
        assemble(sender, &[wire]).1.unwrap_err()
    }

    /// What one side says, in terms that both implementations share.
    #[derive(Debug, PartialEq, Eq)]
    enum Said {
        Text(Vec<u8>),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
    }

    /// What this crate makes of `stream`, up to its first close frame; and its verdict.
    fn ours(sender: Role, stream: &[u8]) -> (Vec<Said>, Result<(), AssembleError>) {
        let (assembled, end) = assemble(sender, &[stream]);
        let mut said = Vec::new();
        for found in assembled {
            match found {
                Assembled::Message(message) => {
                    let (payload, is_whole) = message.payload(sender, usize::MAX);
                    assert!(is_whole);
                    said.push(if message.is_text {
                        Said::Text(payload)
                    } else {
                        Said::Binary(payload)
                    });
                }
                Assembled::Control(control) => match control.opcode {
                    Opcode::Ping => said.push(Said::Ping(control.payload)),
                    Opcode::Pong => said.push(Said::Pong(control.payload)),
                    _ => match CloseFrame::parse(&control.payload) {
                        Err(error) => return (said, Err(error.into())),
                        Ok(CloseFrame { code, reason }) => {
                            said.push(Said::Close(code.map(CloseCode::get), reason));
                            return (said, Ok(()));
                        }
                    },
                },
            }
        }
        (said, end.map(|_| ()))
    }

    /// Reads from one buffer, writes into nothing.
    struct OneWay(Cursor<Vec<u8>>);

    impl Read for OneWay {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for OneWay {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What tungstenite makes of `stream`, up to its first close frame.
    fn tungstenite_s(sender: Role, stream: &[u8]) -> Vec<Said> {
        let receiver = match sender {
            Role::Client => OtherRole::Server,
            Role::Server => OtherRole::Client,
        };
        let config = WebSocketConfig::default()
            .max_frame_size(Some(1 << 20))
            .max_message_size(Some(1 << 20));
        let stream = OneWay(Cursor::new(stream.to_vec()));
        let mut socket = WebSocket::from_raw_socket(stream, receiver, Some(config));
        let mut said = Vec::new();
        while let Ok(message) = socket.read() {
            said.push(match message {
                tungstenite::Message::Text(text) => Said::Text(text.as_bytes().to_vec()),
                tungstenite::Message::Binary(bytes) => Said::Binary(bytes.to_vec()),
                tungstenite::Message::Ping(bytes) => Said::Ping(bytes.to_vec()),
                tungstenite::Message::Pong(bytes) => Said::Pong(bytes.to_vec()),
                tungstenite::Message::Close(frame) => {
                    said.push(frame.map_or(Said::Close(None, String::new()), |frame| {
                        Said::Close(Some(frame.code.into()), frame.reason.to_string())
                    }));
                    break;
                }
                tungstenite::Message::Frame(_) => unreachable!("reading gives messages"),
            });
        }
        said
    }

    proptest! {
        #[test]
        fn the_same_is_assembled_at_any_split_of_the_stream(
            (sender, stream) in samples::role_and_stream(),
            sizes in samples::pieces(),
            max_bytes in prop_oneof![Just(1_usize << 20), 0..400_usize],
        ) {
            let whole = assemble_up_to(max_bytes, sender, &[&stream]);
            let pieces = samples::cut(&stream, &sizes);
            prop_assert_eq!(assemble_up_to(max_bytes, sender, &pieces), whole);
        }

        #[test]
        fn every_byte_is_in_exactly_one_message_or_control_frame(
            (sender, stream) in samples::role_and_stream(),
        ) {
            if let (assembled, Ok(partial)) = assemble(sender, &[&stream]) {
                let bytes: usize = assembled
                    .iter()
                    .map(|found| match found {
                        Assembled::Message(message) => message.wire.len(),
                        Assembled::Control(control) => control.wire.len(),
                    })
                    .sum();
                prop_assert_eq!(bytes + partial.len(), stream.len());
            }
        }

        #[test]
        fn the_scanner_counts_the_messages_that_are_assembled(
            (sender, stream) in samples::role_and_stream(),
        ) {
            let mut scanner = FrameScanner::new(sender);
            let skipped = scanner.skip(&stream);
            let front = &stream[..skipped.bytes];
            let (assembled, end) = assemble(sender, &[front]);
            // Only text that is not UTF-8 stops one and not the other.
            if end.is_ok() {
                let messages = assembled
                    .iter()
                    .filter(|found| matches!(found, Assembled::Message(_)))
                    .count();
                prop_assert_eq!(messages as u64, skipped.messages);
            } else {
                prop_assert_eq!(end, Err(ProtocolError::InvalidUtf8.into()));
            }
        }

        /// Tungstenite differs, and on purpose:
        ///
        /// * it takes lengths that are not minimal, those of control frames included, and
        ///   goes on;
        /// * it reports an illegal close code as a close with 1002, and so 1014, which it does
        ///   not know.
        #[test]
        fn tungstenite_hears_the_same_messages(
            (sender, stream) in samples::role_and_stream(),
        ) {
            let (mut ours, verdict) = ours(sender, &stream);
            let mut theirs = tungstenite_s(sender, &stream);
            match verdict {
                Err(AssembleError::Protocol(
                    ProtocolError::LengthNotMinimal | ProtocolError::LongControl,
                )) => {
                    theirs.truncate(ours.len());
                }
                Err(AssembleError::Protocol(ProtocolError::IllegalCloseCode(_)))
                    if theirs.len() == ours.len() + 1 =>
                {
                    let reason = "Protocol violation".to_owned();
                    prop_assert_eq!(theirs.pop(), Some(Said::Close(Some(1002), reason)));
                }
                _ => {}
            }
            if let Some(Said::Close(code, reason)) = ours.last_mut()
                && *code == Some(1014)
            {
                *code = Some(1002);
                "Protocol violation".clone_into(reason);
            }
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn text_cut_inside_a_character_over_fragments_is_one_message() {
        let wire = [
            samples::frame(Role::Client, 0x01, b"\xe2"),
            samples::frame(Role::Client, 0x89, b"between"),
            samples::frame(Role::Client, 0x00, b"\x82"),
            samples::frame(Role::Client, 0x00, b""),
            samples::frame(Role::Client, 0x80, b"\xac"),
        ]
        .concat();

        let (assembled, end) = assemble(Role::Client, &[&wire]);

        assert_eq!(end, Ok(Vec::new()));
        let [Assembled::Control(ping), Assembled::Message(message)] = &assembled[..] else {
            panic!("{assembled:?}");
        };
        assert_eq!(ping.payload, b"between");
        assert_eq!(
            message.payload(Role::Client, 100),
            ("€".as_bytes().to_vec(), true)
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_and_binary_is_not_looked_at() {
        for bad in [
            &b"a\xc0\xaf"[..],
            b"\xe0\x80\xaf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xff",
            b"ok\xf0\x9d\x84",
            b"\x80",
        ] {
            for sender in [Role::Client, Role::Server] {
                let text = samples::frame(sender, 0x81, bad);
                assert_eq!(
                    violation(sender, &text),
                    ProtocolError::InvalidUtf8.into(),
                    "{bad:?}"
                );
                let binary = samples::frame(sender, 0x82, bad);
                assert!(assemble(sender, &[&binary]).1.is_ok());
            }
        }
    }

    #[test]
    fn text_that_ends_inside_a_character_is_refused_only_at_its_end() {
        let mut wire = samples::frame(Role::Server, 0x01, b"\xe2\x82");
        assert_eq!(assemble(Role::Server, &[&wire]).1, Ok(wire.clone()));

        wire.extend(samples::frame(Role::Server, 0x80, b""));

        assert_eq!(
            violation(Role::Server, &wire),
            ProtocolError::InvalidUtf8.into()
        );
    }

    #[test]
    fn a_text_after_a_refused_character_s_message_starts_anew() {
        let wire = [
            samples::frame(Role::Server, 0x82, b"\xe2"),
            samples::frame(Role::Server, 0x81, "€".as_bytes()),
        ]
        .concat();
        assert_eq!(assemble(Role::Server, &[&wire]).0.len(), 2);
    }

    #[test]
    fn an_excessive_length_is_refused_at_its_header() {
        for length in [1_u64 << 20, 1 << 40, 1 << 62, i64::MAX as u64] {
            let mut assembler = Assembler::new(Role::Client, 1 << 20);
            let mut wire = vec![0x82, 0xff];
            wire.extend(length.to_be_bytes());
            wire.extend([0; 4]);

            let error = assembler.advance(&mut &wire[..]).unwrap_err();

            assert_eq!(
                error,
                AssembleError::TooLong { max_bytes: 1 << 20 },
                "{length}"
            );
            assert_eq!(assembler.held_bytes(), 0);
        }
    }

    #[test]
    fn memory_follows_what_has_arrived_not_what_is_announced() {
        let mut assembler = Assembler::new(Role::Client, 1 << 20);
        let mut wire = vec![0x82, 0xff];
        wire.extend(1_000_000_u64.to_be_bytes());
        wire.extend([0; 4 + 10]);

        assert_eq!(assembler.advance(&mut &wire[..]), Ok(None));

        assert!(assembler.held_bytes() <= 2 * wire.len());
    }

    /// Feeds `pieces` and checks after each that the memory held is at most twice what has
    /// arrived; returns how many bytes growing has copied at most.
    fn grow(assembler: &mut Assembler, pieces: impl Iterator<Item = Vec<u8>>) -> usize {
        let mut arrived = 0;
        let mut copied = 0;
        for piece in pieces {
            let before = assembler.held_bytes();
            assert_eq!(assembler.advance(&mut &piece[..]), Ok(None));
            if assembler.held_bytes() != before {
                copied += arrived;
            }
            arrived += piece.len();
            assert!(
                assembler.held_bytes() <= 2 * arrived,
                "{} bytes for {arrived}",
                assembler.held_bytes()
            );
        }
        assert!(copied <= 3 * arrived, "{copied} for {arrived}");
        copied
    }

    #[test]
    fn one_byte_fragments_cost_at_most_twice_their_bytes() {
        let mut assembler = Assembler::new(Role::Client, 1 << 20);
        let start = samples::frame(Role::Client, 0x02, b"x");
        let fragment = samples::frame(Role::Client, 0x00, b"x");
        let pieces = std::iter::once(start).chain(std::iter::repeat_n(fragment.clone(), 100_000));

        let copied = grow(&mut assembler, pieces);

        assert!(copied > 0);
        assert_eq!(assembler.wire.len(), 100_001 * 7);
        let flood = fragment.repeat(60_000);
        assert_eq!(
            assembler.advance(&mut &flood[..]),
            Err(AssembleError::TooLong { max_bytes: 1 << 20 })
        );
        assert!(assembler.held_bytes() <= 1 << 20);
    }

    #[test]
    fn endless_empty_fragments_come_to_the_limit() {
        let mut assembler = Assembler::new(Role::Client, 64 * 1024);
        let start = samples::frame(Role::Client, 0x02, b"");
        let fragment = samples::frame(Role::Client, 0x00, b"");
        assert_eq!(assembler.advance(&mut &start[..]), Ok(None));

        let mut fragments = 0;
        let error = loop {
            fragments += 1;
            if let Err(error) = assembler.advance(&mut &fragment[..]) {
                break error;
            }
        };

        assert_eq!(
            error,
            AssembleError::TooLong {
                max_bytes: 64 * 1024
            }
        );
        assert_eq!(fragments, 64 * 1024 / 6);
    }

    #[test]
    fn one_frame_in_small_pieces_grows_without_repeated_copies() {
        for piece_bytes in [1, 100, 1_000] {
            let mut assembler = Assembler::new(Role::Client, 1 << 20);
            let frame = samples::frame(Role::Client, 0x82, &vec![7; 300_000]);
            let (last, front) = frame.split_last().unwrap();
            // The header arrives as a whole.
            let pieces = std::iter::once(front[..14].to_vec())
                .chain(front[14..].chunks(piece_bytes).map(<[u8]>::to_vec));

            grow(&mut assembler, pieces);

            let done = assembler.advance(&mut &[*last][..]).unwrap();
            let Some(Assembled::Message(message)) = done else {
                panic!("{done:?}");
            };
            assert_eq!(message.wire, frame);
            assert_eq!(message.wire.capacity(), frame.len());
        }
    }

    #[test]
    fn what_a_message_s_payload_leaves_out_is_said() {
        let wire = [
            samples::frame(Role::Client, 0x01, b"one "),
            samples::frame(Role::Client, 0x00, b"two "),
            samples::frame(Role::Client, 0x80, b"three"),
        ]
        .concat();
        let message = Message {
            wire,
            is_text: true,
            is_compressed: false,
        };

        for max_bytes in 0..13 {
            let (payload, is_whole) = message.payload(Role::Client, max_bytes);
            assert_eq!(payload, b"one two three"[..max_bytes]);
            assert!(!is_whole);
        }
        assert_eq!(
            message.payload(Role::Client, 13),
            (b"one two three".to_vec(), true)
        );
    }
}
