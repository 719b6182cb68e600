//! Notations of values, for the schema and the reference.

use std::fmt;

use crate::config_file::report::any_of;

/// The greatest count.
pub(in crate::config_file) const MAX_COUNT: u64 = u32::MAX as u64;

/// Notation of a value.
#[derive(Clone, Debug)]
pub(in crate::config_file) enum Notation {
    Text,
    Texts,
    /// One of these.
    Word(Vec<&'static str>),
    Truth,
    /// A whole number from the first to the second.
    Count(u64, u64),
    /// One from 1 on, or `""`.
    OptionalCount,
    Fraction,
    Workers,
    Duration,
    OptionalDuration,
    Size,
    OptionalSize,
    /// A size, or a share in percent.
    Memory,
    OptionalMemory,
    /// One or more conditions on messages.
    Matchers,
    /// One or more conditions on messages or on the connection to the upstream.
    Triggers,
    /// Close codes by HTTP status.
    CloseCodes,
    /// `strict`, or a list of some of these.
    Passes(&'static [&'static str]),
}

impl fmt::Display for Notation {
    /// Names it in the words of the reference.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Texts => "list of texts",
            Self::Word(words) => {
                let words = words.iter().map(|word| match *word {
                    "" => "\"\"",
                    word => word,
                });
                return formatter.write_str(&any_of(words));
            }
            Self::Truth => "`true` or `false`",
            Self::Count(min, MAX_COUNT) => {
                return write!(formatter, "whole number from {min} on");
            }
            Self::Count(min, max) => return write!(formatter, "whole number, {min} to {max}"),
            Self::OptionalCount => "whole number from 1 on, or `\"\"`",
            Self::Fraction => "number, 0 to 1",
            Self::Workers => "whole number, 1 to 4096, or `auto`",
            Self::Duration => "duration",
            Self::OptionalDuration => "duration, or `\"\"`",
            Self::Size => "size",
            Self::OptionalSize => "size, or `\"\"`",
            Self::Memory => "size or share of the memory",
            Self::OptionalMemory => "size or share of the memory, or `\"\"`",
            Self::Matchers | Self::Triggers => "matcher, or list of matchers",
            Self::CloseCodes => "close code",
            Self::Passes(_) => "`strict`, or list of texts",
        })
    }
}
