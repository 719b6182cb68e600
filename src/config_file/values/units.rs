//! Values with units: durations, sizes, shares.

use std::{num::NonZeroUsize, time::Duration};

use crate::config_file::report::Mistake;

/// A bound on memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config_file) enum Memory {
    /// In bytes.
    Bytes(usize),
    /// In percent of what the process may have, 1 to 100.
    Percent(u8),
}

/// `"250ms"`, `"30s"`, `"5m"`, `"1h"`.
///
/// # Errors
///
/// The mistake in `text`.
pub fn duration(text: &str) -> Result<Duration, Mistake> {
    const EXPECTED: &str = "expected a whole number and a unit (ms, s, m or h), such as \"30s\"";
    let mistake = || Mistake::new(format!("`{text}` is not a duration"), EXPECTED);
    let helped = || match meant(text) {
        Some(duration) => mistake().help(format!("write \"{duration}\"")),
        None => mistake(),
    };
    let (number, unit) = number_and_unit(text).ok_or_else(helped)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "" => return Err(mistake().help(format!("for seconds write \"{number}s\""))),
        _ => return Err(helped()),
    };
    let total = number.checked_mul(milliseconds);
    total.map(Duration::from_millis).ok_or_else(|| {
        Mistake::new(
            format!("`{text}` is too long"),
            "expected less than 500 million years",
        )
    })
}

/// Returns the duration that `text` most likely means: several units, a fraction, other names.
fn meant(text: &str) -> Option<String> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let is_digit = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_digit(c))?);
        let after = after.trim_start();
        let end = after.find(is_digit).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let milliseconds = match unit.trim_end().to_lowercase().as_str() {
            "ms" | "msec" | "millis" | "milliseconds" => 1.0,
            "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
            "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
            "h" | "hr" | "hour" | "hours" => 3_600e3,
            "d" | "day" | "days" => 86_400e3,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * milliseconds;
        rest = after;
    }
    let in_whole = |unit: f64| (total % unit == 0.0).then_some(total / unit);
    let units = [(3_600e3, "h"), (60e3, "m"), (1e3, "s"), (1.0, "ms")];
    let mut units = units.into_iter();
    units.find_map(|(unit, name)| Some(format!("{}{name}", in_whole(unit)?)))
}

/// A duration other than zero.
pub(in crate::config_file) fn some_time(text: &str) -> Result<Duration, Mistake> {
    match duration(text)? {
        Duration::ZERO => Err(Mistake::new(
            "this duration must not be zero",
            "expected at least \"1ms\"",
        )),
        duration => Ok(duration),
    }
}

/// A duration, or `""` for none.
pub(in crate::config_file) fn optional_time(text: &str) -> Result<Option<Duration>, Mistake> {
    match text {
        "" => Ok(None),
        text => some_time(text).map(Some),
    }
}

/// `"64KiB"`, `"1MiB"`, `"1GiB"`, `"512B"`, or a plain number of bytes; not zero.
pub(in crate::config_file) fn size(text: &str) -> Result<usize, Mistake> {
    const EXPECTED: &str = "expected a whole number of bytes, or with a unit: \"64KiB\", \"1MiB\"";
    let mistake = || Mistake::new(format!("`{text}` is not a size"), EXPECTED);
    let (number, unit) = number_and_unit(text).ok_or_else(mistake)?;
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            let binary = match unit.to_ascii_lowercase().as_str() {
                "k" | "kb" | "kib" => "KiB",
                "m" | "mb" | "mib" => "MiB",
                "g" | "gb" | "gib" => "GiB",
                _ => return Err(mistake()),
            };
            let help = format!("units are multiples of 1024: write \"{number}{binary}\"");
            return Err(mistake().help(help));
        }
    };
    let total = number.checked_mul(bytes);
    match total.and_then(|total| usize::try_from(total).ok()) {
        Some(0) => Err(Mistake::new(
            "this size must not be zero",
            "expected at least 1",
        )),
        Some(total) => Ok(total),
        None => Err(Mistake::new(
            format!("`{text}` is too large"),
            "expected what an address space can hold",
        )),
    }
}

/// A size, or a share such as `"25%"`.
pub(in crate::config_file) fn memory(text: &str) -> Result<Memory, Mistake> {
    let Some(percent) = text.strip_suffix('%') else {
        return size(text).map(Memory::Bytes);
    };
    match percent.trim_end().parse() {
        Ok(percent @ 1..=100) => Ok(Memory::Percent(percent)),
        _ => Err(Mistake::new(
            format!("`{text}` is not a share of the memory"),
            "expected a whole number from \"1%\" to \"100%\"",
        )),
    }
}

/// A size, a share, or `""` for no limit.
pub(in crate::config_file) fn optional_memory(text: &str) -> Result<Option<Memory>, Mistake> {
    match text {
        "" => Ok(None),
        text => memory(text).map(Some),
    }
}

/// A whole number, zero included.
pub(in crate::config_file) fn count(text: &str) -> Result<usize, Mistake> {
    text.parse().map_err(|_| {
        Mistake::new(
            format!("`{text}` is not a count"),
            "expected a whole number",
        )
    })
}

/// A whole number with 32 bits, zero included.
pub(in crate::config_file) fn small_count(text: &str) -> Result<u32, Mistake> {
    u32::try_from(count(text)?).map_err(|_| {
        let what = format!("`{text}` is too large");
        Mistake::new(what, "expected less than 4294967296")
    })
}

/// A whole number other than zero.
pub(in crate::config_file) fn some(text: &str) -> Result<usize, Mistake> {
    match count(text)? {
        0 => Err(Mistake::new(
            "this number must not be zero",
            "expected at least 1",
        )),
        count => Ok(count),
    }
}

/// A whole number other than zero, or `""` for no limit.
pub(in crate::config_file) fn optional_count<T: TryFrom<usize>>(
    text: &str,
) -> Result<Option<T>, Mistake> {
    if text.is_empty() {
        return Ok(None);
    }
    T::try_from(some(text)?).map(Some).map_err(|_| {
        let what = format!("`{text}` is too large");
        Mistake::new(what, "expected less than 4294967296")
    })
}

/// A size, or `""` for no limit.
pub(in crate::config_file) fn optional_size(text: &str) -> Result<Option<u64>, Mistake> {
    match text {
        "" => Ok(None),
        text => size(text).map(|bytes| Some(bytes as u64)),
    }
}

/// Parses the number of worker threads; `"auto"` is one per core.
///
/// # Errors
///
/// The mistake in `text`.
pub fn workers(text: &str) -> Result<NonZeroUsize, Mistake> {
    /// More threads than any machine has cores.
    const MAX_WORKERS: usize = 4096;
    if text == "auto" {
        return Ok(all_cores());
    }
    let workers = text.parse().ok();
    let workers = workers.filter(|workers: &NonZeroUsize| workers.get() <= MAX_WORKERS);
    workers.ok_or_else(|| {
        Mistake::new(
            format!("`{text}` is not a number of workers"),
            format!("expected 1 to {MAX_WORKERS}, or \"auto\" for one per core"),
        )
    })
}

/// One worker per core.
pub(in crate::config_file) fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// A part of the whole, 0 to 1.
pub(in crate::config_file) fn fraction(text: &str) -> Result<f64, Mistake> {
    let fraction = text.parse().ok();
    let fraction = fraction.filter(|fraction| (0.0..=1.0).contains(fraction));
    fraction.ok_or_else(|| {
        Mistake::new(
            format!("`{text}` is not a part of the whole"),
            "expected a number from 0 to 1",
        )
    })
}

/// `true` or `false`.
pub(in crate::config_file) fn truth(text: &str) -> Result<bool, Mistake> {
    text.parse().map_err(|_| {
        Mistake::new(
            format!("`{text}` is neither true nor false"),
            "expected true or false",
        )
    })
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(duration("1 h"), Ok(Duration::from_hours(1)));
        assert_eq!(duration("0ms"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "1S",
            "1s1",
            "99999999999999999h",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(duration("30").unwrap_err().to_string().contains("\"30s\""));
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MiB"), Ok(1_048_576));
        assert_eq!(size("2 GiB"), Ok(2_147_483_648));
        for wrong in [
            "",
            "KiB",
            "-1",
            "1.5MiB",
            "0",
            "1TB",
            "1é",
            "99999999999GiB",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        for near in ["1MB", "1M", "1mb"] {
            assert!(
                size(near).unwrap_err().to_string().contains("\"1MiB\""),
                "{near}"
            );
        }
    }

    #[test]
    fn memory_is_a_size_or_a_share() {
        assert_eq!(memory("25%"), Ok(Memory::Percent(25)));
        assert_eq!(memory("256MiB"), Ok(Memory::Bytes(268_435_456)));
        for wrong in ["0%", "101%", "%", "-5%", "2.5%"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn workers_are_a_number_or_one_per_core() {
        assert_eq!(workers("3").map(NonZeroUsize::get), Ok(3));
        assert!(workers("auto").is_ok());
        assert!(workers("0").is_err());
        assert!(workers("5000").is_err());
    }

    #[test]
    fn a_fraction_is_from_0_to_1() {
        assert_eq!(fraction("0.5"), Ok(0.5));
        assert_eq!(fraction("1"), Ok(1.0));
        for wrong in ["-0.1", "1.1", "nan", "inf", ""] {
            assert!(fraction(wrong).is_err(), "{wrong}");
        }
    }
}
