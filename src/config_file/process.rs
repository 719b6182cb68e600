//! Settings of the process, and checks across several keys.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use toml::de::DeValue;

use super::{
    Config, keys,
    reader::{Origin, Table, Value},
    report::{Mistake, Problem},
    tls,
    values::{address, bounds, units::Memory},
};
use crate::{
    config::{Limits, ListenAddress, ListenSettings},
    observability::{Platform, Settings},
};

/// Share of the memory that may be in use; the rest is headroom until the next check.
const DEFAULT_MAX_SHARE: Memory = Memory::Percent(85);

/// Share of the memory for held messages; the rest is for sessions, and for the application if it
/// shares the cgroup.
const DEFAULT_HELD_SHARE: Memory = Memory::Percent(25);

/// Port when neither the file nor the environment sets one.
const DEFAULT_PORT: u16 = 8080;

/// Reads all keys of the process over the defaults in `config`.
pub(super) fn read(top: &mut Table<'_>, config: &mut Config) {
    keys::TOP.read(top, config);
    config.listen = listen(top, config);
    admin(top, config);
    config.log = top.table("log", log);
    config.limits = top.table("limits", limits);
    config.drain = keys::DRAIN.table(top);
    top.table("reload", |table| keys::RELOAD.read(table, config));
}

/// `listen = "address"`, or one `[[listen]]` for each address.
fn listen(top: &mut Table<'_>, config: &Config) -> Vec<ListenSettings> {
    let value = top.lookup("listen");
    let Some(value) = value else {
        let (port, origin) = default_port(top);
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        top.note("listen", address.to_string(), origin);
        return vec![ListenAddress::Tcp(address).into()];
    };
    if matches!(value.content(), DeValue::String(_) | DeValue::Integer(_)) {
        let address = top.take("listen", |value| value.measure(address::listen));
        return address.into_iter().map(ListenSettings::from).collect();
    }
    if let Some(mistake) = addresses_alone(value) {
        value.report(mistake);
        return Vec::new();
    }
    let mut seen = Vec::new();
    let listeners = top.tables("listen", |table| listener(table, &mut seen, config));
    if listeners.is_empty() && top.is_sound() {
        let what = "nobody could connect";
        value.report(Mistake::new(what, "expected at least one address"));
    }
    listeners
}

/// Mistake of a list of addresses in place of a list of tables.
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

/// Reads one `[[listen]]`; `seen` holds the addresses of those before it.
fn listener(
    table: &mut Table<'_>,
    seen: &mut Vec<ListenAddress>,
    config: &Config,
) -> ListenSettings {
    // No address is written like this.
    let nowhere = ListenAddress::Unix(PathBuf::new());
    let mut listener = ListenSettings::from(nowhere.clone());
    keys::LISTEN.read(table, &mut listener);
    let value = table.lookup("proxy_protocol");
    if let Some(value) = value.filter(|_| listener.proxy_protocol)
        && config.trusted_proxies.is_empty()
    {
        let what = "nobody could connect: there are no trusted proxies";
        let expected = "expected trusted_proxies at the top of the file";
        value.report(Mistake::new(what, expected));
    }
    if table.lookup("address").is_none() {
        let what = "this listener has no address";
        let mistake = Mistake::new(what, "expected address = \"0.0.0.0:8080\"");
        table.lacks("address", mistake);
    }
    if listener.address != nowhere && seen.contains(&listener.address) {
        let what = "this address is already listened on";
        table.problem_at(table.span(), Mistake::new(what, "expected another one"));
    }
    seen.push(listener.address.clone());
    let tls = table.lookup("tls").is_some();
    listener.tls = tls.then(|| table.table("tls", tls::listener)).flatten();
    let value = table.lookup("h2c");
    if let Some(value) = value.filter(|_| listener.h2c && listener.tls.is_some()) {
        let what = "h2c is HTTP/2 without TLS, and this listener has TLS";
        value.report(Mistake::new(what, "expected h2 = true in [listen.tls]"));
    }
    listener
}

/// Port in the variable `PORT`, as Cloud Run and similar platforms set it.
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

/// Reads `[admin]`; a bare address in its place is a mistake with its own help.
fn admin(top: &mut Table<'_>, config: &mut Config) {
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
        return;
    }
    top.table("admin", |table| keys::ADMIN.read(table, config));
}

fn log(table: &mut Table<'_>) -> Settings {
    let mut log = Settings {
        platform: Platform::of(&|name| table.file().environment(name)),
        ..Settings::default()
    };
    keys::LOG.read(table, &mut log);
    log
}

fn limits(table: &mut Table<'_>) -> Limits {
    let mut limits = Limits::new(bounds::bytes(DEFAULT_HELD_SHARE));
    limits.max_memory = bounds::bound(Path::new("/"), DEFAULT_MAX_SHARE);
    keys::LIMITS.read(table, &mut limits);
    limits
}
