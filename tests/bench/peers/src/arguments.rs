//! The command line: words, `--name value`, and `--name` alone.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    net::SocketAddr,
    ops::RangeInclusive,
    str::FromStr,
};

use crate::Result;

/// What was given, and not asked for yet.
#[derive(Debug, Default, PartialEq)]
pub struct Arguments {
    words: VecDeque<String>,
    /// An option without a value has an empty one.
    options: BTreeMap<String, String>,
}

impl Arguments {
    /// Splits `input` into words and options. What follows `--name` and does not begin with
    /// `--` is its value.
    pub fn parse(input: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self::default();
        let mut input = input.peekable();
        while let Some(item) = input.next() {
            let Some(name) = item.strip_prefix("--") else {
                arguments.words.push_back(item);
                continue;
            };
            let value = input.next_if(|next| !next.starts_with("--"));
            let previous = arguments
                .options
                .insert(name.to_owned(), value.unwrap_or_default());
            if previous.is_some() {
                return Err(format!("{item} is given twice").into());
            }
        }
        Ok(arguments)
    }

    /// The next word.
    pub fn word(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Whether `--name` was given, without a value.
    pub fn flag(&mut self, name: &str) -> Result<bool> {
        match self.options.remove(name) {
            None => Ok(false),
            Some(value) if value.is_empty() => Ok(true),
            Some(value) => Err(format!("--{name} takes no value, but `{value}` follows").into()),
        }
    }

    /// The text of `--name`.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.options.remove(name)
    }

    /// The number of `--name`, or `default`, within `bounds`: nothing here runs for ever.
    pub fn number<T>(&mut self, name: &str, default: T, bounds: RangeInclusive<T>) -> Result<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.options.remove(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (bounds.start(), bounds.end());
            format!("--{name} is a number from {least} to {most}, not `{text}`").into()
        })
    }

    /// The address of `--name`, which must be a loopback address.
    pub fn loopback(&mut self, name: &str) -> Result<SocketAddr> {
        let text = self.options.remove(name).unwrap_or_default();
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("--{name} is IP:PORT, not `{text}`"))?;
        if !address.ip().is_loopback() {
            return Err(format!("--{name} must be a loopback address, not {address}").into());
        }
        Ok(address)
    }

    /// Refuses what nobody asked for.
    pub fn finish(self) -> Result<()> {
        let unknown = self.options.into_keys().map(|name| format!("--{name}"));
        match self.words.into_iter().chain(unknown).next() {
            None => Ok(()),
            Some(item) => Err(format!("unknown argument `{item}`").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::parse(line.split(' ').map(str::to_owned)).unwrap()
    }

    #[test]
    fn words_options_and_flags_are_told_apart() {
        let mut arguments = parse("load echo --payload 128 --splice --to 127.0.0.1:80");

        assert_eq!(arguments.word().as_deref(), Some("load"));
        assert_eq!(arguments.word().as_deref(), Some("echo"));
        assert_eq!(arguments.number("payload", 1, 1..=1000).unwrap(), 128);
        assert_eq!(arguments.number("in-flight", 16, 1..=64).unwrap(), 16);
        assert!(arguments.flag("splice").unwrap());
        assert_eq!(
            arguments.loopback("to").unwrap(),
            "127.0.0.1:80".parse().unwrap()
        );
        assert!(arguments.finish().is_ok());
    }

    #[test]
    fn only_loopback_addresses_are_accepted() {
        assert!(parse("--to 192.0.2.1:80").loopback("to").is_err());
        assert!(parse("--to 127.0.0.9:80").loopback("to").is_ok());
        assert!(parse("--to [::1]:80").loopback("to").is_ok());
    }

    #[test]
    fn numbers_out_of_bounds_repetitions_and_leftovers_are_refused() {
        assert!(parse("--payload 0").number("payload", 1, 1..=9).is_err());
        assert!(Arguments::parse(["--a", "--a"].map(str::to_owned).into_iter()).is_err());
        assert!(parse("--unknown 1").finish().is_err());
        assert!(parse("stray").finish().is_err());
    }
}
