//! What concerns the process as a whole: listeners, workers, log, limits, drain.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::Path,
    time::Duration,
};

use toml::de::DeValue;

use super::{
    effective::Origin,
    reader::{Table, Value, override_with},
    report::{Mistake, Problem},
    tls,
    values::{
        address,
        units::{self, Memory},
    },
};
use crate::{
    client::TrustedProxies,
    memory::{self, Bound, Usage},
    server::{DEFAULT_ADMIN, Limits, ListenAddress, ListenSettings},
    session::drain,
    telemetry::{FORMATS, LEVELS, Platform, Requests, Settings},
};

/// How much memory may be in use. The rest is for what comes before the next look, and for what
/// is under way.
const DEFAULT_MAX_SHARE: Memory = Memory::Percent(85);

/// The port where neither the file nor the environment names one.
const DEFAULT_PORT: u16 = 8080;

/// `listen = "address"`, or one `[[listen]]` for each address.
pub(super) fn listen(top: &mut Table<'_>, trusted_proxies: &TrustedProxies) -> Vec<ListenSettings> {
    let value = top.lookup("listen");
    let Some(value) = value else {
        let (port, origin) = default_port(top);
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        top.note("listen", address.to_string(), origin);
        return vec![ListenAddress::Tcp(address).into()];
    };
    if matches!(value.content(), DeValue::String(_) | DeValue::Integer(_)) {
        let address = top.measure("listen", address::listen);
        return address.into_iter().map(ListenSettings::from).collect();
    }
    if let Some(mistake) = addresses_alone(value) {
        value.report(mistake);
        return Vec::new();
    }
    let mut seen = Vec::new();
    let listeners = top.tables("listen", |table| {
        listener(table, &mut seen, trusted_proxies)
    });
    if listeners.is_empty() && top.is_sound() {
        let what = "nobody could connect";
        value.report(Mistake::new(what, "expected at least one address"));
    }
    listeners.into_iter().flatten().collect()
}

/// What is wrong with a list of addresses where one of tables belongs.
fn addresses_alone(value: Value<'_>) -> Option<Mistake> {
    let addresses = value.content().as_array()?.iter();
    let tables = addresses.map(|address| {
        let text = match address.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => number.as_str(),
            _ => return None,
        };
        let meant = address::meant(text, address::EVERYWHERE);
        let address = meant.unwrap_or_else(|| text.to_owned());
        Some(format!("{{ address = \"{address}\" }}"))
    });
    let tables = tables.collect::<Option<Vec<_>>>()?;
    let mistake = Mistake::new("`listen` cannot be a list of addresses", "expected tables");
    let help = format!("write [{}]", tables.join(", "));
    (!tables.is_empty()).then(|| mistake.help(help))
}

/// One `[[listen]]`; `seen` are the addresses of those before it.
fn listener(
    table: &mut Table<'_>,
    seen: &mut Vec<ListenAddress>,
    trusted_proxies: &TrustedProxies,
) -> Option<ListenSettings> {
    let address = table.measure("address", address::listen);
    let proxy_protocol = proxy_protocol(table, trusted_proxies);
    if address.is_none() && table.is_sound() {
        let what = "this listener has no address";
        table.lacks(
            "address",
            Mistake::new(what, "expected address = \"0.0.0.0:8080\""),
        );
    }
    let address = address?;
    if seen.contains(&address) {
        let what = "this address is already listened on";
        table.problem_at(table.span(), Mistake::new(what, "expected another one"));
    }
    seen.push(address.clone());
    let tls = table.lookup("tls").is_some();
    let tls = tls.then(|| table.table("tls", tls::listener)).flatten();
    let h2c = h2c(table, tls.is_some());
    Some(ListenSettings {
        address,
        proxy_protocol,
        tls,
        h2c,
    })
}

/// Whether clients may speak HTTP/2 without TLS.
fn h2c(table: &mut Table<'_>, has_tls: bool) -> bool {
    let enabled = table.take("h2c", |value| {
        let enabled = value.measure(units::truth)?;
        if enabled && has_tls {
            let what = "h2c is HTTP/2 without TLS, and this listener has TLS";
            let mistake = Mistake::new(what, "expected h2 = true in [listen.tls]");
            return value.problem(mistake);
        }
        Some(enabled)
    });
    enabled.unwrap_or(false)
}

/// Whether connections begin with a header of the PROXY protocol, which only trusted proxies
/// may send.
fn proxy_protocol(table: &mut Table<'_>, trusted_proxies: &TrustedProxies) -> bool {
    let enabled = table.take("proxy_protocol", |value| {
        let enabled = value.measure(units::truth)?;
        if enabled && trusted_proxies.is_empty() {
            let what = "nobody could connect: there are no trusted proxies";
            let expected = "expected trusted_proxies at the top of the file";
            return value.problem(Mistake::new(what, expected));
        }
        Some(enabled)
    });
    enabled.unwrap_or(false)
}

/// `PORT`, as Cloud Run and its like set it.
fn default_port(top: &Table<'_>) -> (u16, Origin) {
    let Some(port) = top
        .file()
        .environment("PORT")
        .filter(|port| !port.is_empty())
    else {
        return (DEFAULT_PORT, Origin::Default);
    };
    let port = port.parse().unwrap_or_else(|_| {
        let what = "the environment variable PORT is not a port";
        let expected = "expected a number from 0 to 65535";
        top.file()
            .report(Problem::nowhere(Mistake::new(what, expected)));
        DEFAULT_PORT
    });
    (port, Origin::Environment)
}

pub(super) fn workers(top: &mut Table<'_>) -> NonZeroUsize {
    let auto = || units::workers("auto").unwrap_or(NonZeroUsize::MIN);
    top.measure("workers", units::workers).unwrap_or_else(auto)
}

/// Where the admin listener is.
pub(super) fn admin(top: &mut Table<'_>) -> Option<ListenAddress> {
    let default = Some(ListenAddress::Tcp(DEFAULT_ADMIN));
    let meant = top.lookup("admin").and_then(|value| match value.content() {
        DeValue::String(text) => Some((value, text.to_string())),
        DeValue::Integer(number) => Some((value, number.as_str().to_owned())),
        DeValue::Boolean(false) => Some((value, String::new())),
        _ => None,
    });
    if let Some((value, text)) = meant {
        let address = address::meant(&text, address::LOOPBACK).unwrap_or(text);
        let mistake = Mistake::new("`admin` is a table", "expected its `listen`");
        value.report(mistake.help(format!("write admin.listen = \"{address}\"")));
        return default;
    }
    top.table("admin", |table| {
        table.measure("listen", address::admin).unwrap_or(default)
    })
}

pub(super) fn log(table: &mut Table<'_>) -> Settings {
    let default = Settings::default();
    let logged = [
        ("none", Requests::None),
        ("errors", Requests::Errors),
        ("all", Requests::All),
    ];
    Settings {
        level: table
            .take("level", |level| level.choice(&LEVELS))
            .unwrap_or(default.level),
        format: table
            .take("format", |format| format.choice(&FORMATS))
            .unwrap_or(default.format),
        requests: table
            .take("requests", |requests| requests.choice(&logged))
            .unwrap_or(default.requests),
        platform: Platform::of(&|name| table.file().environment(name)),
    }
}

pub(super) fn limits(table: &mut Table<'_>) -> Limits {
    /// A quarter: the rest is for the sessions themselves and for the application, if it
    /// shares the cgroup.
    const DEFAULT_SHARE: Memory = Memory::Percent(25);
    let max_held = table.measure("max_held_bytes", units::memory);
    let mut limits = Limits::new(bytes(max_held.unwrap_or(DEFAULT_SHARE)));
    let max_memory = table.measure("max_memory_bytes", units::optional_memory);
    limits.max_memory = max_memory
        .unwrap_or(Some(DEFAULT_MAX_SHARE))
        .and_then(|max| bound(Path::new("/"), max));
    override_with(
        &mut limits.max_connections,
        table.measure("max_connections", units::some),
    );
    override_with(
        &mut limits.max_connections_per_address,
        table.measure("max_connections_per_address", units::optional_count),
    );
    override_with(
        &mut limits.session_rate,
        table.measure("session_rate", units::optional_count),
    );
    override_with(
        &mut limits.session_rate_per_address,
        table.measure("session_rate_per_address", units::optional_count),
    );
    override_with(
        &mut limits.max_headers,
        table.measure("max_headers", headers),
    );
    override_with(
        &mut limits.max_uri_bytes,
        table.measure("max_uri_bytes", units::size),
    );
    override_with(
        &mut limits.max_header_bytes,
        table.measure("max_header_bytes", header_bytes),
    );
    override_with(
        &mut limits.header_timeout,
        table.some_time("header_timeout"),
    );
    override_with(
        &mut limits.keep_alive_timeout,
        table.some_time("keep_alive_timeout"),
    );
    override_with(
        &mut limits.max_streams,
        table.measure("max_streams", max_streams),
    );
    override_with(&mut limits.write_timeout, table.some_time("write_timeout"));
    limits
}

pub(super) fn reload_poll(table: &mut Table<'_>) -> Option<Duration> {
    table.measure("poll", units::optional_time).flatten()
}

pub(super) fn drain(table: &mut Table<'_>) -> drain::Settings {
    let mut settings = drain::Settings::default();
    override_with(&mut settings.delay, table.duration("delay"));
    override_with(&mut settings.grace, table.duration("grace"));
    override_with(&mut settings.spread, table.duration("spread"));
    settings
}

/// The bound of `max` where the files of the system are below `root`. A share is one of the
/// cgroup's limit: without that there is nothing that would be used up.
fn bound(root: &Path, max: Memory) -> Option<Bound> {
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

fn bytes(memory: Memory) -> usize {
    /// What is assumed where neither a cgroup nor the machine says.
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
    /// What hyper's parser and ours have room for.
    const MAX_HEADERS: usize = 100;
    match units::some(text)? {
        count @ ..=MAX_HEADERS => Ok(count),
        _ => Err(Mistake::new(
            "no request may have so many headers",
            format!("expected at most {MAX_HEADERS}"),
        )),
    }
}

fn max_streams(text: &str) -> Result<u32, Mistake> {
    /// Beyond this the windows of all streams do not fit into that of the connection.
    const MAX_STREAMS: usize = 10_000;
    match units::some(text)? {
        streams @ ..=MAX_STREAMS => Ok(u32::try_from(streams).unwrap_or(u32::MAX)),
        _ => Err(Mistake::new(
            "these are too many streams for one connection",
            "expected at most 10000",
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_share_is_one_of_the_cgroup_s_limit_and_a_size_is_what_it_says() {
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
        assert_eq!(bound(DEFAULT_MAX_SHARE), None);

        write("sys/fs/cgroup/app/memory.max", "1000000\n");
        let of_cgroup = |max_bytes| {
            let (_, usage) = memory::cgroup(root.path()).unwrap();
            Some(Bound { max_bytes, usage })
        };
        assert_eq!(bound(size), of_cgroup(67_108_864));
        assert_eq!(bound(Memory::Percent(50)), of_cgroup(500_000));
        assert_eq!(bound(DEFAULT_MAX_SHARE), of_cgroup(850_000));
    }
}
