//! Values in effect, and their origins.
//!
//! Values are as written: `"25%"`, not its size on this machine. A key that the file lacks has the
//! default of its row in `keys`; a test compares these with the settings structs.
//!
//! # Invariants
//!
//! * Values from the environment are shown expanded only where they were read as a number, size,
//!   duration, boolean, word or address. Any other text may contain a token, and is shown as
//!   written: `${NAME}`.

mod show;

use std::fmt;

pub use super::reader::Origin;
use super::{keys, reader::Noted, report::escape, section::Section};
use serde::Serialize;
use serde_json::Value;

/// A value in effect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Full key, such as `route[0].gate.timeout`.
    pub key: String,
    /// Value as written.
    pub value: Value,
    /// Origin of the value.
    pub origin: Origin,
}

/// Values that were set, by the names of their keys; those of all others are the defaults.
#[derive(Clone, Default)]
pub struct Effective(pub(super) Noted);

impl fmt::Debug for Effective {
    /// Omits the content, so that configurations with equal settings have equal `Debug` output.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Effective")
    }
}

impl Effective {
    /// Replaces the value of `key` by one of the command line, in which nothing is a variable.
    pub fn override_with(&mut self, key: &str, value: impl Into<Value>) {
        let value = match value.into() {
            Value::String(text) => escape(&text).into(),
            other => other,
        };
        self.0.retain(|known, _| {
            let rest = known.strip_prefix(key);
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        });
        self.0.insert(key.to_owned(), (value, Origin::CommandLine));
    }

    /// Returns every value in effect, ordered by key.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut all = self.0.clone();
        for section in keys::sections() {
            for table in self.tables(section) {
                for row in section.rows_with_defaults() {
                    let default = || (row.default_value(), Origin::Default);
                    let key = join(&table, row.name);
                    all.entry(key).or_insert_with(default);
                }
            }
        }
        let mut settings: Vec<_> = all
            .into_iter()
            .map(|(key, (value, origin))| Setting { key, value, origin })
            .collect();
        settings.sort_by_cached_key(|setting| natural(&setting.key));
        settings
    }

    /// Names of the tables of this section: each table of a list; an optional table only when it is
    /// set.
    fn tables(&self, section: &Section) -> Vec<String> {
        let mut tables = vec![String::new()];
        for step in section.name.split('.').filter(|step| !step.is_empty()) {
            let numbered = |table: String| match step.strip_suffix("[]") {
                Some(list) => self.elements(&join(&table, list)),
                None => vec![join(&table, step)],
            };
            tables = tables.into_iter().flat_map(numbered).collect();
        }
        if !section.is_shipped() {
            tables.retain(|table| self.has_in(table));
        }
        tables
    }

    /// Names of the tables in a list.
    fn elements(&self, list: &str) -> Vec<String> {
        let elements = (0..).map(|index| format!("{list}[{index}]"));
        elements.take_while(|table| self.has_in(table)).collect()
    }

    /// Returns whether a value in `table` is set.
    fn has_in(&self, table: &str) -> bool {
        let prefix = format!("{table}.");
        let mut from = self.0.range(prefix.clone()..);
        from.next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }
}

fn join(table: &str, key: &str) -> String {
    match table {
        "" => key.to_owned(),
        table => format!("{table}.{key}"),
    }
}

/// Sort key in which `route[10]` follows `route[9]`.
fn natural(key: &str) -> Vec<(usize, String)> {
    let part = |part: &str| match part.split_once(']') {
        Some((index, rest)) => (index.parse().unwrap_or(0), rest.to_owned()),
        None => (0, part.to_owned()),
    };
    key.split('[').map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config_file::Config;

    fn environment(name: &str) -> Option<String> {
        match name {
            "BACKEND" => Some("backend:9000".to_owned()),
            "TOKEN" => Some("canary".to_owned()),
            "PORT" => Some("7000".to_owned()),
            "ADDRESS" => Some("192.0.2.7".to_owned()),
            _ => None,
        }
    }

    fn settings(text: &str) -> BTreeMap<String, (Value, Origin)> {
        let config = Config::parse("proxy.toml", text, &environment).unwrap();
        let settings = config.effective.settings().into_iter();
        settings
            .map(|setting| (setting.key, (setting.value, setting.origin)))
            .collect()
    }

    #[test]
    fn each_value_says_where_it_comes_from() {
        let settings = settings(
            r#"
            limits.max_connections = 7
            [[route]]
            upstream = "http://${BACKEND}"
            gate.timeout = "45s"
            origins = ["https://a.example"]
            [[route]]
            path = "/b"
            upstream = "http://b"
            "#,
        );
        let is = |key: &str, value: Value, origin| {
            assert_eq!(settings[key], (value, origin), "{key}");
        };

        is("limits.max_connections", 7.into(), Origin::File);
        is("limits.max_held_bytes", "25%".into(), Origin::Default);
        is("listen", "0.0.0.0:7000".into(), Origin::Environment);
        is("admin.listen", "127.0.0.1:9901".into(), Origin::Default);
        is(
            "route[0].upstream",
            "http://backend:9000".into(),
            Origin::Environment,
        );
        is("route[0].gate.timeout", "45s".into(), Origin::File);
        is("route[0].path", "/".into(), Origin::Default);
        is("route[1].path", "/b".into(), Origin::File);
        is("route[1].gate.timeout", "30s".into(), Origin::Default);
        is("route[1].connect.retry.jitter", 0.5.into(), Origin::Default);
        is("route[1].close_codes.401", 1008.into(), Origin::Default);
        assert_eq!(settings["route[0].origins"].0[0], "https://a.example");
        assert!(!settings.contains_key("route[2].path"));
    }

    #[test]
    fn text_from_the_environment_is_shown_as_it_is_written() {
        let settings = settings(
            r#"
            [[listen]]
            address = "127.0.0.1:7000"
            [[route]]
            host = "${TOKEN}.example"
            path = "/${TOKEN}"
            upstream = "http://b"
            origins = ["https://a.example", "https://${TOKEN}"]
            subprotocols = ["${TOKEN}"]
            gate.ready = [{ text = "${TOKEN}" }, { json = { "/token" = "${TOKEN}" } }]
            close_codes = { 401 = 4401 }
            [[route.message]]
            match = { prefix = "${TOKEN}" }
            "#,
        );

        let all = format!("{settings:?}");
        assert!(!all.contains("canary"), "{all}");
        let is = |key: &str, value: Value| {
            assert_eq!(settings[key], (value, Origin::Environment), "{key}");
        };
        is("route[0].path", "/${TOKEN}".into());
        assert_eq!(settings["route[0].origins"].0[0], "https://a.example");
        assert_eq!(settings["route[0].gate.ready"].0[0]["text"], "${TOKEN}");
        assert_eq!(settings["listen[0].h2c"], (false.into(), Origin::Default));
        assert!(!settings.contains_key("listen"));
        assert_eq!(settings["route[0].close_codes.401"].0, 4401);
    }

    #[test]
    fn harmless_values_from_the_environment_are_shown() {
        let settings = settings(
            r#"
            trusted_proxies = ["${ADDRESS}"]
            admin.listen = "${ADDRESS}:${PORT}"
            listen = [{ address = "unix:/${FOLDER:-run}/clients.sock" }]
            limits.max_connections = "${PORT}"
            limits.max_held_bytes = "${PORT}KiB"
            [log]
            level = "${LOG_LEVEL:-debug}"
            [[route]]
            upstream = "http://${BACKEND}"
            gate.ready = { on = "${EVENT:-pong}" }
            gate.timeout = "${PORT}s"
            gate.forward_ready = "${FORWARD:-false}"
            close_codes = { 401 = "${CODE:-4401}" }
            "#,
        );

        for (key, value) in [
            ("admin.listen", "192.0.2.7:7000"),
            ("listen[0].address", "unix:/run/clients.sock"),
            ("route[0].upstream", "http://backend:9000"),
            ("limits.max_connections", "7000"),
            ("limits.max_held_bytes", "7000KiB"),
            ("log.level", "debug"),
            ("route[0].gate.timeout", "7000s"),
            ("route[0].gate.forward_ready", "false"),
            ("route[0].close_codes.401", "4401"),
        ] {
            assert_eq!(settings[key], (value.into(), Origin::Environment), "{key}");
        }
        assert_eq!(settings["trusted_proxies"].0[0], "192.0.2.7");
        assert_eq!(settings["route[0].gate.ready"].0["on"], "pong");
    }

    #[test]
    fn a_table_that_is_there_has_its_defaults() {
        let settings = settings(
            r#"
            [[route]]
            upstream = "http://b"
            gate.ready = { text = "ready" }
            [[route.message]]
            match = { text = "a" }
            [[route.message]]
            match = { text = "b" }
            priority = "low"
            "#,
        );

        let of = |key: &str| settings[key].clone();
        let message = "route[0].message";
        assert_eq!(
            of(&format!("{message}[0].priority")),
            ("normal".into(), Origin::Default)
        );
        assert_eq!(
            of(&format!("{message}[1].priority")),
            ("low".into(), Origin::File)
        );
        assert_eq!(of(&format!("{message}[1].release")).0, "ready");
        assert!(!settings.contains_key("listen[0].tls.h2"));
    }

    #[test]
    fn the_command_line_comes_before_the_file() {
        let text = "[[listen]]\naddress = \"127.0.0.1:1\"\n[[route]]\nupstream = \"http://b\"";
        let mut config = Config::parse("proxy.toml", text, &environment).unwrap();

        config.effective.override_with("listen", "unix:/run/${X}");

        let settings = config.effective.settings();
        let listen: Vec<_> = settings
            .iter()
            .filter(|setting| setting.key.starts_with("listen"))
            .collect();
        assert_eq!(listen.len(), 1, "{listen:?}");
        assert_eq!(listen[0].origin, Origin::CommandLine);
        assert_eq!(listen[0].value, "unix:/run/$${X}", "as the file has it");
    }

    #[test]
    fn without_a_file_everything_else_is_a_default() {
        let upstream = super::super::address::upstream("https://[::1]:9").unwrap();
        let config = Config::for_upstream(upstream, &|_| None).unwrap();

        let settings = config.effective.settings();

        let of = |key: &str| settings.iter().find(|it| it.key == key).unwrap();
        assert_eq!(of("route[0].upstream").value, "https://[::1]:9");
        assert_eq!(of("route[0].upstream").origin, Origin::CommandLine);
        assert_eq!(of("route[0].gate.timeout").origin, Origin::Default);
        assert_eq!(of("listen").origin, Origin::Default);
    }
}
