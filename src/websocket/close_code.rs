//! Close codes and the payload of a close frame (RFC 6455 §5.5.1 and §7.4).

use std::{fmt, num::NonZeroU16};

/// The longest reason that fits into a close frame beside its code, in bytes.
pub const MAX_REASON_BYTES: usize = 123;

/// A close code that may appear in a close frame.
///
/// 1005, 1006 and 1015 describe what was *not* on the wire, so they cannot be
/// constructed, and neither can a code that nobody has defined (RFC 6455 §7.4). Unlike
/// tungstenite's table this one has 1014, which IANA registered later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(NonZeroU16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL_CLOSURE: Self = Self::literal(1000);
    /// 1001: the endpoint goes away, say because it shuts down.
    pub const GOING_AWAY: Self = Self::literal(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self::literal(1002);
    /// 1007: a text message that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self::literal(1007);
    /// 1008: refused by policy.
    pub const POLICY_VIOLATION: Self = Self::literal(1008);
    /// 1009: a message larger than the limit.
    pub const MESSAGE_TOO_BIG: Self = Self::literal(1009);
    /// 1011: a bug on the closing side.
    pub const INTERNAL_ERROR: Self = Self::literal(1011);
    /// 1012: the service restarts.
    pub const SERVICE_RESTART: Self = Self::literal(1012);
    /// 1013: the service is overloaded or not ready.
    pub const TRY_AGAIN_LATER: Self = Self::literal(1013);
    /// 1014: a gateway got no valid answer from its upstream.
    pub const BAD_GATEWAY: Self = Self::literal(1014);

    /// Returns whether a server that sends this code reports a condition of its own, rather than
    /// one that the client caused.
    #[must_use]
    pub fn blames_server(self) -> bool {
        [
            Self::GOING_AWAY,
            Self::INTERNAL_ERROR,
            Self::SERVICE_RESTART,
            Self::TRY_AGAIN_LATER,
            Self::BAD_GATEWAY,
        ]
        .contains(&self)
    }

    /// Returns whether the sender of this code accepts everything that came before it: a normal
    /// closure, or a code that the application defined for itself.
    #[must_use]
    pub const fn confirms(self) -> bool {
        matches!(self.get(), 1000 | 3000..=4999)
    }

    /// Returns whether a server that sends this code as its first frame asks the client to
    /// reconnect.
    #[must_use]
    pub fn announces_restart(self) -> bool {
        [
            Self::GOING_AWAY,
            Self::SERVICE_RESTART,
            Self::TRY_AGAIN_LATER,
        ]
        .contains(&self)
    }

    // `TryFrom` is no `const fn`, and every code is checked before it gets here.
    const fn literal(code: u16) -> Self {
        match NonZeroU16::new(code) {
            Some(code) => Self(code),
            None => unreachable!(),
        }
    }

    /// Returns the code as it appears on the wire.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u16> for CloseCode {
    type Error = ProtocolError;

    fn try_from(code: u16) -> Result<Self, Self::Error> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Self::literal(code)),
            _ => Err(ProtocolError::IllegalCloseCode(code)),
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Payload of a close frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseFrame {
    /// Close code; `None` for an empty payload.
    pub code: Option<CloseCode>,
    /// Reason of at most [`MAX_REASON_BYTES`]; empty when there is no code.
    pub reason: String,
}

impl CloseFrame {
    /// Creates a frame with `code` and `reason`, truncated at a character boundary to
    /// [`MAX_REASON_BYTES`].
    #[must_use]
    pub fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        Self {
            code: Some(code),
            reason,
        }
    }

    /// Reads the unmasked payload of a close frame.
    ///
    /// # Errors
    ///
    /// Returns an error for a payload of one byte, a code that must not be sent, and a reason that
    /// is not UTF-8 (RFC 6455 §5.5.1, §7.4.2).
    pub fn parse(payload: &[u8]) -> Result<Self, ProtocolError> {
        match payload {
            // An empty payload is legal and carries no code.
            [] => Ok(Self::default()),
            [_] => Err(ProtocolError::TruncatedCloseCode),
            [high, low, reason @ ..] => {
                let code = CloseCode::try_from(u16::from_be_bytes([*high, *low]))?;
                let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidUtf8)?;
                Ok(Self {
                    code: Some(code),
                    reason: reason.to_owned(),
                })
            }
        }
    }

    /// Encodes the payload, unmasked.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        self.code.map_or_else(Vec::new, |code| {
            let mut payload = code.get().to_be_bytes().to_vec();
            payload.extend_from_slice(self.reason.as_bytes());
            payload
        })
    }
}

/// A violation of RFC 6455 by a peer.
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
    /// Compressed messages that expand far more than real data does.
    #[error("compressed messages inflate to too much")]
    InflatesTooMuch,
}

impl ProtocolError {
    /// Close code to fail the connection with.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_must_not_be_on_the_wire_cannot_be_constructed() {
        let legal = |code: u16| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        for code in 0..=u16::MAX {
            assert_eq!(CloseCode::try_from(code).is_ok(), legal(code), "{code}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character_boundary() {
        let frame = CloseFrame::new(CloseCode::NORMAL_CLOSURE, "é".repeat(100));

        assert_eq!(frame.reason.len(), 122);
        assert_eq!(frame.payload().len(), 124);
    }

    #[test]
    fn a_frame_without_a_code_has_an_empty_payload() {
        assert_eq!(CloseFrame::default().payload(), b"");
        assert_eq!(CloseFrame::parse(b""), Ok(CloseFrame::default()));
    }

    #[test]
    fn a_payload_survives_parsing_and_writing() {
        let payload = b"\x0f\xa1x is not y";

        let frame = CloseFrame::parse(payload).unwrap();

        assert_eq!(frame.code, Some(CloseCode::try_from(4001).unwrap()));
        assert_eq!(frame.reason, "x is not y");
        assert_eq!(frame.payload(), payload);
    }

    #[test]
    fn malformed_close_payloads_are_refused() {
        assert_eq!(
            CloseFrame::parse(b"\x03"),
            Err(ProtocolError::TruncatedCloseCode)
        );
        assert_eq!(
            CloseFrame::parse(b"\x03\xed"),
            Err(ProtocolError::IllegalCloseCode(1005))
        );
        assert_eq!(
            CloseFrame::parse(b"\x03\xe8\xff"),
            Err(ProtocolError::InvalidUtf8)
        );
    }
}
