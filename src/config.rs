//! Settings with their defaults, as the modules take them that they are for.
//!
//! [`config_file`](crate::config_file) fills them with what a file says.
//!
//! # Invariants
//!
//! * Nothing here reads text, and nothing here knows the modules that use the settings.

mod drain;
mod limits;
mod listen;
mod upstream;

pub use self::{
    drain::DrainSettings,
    limits::{Bound, Limits, Usage},
    listen::{DEFAULT_ADMIN, ListenAddress, ListenSettings},
    upstream::{BreakerSettings, Retry},
};
