//! The schema against the reader of the file; `tests/interop` has a validator look at it.

use std::collections::BTreeSet;

use toml::de::DeTable;

use super::*;
use crate::config_file::{
    Config, reader::File, report::any_of, routes, tests::shipped_with_examples,
};

/// The keys of `schema` and of the tables in it, as the reader of the file calls them.
fn keys(schema: &Value, name: &str, keys: &mut BTreeSet<String>) {
    for (key, property) in schema["properties"].as_object().unwrap() {
        let name = match name {
            "" => key.clone(),
            name => format!("{name}.{key}"),
        };
        let alternatives = property["anyOf"].as_array().into_iter().flatten();
        for table in alternatives.chain([property]) {
            for table in [table, &table["items"]] {
                if table["properties"].is_object() {
                    self::keys(table, &name, keys);
                }
            }
        }
        keys.insert(name);
    }
}

#[test]
fn the_schema_has_exactly_the_keys_that_are_looked_up() {
    let text = shipped_with_examples();
    let file = File::new(&text, &|_| None);
    let root = DeTable::parse(&text).unwrap();
    file.read(root.get_ref(), |top| {
        let routes = routes::read(top);
        Config::with_routes(top, routes)
    });
    let is_matcher =
        |table: &str| ["authenticated", "services_ready", "ready", "match"].contains(&table);
    let mut known = BTreeSet::new();
    for name in file.lookups().into_keys() {
        known.insert(match name.split_once('.') {
            Some((table, condition)) if is_matcher(table) => format!("matcher.{condition}"),
            _ => name,
        });
    }

    let schema = schema();
    let mut keys = BTreeSet::new();
    self::keys(&schema, "", &mut keys);
    self::keys(&schema["$defs"]["trigger"], "matcher", &mut keys);

    let only = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect::<Vec<_>>();
    assert!(known.len() > 60, "{known:?}");
    assert_eq!(
        only(&known, &keys),
        [""; 0],
        "looked up, and not in the schema"
    );
    assert_eq!(
        only(&keys, &known),
        [""; 0],
        "in the schema, and not looked up"
    );
}

/// A file in which `name` has the `value`.
fn file_with(name: &str, value: &str) -> String {
    let (tables, key) = name.rsplit_once('.').unwrap_or(("", name));
    let mut file = String::new();
    let mut table: Vec<&str> = Vec::new();
    for step in tables.split('.').filter(|step| !step.is_empty()) {
        table.push(step.trim_end_matches("[]"));
        let name = table.join(".");
        file.extend(if step.ends_with("[]") {
            ["[[", &name, "]]\n"]
        } else {
            ["[", &name, "]\n"]
        });
    }
    format!("{file}{key} = {value}\n")
}

#[test]
fn the_words_of_the_schema_are_those_that_are_understood() {
    let mut seen = 0;
    for (section, row) in keys::sections().flat_map(|it| it.rows.iter().map(move |row| (it, row))) {
        let Notation::Word(words) = (row.notation)() else {
            continue;
        };
        let name = section.key_name(row);
        let problems = Config::parse("test", &file_with(&name, "\"?\""), &|_| None).unwrap_err();
        let problems = problems.to_string();
        let expected = format!("expected {}", any_of(words.iter().copied()));
        assert!(problems.contains(&expected), "{name}: {problems}");
        seen += 1;
    }
    assert!(seen > 10);
}

#[test]
fn every_key_has_a_sentence_and_the_default_of_the_file() {
    let schema = schema();
    let limits = &schema["properties"]["limits"]["properties"];
    let route = &schema["properties"]["route"]["items"]["properties"];

    for (row, text) in keys::sections().flat_map(Section::rows_with_texts) {
        let is_status = row.name.parse::<u16>().is_ok();
        assert!(is_status || !text.is_empty(), "{row:?}");
    }
    let about = |key: &Value| key["description"].as_str().unwrap().to_owned();
    assert!(about(&limits["max_headers"]).starts_with("Most header lines"));
    assert_eq!(
        about(&limits["session_rate"]),
        about(&limits["session_rate_per_address"])
    );
    assert!(about(&route["upstream"]).starts_with("Destination of the requests"));
    assert!(about(&route["tls"]["properties"]["ca"]).starts_with("CAs that are trusted"));
    assert_eq!(limits["max_headers"]["default"], 100);
    assert_eq!(route["gate"]["properties"]["timeout"]["default"], "30s");
    assert_eq!(schema["properties"]["workers"]["default"], "auto");
    // The first line of the file is no comment on the first key.
    assert!(about(&schema["properties"]["trusted_proxies"]).starts_with("Proxies in front"));
}
