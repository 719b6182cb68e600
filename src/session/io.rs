//! Reading and writing on both sides of a session.

pub(super) mod endpoint;
pub(super) mod splice;
pub(super) mod write_buffer;
