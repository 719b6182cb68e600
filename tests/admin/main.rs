//! The admin listener, end to end: its responses, access to them, and secrets that are in none.

#![expect(
    clippy::unwrap_used,
    reason = "the lint knows tests, but not the functions that they share"
)]

mod access;
mod breaker;
mod certificates;
mod crowd;
mod events;
mod half_closed;
mod metrics;
mod page;
mod readiness;
mod sessions;
mod support;
