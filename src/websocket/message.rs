//! Whole messages, assembled from the frames they came in (RFC 6455 §5.4).
//!
//! A message keeps the bytes it had on the wire: its frames, their headers and their
//! masks. Control frames between its fragments are taken out and reported by themselves.
//!
//! # Invariants
//!
//! * The wire bytes of a message, sent on any connection in the same direction, are the
//!   message again, byte for byte.
//! * Memory follows what has arrived, never what a header announces.

use super::{
    frame::{FrameHeader, FrameScanner, Opcode, ProtocolError, Role},
    mask,
    utf8::Utf8Validator,
};

/// A complete data message as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its frames, headers and masks included.
    pub wire: Vec<u8>,
    /// Whether it is text (RFC 6455 §5.6); otherwise it is binary.
    pub is_text: bool,
}

impl Message {
    /// A copy of the first `max_bytes` of the payload, unmasked and without frame headers,
    /// and whether that is all of it.
    #[must_use]
    pub fn payload(&self, sender: Role, max_bytes: usize) -> (Vec<u8>, bool) {
        let mut payload = Vec::with_capacity(self.wire.len().min(max_bytes));
        let mut rest = &self.wire[..];
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
    /// Takes the control frame that `header` starts from the front of `input`, or returns
    /// `None` when it is not yet there as a whole.
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

/// What an [`Assembler`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assembled {
    /// A data message is complete.
    Message(Message),
    /// A control frame, perhaps from between the fragments of a message.
    Control(Control),
}

/// Why a message cannot be assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// The sender broke RFC 6455.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The message is longer than the limit; said as soon as a header shows it.
    #[error("message longer than {max_bytes} bytes")]
    TooLong {
        /// The limit on a message's wire bytes.
        max_bytes: usize,
    },
}

/// Turns what one side sends into whole messages and control frames.
#[derive(Debug)]
pub struct Assembler {
    scanner: FrameScanner,
    wire: Vec<u8>,
    max_bytes: usize,
    key: Option<[u8; 4]>,
    /// Where the current frame's payload starts in `wire`.
    payload_start: usize,
    is_text: bool,
    /// Whether the current frame is the last of its message.
    is_last_frame: bool,
    utf8: Utf8Validator,
}

impl Assembler {
    /// An assembler for what `sender` sends; a message may have `max_bytes` on the wire.
    #[must_use]
    pub fn new(sender: Role, max_bytes: usize) -> Self {
        Self {
            scanner: FrameScanner::new(sender),
            wire: Vec::new(),
            max_bytes,
            key: None,
            payload_start: 0,
            is_text: false,
            is_last_frame: false,
            utf8: Utf8Validator::default(),
        }
    }

    /// What the incomplete message occupies, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.wire.capacity()
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn is_in_message(&self) -> bool {
        self.scanner.is_in_message()
    }

    /// Ends assembling: the wire bytes of the incomplete message, and the scanner that
    /// stands behind them.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, FrameScanner) {
        (self.wire, self.scanner)
    }

    /// Takes bytes from the front of `input` until a message or a control frame is
    /// complete.
    ///
    /// Returns `None` when more bytes are needed; what is then left in `input` (part of a
    /// header, or of a control frame: at most 138 bytes) must be there again, with more
    /// behind it, at the next call.
    ///
    /// # Errors
    ///
    /// What RFC 6455 forbids, text that is not UTF-8 as soon as it shows, and messages over
    /// the limit. Nothing can be assembled after an error.
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
            if self.begin(&header, header_bytes, input)? {
                return self.finish().map(Some);
            }
        }
    }

    /// Steps over the header of a data frame; whether the message ended with it.
    fn begin(
        &mut self,
        header: &FrameHeader,
        header_bytes: usize,
        input: &mut &[u8],
    ) -> Result<bool, AssembleError> {
        let frame_bytes = header.payload_bytes.saturating_add(header_bytes as u64);
        let room = self.max_bytes.saturating_sub(self.wire.len()) as u64;
        if frame_bytes > room {
            return Err(AssembleError::TooLong {
                max_bytes: self.max_bytes,
            });
        }
        self.is_last_frame = header.fin;
        self.reserve(frame_bytes, input.len());
        self.wire.extend_from_slice(&input[..header_bytes]);
        *input = &input[header_bytes..];
        if header.opcode != Opcode::Continuation {
            self.is_text = header.opcode == Opcode::Text;
        }
        self.key = header.mask;
        self.payload_start = self.wire.len();
        Ok(self.scanner.enter(header))
    }

    /// Makes room for `available` bytes of the `frame_bytes` to come: exactly where the
    /// end of the message is in sight, else doubling, and never beyond the limit.
    fn reserve(&mut self, frame_bytes: u64, available: usize) {
        let frame_bytes = usize::try_from(frame_bytes).unwrap_or(usize::MAX);
        let needed = frame_bytes.min(available);
        if self.wire.capacity() - self.wire.len() < needed {
            let in_sight = if self.is_last_frame {
                frame_bytes
            } else {
                usize::MAX
            };
            let room = self.max_bytes - self.wire.len();
            self.wire
                .reserve_exact(needed.max(self.wire.len()).min(in_sight).min(room));
        }
    }

    fn append(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        self.reserve(
            self.scanner.payload_left() + payload.len() as u64,
            payload.len(),
        );
        if self.is_text {
            self.validate(payload)?;
        }
        self.wire.extend_from_slice(payload);
        Ok(())
    }

    fn validate(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        let Some(key) = self.key else {
            return self.utf8.feed(payload);
        };
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
        if self.is_text {
            self.utf8.finish()?;
        }
        let mut wire = std::mem::take(&mut self.wire);
        wire.shrink_to_fit();
        Ok(Assembled::Message(Message {
            wire,
            is_text: self.is_text,
        }))
    }
}
