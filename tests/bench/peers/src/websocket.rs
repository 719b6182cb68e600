//! As much of RFC 6455 as the tools need: frames and the opening handshake.

pub mod frame;
pub mod handshake;

pub use frame::{Decoder, Header, Opcode, Piece, encode_message, mask};
