//! Cautions: valid values that are most likely not intended.
//!
//! # Invariants
//!
//! * Every caution can be silenced by an explicit value: the trigger of a gate, `$$` for a dollar
//!   sign.

use std::ops::Range;

use toml::de::DeValue;

use super::{
    reader::{Table, Value},
    report::{Mistake, Problem},
};
use crate::{
    route::{Accept, Route},
    session::rules::Rule,
};

/// Words in hosts and paths of applications that talk over `WebSockets`.
const TALKERS: [&str; 11] = [
    "agent",
    "assistant",
    "bot",
    "chat",
    "live",
    "realtime",
    "socket",
    "voice",
    "websocket",
    "ws",
    "wss",
];

/// Cautions about a path that looks like a pattern.
pub(super) fn of_path(value: Value<'_>) {
    let DeValue::String(text) = value.content() else {
        return;
    };
    let path = text.strip_prefix('=').map_or(&**text, str::trim_start);
    let is_pattern =
        |segment: &str| segment.contains('*') || segment.starts_with(':') || segment.contains('{');
    let is_variable = text.contains("${");
    let Some(at) = path
        .split('/')
        .position(is_pattern)
        .filter(|_| !is_variable)
    else {
        return;
    };
    let prefix: Vec<_> = path.split('/').take(at).collect();
    let prefix = match prefix.join("/") {
        prefix if prefix.is_empty() => "/".to_owned(),
        prefix => prefix,
    };
    let what = "there are no patterns in the path of a route";
    let mistake = Mistake::new(what, "stands for itself, character by character");
    value.caution(mistake.help(format!("for everything below it write \"{prefix}\"")));
}

/// Cautions about an empty text.
pub(super) fn of_text(value: Value<'_>, text: &str) {
    if text.is_empty() {
        let mistake = Mistake::new("only an empty message is this text", "is empty");
        value.caution(mistake.help("for every text write { prefix = \"\" }"));
    }
}

/// Cautions about a rule that never decides because of those `before` it.
pub(super) fn of_rule(table: &Table<'_>, rule: &Rule, before: &[(Rule, Range<usize>)]) {
    let decides = |matcher| {
        let mut before = before.iter();
        before.find(|(rule, _)| rule.matchers.contains(matcher))
    };
    let Some(deciding) = rule
        .matchers
        .iter()
        .map(decides)
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let Some((_, first)) = deciding.first() else {
        return;
    };
    let mistake = Mistake::new(
        "no message gets to this rule",
        "matches what another one does",
    )
    .help("the first rule that matches decides: leave this one out, or put it before");
    let caution = Problem::at(table.span(), mistake);
    table
        .file()
        .caution(caution.context(first.clone(), "decides instead"));
}

/// Cautions about a gate that opens at the 101 by default, where the route suggests that more is
/// intended.
/// `rule` is the place of its first message rule.
pub(super) fn of_gate(table: &mut Table<'_>, route: &Route, rule: Option<Range<usize>>) {
    let is_said = table.lookup("gate").is_some_and(|gate| {
        let gate = gate.content().as_table();
        gate.is_some_and(|gate| gate.contains_key("ready"))
    });
    let gate = &route.session.gate;
    let has_name = route.accept == Accept::Early && is_talker(&route.host, &route.path);
    let is_more =
        has_name || rule.is_some() || !gate.forward_ready || !gate.services_ready.is_empty();
    if is_said || !gate.opens_on_upgrade() || !is_more {
        return;
    }
    let what = "this route holds nothing once the upstream has answered with 101";
    let expected = "`gate.ready` is the default, { on = \"upgrade\" }";
    let mistake = Mistake::new(what, expected).help(
        "say in [route.gate] which message makes the session `ready`; if it is the 101, write \
         ready = { on = \"upgrade\" }",
    );
    let caution = Problem::at(table.span(), mistake);
    table.file().caution(match rule {
        Some(rule) => caution.context(rule, "these messages are held until then only"),
        None => caution,
    });
}

/// Returns whether a word of these names belongs to an application that talks over `WebSockets`.
fn is_talker(host: &str, path: &str) -> bool {
    let words = [host, path].into_iter();
    let mut words = words.flat_map(|name| name.split(|c: char| !c.is_ascii_alphanumeric()));
    words.any(|word| {
        let word = word.to_ascii_lowercase();
        TALKERS.contains(&word.as_str()) || TALKERS.contains(&word.trim_end_matches('s'))
    })
}
