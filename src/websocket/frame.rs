//! Frame headers (RFC 6455 §5.2) and the scanner that finds them in a byte stream.
//!
//! The scanner reads headers and steps over payloads; it never needs a payload in one piece, and it
//! works at any split of the stream. It accepts exactly what RFC 6455 allows, with or without
//! compression: tungstenite's parser takes lengths that are not minimal or have their highest bit
//! set, so it cannot be used here.

mod scanner;

pub use self::scanner::{FrameScanner, Skipped, Stop};
use super::close_code::ProtocolError;

/// The longest frame header in bytes: two, an eight-byte length, a four-byte mask.
pub const MAX_HEADER_BYTES: usize = 14;

/// The longest payload of a control frame in bytes (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD_BYTES: usize = 125;

/// The short length that announces a 16-bit one.
const LENGTH_16: u8 = 126;

/// The short length that announces a 64-bit one.
const LENGTH_64: u8 = 127;

/// The end of a connection that sends the frames: a client masks them, a server does not (RFC 6455
/// §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every frame is masked.
    Client,
    /// No frame is masked.
    Server,
}

/// Result of negotiating permessage-deflate. Once negotiated, RSV1 on the first frame of a message
/// marks a compressed message (RFC 7692 §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not negotiated: RSV1 is illegal.
    #[default]
    Declined,
    /// Negotiated.
    Agreed,
}

/// The bit of a frame's first byte that marks a compressed message.
const RSV1: u8 = 0x40;

/// The bits of a frame's first byte to which no extension here gives a meaning.
const RSV2_AND_3: u8 = 0x30;

/// Type of a frame (RFC 6455 §11.8). Reserved opcodes cannot be constructed.
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
    /// Returns whether frames of this type may stand between the fragments of a message (RFC 6455
    /// §5.5).
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

/// One frame header that is legal by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// FIN bit: the last frame of its message.
    pub fin: bool,
    /// Type of the frame.
    pub opcode: Opcode,
    /// Masking key, present exactly in a client's frames.
    pub mask: Option<[u8; 4]>,
    /// Payload length in bytes, at most 2^63 − 1.
    pub payload_bytes: u64,
}

impl FrameHeader {
    /// Parses the header at the start of `input`, which `sender` wrote.
    ///
    /// Returns it with its own length in bytes, or `None` when `input` ends before it does.
    ///
    /// # Errors
    ///
    /// Violations of RFC 6455 §5.2 and §5.5, as soon as the offending field has arrived. RSV1 is
    /// left to the [`FrameScanner`], which knows whether compression was negotiated.
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
                // Two parsers that disagree about a longer form would see different frames.
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

/// Checks RSV1, which is set in a frame's first byte: legal on a first frame under compression.
#[cold]
fn check_rsv1(first: u8, compression: Compression) -> Result<(), ProtocolError> {
    // Continuations inherit the mark of the first frame (RFC 7692 §6.1), and control frames are
    // never compressed.
    let is_first_frame = matches!(first & 0x0f, 1 | 2);
    if compression == Compression::Agreed && is_first_frame {
        Ok(())
    } else {
        Err(ProtocolError::ReservedBits)
    }
}

/// Returns whether the message whose first frame starts with `wire` is compressed. The header must
/// have been parsed; [`FrameHeader`] leaves the bit out because the tunnel never needs it.
#[must_use]
pub fn starts_compressed(wire: &[u8]) -> bool {
    wire.first().is_some_and(|first| first & RSV1 != 0)
}

/// Encodes a control frame that the proxy sends itself: masked with `mask` towards an upstream,
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

#[cfg(test)]
mod tests;
