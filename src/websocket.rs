//! The vocabulary of RFC 6455: frames, messages, close codes, and the parts of the opening
//! handshake that both sides share.
//!
//! Everything here is pure: no I/O, no clock, and no import from the rest of the crate.

pub mod close_code;
pub mod deflate;
pub mod extension;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod message;
#[cfg(test)]
mod samples;
pub mod spelling;
pub mod subprotocol;
pub mod utf8;

pub use self::close_code::{CloseCode, CloseFrame, ProtocolError};
pub use self::frame::{Compression, FrameHeader, FrameScanner, Opcode, Role};

pub use self::handshake::Opened;
pub use self::message::{AssembleError, Assembled, Assembler, Control, Message};
