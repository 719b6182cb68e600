//! Finding the frames in a byte stream.

use std::fmt;

use super::{
    Compression, FrameHeader, LENGTH_16, LENGTH_64, Opcode, ProtocolError, RSV1, Role, check_rsv1,
};

/// The bit of a frame's second byte that says that its payload is masked.
const MASK: u8 = 0x80;

/// How long the mask is then.
const MASK_BYTES: usize = 4;

/// The first byte of a text and of a binary message of one frame.
const WHOLE_TEXT: u8 = 0x81;
const WHOLE_BINARY: u8 = 0x82;

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
        let Whole { bytes, messages } = self.whole_messages(input);
        if bytes == input.len() {
            let stop = Stop::End;
            return Skipped {
                bytes,
                messages,
                stop,
            };
        }
        self.skip_rest(input, bytes, messages)
    }

    /// [`skip`](Self::skip) behind so many `bytes` with so many `messages`.
    fn skip_rest(&mut self, input: &[u8], mut bytes: usize, mut messages: u64) -> Skipped {
        let stop = loop {
            if self.payload_left > 0 {
                let (taken, ended) = self.take_payload(input.len() - bytes);
                bytes += taken;
                messages += u64::from(ended);
                let whole = self.whole_messages(&input[bytes..]);
                bytes += whole.bytes;
                messages += whole.messages;
            }
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
    #[expect(
        clippy::inline_always,
        reason = "a message of the tunnel needs nothing else"
    )]
    #[inline(always)]
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
        let mut left = input;
        while let [first, second, rest @ ..] = left {
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
            let Some((_, next)) = rest.split_at_checked(behind).filter(|_| is_minimal) else {
                break;
            };
            left = next;
            whole.messages += 1;
        }
        whole.bytes = input.len() - left.len();
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
