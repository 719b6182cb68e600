//! The WebSocket opening handshake, and the session that it becomes (RFC 6455 §4).

pub mod accept;
pub mod after_upstream;
pub mod rejected;
