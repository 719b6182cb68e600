//! Whole files: what they mean, and every problem that they may have.

mod bounds;
mod helps;
mod origins;
mod passwords;
mod process_settings;
mod route_settings;
mod shipped_file;
mod thirty_mistakes;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    config::ListenAddress,
    matcher::Sample,
    route::{Accept, HttpSettings},
    session::{self, rules::Priority},
    upstream,
};

/// The file as it is in the repository.
const SHIPPED: &str = include_str!("../../proxy.toml");

fn environment(name: &str) -> Option<String> {
    match name {
        "BACKEND" => Some("http://backend:9000".to_owned()),
        "CONNECTIONS" => Some("7".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse("proxy.toml", text, &environment)
}

/// The route of a valid file that has one, with `settings` in it.
fn route_with(settings: &str) -> Route {
    let text = format!("[[route]]\nupstream = \"http://127.0.0.1:8081\"\n{settings}");
    let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    Route::clone(config.routes.iter().next().unwrap())
}

/// What is wrong with a route that has these settings.
fn report_on_route(settings: &str) -> String {
    let text = format!("[[route]]\nupstream = \"http://127.0.0.1:8081\"\n{settings}");
    parse(&text).unwrap_err().to_string()
}

fn report(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn debug(value: impl std::fmt::Debug) -> String {
    format!("{value:#?}")
}

/// The shipped file with its examples: lines with a `#` that no space follows.
pub(super) fn shipped_with_examples() -> String {
    let text = default_file();
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.starts_with(' ') => example,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_problem_shows_a_variable_and_nothing_of_what_it_is() {
    let environment = |name: &str| (name == "TOKEN").then(|| "CANARY1Token".to_owned());
    let upstream = "upstream = \"http://b\"";
    for (settings, shown) in [
        ("upstream = \"${TOKEN}\"", "`${TOKEN}` is not the address"),
        (
            "upstream = \"ws://${TOKEN}\"",
            "`ws://${TOKEN}` is not the address",
        ),
        ("upstream = \"http://x:${TOKEN}\"", "http://x:${TOKEN}"),
        (
            "gate.timeout = \"${TOKEN}\"",
            "`${TOKEN}` is not a duration",
        ),
        (
            "gate.timeout = \"1${TOKEN}\"",
            "`1${TOKEN}` is not a duration",
        ),
        (
            "gate.ready = { regex = \"(${TOKEN}\" }",
            "`(${TOKEN}` is not a regular expression",
        ),
        ("gate.ready = { regex = \"[${TOKEN}-A]\" }", "${TOKEN}"),
        ("gate.ready = { binary_prefix = \"${TOKEN}\" }", "${TOKEN}"),
        (
            "gate.ready = { json = { \"/a\" = \"${TOKEN}\" }, text = \"${TOKEN}\" }",
            "${TOKEN}",
        ),
        ("gate.on_timeout = \"${TOKEN}\"", "cannot be `${TOKEN}`"),
        ("host = \"${TOKEN}/\"", "`${TOKEN}/` is not the name"),
        ("path = \"${TOKEN}\"", "${TOKEN}"),
        ("origins = [\"${TOKEN}\"]", "${TOKEN}"),
        ("tls.ca = \"/${TOKEN}\"", "${TOKEN}"),
    ] {
        let upstream = if settings.starts_with("upstream") {
            ""
        } else {
            upstream
        };
        let text = format!("[[route]]\n{upstream}\n{settings}\n");

        let problems = Config::parse("proxy.toml", &text, &environment).unwrap_err();

        for report in [problems.to_string(), problems.render(true)] {
            let lower = report.to_lowercase();
            assert!(
                !lower.contains("canary") && !lower.contains("1token"),
                "{report}"
            );
        }
        let report = problems.to_string();
        assert!(report.contains(shown), "{report}");
    }
}

#[test]
fn variables_are_replaced_in_strings_and_may_stand_for_numbers() {
    let text = "\
[limits]
max_connections = \"${CONNECTIONS}\"
[[route]]
upstream = \"${BACKEND:-http://127.0.0.1:8081}\"
path = \"/${PATH_PREFIX:-chat}\"";

    let config = parse(text).unwrap_or_else(|problems| panic!("{problems}"));

    assert_eq!(config.limits.max_connections, 7);
    let route = config.routes.iter().next().unwrap();
    assert_eq!(route.path, "/chat");
    assert_eq!(
        route.upstream.address,
        upstream::Address::Tcp {
            host: "backend".to_owned(),
            port: 9000
        }
    );
}

#[test]
fn every_problem_is_reported_at_once_under_its_line() {
    let text = r#"workers = 0
colour = "red"

[[route]]
upstream = "127.0.0.1:8081"

[route.gate]
ready = { regex = "(ready" }
timeout = 30

[route.hold]
max_messges = 5
overflow = "shred"
max_age = "${MISSING}"
"#;

    assert_eq!(
        report(text),
        r#"error: `0` is not a number of workers
 --> proxy.toml:1:11
  |
1 | workers = 0
  |           ^ expected 1 to 4096, or "auto" for one per core

error: unknown key `colour`
 --> proxy.toml:2:1
  |
2 | colour = "red"
  | ^^^^^^ the top of the file has no such key
  |
  = help: expected `route`, `trusted_proxies`, `workers`, `listen`, `admin`, `log`, `limits`, `drain` or `reload`

error: `127.0.0.1:8081` is not the address of an upstream
 --> proxy.toml:5:12
  |
5 | upstream = "127.0.0.1:8081"
  |            ^^^^^^^^^^^^^^^^ expected "http://host:port", "https://host:port" or "unix:/path.sock"
  |
  = help: write "http://127.0.0.1:8081"

error: `(ready` is not a regular expression
 --> proxy.toml:8:19
  |
8 | ready = { regex = "(ready" }
  |                   ^^^^^^^^ unclosed group

error: `30` is not a duration
 --> proxy.toml:9:11
  |
9 | timeout = 30
  |           ^^ expected a whole number and a unit (ms, s, m or h), such as "30s"
  |
  = help: for seconds write "30s"

error: unknown key `max_messges`
  --> proxy.toml:12:1
   |
12 | max_messges = 5
   | ^^^^^^^^^^^ `route.hold` has no such key
   |
   = help: did you mean `max_messages`?

error: `overflow` cannot be `shred`
  --> proxy.toml:13:12
   |
13 | overflow = "shred"
   |            ^^^^^^^ expected `backpressure`, `shed` or `close`
   |
   = help: did you mean `shed`?

error: the environment variable `MISSING` is not set
  --> proxy.toml:14:12
   |
14 | max_age = "${MISSING}"
   |            ^^^^^^^^^^ expected it to be set
   |
   = help: give it a default: `${MISSING:-value}`

error: proxy.toml has 8 problems"#
    );
}

#[test]
fn several_syntax_errors_are_reported_without_consequences() {
    let text = "\
workers = \"auto
[[route]]
upstream = http://127.0.0.1:8081
path =
[limits]
max_connections = many
max_held_bytes = \"lots\"
";

    let report = report(text);

    assert!(report.contains("string values must be quoted"), "{report}");
    assert!(
        report.contains("write \"http://127.0.0.1:8081\""),
        "{report}"
    );
    assert!(report.contains("`lots` is not a size"), "{report}");
    assert!(!report.contains("has no upstream"), "{report}");
    assert!(!report.contains("`many` is not"), "{report}");
}

#[test]
fn a_key_in_the_wrong_table_is_shown_the_right_one() {
    let text = "\
[[route]]
upstream = \"http://127.0.0.1:1\"
workers = 2
[gate]
timeout = \"3s\"
[limits]
grace = \"3s\"
";

    let report = report(text);

    assert!(
        report.contains("`workers` belongs to the top of the file"),
        "{report}"
    );
    assert!(report.contains("did you mean `route.gate`?"), "{report}");
    assert!(report.contains("did you mean `drain.grace`?"), "{report}");
}

/// Holds each setting of a route against the reason for which it is refused.
fn assert_refused(settings_and_reasons: &[(&str, &str)]) {
    for (settings, reason) in settings_and_reasons {
        let report = report_on_route(settings);
        assert!(report.contains(reason), "{settings}\n{report}");
        assert!(
            report.ends_with("proxy.toml has a problem"),
            "{settings}\n{report}"
        );
    }
}

#[test]
fn a_report_in_colour_says_the_same() {
    let problems = parse("workers = 0").unwrap_err();

    assert!(problems.render(true).contains("\u{1b}["));
    assert!(!problems.render(false).contains('\u{1b}'));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]a-z\"'=.#{}$\\n é0-9:/-]{0,120}") {
        let _ = parse(&text).map_err(|problems| problems.render(true));
    }

    #[test]
    fn a_damaged_file_never_makes_the_reader_panic(
        position in 0..SHIPPED.len(),
        length in 0..40_usize,
    ) {
        let start = SHIPPED.floor_char_boundary(position);
        let end = SHIPPED.floor_char_boundary((start + length).min(SHIPPED.len()));
        let text = format!("{}{}", &SHIPPED[..start], &SHIPPED[end..]);
        let _ = parse(&text).map_err(|problems| problems.render(false));
    }
}
