//! Limits on what clients may occupy: connections, sessions of one address, held bytes, memory,
//! and the time that a drain may take.

pub mod connections;
pub mod drain;
pub mod held_bytes;
pub mod memory;
pub mod open_connections;
pub mod overload;
pub mod per_ip;
