//! Plain HTTP: requests forwarded to the upstream, and their responses back.

pub mod binding;
pub mod bodies;
pub mod connector;
pub mod forward;
