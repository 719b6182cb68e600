//! Values as they are written in the file.

pub mod address;
pub(super) mod matchers;
pub(super) mod origins;
pub(super) mod trusted_proxies;
pub mod units;
