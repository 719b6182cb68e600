//! Header sections of HTTP messages: framing, host, forwarding, and the request's id.

pub mod forwarded;
pub mod framing;
pub mod head;
pub mod hop_by_hop;
pub mod host;
pub(crate) mod request_id;
