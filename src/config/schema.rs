//! The JSON Schema of the file, with which editors complete and check it.
//!
//! What a key is for, and its default, is taken from the file that is shipped.
//!
//! # Invariants
//!
//! * The schema has exactly the keys that are looked up when a file is read.
//! * What the schema refuses is refused when the file is read; the other way round there are
//!   rules that a schema cannot express.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{DEFAULT, effective};

/// How a value is written.
#[derive(Clone, Copy, Debug)]
enum Notation {
    Text,
    Texts,
    Word(&'static [&'static str]),
    Truth,
    /// A whole number from the first to the second.
    Count(u64, u64),
    /// One from 1 on, or `""`.
    OptionalCount,
    Fraction,
    Workers,
    Duration,
    OptionalDuration,
    Size,
    OptionalSize,
    /// A size, or a share in percent.
    Memory,
    OptionalMemory,
    /// One or more conditions on messages; with `true` also on what happens to the upstream.
    Matchers(bool),
    CloseCodes,
    /// `strict`, or a list of some of these.
    Passes(&'static [&'static str]),
}

use Notation::{
    CloseCodes, Count, Duration, Fraction, Matchers, Memory, OptionalCount, OptionalDuration,
    OptionalMemory, OptionalSize, Passes, Size, Text, Texts, Truth, Word, Workers,
};

const MAX: u64 = u32::MAX as u64;

/// All keys; `[]` is a list of tables.
const KEYS: &[(&str, Notation)] = &[
    ("trusted_proxies", Texts),
    ("workers", Workers),
    ("listen[].address", Text),
    ("listen[].h2c", Truth),
    ("listen[].proxy_protocol", Truth),
    ("listen[].tls.certificate", Text),
    ("listen[].tls.key", Text),
    ("listen[].tls.client_ca", Text),
    ("listen[].tls.h2", Truth),
    ("listen[].tls.additional[].certificate", Text),
    ("listen[].tls.additional[].key", Text),
    ("admin.listen", Text),
    (
        "log.level",
        Word(&["error", "warn", "info", "debug", "trace"]),
    ),
    ("log.format", Word(&["auto", "text", "json", "gcp"])),
    ("log.requests", Word(&["none", "errors", "all"])),
    ("limits.max_connections", Count(1, MAX)),
    ("limits.max_connections_per_address", OptionalCount),
    ("limits.session_rate", OptionalCount),
    ("limits.session_rate_per_address", OptionalCount),
    ("limits.max_held_bytes", Memory),
    ("limits.max_memory_bytes", OptionalMemory),
    ("limits.max_header_bytes", Size),
    ("limits.max_headers", Count(1, 100)),
    ("limits.max_uri_bytes", Size),
    ("limits.header_timeout", Duration),
    ("limits.keep_alive_timeout", Duration),
    ("limits.max_streams", Count(1, 10_000)),
    ("limits.write_timeout", Duration),
    ("drain.delay", Duration),
    ("drain.grace", Duration),
    ("drain.spread", Duration),
    ("reload.poll", OptionalDuration),
    ("route[].host", Text),
    ("route[].path", Text),
    ("route[].upstream", Text),
    ("route[].proxy_protocol", Word(&["", "v1", "v2"])),
    ("route[].accept", Word(&["early", "after-upstream"])),
    ("route[].path_checks", Passes(&["%5C", "%5c", "\\"])),
    ("route[].subprotocols", Texts),
    ("route[].origins", Texts),
    ("route[].connect.timeout", Duration),
    ("route[].connect.handshake_timeout", OptionalDuration),
    ("route[].connect.retry.initial", Duration),
    ("route[].connect.retry.max", Duration),
    ("route[].connect.retry.jitter", Fraction),
    ("route[].gate.authenticated", Matchers(true)),
    ("route[].gate.services_ready", Matchers(true)),
    ("route[].gate.ready", Matchers(true)),
    ("route[].gate.settle", Duration),
    ("route[].gate.timeout", Duration),
    ("route[].gate.on_timeout", Word(&["close", "open"])),
    ("route[].gate.forward_ready", Truth),
    ("route[].gate.inspect_bytes", Size),
    ("route[].message[].match", Matchers(false)),
    (
        "route[].message[].priority",
        Word(&["critical", "high", "normal", "low"]),
    ),
    (
        "route[].message[].release",
        Word(&["authenticated", "services_ready", "ready"]),
    ),
    ("route[].hold.max_messages", Count(1, MAX)),
    ("route[].hold.max_bytes", Size),
    (
        "route[].hold.overflow",
        Word(&["backpressure", "shed", "close"]),
    ),
    ("route[].hold.order", Word(&["priority", "arrival"])),
    ("route[].hold.max_age", OptionalDuration),
    ("route[].hold.on_client_gone", Word(&["deliver", "discard"])),
    ("route[].hold.linger", Duration),
    ("route[].hold.max_linger", Duration),
    ("route[].tunnel.idle_after", Duration),
    ("route[].tunnel.idle_timeout", OptionalDuration),
    ("route[].tunnel.ping_interval", OptionalDuration),
    ("route[].tunnel.max_session_age", OptionalDuration),
    ("route[].tunnel.close_timeout", Duration),
    ("route[].http.version", Word(&["1.1", "2"])),
    ("route[].http.hold_timeout", OptionalDuration),
    ("route[].http.max_held_requests", Count(0, MAX)),
    ("route[].http.max_body_bytes", OptionalSize),
    ("route[].http.underscores", Word(&["drop", "pass"])),
    ("route[].http.non_ascii", Word(&["pass", "refuse"])),
    ("route[].http.max_idle_connections", Count(0, MAX)),
    ("route[].http.idle_timeout", Duration),
    ("route[].http.response_timeout", OptionalDuration),
    ("route[].http.body_timeout", OptionalDuration),
    ("route[].http.max_response_header_bytes", Size),
    ("route[].http.max_response_headers", Count(1, 1000)),
    ("route[].breaker.failures", Count(0, MAX)),
    ("route[].breaker.cooldown", Duration),
    ("route[].close_codes", CloseCodes),
    ("route[].tls.ca", Text),
    ("route[].tls.server_name", Text),
    ("route[].tls.certificate", Text),
    ("route[].tls.key", Text),
];

/// What has to be there, by the table.
const REQUIRED: [(&str, &[&str]); 6] = [
    ("", &["route"]),
    ("route[]", &["upstream"]),
    ("listen[]", &["address"]),
    ("listen[].tls", &["certificate", "key"]),
    ("listen[].tls.additional[]", &["certificate", "key"]),
    ("route[].message[]", &["match"]),
];

/// The JSON Schema (draft 2020-12) of the file.
#[must_use]
pub fn schema() -> Value {
    let comments = comments();
    let defaults = effective::defaults();
    let mut root = table();
    for (name, notation) in KEYS {
        let mut property = notation.schema();
        let mut tables = name.split('.');
        let key = tables.next_back().unwrap_or_default();
        let table = tables.fold(&mut root, step);
        if let Some(comment) = comments.get(&name.replace("[]", "")) {
            property["description"] = comment.as_str().into();
        }
        if let Some(default) = defaults.get(&name.replace("[]", "[0]")) {
            property["default"] = default.clone();
        }
        table["properties"][key] = property;
    }
    for (name, required) in REQUIRED {
        let steps = name.split('.').filter(|step| !step.is_empty());
        steps.fold(&mut root, step)["required"] = required.into();
    }
    let listeners = root["properties"]["listen"].take();
    root["properties"]["listen"] = json!({ "anyOf": [Text.schema(), listeners] });
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "proxy.toml of readygate".into();
    root["$defs"] = definitions();
    root
}

fn table() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

/// The schema of the table that is called `step` in `table`, which is there from then on.
fn step<'a>(table: &'a mut Value, step: &str) -> &'a mut Value {
    let (name, is_list) = match step.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (step, false),
    };
    let place = &mut table["properties"][name];
    if place.is_null() {
        *place = if is_list {
            json!({ "type": "array", "minItems": 1, "items": self::table() })
        } else {
            self::table()
        };
    }
    if is_list { &mut place["items"] } else { place }
}

impl Notation {
    fn schema(self) -> Value {
        let definition = |name: &str| json!({ "$ref": format!("#/$defs/{name}") });
        let or_variable = |schema: Value| json!({ "anyOf": [schema, definition("variable")] });
        match self {
            Text => json!({ "type": "string" }),
            Texts => json!({ "type": "array", "items": { "type": "string" } }),
            Word(words) => or_variable(json!({ "enum": words })),
            Truth => definition("truth"),
            Count(min, max) => json!({ "anyOf": [
                { "type": "integer", "minimum": min, "maximum": max },
                definition("digits"),
                definition("variable"),
            ] }),
            OptionalCount => json!({ "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": MAX },
                { "const": "" },
                definition("digits"),
                definition("variable"),
            ] }),
            Fraction => json!({ "anyOf": [
                { "type": "number", "minimum": 0, "maximum": 1 },
                { "type": "string", "pattern": r"^[0-9.]+$" },
                definition("variable"),
            ] }),
            Workers => json!({ "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 4096 },
                { "const": "auto" },
                definition("digits"),
                definition("variable"),
            ] }),
            Duration => definition("duration"),
            OptionalDuration => json!({ "anyOf": [{ "const": "" }, definition("duration")] }),
            Size => definition("size"),
            OptionalSize => json!({ "anyOf": [{ "const": "" }, definition("size")] }),
            Memory => json!({ "anyOf": [
                definition("size"),
                { "type": "string", "pattern": r"^(100|[1-9][0-9]?) *%$" },
            ] }),
            OptionalMemory => json!({ "anyOf": [{ "const": "" }, Memory.schema()] }),
            Matchers(has_events) => {
                let one = definition(if has_events { "trigger" } else { "matcher" });
                json!({ "anyOf": [one, { "type": "array", "items": one }] })
            }
            CloseCodes => definition("close_codes"),
            Passes(some) => json!({ "anyOf": [
                { "const": "strict" },
                definition("variable"),
                { "type": "array", "items": { "enum": some } },
            ] }),
        }
    }
}

/// What several keys have in common.
fn definitions() -> Value {
    let mut conditions = json!({
        "json": { "$ref": "#/$defs/json" },
        "text": { "type": "string" },
        "prefix": { "type": "string" },
        "regex": { "type": "string" },
        "binary_prefix": { "type": "string", "pattern": r"^([0-9A-Fa-f]{2})*$|\$\{" },
    });
    let matcher = one_of(&conditions);
    conditions["first"] = json!({ "const": true });
    conditions["on"] = Word(&["upgrade", "pong"]).schema();
    let scalar = json!({ "type": ["string", "number", "boolean"] });
    json!({
        "variable": {
            "description": "${NAME} or ${NAME:-default}, from the environment",
            "type": "string",
            "pattern": r"\$\{",
        },
        "digits": { "type": "string", "pattern": "^[0-9]+$" },
        "truth": { "anyOf": [
            { "type": "boolean" },
            { "enum": ["true", "false"] },
            { "$ref": "#/$defs/variable" },
        ] },
        "duration": { "type": "string", "pattern": r"^[0-9]+ *(ms|s|m|h)$|\$\{" },
        "size": { "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": r"^[0-9]+ *(B|KiB|MiB|GiB)?$|\$\{" },
        ] },
        "json": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "pattern": "^(/|$)" },
            "additionalProperties": { "anyOf": [
                scalar,
                { "type": "array", "minItems": 1, "items": scalar },
            ] },
        },
        "matcher": matcher,
        "trigger": one_of(&conditions),
        "close_codes": {
            "type": "object",
            "additionalProperties": false,
            "patternProperties": { "^[2-5][0-9][0-9]$": { "anyOf": [
                { "type": "integer", "minimum": 1000, "maximum": 1014 },
                { "type": "integer", "minimum": 3000, "maximum": 4999 },
                { "$ref": "#/$defs/digits" },
                { "$ref": "#/$defs/variable" },
            ] } },
        },
    })
}

/// A table with exactly one of these keys.
fn one_of(properties: &Value) -> Value {
    let mut table = table();
    table["properties"] = properties.clone();
    table["minProperties"] = 1.into();
    table["maxProperties"] = 1.into();
    table
}

/// What the shipped file says above each key; where several keys follow each other, above the
/// first of them.
fn comments() -> BTreeMap<String, String> {
    let mut comments = BTreeMap::new();
    let (mut table, mut comment) = (String::new(), String::new());
    let mut is_begun = false;
    for line in DEFAULT.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            if !is_begun {
                comment.clear();
            }
            is_begun = true;
            comment = comment + text + "\n";
            continue;
        }
        is_begun = false;
        // Examples are commented out.
        let line = line.trim_start_matches('#');
        if line.is_empty() {
            comment.clear();
        } else if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned() + ".";
            comment.clear();
        } else if let Some((key, _)) = line.split_once(" = ") {
            let name = format!("{table}{key}");
            let comment = comment.trim_end().to_owned();
            comments.entry(name).or_insert(comment);
        }
    }
    comments.retain(|_, comment| !comment.is_empty());
    comments
}

#[cfg(test)]
mod tests;
