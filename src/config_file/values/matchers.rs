//! Matchers as they are written: a table with exactly one condition, or a list of tables of
//! which any one will do.

use toml::de::DeValue;

use super::{Notation, Other};
use crate::{
    config_file::{
        cautions,
        reader::{Table, Value},
        report::{Mistake, any_of, similar},
    },
    matcher::{
        Json, Matcher, Scalar,
        json::{Number, PointerError},
    },
    session::gate::Trigger,
};

/// Conditions on the content of a message.
const CONTENT: [&str; 5] = ["json", "text", "prefix", "regex", "binary_prefix"];

/// Conditions that only the gate knows.
const EVENTS: [&str; 2] = ["first", "on"];

pub(in crate::config_file) const MATCHERS: Other<Vec<Matcher>> =
    Other(Notation::Matchers, |value| {
        if is_empty_list(value) {
            let what = "this rule matches nothing";
            return value.problem(Mistake::new(what, "expected at least one matcher"));
        }
        content(value)
    });
pub(in crate::config_file) const TRIGGERS: Other<Vec<Trigger>> =
    Other(Notation::Triggers, triggers);
/// Triggers of a state that every session has to reach.
pub(in crate::config_file) const NEEDED_TRIGGERS: Other<Vec<Trigger>> =
    Other(Notation::Triggers, |value| {
        if is_empty_list(value) {
            let what = format!("no session could become `{}`", value.key());
            let mistake = Mistake::new(what, "expected at least one matcher");
            return value.problem(mistake.help("leave the key out for the default"));
        }
        triggers(value)
    });

fn is_empty_list(value: Value<'_>) -> bool {
    let list = value.content().as_array();
    list.is_some_and(|list| list.is_empty())
}

/// Reads the matchers of a message rule.
fn content(value: Value<'_>) -> Option<Vec<Matcher>> {
    each(value, |table| {
        for key in EVENTS {
            if let Some(event) = table.value(key) {
                let what = format!("`{key}` is for the gate, not for a message rule");
                let expected = format!("expected {}", any_of(CONTENT));
                event.report(Mistake::new(what, expected));
            }
        }
        one_of(table, &CONTENT, matcher)
    })
}

/// Reads the triggers that advance a session to its next state.
fn triggers(value: Value<'_>) -> Option<Vec<Trigger>> {
    each(value, |table| {
        let kinds = [&CONTENT[..], &EVENTS].concat();
        one_of(table, &kinds, |table| {
            let first = table.take("first", first);
            let on = table.take("on", |value| {
                value.choice(&[("upgrade", Event::Upgrade), ("pong", Event::Pong)])
            });
            let event = on.map(|event| match event {
                Event::Upgrade => Trigger::Upgrade,
                Event::Pong => Trigger::Pong,
            });
            let message = matcher(table).map(Trigger::Message);
            first.or(event).or(message)
        })
    })
}

#[derive(Clone, Copy)]
enum Event {
    Upgrade,
    Pong,
}

fn first(value: Value<'_>) -> Option<Trigger> {
    match value.content() {
        DeValue::Boolean(true) => Some(Trigger::First),
        _ => value.problem(Mistake::new(
            "`first` stands for the upstream's first message",
            "expected true",
        )),
    }
}

fn each<'a, T>(
    value: Value<'a>,
    mut read: impl FnMut(&mut Table<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let mut read = |table: &mut Table<'a>| match fields(table) {
        Some(mistake) => {
            table.problem_at(table.span(), mistake);
            None
        }
        None => read(table),
    };
    match value.content() {
        DeValue::Table(_) => value.table(read)?.map(|matcher| vec![matcher]),
        DeValue::Array(_) => {
            let tables = value.list()?;
            Some(tables.filter_map(|table| table.table(&mut read)?).collect())
        }
        content => {
            let expected = "expected a matcher such as { text = \"ready\" }, or a list of them";
            let mistake = Mistake::new(format!("{} is not a matcher", value.written()), expected);
            value.problem(match content {
                DeValue::String(_) => {
                    mistake.help(format!("write {{ text = {} }}", value.written()))
                }
                _ => mistake,
            })
        }
    }
}

/// Mistake of a table with bare JSON fields in place of a condition.
fn fields(table: &Table<'_>) -> Option<Mistake> {
    let kinds = || CONTENT.into_iter().chain(EVENTS);
    let conditions = table.entries().map(|(_, key, value)| {
        let is_other = kinds().any(|kind| kind == key) || similar(key, kinds()).is_some();
        let is_told_elsewhere = ["priority", "release"].contains(&key);
        let is_table = matches!(value.content(), DeValue::Table(_));
        let pointer = toml::Value::from(pointer(key));
        let condition = format!("{pointer} = {}", value.written());
        (!is_other && !is_told_elsewhere && !is_table).then_some(condition)
    });
    let conditions = conditions.collect::<Option<Vec<_>>>()?;
    let what = "this matcher does not say what it looks at";
    let mistake = Mistake::new(what, "expected a kind of matcher");
    let help = format!("write {{ json = {{ {} }} }}", conditions.join(", "));
    (!conditions.is_empty()).then(|| mistake.help(help))
}

/// Reads a table that must have exactly one of the keys `kinds`.
fn one_of<'a, T>(
    table: &mut Table<'a>,
    kinds: &[&str],
    read: impl FnOnce(&mut Table<'a>) -> Option<T>,
) -> Option<T> {
    let keys: Vec<_> = table.entries().map(|(_, key, _)| key).collect();
    let found: Vec<_> = kinds
        .iter()
        .copied()
        .filter(|kind| keys.contains(kind))
        .collect();
    let result = read(table);
    match found[..] {
        [] if keys.is_empty() => {
            let expected = format!("expected {}", any_of(kinds.iter().copied()));
            table.problem_at(
                table.span(),
                Mistake::new("this matcher is empty", expected),
            );
        }
        [] | [_] => {}
        [..] => {
            let what = format!("this matcher has {} conditions", found.len());
            let alternatives: Vec<_> = found
                .iter()
                .map(|kind| format!("{{ {kind} = … }}"))
                .collect();
            let help = format!("for any of them write [{}]", alternatives.join(", "));
            let mistake = Mistake::new(what, "expected exactly one").help(help);
            table.problem_at(table.span(), mistake);
        }
    }
    result
}

fn matcher(table: &mut Table<'_>) -> Option<Matcher> {
    let matchers = [
        table.take("json", json).map(Matcher::Json),
        table.take("text", text).map(Matcher::Text),
        table.take("prefix", Value::string).map(Matcher::Prefix),
        table.take("regex", regex).map(Matcher::Regex),
        table.take("binary_prefix", hex).map(Matcher::BinaryPrefix),
    ];
    matchers.into_iter().flatten().next()
}

fn text(value: Value<'_>) -> Option<String> {
    let text = value.string()?;
    cautions::of_text(value, &text);
    Some(text)
}

fn regex(value: Value<'_>) -> Option<regex::bytes::Regex> {
    let pattern = value.string()?;
    regex::bytes::Regex::new(&pattern).map_or_else(
        |error| {
            // The error repeats the pattern over several lines; the last one is the reason.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            let reason = reason.trim_start_matches("error: ").to_owned();
            let what = format!("`{pattern}` is not a regular expression");
            value.problem(Mistake::new(what, reason))
        },
        Some,
    )
}

fn hex(value: Value<'_>) -> Option<Vec<u8>> {
    let text = value.string()?;
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0);
    let Some(digits) = digits else {
        let what = format!("`{text}` is not binary data");
        return value.problem(Mistake::new(
            what,
            "expected two hex digits for each byte, \"0a1b\"",
        ));
    };
    let (pairs, _) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| high << 4 | low);
    bytes.map(|byte| u8::try_from(byte).ok()).collect()
}

fn json(value: Value<'_>) -> Option<Json> {
    value.table(|table| {
        let mut conditions = Vec::new();
        for (span, pointer, values) in table.entries() {
            if let Err(error) = Json::new([(pointer, Vec::new())]) {
                table.problem_at(span, pointer_mistake(pointer, error));
            }
            conditions.push((pointer, scalars(values).unwrap_or_default()));
        }
        if conditions.is_empty() {
            let expected = "expected { \"/pointer\" = value }";
            table.problem_at(
                table.span(),
                Mistake::new("this matcher is empty", expected),
            );
        }
        Json::new(conditions).ok()
    })?
}

fn pointer_mistake(pointer: &str, error: PointerError) -> Mistake {
    let mistake = Mistake::new(
        format!("`{pointer}` is not a JSON pointer"),
        error.to_string(),
    );
    match error {
        PointerError::NoSlash => {
            let help = format!("write {}", toml::Value::from(self::pointer(pointer)));
            mistake.help(help)
        }
        PointerError::Escape => mistake,
    }
}

/// Returns the JSON pointer (RFC 6901) that `text`, perhaps a JSON path, most likely means.
fn pointer(text: &str) -> String {
    if text.starts_with('/') {
        return text.to_owned();
    }
    let rest = text.strip_prefix(['$', '#']).unwrap_or(text);
    let rest = match rest.chars().next() {
        None if !text.is_empty() => return String::new(),
        Some('/') => return rest.to_owned(),
        Some('.' | '[') => rest,
        _ => text,
    };
    let mut pointer = String::new();
    let mut is_quoted = false;
    let mut is_begun = false;
    for character in rest.chars() {
        match character {
            '\'' | '"' => is_quoted = !is_quoted,
            '.' | '[' if !is_quoted => is_begun = false,
            ']' if !is_quoted => {}
            character => {
                if !is_begun {
                    pointer.push('/');
                    is_begun = true;
                }
                match character {
                    '~' => pointer += "~0",
                    '/' if is_quoted => pointer += "~1",
                    character => pointer.push(character),
                }
            }
        }
    }
    pointer
}

fn scalars(value: Value<'_>) -> Option<Vec<Scalar>> {
    if !matches!(value.content(), DeValue::Array(_)) {
        return scalar(value).map(|scalar| vec![scalar]);
    }
    let scalars: Vec<_> = value.list()?.map(scalar).collect();
    if scalars.is_empty() {
        let what = "this matcher cannot match";
        return value.problem(Mistake::new(what, "expected at least one value"));
    }
    Some(scalars.into_iter().flatten().collect())
}

fn scalar(value: Value<'_>) -> Option<Scalar> {
    let number = match value.content() {
        DeValue::String(_) => return value.string().map(Scalar::String),
        DeValue::Boolean(truth) => return Some(Scalar::Bool(*truth)),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(Number::Whole),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .ok()
            .filter(|n: &f64| n.is_finite())
            .map(Number::from),
        _ => None,
    };
    match number {
        Some(number) => Some(Scalar::Number(number)),
        None => value.mismatch("a string, a number, true or false"),
    }
}
