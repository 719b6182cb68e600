//! Finding the frames of a byte stream.

use std::fmt;

use super::{
    Compression, FrameHeader, LENGTH_16, LENGTH_64, Opcode, ProtocolError, RSV1, Role, check_rsv1,
};

/// The bit of a frame's second byte that marks a masked payload.
const MASK: u8 = 0x80;

/// Length of the masking key.
const MASK_BYTES: usize = 4;

/// First byte of an unfragmented text and binary message.
const WHOLE_TEXT: u8 = 0x81;
const WHOLE_BINARY: u8 = 0x82;

/// Follows the frames that one end of a connection sends.
///
/// # Invariants
///
/// * A header that has been reported was legal by itself and in its place among the fragments (RFC
///   6455 §5.4).
/// * Forwarding exactly what the scanner has stepped over forwards whole headers only, so that the
///   receiver is at a frame boundary or inside a payload.
#[derive(Clone)]
pub struct FrameScanner {
    payload_left: u64,
    sender: Role,
    compression: Compression,
    in_message: bool,
    /// Set while the scanner is inside the payload of a frame that ends a data message.
    ends_message: bool,
    stops_at_pongs: bool,
}

/// Result of [`FrameScanner::skip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Bytes of the input that are whole headers and payload.
    pub bytes: usize,
    /// Data messages that ended within them.
    pub messages: u64,
    /// Reason for stopping there.
    pub stop: Stop,
}

/// Reason why [`FrameScanner::skip`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The input is used up.
    End,
    /// The rest of the input, at most 13 bytes, is the beginning of a header.
    PartialHeader,
    /// The rest of the input starts with a close frame's header.
    Close,
    /// The rest of the input starts with a pong's header; only after
    /// [`stop_at_pongs`](FrameScanner::stop_at_pongs).
    Pong,
    /// The rest of the input violates RFC 6455.
    Violation(ProtocolError),
}

impl FrameScanner {
    /// Creates a scanner at the start of the frames that `sender` sends.
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

    /// Sets whether `compression` was negotiated on the connection.
    #[must_use]
    pub const fn with(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Makes [`skip`](Self::skip) stop at pongs, for a caller that reads their payloads.
    pub const fn stop_at_pongs(&mut self) {
        self.stops_at_pongs = true;
    }

    /// Returns whether the next byte belongs to a header.
    #[must_use]
    pub const fn is_at_boundary(&self) -> bool {
        self.payload_left == 0
    }

    /// Returns whether a data message has begun and not ended.
    #[must_use]
    pub const fn is_in_message(&self) -> bool {
        self.in_message || self.ends_message
    }

    /// Bytes of the current frame's payload that are still to come.
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
    /// A violation of RFC 6455, in the header itself or in its place among the fragments.
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
                // The first byte is judged by itself, so that the verdict does not depend on how
                // much of the header has arrived.
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
    /// Returns whether a data message ended with it, as it does with an empty last frame.
    pub fn enter(&mut self, header: &FrameHeader) -> bool {
        self.payload_left = header.payload_bytes;
        if header.opcode.is_control() {
            return false;
        }
        // Control frames, which may stand between fragments, have returned above.
        self.in_message = !header.fin;
        self.ends_message = header.fin && header.payload_bytes > 0;
        header.fin && header.payload_bytes == 0
    }

    /// Steps over as much of the current payload as `available` bytes contain.
    ///
    /// Returns the number of bytes, and whether a data message ended with them.
    pub fn take_payload(&mut self, available: usize) -> (usize, bool) {
        let taken =
            // A payload that does not fit into a `usize` is longer than anything available.
            usize::try_from(self.payload_left).map_or(available, |left| left.min(available));
        self.payload_left -= taken as u64;
        let ended = self.payload_left == 0 && self.ends_message;
        if ended {
            self.ends_message = false;
        }
        (taken, ended)
    }

    /// Reason for [`skip`](Self::skip) to stop at a control frame of this type, if any.
    const fn stop_at(&self, opcode: Opcode) -> Option<Stop> {
        match opcode {
            Opcode::Close => Some(Stop::Close),
            Opcode::Pong if self.stops_at_pongs => Some(Stop::Pong),
            _ => None,
        }
    }

    /// Steps over everything in `input` that may be forwarded: payloads and whole headers, up to a
    /// close frame, a violation or, if [asked for](Self::stop_at_pongs), a pong.
    pub fn skip(&mut self, input: &[u8]) -> Skipped {
        let Whole { bytes, messages } = self.whole_messages(input);
        // Most reads are whole messages and need no more than this.
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

    /// Continues [`skip`](Self::skip) behind `bytes`, which contain `messages`.
    fn skip_rest(&mut self, input: &[u8], mut bytes: usize, mut messages: u64) -> Skipped {
        let stop = loop {
            if self.payload_left > 0 {
                let (taken, ended) = self.take_payload(input.len() - bytes);
                bytes += taken;
                messages += u64::from(ended);
                // Behind a payload that was split between two reads the fast path applies again.
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

    /// Counts the unfragmented messages at the start of `input` that have arrived whole, as most
    /// do; only the frames behind them are decoded by [`peek`](Self::peek).
    #[expect(
        clippy::inline_always,
        reason = "a message of the tunnel needs nothing else"
    )]
    #[inline(always)]
    fn whole_messages(&self, input: &[u8]) -> Whole {
        let mut whole = Whole::default();
        // The pattern below knows first frames only.
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
                // Payloads of 64 KiB and more rarely arrive whole; they take the slow path.
                (LENGTH_16 | LENGTH_64, _) => break,
                (length, _) => (0, u16::from(length)),
            };
            // A violation is reported by the slow path alone.
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

/// Unfragmented messages that have arrived whole.
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
