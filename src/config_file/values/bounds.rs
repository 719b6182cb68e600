//! Numbers, sizes and durations with bounds of their own.

use std::{path::Path, time::Duration};

use super::{
    Notation, Plain,
    units::{self, Memory},
};
use crate::{
    config_file::report::Mistake,
    limits::{
        memory,
        overload::{Bound, Usage},
    },
    websocket::CloseCode,
};

pub(in crate::config_file) const HEADERS: Plain<usize> =
    Plain(Notation::Count(1, MAX_HEADERS as u64), headers);
pub(in crate::config_file) const HEADER_BYTES: Plain<usize> = Plain(Notation::Size, header_bytes);
pub(in crate::config_file) const STREAMS: Plain<u32> =
    Plain(Notation::Count(1, MAX_STREAMS as u64), max_streams);
pub(in crate::config_file) const HELD_MEMORY: Plain<usize> =
    Plain(Notation::Memory, |text| units::memory(text).map(bytes));
pub(in crate::config_file) const MEMORY_BOUND: Plain<Option<Bound>> =
    Plain(Notation::OptionalMemory, |text| {
        let max = units::optional_memory(text)?;
        Ok(max.and_then(|max| bound(Path::new("/"), max)))
    });

pub(in crate::config_file) const QUEUE_BYTES: Plain<usize> = Plain(Notation::Size, queue_bytes);
pub(in crate::config_file) const COOLDOWN: Plain<Duration> = Plain(Notation::Duration, cooldown);
pub(in crate::config_file) const HOLD_TIMEOUT: Plain<Option<Duration>> =
    Plain(Notation::OptionalDuration, hold_timeout);
pub(in crate::config_file) const RESPONSE_HEADERS: Plain<u16> = Plain(
    Notation::Count(1, MAX_RESPONSE_HEADERS as u64),
    response_headers,
);
pub(in crate::config_file) const RESPONSE_HEADER_BYTES: Plain<u32> =
    Plain(Notation::Size, response_header_bytes);

/// Most header lines that hyper's parser and ours have room for.
const MAX_HEADERS: usize = 100;

/// Most streams whose windows fit into that of the connection.
const MAX_STREAMS: usize = 10_000;

/// Most header lines of a response; each takes room for some more bytes than it has.
const MAX_RESPONSE_HEADERS: usize = 1000;

/// Returns the bound that `max` means, by the system files below `root`. A share is one of the
/// cgroup's limit; `None` without such a limit.
pub(in crate::config_file) fn bound(root: &Path, max: Memory) -> Option<Bound> {
    let cgroup = memory::cgroup(root);
    Some(match max {
        Memory::Bytes(max_bytes) => Bound {
            max_bytes: max_bytes as u64,
            usage: cgroup.map_or_else(|| Usage::of_process(root), |(_, usage)| usage),
        },
        Memory::Percent(percent) => {
            let (limit, usage) = cgroup?;
            let max_bytes = limit / 100 * u64::from(percent);
            Bound { max_bytes, usage }
        }
    })
}

pub(in crate::config_file) fn bytes(memory: Memory) -> usize {
    /// Assumed when neither the cgroup nor the machine tells.
    const UNKNOWN_MEMORY_BYTES: u64 = 1 << 30;
    match memory {
        Memory::Bytes(bytes) => bytes,
        Memory::Percent(percent) => {
            let limit = memory::limit(Path::new("/")).unwrap_or(UNKNOWN_MEMORY_BYTES);
            usize::try_from(limit / 100 * u64::from(percent)).unwrap_or(usize::MAX)
        }
    }
}

fn headers(text: &str) -> Result<usize, Mistake> {
    match units::some(text)? {
        count @ ..=MAX_HEADERS => Ok(count),
        _ => Err(Mistake::new(
            "no request may have so many headers",
            format!("expected at most {MAX_HEADERS}"),
        )),
    }
}

fn header_bytes(text: &str) -> Result<usize, Mistake> {
    /// hyper reads at least this much at once.
    const MIN_HEADER_BYTES: usize = 8 * 1024;
    match units::size(text)? {
        ..MIN_HEADER_BYTES => Err(Mistake::new(
            "this is too little for a header section",
            "expected at least \"8KiB\"",
        )),
        bytes => Ok(bytes),
    }
}

fn max_streams(text: &str) -> Result<u32, Mistake> {
    match units::some(text)? {
        streams @ ..=MAX_STREAMS => Ok(u32::try_from(streams).unwrap_or(u32::MAX)),
        _ => Err(Mistake::new(
            "these are too many streams for one connection",
            "expected at most 10000",
        )),
    }
}

/// Parses the size of a queue, which has to have room for a message.
fn queue_bytes(text: &str) -> Result<usize, Mistake> {
    match units::size(text)? {
        ..1024 => Err(Mistake::new(
            "this queue is too small for a message",
            "expected at least \"1KiB\"",
        )),
        bytes => Ok(bytes),
    }
}

fn cooldown(text: &str) -> Result<Duration, Mistake> {
    /// Far beyond what makes sense.
    const MAX: Duration = Duration::from_hours(24);
    let cooldown = units::some_time(text)?;
    if cooldown > MAX {
        let what = "nobody would be let through for too long";
        return Err(Mistake::new(what, "expected at most \"24h\""));
    }
    Ok(cooldown)
}

/// A duration, zero included, or `""` for that of the gate.
fn hold_timeout(text: &str) -> Result<Option<Duration>, Mistake> {
    match text {
        "" => Ok(None),
        text => units::duration(text).map(Some),
    }
}

fn response_headers(text: &str) -> Result<u16, Mistake> {
    match units::some(text)? {
        count @ ..=MAX_RESPONSE_HEADERS => Ok(u16::try_from(count).unwrap_or(u16::MAX)),
        _ => Err(Mistake::new(
            "no answer may have so many headers",
            format!("expected at most {MAX_RESPONSE_HEADERS}"),
        )),
    }
}

fn response_header_bytes(text: &str) -> Result<u32, Mistake> {
    /// hyper reads at least this much at once.
    const MIN: usize = 8 * 1024;
    /// hyper's buffer has room for some more.
    const MAX: usize = 256 * 1024;
    match units::size(text)? {
        bytes @ MIN..=MAX => Ok(u32::try_from(bytes).unwrap_or(u32::MAX)),
        _ => Err(Mistake::new(
            "no header section can be bounded by that",
            "expected \"8KiB\" to \"256KiB\"",
        )),
    }
}

/// A close code that may be sent (RFC 6455 §7.4).
pub(in crate::config_file) fn close_code(text: &str) -> Result<CloseCode, Mistake> {
    let code = text.parse::<u16>().ok();
    let code = code.and_then(|code| CloseCode::try_from(code).ok());
    code.ok_or_else(|| {
        let what = format!("`{text}` is not a close code that may be sent");
        Mistake::new(what, "expected 1000 to 1003, 1007 to 1014 or 3000 to 4999")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_share_is_of_the_cgroups_limit_and_a_size_is_absolute() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("proc/meminfo", "MemTotal:       2048 kB\n");
        write("proc/self/cgroup", "0::/app\n");
        let bound = |max| bound(root.path(), max);
        let size = Memory::Bytes(64 << 20);

        let of_process = Bound {
            max_bytes: 67_108_864,
            usage: Usage::of_process(root.path()),
        };
        assert_eq!(bound(size), Some(of_process));
        assert_eq!(bound(Memory::Percent(85)), None);

        write("sys/fs/cgroup/app/memory.max", "1000000\n");
        let of_cgroup = |max_bytes| {
            let (_, usage) = memory::cgroup(root.path()).unwrap();
            Some(Bound { max_bytes, usage })
        };
        assert_eq!(bound(size), of_cgroup(67_108_864));
        assert_eq!(bound(Memory::Percent(50)), of_cgroup(500_000));
        assert_eq!(bound(Memory::Percent(85)), of_cgroup(850_000));
    }
}
