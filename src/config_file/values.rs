//! Values: how those of the file are written, and what they are read as.
//!
//! A [`Kind`] is the second column of every row in [`keys`](super::keys). The general ones are
//! here, those of one module's settings beside that module's notations.

pub mod address;
pub(super) mod bounds;
pub(super) mod files;
pub(super) mod matchers;
mod notation;
mod origins;
pub(super) mod requests;
mod trusted_proxies;
pub mod units;
pub(super) mod words;

use std::{num::NonZeroUsize, time::Duration};

pub(super) use self::notation::{MAX_COUNT, Notation};
use super::{reader::Value, report::Mistake};
use crate::{client_addr::TrustedProxies, config::ListenAddress, route::origin::OriginPattern};

/// A kind of value.
pub(super) trait Kind {
    /// Result of reading it.
    type Value;

    /// Returns its notation.
    fn notation(&self) -> Notation;

    /// Reads `value`; `None` after reporting a problem.
    fn read(&self, value: Value<'_>) -> Option<Self::Value>;
}

/// Numbers, booleans, durations and the like, which are no secrets: what came from the
/// environment is shown.
pub(super) struct Plain<T>(
    pub(super) Notation,
    pub(super) fn(&str) -> Result<T, Mistake>,
);

/// Text, which may be a secret: what came from the environment is not shown.
pub(super) struct Text<T>(pub(super) fn(&str) -> Result<T, Mistake>);

/// Reads one of several words.
pub(super) struct Words<T: 'static>(pub(super) &'static [(&'static str, T)]);

/// Any number of texts.
pub(super) struct Texts<T>(pub(super) fn(&str) -> Result<T, Mistake>);

/// Anything else.
pub(super) struct Other<T>(pub(super) Notation, pub(super) fn(Value<'_>) -> Option<T>);

impl<T> Kind for Plain<T> {
    type Value = T;

    fn notation(&self) -> Notation {
        self.0.clone()
    }

    fn read(&self, value: Value<'_>) -> Option<T> {
        value.measure(self.1)
    }
}

impl<T> Kind for Text<T> {
    type Value = T;

    fn notation(&self) -> Notation {
        Notation::Text
    }

    fn read(&self, value: Value<'_>) -> Option<T> {
        value.parse(self.0)
    }
}

impl<T: Copy> Kind for Words<T> {
    type Value = T;

    fn notation(&self) -> Notation {
        Notation::Word(self.0.iter().map(|(word, _)| *word).collect())
    }

    fn read(&self, value: Value<'_>) -> Option<T> {
        value.choice(self.0)
    }
}

impl<T> Kind for Texts<T> {
    type Value = Vec<T>;

    fn notation(&self) -> Notation {
        Notation::Texts
    }

    fn read(&self, value: Value<'_>) -> Option<Vec<T>> {
        let elements = value.list()?;
        Some(
            elements
                .filter_map(|element| element.parse(self.0))
                .collect(),
        )
    }
}

impl<T> Kind for Other<T> {
    type Value = T;

    fn notation(&self) -> Notation {
        self.0.clone()
    }

    fn read(&self, value: Value<'_>) -> Option<T> {
        (self.1)(value)
    }
}

pub(super) const BOOLEAN: Plain<bool> = Plain(Notation::Truth, units::truth);
pub(super) const FRACTION: Plain<f64> = Plain(Notation::Fraction, units::fraction);

pub(super) const COUNT: Plain<usize> = Plain(Notation::Count(0, MAX_COUNT), units::count);
pub(super) const COUNT32: Plain<u32> = Plain(Notation::Count(0, MAX_COUNT), units::small_count);
pub(super) const POSITIVE: Plain<usize> = Plain(Notation::Count(1, MAX_COUNT), units::some);
pub(super) const OPTIONAL_COUNT: Plain<Option<usize>> =
    Plain(Notation::OptionalCount, units::optional_count);
pub(super) const OPTIONAL_RATE: Plain<Option<u32>> =
    Plain(Notation::OptionalCount, units::optional_count);

pub(super) const TIME: Plain<Duration> = Plain(Notation::Duration, units::duration);
pub(super) const POSITIVE_TIME: Plain<Duration> = Plain(Notation::Duration, units::some_time);
pub(super) const OPTIONAL_TIME: Plain<Option<Duration>> =
    Plain(Notation::OptionalDuration, units::optional_time);

pub(super) const SIZE: Plain<usize> = Plain(Notation::Size, units::size);
pub(super) const OPTIONAL_SIZE: Plain<Option<u64>> =
    Plain(Notation::OptionalSize, units::optional_size);

pub(super) const WORKERS: Plain<NonZeroUsize> = Plain(Notation::Workers, units::workers);
pub(super) const LISTEN_ADDRESS: Plain<ListenAddress> = Plain(Notation::Text, address::listen);
pub(super) const ADMIN_ADDRESS: Plain<Option<ListenAddress>> =
    Plain(Notation::Text, address::admin);
pub(super) const UPSTREAM: Other<Option<address::Upstream>> = Other(Notation::Text, |value| {
    address::only_upstream(value).map(Some)
});
pub(super) const TRUSTED_PROXIES: Other<TrustedProxies> =
    Other(Notation::Texts, trusted_proxies::read);
pub(super) const ORIGINS: Texts<OriginPattern> = Texts(origins::origin);
