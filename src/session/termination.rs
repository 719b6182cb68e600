//! How a session ended, as data.

/// What a session has to say at its end.
#[derive(Debug)]
pub struct Report {}
