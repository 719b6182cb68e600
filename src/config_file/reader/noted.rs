//! Values as they may be shown, and where they come from.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use toml::de::DeValue;

use crate::config_file::report::escape;

/// Values that were set, by the names of their keys.
pub(in crate::config_file) type Noted = BTreeMap<String, (Value, Origin)>;

/// Origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The default.
    Default,
    /// The file.
    File,
    /// The environment, by way of the file or by itself.
    Environment,
    /// The command line.
    CommandLine,
}

/// Values with their variables expanded, by their offsets in the file.
pub(in crate::config_file) type Revealed = BTreeMap<usize, String>;

/// Returns the value at offset `start` as it may be shown, and its origin.
pub(in crate::config_file) fn shown(
    value: &DeValue<'_>,
    start: usize,
    revealed: &Revealed,
) -> (Value, Origin) {
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
