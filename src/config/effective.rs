//! What is in effect and where it comes from, for people to look at.
//!
//! Values are as the file has them: `"25%"` and not what that is on this machine. What is not
//! in the file is taken from the file that is shipped, which has every default; a test holds
//! that against the code.
//!
//! # Invariants
//!
//! * What came from the environment is shown only where it was read as a number, a size, a
//!   duration, a truth value, one of several words, or an address, which has no place for a
//!   password and which operators look for. Any other text, which may be a token or
//!   have one in it, is shown as it is written: `${NAME}`.

mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;
use serde_json::Value;
use toml::de::DeValue;

use super::{Config, DEFAULT, report::escape};

/// The defaults in tables that the shipped file has only as examples.
fn defaults_of_optional_tables() -> [(&'static str, &'static str, Value); 6] {
    [
        ("listen[].tls", "client_ca", "".into()),
        ("listen[].tls", "h2", true.into()),
        ("route[].message[]", "priority", "normal".into()),
        ("route[].message[]", "release", "ready".into()),
        ("route[].tls", "ca", "".into()),
        ("route[].tls", "server_name", "".into()),
    ]
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file.
    File,
    /// The environment, by way of the file or by itself.
    Environment,
    /// The command line.
    CommandLine,
}

/// One value that is in effect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Its key with those of its tables, `route[0].gate.timeout`.
    pub key: String,
    /// What it is.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// Everything that somebody has said.
#[derive(Clone, Default)]
pub struct Effective(BTreeMap<String, (Value, Origin)>);

impl fmt::Debug for Effective {
    /// Says nothing: it is not part of what the program does.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Effective")
    }
}

impl Effective {
    /// Notes what the command line says instead, where nothing is a variable, `key` being a key
    /// of the top level or one with its tables.
    pub fn override_with(&mut self, key: &str, value: impl Into<Value>) {
        let value = match value.into() {
            Value::String(text) => escape(&text).into(),
            other => other,
        };
        self.0.retain(|known, _| {
            let rest = known.strip_prefix(key);
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        });
        self.note(key.to_owned(), value, Origin::CommandLine);
    }

    /// Everything that is in effect, in the order of the keys.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut all = self.0.clone();
        for (key, value) in defaults() {
            for key in self.instances(&key) {
                all.entry(key).or_insert((value.clone(), Origin::Default));
            }
        }
        for (table, key, value) in defaults_of_optional_tables() {
            for table in self.tables(table) {
                let key = format!("{table}.{key}");
                all.entry(key).or_insert((value.clone(), Origin::Default));
            }
        }
        let mut settings: Vec<_> = all
            .into_iter()
            .map(|(key, (value, origin))| Setting { key, value, origin })
            .collect();
        settings.sort_by_cached_key(|setting| natural(&setting.key));
        settings
    }

    pub(super) fn note(&mut self, key: String, value: Value, origin: Origin) {
        self.0.insert(key, (value, origin));
    }

    /// The tables of which something was said and that are called `name`, where `[]` stands
    /// for any number.
    fn tables(&self, name: &str) -> BTreeSet<&str> {
        let tables = self
            .0
            .keys()
            .filter_map(|key| Some(key.rsplit_once('.')?.0));
        let is_so = |table: &&str| {
            let parts = table.split(['[', ']']).enumerate();
            let names = parts.map(|(index, part)| if index % 2 == 0 { part } else { "[]" });
            names.collect::<String>() == name
        };
        tables.filter(is_so).collect()
    }

    /// What a default of the first table of a list, `route[0].path`, is called in each table
    /// of that list; other keys are themselves.
    fn instances(&self, key: &str) -> Vec<String> {
        let Some((list, rest)) = key.split_once("[0]") else {
            return vec![key.to_owned()];
        };
        let has = |index: usize| {
            let table = format!("{list}[{index}].");
            let mut from = self.0.range(table.clone()..);
            from.next().is_some_and(|(key, _)| key.starts_with(&table))
        };
        let indices = (0..).take_while(|index| has(*index));
        indices
            .map(|index| format!("{list}[{index}]{rest}"))
            .collect()
    }
}

/// What the shipped file says.
pub(super) fn defaults() -> BTreeMap<String, Value> {
    let shipped = Config::parse("proxy.toml", DEFAULT, &|_| None);
    let shipped = shipped.expect("a test reads the shipped file");
    let settings = shipped.effective.0.into_iter();
    settings.map(|(key, (value, _))| (key, value)).collect()
}

/// `key` so that `route[10]` comes behind `route[9]`.
fn natural(key: &str) -> Vec<(usize, String)> {
    let part = |part: &str| match part.split_once(']') {
        Some((index, rest)) => (index.parse().unwrap_or(0), rest.to_owned()),
        None => (0, part.to_owned()),
    };
    key.split('[').map(part).collect()
}

/// What values that are written with variables are, by where they are in the file.
pub(super) type Revealed = BTreeMap<usize, String>;

/// A value that is written at `start` as it may be shown, and where it comes from.
pub(super) fn shown(value: &DeValue<'_>, start: usize, revealed: &Revealed) -> (Value, Origin) {
    let mut origin = Origin::File;
    let value = Shown {
        revealed,
        origin: &mut origin,
    }
    .value(value, start);
    (value, origin)
}

struct Shown<'a> {
    revealed: &'a Revealed,
    origin: &'a mut Origin,
}

impl Shown<'_> {
    fn value(&mut self, value: &DeValue<'_>, start: usize) -> Value {
        match value {
            DeValue::String(text) => self.text(text, start),
            DeValue::Integer(number) => number
                .as_str()
                .parse::<i64>()
                .map_or_else(|_| number.as_str().into(), Value::from),
            DeValue::Float(number) => number
                .as_str()
                .parse::<f64>()
                .map_or_else(|_| number.as_str().into(), Value::from),
            DeValue::Boolean(truth) => (*truth).into(),
            DeValue::Datetime(time) => time.to_string().into(),
            DeValue::Array(elements) => elements
                .iter()
                .map(|element| self.value(element.get_ref(), element.span().start))
                .collect(),
            DeValue::Table(entries) => entries
                .iter()
                .map(|(key, value)| {
                    let shown = self.value(value.get_ref(), value.span().start);
                    (key.get_ref().to_string(), shown)
                })
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    fn text(&mut self, text: &str, start: usize) -> Value {
        if text.replace("$$", "").contains("${") {
            *self.origin = Origin::Environment;
        }
        let revealed = self.revealed.get(&start);
        revealed
            .map_or_else(|| text.to_owned(), |text| escape(text))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn addresses_numbers_and_words_from_the_environment_are_shown_as_what_they_are() {
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
