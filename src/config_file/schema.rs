//! The JSON Schema of the file, with which editors complete and check it.
//!
//! # Invariants
//!
//! * The schema has exactly the keys that are looked up when a file is read.
//! * What the schema refuses is refused when the file is read; the other way round there are
//!   rules that a schema cannot express.

use serde_json::{Value, json};

use super::{
    keys,
    section::{Presence, Section},
    values::{MAX_COUNT, Notation},
};

/// The JSON Schema (draft 2020-12) of the file.
#[must_use]
pub fn schema() -> Value {
    let mut root = table();
    for section in keys::sections() {
        add(section, &mut root);
    }
    // What the code checks: there has to be an upstream for something.
    root["required"] = json!(["route"]);
    let listeners = root["properties"]["listen"].take();
    root["properties"]["listen"] = json!({ "anyOf": [Notation::Text.schema(), listeners] });
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "proxy.toml of readygate".into();
    root["$defs"] = definitions();
    root
}

/// Adds the properties of a section to the schema of the file.
fn add(section: &Section, root: &mut Value) {
    let steps = || section.name.split('.').filter(|step| !step.is_empty());
    if let Some(notation) = section.own_keys {
        let around = steps().count() - 1;
        let table = steps().take(around).fold(root, step);
        table["properties"][section.key()] = notation().schema();
        return;
    }
    let table = steps().fold(root, step);
    for (row, text) in section.rows_with_texts() {
        let mut property = (row.notation)().schema();
        if !text.is_empty() {
            property["description"] = text.into();
        }
        if section.is_shipped() && row.presence != Presence::Optional {
            property["default"] = row.default_value();
        }
        table["properties"][row.name] = property;
    }
    let required = section.rows.iter();
    let required = required.filter(|row| row.presence == Presence::Required);
    let required: Vec<_> = required.map(|row| row.name).collect();
    if !required.is_empty() {
        table["required"] = required.into();
    }
}

fn table() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

/// Returns the schema of the table `step` in `table`, created if need be.
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
            Self::Text => json!({ "type": "string" }),
            Self::Texts => json!({ "type": "array", "items": { "type": "string" } }),
            Self::Word(words) => or_variable(json!({ "enum": words })),
            Self::Truth => definition("truth"),
            Self::Count(min, max) => json!({ "anyOf": [
                { "type": "integer", "minimum": min, "maximum": max },
                definition("digits"),
                definition("variable"),
            ] }),
            Self::OptionalCount => json!({ "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": MAX_COUNT },
                { "const": "" },
                definition("digits"),
                definition("variable"),
            ] }),
            Self::Fraction => json!({ "anyOf": [
                { "type": "number", "minimum": 0, "maximum": 1 },
                { "type": "string", "pattern": r"^[0-9.]+$" },
                definition("variable"),
            ] }),
            Self::Workers => json!({ "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 4096 },
                { "const": "auto" },
                definition("digits"),
                definition("variable"),
            ] }),
            Self::Duration => definition("duration"),
            Self::OptionalDuration => json!({ "anyOf": [{ "const": "" }, definition("duration")] }),
            Self::Size => definition("size"),
            Self::OptionalSize => json!({ "anyOf": [{ "const": "" }, definition("size")] }),
            Self::Memory => json!({ "anyOf": [
                definition("size"),
                { "type": "string", "pattern": r"^(100|[1-9][0-9]?) *%$" },
            ] }),
            Self::OptionalMemory => json!({ "anyOf": [{ "const": "" }, Self::Memory.schema()] }),
            Self::Matchers => one_or_more(&definition("matcher")),
            Self::Triggers => one_or_more(&definition("trigger")),
            Self::CloseCodes => definition("close_codes"),
            Self::Passes(some) => json!({ "anyOf": [
                { "const": "strict" },
                definition("variable"),
                { "type": "array", "items": { "enum": some } },
            ] }),
        }
    }
}

fn one_or_more(one: &Value) -> Value {
    json!({ "anyOf": [one, { "type": "array", "items": one }] })
}

/// Definitions that several keys share.
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
    conditions["on"] = Notation::Word(vec!["upgrade", "pong"]).schema();
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

#[cfg(test)]
mod tests;
