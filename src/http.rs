//! One downstream connection: find the route, then upgrade or forward.

pub mod framing;
