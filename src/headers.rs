//! Header sections of HTTP messages: framing, host, forwarding, and the request's id.
//!
//! | module | requests | responses |
//! |---|---|---|
//! | [`framing`] | rejects heads that two parsers could read differently | the same, in [`framing::responses`] |
//! | [`host`] | finds the authority, and rejects contradictory ones | |
//! | [`forwarded`] | finds the client's address, and sets the forwarding fields | |
//! | `request_id` | adopts the id of a trusted proxy, or makes one | |
//! | [`hop_by_hop`] | keeps the end-to-end fields | the same |
//! | [`head`] | | writes the client's `101` and `1xx` |
//!
//! # Invariants
//!
//! * A client's statement about itself is forwarded only if it is a trusted proxy.
//! * A message with ambiguous framing is rejected, never repaired.
//! * Fields keep their order, their duplicates and the bytes of their values.

pub mod forwarded;
pub mod framing;
pub mod head;
pub mod hop_by_hop;
pub mod host;
pub(crate) mod request_id;
