//! Values in effect as a file.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

use super::{Effective, Origin};

/// Longest line, in characters, whose comment is aligned with others.
const MAX_ALIGNED: usize = 48;

const HEADER: &str = "\
# Every value that is in effect, and where it comes from: default (nobody has said anything),
# file, environment or command line.

";

impl Effective {
    /// Returns every value in effect as a file, each with its origin as a comment.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut top = Table::default();
        for setting in self.settings() {
            let mut steps = setting.key.split('.');
            let key = steps.next_back().unwrap_or_default();
            let table = steps.fold(&mut top, Table::step);
            let line = format!("{key} = {}", toml(&setting.value));
            table.values.push((line, setting.origin));
        }
        let mut text = HEADER.to_owned();
        top.write(&mut text, "");
        text
    }

    /// Returns each full key with its value as written.
    #[must_use]
    pub fn written(&self) -> Vec<(String, String)> {
        let settings = self.settings().into_iter();
        settings.map(|it| (it.key, toml(&it.value))).collect()
    }
}

fn toml(value: &Value) -> String {
    // A value that came from TOML can be written so.
    toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

/// A table of the file: its values, then the tables in it.
#[derive(Default)]
struct Table {
    /// Lines with their origins.
    values: Vec<(String, Origin)>,
    tables: BTreeMap<String, Self>,
    lists: BTreeMap<String, Vec<Self>>,
}

impl Table {
    /// Returns the table that `step`, such as `gate` or `route[1]`, names.
    fn step<'a>(&'a mut self, step: &str) -> &'a mut Self {
        let Some((list, index)) = step.split_once('[') else {
            return self.tables.entry(step.to_owned()).or_default();
        };
        let index = index.trim_end_matches(']').parse().unwrap_or(0);
        let list = self.lists.entry(list.to_owned()).or_default();
        if list.len() <= index {
            list.resize_with(index + 1, Self::default);
        }
        &mut list[index]
    }

    /// Appends the table to `text`; `name` is its header.
    fn write(&self, text: &mut String, name: &str) {
        let widths = self.values.iter().map(|(line, _)| line.chars().count());
        let width = widths
            .filter(|width| *width <= MAX_ALIGNED)
            .max()
            .unwrap_or(0);
        for (line, origin) in &self.values {
            let written = writeln!(text, "{line:width$}  # {}", origin.words());
            written.expect("a string takes everything");
        }
        let name = |key: &str| match name {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        };
        for (key, table) in &self.tables {
            let name = name(key);
            if !table.values.is_empty() {
                text.extend(["\n[", &name, "]\n"]);
            }
            table.write(text, &name);
        }
        for (key, list) in &self.lists {
            let name = name(key);
            for table in list {
                text.extend(["\n[[", &name, "]]\n"]);
                table.write(text, &name);
            }
        }
    }
}

impl Origin {
    const fn words(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::CommandLine => "command line",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config_file::Config;

    const FILE: &str = r#"
        listen = "127.0.0.1:${PORT}"
        limits.max_connections = 7
        [[route]]
        upstream = "http://a"
        gate.ready = [{ json = { "/type" = ["a", 1] } }, { text = "${TOKEN}" }]
        close_codes = { 401 = 4401 }
        [[route.message]]
        match = { regex = '^"\d' }
        [[route]]
        path = "/b"
        upstream = "http://b"
    "#;

    fn environment(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("7000".to_owned()),
            "TOKEN" => Some("canary".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn what_is_shown_is_a_file_with_the_same_values() {
        let config = Config::parse("proxy.toml", FILE, &environment).unwrap();

        let shown = config.effective.to_toml();

        let again = Config::parse("shown.toml", &shown, &environment);
        let again = again.unwrap_or_else(|problems| panic!("{problems}"));
        let values = |config: &Config| {
            let settings = config.effective.settings().into_iter();
            settings.map(|it| (it.key, it.value)).collect::<Vec<_>>()
        };
        assert_eq!(values(&config), values(&again));
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn each_value_has_its_origin_as_a_comment() {
        let config = Config::parse("proxy.toml", FILE, &environment).unwrap();
        let shown = config.effective.to_toml();

        let line = |start: &str| {
            let line = shown.lines().find(|line| line.starts_with(start));
            line.unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };

        let listen = "listen = \"127.0.0.1:7000\" # environment";
        assert_eq!(line("listen"), listen);
        assert_eq!(line("max_connections "), "max_connections = 7 # file");
        assert_eq!(line("workers"), "workers = \"auto\" # default");
        assert_eq!(line("401"), "401 = 4401 # file");
    }
}
