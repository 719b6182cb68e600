//! Frame headers (RFC 6455 §5.2) and the scanner that finds them in a byte stream.
//!
//! The scanner reads headers and steps over payloads; it never needs a payload in one
//! piece, and it works at any split of the stream. It accepts exactly what RFC 6455
//! allows without extensions, or with compression: tungstenite's parser takes lengths that
//! are not minimal or have their highest bit set, so it cannot be used here.

use std::fmt;

use super::close_code::CloseCode;

/// The longest frame header in bytes: two, an eight-byte length, a four-byte mask.
pub const MAX_HEADER_BYTES: usize = 14;

/// The longest payload of a control frame in bytes (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD_BYTES: usize = 125;

/// The short length that announces a 16-bit one.
const LENGTH_16: u8 = 126;

/// The short length that announces a 64-bit one.
const LENGTH_64: u8 = 127;

/// The bit of a frame's second byte that says that its payload is masked.
const MASK: u8 = 0x80;

/// How long the mask is then.
const MASK_BYTES: usize = 4;

/// The first byte of a text and of a binary message of one frame.
const WHOLE_TEXT: u8 = 0x81;
const WHOLE_BINARY: u8 = 0x82;

/// Which end of the connection sends the frames: the client masks, the server does not
/// (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every frame is masked.
    Client,
    /// No frame is masked.
    Server,
}

/// Whether permessage-deflate was agreed on a connection, so that RSV1 on the first frame of
/// a message says that it is compressed (RFC 7692 §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// It was not: no reserved bit means anything.
    #[default]
    Declined,
    /// It was.
    Agreed,
}

/// The bit of a frame's first byte that says that a message is compressed.
const RSV1: u8 = 0x40;

/// The bits of it that nothing gives a meaning.
const RSV2_AND_3: u8 = 0x30;

/// What a frame is (RFC 6455 §11.8). Reserved opcodes cannot be constructed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0,
    /// The first frame of a text message.
    Text = 1,
    /// The first frame of a binary message.
    Binary = 2,
    /// A close frame.
    Close = 8,
    /// A ping.
    Ping = 9,
    /// A pong.
    Pong = 10,
}

impl Opcode {
    /// Whether frames of this kind may stand between the fragments of a message
    /// (RFC 6455 §5.5).
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    const fn from_nibble(nibble: u8) -> Result<Self, ProtocolError> {
        Ok(match nibble {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(ProtocolError::ReservedOpcode(nibble)),
        })
    }
}

/// How a peer broke RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// RSV1, RSV2 or RSV3 is set although no extension gives it a meaning there (§5.2,
    /// RFC 7692 §6.1).
    #[error("reserved bits set without an extension")]
    ReservedBits,
    /// Opcodes 3 to 7 and 11 to 15 (§5.2).
    #[error("reserved opcode {0}")]
    ReservedOpcode(u8),
    /// A ping, pong or close frame without FIN (§5.5).
    #[error("fragmented control frame")]
    FragmentedControl,
    /// A ping, pong or close frame of more than 125 bytes (§5.5).
    #[error("control frame longer than 125 bytes")]
    LongControl,
    /// A length that would have fitted into a shorter form (§5.2).
    #[error("length not in its shortest form")]
    LengthNotMinimal,
    /// A 64-bit length with its highest bit set (§5.2).
    #[error("negative length")]
    NegativeLength,
    /// A client's frame without a mask (§5.1).
    #[error("client frame without a mask")]
    Unmasked,
    /// A server's frame with a mask (§5.1).
    #[error("server frame with a mask")]
    Masked,
    /// A continuation although no message is open (§5.4).
    #[error("continuation without a message")]
    UnexpectedContinuation,
    /// A text or binary frame although a message is open (§5.4).
    #[error("new message inside a fragmented one")]
    ExpectedContinuation,
    /// A close frame with a payload of one byte (§5.5.1).
    #[error("close frame with half a code")]
    TruncatedCloseCode,
    /// A close code that must not be sent (§7.4).
    #[error("illegal close code {0}")]
    IllegalCloseCode(u16),
    /// A text message or a close reason that is not UTF-8 (§8.1).
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// A compressed message that cannot be inflated (RFC 7692 §7.2.2).
    #[error("compressed message cannot be inflated")]
    InvalidDeflate,
    /// Compressed messages that become far larger than data does.
    #[error("compressed messages inflate to too much")]
    InflatesTooMuch,
}

impl ProtocolError {
    /// The code for the close frame that answers it.
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::InvalidDeflate => CloseCode::INVALID_PAYLOAD,
            Self::InflatesTooMuch => CloseCode::MESSAGE_TOO_BIG,
            Self::ReservedBits
            | Self::ReservedOpcode(_)
            | Self::FragmentedControl
            | Self::LongControl
            | Self::LengthNotMinimal
            | Self::NegativeLength
            | Self::Unmasked
            | Self::Masked
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::TruncatedCloseCode
            | Self::IllegalCloseCode(_) => CloseCode::PROTOCOL_ERROR,
        }
    }
}

/// One frame header that is legal by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key, present exactly in a client's frames.
    pub mask: Option<[u8; 4]>,
    /// The payload's length in bytes, at most 2^63 − 1.
    pub payload_bytes: u64,
}

impl FrameHeader {
    /// Reads the header at the start of `input`, which `sender` wrote.
    ///
    /// Returns it with its own length in bytes, or `None` when `input` ends before it does.
    ///
    /// # Errors
    ///
    /// What RFC 6455 §5.2 and §5.5 forbid, as soon as the field that shows it is there. Whether
    /// RSV1 may be set is for a [`FrameScanner`] to say.
    pub fn parse(input: &[u8], sender: Role) -> Result<Option<(Self, usize)>, ProtocolError> {
        let &[first, ref rest @ ..] = input else {
            return Ok(None);
        };
        if first & RSV2_AND_3 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = Opcode::from_nibble(first & 0x0f)?;
        let fin = first & 0x80 != 0;
        if opcode.is_control() && !fin {
            return Err(ProtocolError::FragmentedControl);
        }

        let &[second, ref rest @ ..] = rest else {
            return Ok(None);
        };
        match (sender, second & 0x80 != 0) {
            (Role::Client, false) => return Err(ProtocolError::Unmasked),
            (Role::Server, true) => return Err(ProtocolError::Masked),
            (Role::Client, true) | (Role::Server, false) => {}
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL_PAYLOAD_BYTES {
            return Err(ProtocolError::LongControl);
        }

        let (payload_bytes, rest) = match short {
            LENGTH_16 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let length = u64::from(u16::from_be_bytes(*length));
                if length < 126 {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                (length, rest)
            }
            LENGTH_64 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let length = u64::from_be_bytes(*length);
                if length > i64::MAX as u64 {
                    return Err(ProtocolError::NegativeLength);
                }
                if u16::try_from(length).is_ok() {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                (length, rest)
            }
            _ => (u64::from(short), rest),
        };
        let (mask, rest) = match sender {
            Role::Client => {
                let Some((mask, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (Some(*mask), rest)
            }
            Role::Server => (None, rest),
        };
        Ok(Some((
            Self {
                fin,
                opcode,
                mask,
                payload_bytes,
            },
            input.len() - rest.len(),
        )))
    }

    /// Appends the header to `out`, its length in the shortest form.
    pub fn write(&self, out: &mut Vec<u8>) {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let fin = if self.fin { 0x80 } else { 0 };
        out.push(fin | self.opcode as u8);
        match (
            u8::try_from(self.payload_bytes),
            u16::try_from(self.payload_bytes),
        ) {
            (Ok(short @ ..126), _) => out.push(masked | short),
            (_, Ok(length)) => {
                out.push(masked | LENGTH_16);
                out.extend_from_slice(&length.to_be_bytes());
            }
            (_, Err(_)) => {
                out.push(masked | LENGTH_64);
                out.extend_from_slice(&self.payload_bytes.to_be_bytes());
            }
        }
        if let Some(mask) = self.mask {
            out.extend_from_slice(&mask);
        }
    }
}

/// Whether RSV1, which is set in a frame's first byte, means something there.
#[cold]
fn check_rsv1(first: u8, compression: Compression) -> Result<(), ProtocolError> {
    let is_first_frame = matches!(first & 0x0f, 1 | 2);
    if compression == Compression::Agreed && is_first_frame {
        Ok(())
    } else {
        Err(ProtocolError::ReservedBits)
    }
}

/// Whether a message is compressed whose first frame starts with `wire`, a header that was
/// parsed. It is not in [`FrameHeader`], for the tunnel parses headers and does not ask.
#[must_use]
pub fn starts_compressed(wire: &[u8]) -> bool {
    wire.first().is_some_and(|first| first & RSV1 != 0)
}

/// Writes one control frame of the proxy's own: masked with `mask` towards an upstream,
/// unmasked towards a client.
///
/// # Panics
///
/// When `opcode` is not a control opcode or `payload` is longer than 125 bytes.
#[must_use]
pub fn control_frame(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    assert!(opcode.is_control() && payload.len() <= MAX_CONTROL_PAYLOAD_BYTES);
    let mut frame = Vec::with_capacity(6 + payload.len());
    FrameHeader {
        fin: true,
        opcode,
        mask,
        payload_bytes: payload.len() as u64,
    }
    .write(&mut frame);
    let start = frame.len();
    frame.extend_from_slice(payload);
    if let Some(mask) = mask {
        super::mask::apply(&mut frame[start..], mask, 0);
    }
    frame
}

/// Follows the frames that one end of a connection sends.
///
/// # Invariants
///
/// * A header that has been reported was legal by itself and in its place among the
///   fragments (RFC 6455 §5.4).
/// * Whoever forwards exactly what the scanner has stepped over forwards whole headers
///   only, so that the receiver is at a frame boundary or inside a payload.
#[derive(Clone)]
pub struct FrameScanner {
    payload_left: u64,
    sender: Role,
    compression: Compression,
    in_message: bool,
    /// Whether the frame whose payload is being stepped over ends a data message.
    ends_message: bool,
    stops_at_pongs: bool,
}

/// What [`FrameScanner::skip`] stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// How many bytes of the input are whole headers and payload.
    pub bytes: usize,
    /// How many data messages ended within them.
    pub messages: u64,
    /// Why it stopped there.
    pub stop: Stop,
}

/// Why [`FrameScanner::skip`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The input is used up.
    End,
    /// The rest of the input, at most 13 bytes, is the beginning of a header.
    PartialHeader,
    /// The rest of the input starts with a close frame's header.
    Close,
    /// The rest of the input starts with a pong's header; only of a scanner that
    /// [stops](FrameScanner::stop_at_pongs) there.
    Pong,
    /// The rest of the input starts with what RFC 6455 forbids.
    Violation(ProtocolError),
}

impl FrameScanner {
    /// A scanner at the start of what `sender` sends.
    #[must_use]
    pub const fn new(sender: Role) -> Self {
        Self {
            payload_left: 0,
            sender,
            compression: Compression::Declined,
            in_message: false,
            ends_message: false,
            stops_at_pongs: false,
        }
    }

    /// The same, on a connection on which `compression` was agreed or not.
    #[must_use]
    pub const fn with(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Has [`skip`](Self::skip) stop at pongs from here on, for somebody who looks at them.
    pub const fn stop_at_pongs(&mut self) {
        self.stops_at_pongs = true;
    }

    /// Whether the next byte belongs to a header.
    #[must_use]
    pub const fn is_at_boundary(&self) -> bool {
        self.payload_left == 0
    }

    /// Whether a data message has begun and not ended.
    #[must_use]
    pub const fn is_in_message(&self) -> bool {
        self.in_message || self.ends_message
    }

    /// How much of the current frame's payload is still to come, in bytes.
    #[must_use]
    pub const fn payload_left(&self) -> u64 {
        self.payload_left
    }

    /// Reads the header at the start of `input` without stepping over it.
    ///
    /// Returns `None` when `input` ends before the header does.
    ///
    /// # Errors
    ///
    /// What RFC 6455 forbids, in the header itself or in its place among the fragments.
    ///
    /// # Panics
    ///
    /// In a debug build, when the scanner is inside a payload.
    pub fn peek(&self, input: &[u8]) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        debug_assert!(self.is_at_boundary(), "a header can only be at a boundary");
        let Some(first) = input.first() else {
            return Ok(None);
        };
        if first & RSV1 != 0 {
            check_rsv1(*first, self.compression)?;
        }
        match FrameHeader::parse(input, self.sender) {
            Ok(Some((header, header_bytes))) => {
                self.check_place(header.opcode)?;
                Ok(Some((header, header_bytes)))
            }
            undecided => {
                // What the first byte shows is said whatever comes behind it, so that the
                // verdict does not depend on how much has arrived.
                FrameHeader::parse(&input[..1], self.sender)?;
                self.check_place(Opcode::from_nibble(first & 0x0f)?)?;
                undecided
            }
        }
    }

    fn check_place(&self, opcode: Opcode) -> Result<(), ProtocolError> {
        match opcode {
            Opcode::Continuation if !self.in_message => Err(ProtocolError::UnexpectedContinuation),
            Opcode::Text | Opcode::Binary if self.in_message => {
                Err(ProtocolError::ExpectedContinuation)
            }
            _ => Ok(()),
        }
    }

    /// Steps over a header that [`peek`](Self::peek) returned.
    ///
    /// Returns whether a data message ended with it, which is so for an empty last frame.
    pub fn enter(&mut self, header: &FrameHeader) -> bool {
        self.payload_left = header.payload_bytes;
        if header.opcode.is_control() {
            return false;
        }
        self.in_message = !header.fin;
        self.ends_message = header.fin && header.payload_bytes > 0;
        header.fin && header.payload_bytes == 0
    }

    /// Steps over as much of the current payload as `available` bytes hold.
    ///
    /// Returns how many bytes that is and whether a data message ended with them.
    pub fn take_payload(&mut self, available: usize) -> (usize, bool) {
        let taken =
            usize::try_from(self.payload_left).map_or(available, |left| left.min(available));
        self.payload_left -= taken as u64;
        let ended = self.payload_left == 0 && self.ends_message;
        if ended {
            self.ends_message = false;
        }
        (taken, ended)
    }

    /// Why [`skip`](Self::skip) stops at such a control frame, if it does.
    const fn stop_at(&self, opcode: Opcode) -> Option<Stop> {
        match opcode {
            Opcode::Close => Some(Stop::Close),
            Opcode::Pong if self.stops_at_pongs => Some(Stop::Pong),
            _ => None,
        }
    }

    /// Steps over everything in `input` that may be forwarded: payloads and whole headers,
    /// up to a close frame, a violation or, if it is to stop there, a pong.
    pub fn skip(&mut self, input: &[u8]) -> Skipped {
        let mut bytes = 0;
        let mut messages = 0;
        let stop = loop {
            if self.payload_left > 0 {
                let (taken, ended) = self.take_payload(input.len() - bytes);
                bytes += taken;
                messages += u64::from(ended);
            }
            let whole = self.whole_messages(&input[bytes..]);
            bytes += whole.bytes;
            messages += whole.messages;
            let rest = &input[bytes..];
            if rest.is_empty() {
                break Stop::End;
            }
            match self.peek(rest) {
                Err(error) => break Stop::Violation(error),
                Ok(None) => break Stop::PartialHeader,
                Ok(Some((header, header_bytes))) => {
                    if header.opcode.is_control()
                        && let Some(stop) = self.stop_at(header.opcode)
                    {
                        break stop;
                    }
                    messages += u64::from(self.enter(&header));
                    bytes += header_bytes;
                }
            }
        };
        Skipped {
            bytes,
            messages,
            stop,
        }
    }

    /// What of `input` is messages of one frame that are there to their ends, as most are;
    /// a header is decoded for those alone that are not.
    fn whole_messages(&self, input: &[u8]) -> Whole {
        let mut whole = Whole::default();
        if self.in_message || !self.is_at_boundary() {
            return whole;
        }
        let (mask_bit, mask_bytes) = match self.sender {
            Role::Client => (MASK, MASK_BYTES),
            Role::Server => (0, 0),
        };
        let rsv1 = match self.compression {
            Compression::Agreed => RSV1,
            Compression::Declined => 0,
        };
        while let [first, second, rest @ ..] = &input[whole.bytes..] {
            if !matches!(first & !rsv1, WHOLE_TEXT | WHOLE_BINARY) || second & MASK != mask_bit {
                break;
            }
            let (length_bytes, payload_bytes) = match (second & !MASK, rest) {
                (LENGTH_16, [high, low, ..]) => (2, u16::from_be_bytes([*high, *low])),
                (LENGTH_16 | LENGTH_64, _) => break,
                (length, _) => (0, u16::from(length)),
            };
            let is_minimal = length_bytes == 0 || payload_bytes >= u16::from(LENGTH_16);
            let behind = length_bytes + mask_bytes + usize::from(payload_bytes);
            if !is_minimal || behind > rest.len() {
                break;
            }
            whole.bytes += 2 + behind;
            whole.messages += 1;
        }
        whole
    }
}

/// Whole messages.
#[derive(Default)]
struct Whole {
    bytes: usize,
    messages: u64,
}

impl fmt::Debug for FrameScanner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:?}, {} payload bytes to come",
            self.sender, self.payload_left
        )?;
        if self.is_in_message() {
            formatter.write_str(", in a message")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::{
        FrameHeader as OtherHeader,
        coding::{Control as OtherControl, Data as OtherData, OpCode as OtherOpcode},
    };

    use super::{super::samples, *};

    const OPCODES: [Opcode; 6] = [
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
    ];

    fn header() -> impl Strategy<Value = FrameHeader> {
        let length = prop_oneof![
            0..300_u64,
            65_500..65_600_u64,
            0..=i64::MAX as u64,
            Just(i64::MAX as u64)
        ];
        let mask = prop::option::of(any::<[u8; 4]>());
        (
            any::<bool>(),
            prop::sample::select(&OPCODES[..]),
            mask,
            length,
        )
            .prop_map(|(fin, opcode, mask, length)| {
                let is_control = opcode.is_control();
                FrameHeader {
                    fin: fin || is_control,
                    opcode,
                    mask,
                    payload_bytes: if is_control { length % 126 } else { length },
                }
            })
    }

    fn sender(header: &FrameHeader) -> Role {
        match header.mask {
            Some(_) => Role::Client,
            None => Role::Server,
        }
    }

    fn other_opcode(opcode: Opcode) -> OtherOpcode {
        match opcode {
            Opcode::Continuation => OtherOpcode::Data(OtherData::Continue),
            Opcode::Text => OtherOpcode::Data(OtherData::Text),
            Opcode::Binary => OtherOpcode::Data(OtherData::Binary),
            Opcode::Close => OtherOpcode::Control(OtherControl::Close),
            Opcode::Ping => OtherOpcode::Control(OtherControl::Ping),
            Opcode::Pong => OtherOpcode::Control(OtherControl::Pong),
        }
    }

    /// What comes out of a stream: forwardable bytes, messages, where it stopped.
    type Scan = (Vec<u8>, u64, Stop);

    fn scan(sender: Role, pieces: &[&[u8]]) -> Scan {
        scan_by(FrameScanner::new(sender), pieces)
    }

    fn scan_by(scanner: FrameScanner, pieces: &[&[u8]]) -> Scan {
        let mut scanner = scanner;
        let mut inbox = Vec::new();
        let mut forwarded = Vec::new();
        let mut messages = 0;
        let mut stop = Stop::End;
        for piece in pieces {
            inbox.extend_from_slice(piece);
            let skipped = scanner.skip(&inbox);
            forwarded.extend(inbox.drain(..skipped.bytes));
            messages += skipped.messages;
            stop = skipped.stop;
            match stop {
                Stop::End => assert!(inbox.is_empty()),
                Stop::PartialHeader => assert!((1..MAX_HEADER_BYTES).contains(&inbox.len())),
                Stop::Close | Stop::Pong | Stop::Violation(_) => break,
            }
        }
        (forwarded, messages, stop)
    }

    #[test]
    fn a_scanner_stops_at_pongs_only_where_it_is_told_to() {
        let stream = b"\x81\x01a\x89\x01p\x8a\x01p\x81\x01b";
        let mut scanner = FrameScanner::new(Role::Server);
        assert_eq!(scanner.clone().skip(stream).bytes, stream.len());

        scanner.stop_at_pongs();

        let skipped = scanner.skip(stream);
        assert_eq!((skipped.bytes, skipped.messages), (6, 1));
        assert_eq!(skipped.stop, Stop::Pong);
        assert!(scanner.is_at_boundary());
    }

    proptest! {
        #[test]
        fn a_header_survives_writing_and_parsing(header in header(), behind in any::<[u8; 3]>()) {
            let mut wire = Vec::new();
            header.write(&mut wire);
            let header_bytes = wire.len();
            wire.extend(behind);

            prop_assert!(header_bytes <= MAX_HEADER_BYTES);
            prop_assert_eq!(
                FrameHeader::parse(&wire, sender(&header)),
                Ok(Some((header, header_bytes)))
            );
            for cut in 0..header_bytes {
                prop_assert_eq!(FrameHeader::parse(&wire[..cut], sender(&header)), Ok(None));
            }
        }

        #[test]
        fn tungstenite_reads_every_header_that_is_written(header in header()) {
            let mut wire = Vec::new();
            header.write(&mut wire);

            let mut cursor = Cursor::new(&wire);
            let (other, length) = OtherHeader::parse(&mut cursor).unwrap().unwrap();

            prop_assert_eq!(cursor.position(), wire.len() as u64);
            prop_assert_eq!(length, header.payload_bytes);
            prop_assert_eq!(other.is_final, header.fin);
            prop_assert_eq!(other.mask, header.mask);
            prop_assert_eq!(other.opcode, other_opcode(header.opcode));
            prop_assert!(!other.rsv1 && !other.rsv2 && !other.rsv3);
        }

        #[test]
        fn a_header_that_is_accepted_is_the_one_tungstenite_reads(
            sender in samples::role(),
            wire in prop::collection::vec(any::<u8>(), 14),
        ) {
            if let Ok(Some((header, header_bytes))) = FrameHeader::parse(&wire, sender) {
                let mut cursor = Cursor::new(&wire);
                let (other, length) = OtherHeader::parse(&mut cursor).unwrap().unwrap();
                prop_assert_eq!(cursor.position(), header_bytes as u64);
                prop_assert_eq!(
                    (length, other.is_final, other.mask, other.opcode),
                    (header.payload_bytes, header.fin, header.mask, other_opcode(header.opcode))
                );
            }
        }

        #[test]
        fn a_scan_comes_to_the_same_at_any_split_of_the_stream(
            (sender, stream) in samples::role_and_stream(),
            sizes in samples::pieces(),
        ) {
            let whole = scan(sender, &[&stream]);
            prop_assert!(stream.starts_with(&whole.0));
            prop_assert_eq!(scan(sender, &samples::cut(&stream, &sizes)), whole);
        }
    }

    #[test]
    fn a_frame_is_judged_the_same_whether_it_comes_whole_or_byte_by_byte() {
        // Also as the lengths of frames with 16 bits for them: 0, 125 and 126.
        let lengths = [[0, 0], [0, 125], [0, 126]];
        let starts = (0..=u8::MAX).flat_map(|first| {
            [0, 1, 125, LENGTH_16, LENGTH_64]
                .into_iter()
                .flat_map(move |length| [[first, length], [first, MASK | length]])
        });
        for (start, length) in starts.flat_map(|start| lengths.map(|length| (start, length))) {
            let mut stream = [&start[..], &length].concat();
            stream.resize(stream.len() + 140, 0x81);
            for sender in [Role::Client, Role::Server] {
                for compression in [Compression::Declined, Compression::Agreed] {
                    let scanner = FrameScanner::new(sender).with(compression);
                    let bytes: Vec<_> = stream.chunks(1).collect();
                    assert_eq!(
                        scan_by(scanner.clone(), &[&stream]),
                        scan_by(scanner, &bytes),
                        "{start:02x?} {length:02x?} {sender:?} {compression:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_way_to_break_the_protocol_is_named() {
        let client: [(&[u8], ProtocolError); 12] = [
            (b"\xc1", ProtocolError::ReservedBits),
            (b"\xa1", ProtocolError::ReservedBits),
            (b"\x91", ProtocolError::ReservedBits),
            (b"\x83", ProtocolError::ReservedOpcode(3)),
            (b"\x8f", ProtocolError::ReservedOpcode(15)),
            (b"\x09", ProtocolError::FragmentedControl),
            (b"\x89\xfe", ProtocolError::LongControl),
            (b"\x81\x01", ProtocolError::Unmasked),
            (b"\x81\xfe\x00\x7d", ProtocolError::LengthNotMinimal),
            (
                b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff",
                ProtocolError::LengthNotMinimal,
            ),
            (
                b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00",
                ProtocolError::NegativeLength,
            ),
            (b"\x80", ProtocolError::UnexpectedContinuation),
        ];
        for (wire, error) in client {
            let (forwarded, _, stop) = scan(Role::Client, &[wire]);
            assert_eq!(stop, Stop::Violation(error), "{wire:02x?}");
            assert_eq!(forwarded, b"");
        }
        assert_eq!(
            scan(Role::Server, &[b"\x81\x81"]).2,
            Stop::Violation(ProtocolError::Masked)
        );
        assert_eq!(
            scan(Role::Server, &[b"\x01\x01a", b"\x81"]).2,
            Stop::Violation(ProtocolError::ExpectedContinuation)
        );
    }

    // Z07
    #[test]
    fn with_compression_rsv1_may_stand_on_the_first_frame_of_a_message_only() {
        let scan = |pieces: &[&[u8]]| {
            let mut scanner = FrameScanner::new(Role::Server).with(Compression::Agreed);
            let skips = pieces.iter().map(|piece| scanner.skip(piece).stop);
            skips.last().unwrap()
        };
        assert_eq!(scan(&[b"\xc1\x00\xc2\x00"]), Stop::End);
        assert_eq!(scan(&[b"\x41\x01a\x89\x00\x00\x00\x80\x01b"]), Stop::End);
        let rsv1_elsewhere: [&[u8]; 6] = [
            b"\x41\x01a\xc0\x01b",
            b"\x41\x01a\x40\x01b",
            b"\xc0\x00",
            b"\xc8\x00",
            b"\xc9\x00",
            b"\xca\x00",
        ];
        let other_bits: [&[u8]; 3] = [b"\xa1\x00", b"\x91\x00", b"\xf1\x00"];
        for wire in rsv1_elsewhere.into_iter().chain(other_bits) {
            let violation = Stop::Violation(ProtocolError::ReservedBits);
            assert_eq!(scan(&[wire]), violation, "{wire:02x?}");
        }
    }

    #[test]
    fn a_frame_that_is_out_of_place_and_wrong_gets_the_same_verdict_at_any_split() {
        // A continuation without a start, and without a mask.
        let wire = b"\x80\x01a";
        for cut in 1..wire.len() {
            assert_eq!(
                scan(Role::Client, &[&wire[..cut], &wire[cut..]]).2,
                scan(Role::Client, &[wire]).2
            );
        }
    }

    #[test]
    fn lengths_change_their_form_at_126_and_65536() {
        for (payload_bytes, header_bytes) in [
            (125, 2),
            (126, 4),
            (65_535, 4),
            (65_536, 10),
            (i64::MAX as u64, 10),
        ] {
            let mut wire = Vec::new();
            let header = FrameHeader {
                fin: true,
                opcode: Opcode::Binary,
                mask: None,
                payload_bytes,
            };
            header.write(&mut wire);
            assert_eq!(wire.len(), header_bytes);
            assert_eq!(
                FrameHeader::parse(&wire, Role::Server),
                Ok(Some((header, header_bytes)))
            );
        }
    }

    #[test]
    fn the_longest_legal_length_is_stepped_over_without_overflow() {
        let mut scanner = FrameScanner::new(Role::Server);
        let skipped = scanner.skip(b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xffabc");

        assert_eq!(
            (skipped.bytes, skipped.messages, skipped.stop),
            (13, 0, Stop::End)
        );
        assert_eq!(scanner.payload_left(), i64::MAX as u64 - 3);
        assert!(scanner.is_in_message() && !scanner.is_at_boundary());
    }

    #[test]
    fn control_frames_between_fragments_do_not_end_the_message() {
        let mut scanner = FrameScanner::new(Role::Server);

        let skipped = scanner.skip(b"\x01\x01a\x89\x01p\x8a\x00\x00\x00");
        assert_eq!((skipped.messages, scanner.is_in_message()), (0, true));

        let skipped = scanner.skip(b"\x80\x00");
        assert_eq!((skipped.messages, scanner.is_in_message()), (1, false));
    }
}
