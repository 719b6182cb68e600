//! Whole sessions between in-memory pipes, on a paused clock.

mod hold;
mod overflow;
mod property;
mod support;
