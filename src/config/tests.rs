//! Whole files: what they mean, and every problem that they may have.

mod bounds;
mod helps;
mod origins;
mod passwords;
mod thirty_mistakes;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    matcher::Sample,
    route::{Accept, HttpSettings},
    server::ListenAddress,
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

/// The environment with a directory of TLS files, which is removed when dropped.
fn with_tls_files() -> (tempfile::TempDir, impl Fn(&str) -> Option<String>) {
    let files = tempfile::tempdir().unwrap();
    let authority = tls::tests::Authority::new("authority");
    let (certificate, key) = authority.issue(&["localhost"]);
    for (name, text) in [
        ("ca.crt", &authority.pem()),
        ("tls.crt", &certificate),
        ("tls.key", &key),
    ] {
        fs::write(files.path().join(name), text).unwrap();
    }
    let path = files.path().display().to_string();
    let lookup = move |name: &str| match name {
        "TLS_FILES" => Some(path.clone()),
        name => environment(name),
    };
    (files, lookup)
}

#[test]
fn the_shipped_file_is_the_one_that_the_rows_make() {
    assert!(
        default_file() == SHIPPED,
        "run: cargo run -- config default > proxy.toml\n{}",
        default_file()
    );
}

#[test]
fn the_shipped_file_says_what_the_defaults_are() {
    let shipped = parse(&default_file()).unwrap_or_else(|problems| panic!("{problems}"));
    let upstream = address::upstream("http://127.0.0.1:8081").unwrap();
    let defaults = Config::for_upstream(upstream, &environment).unwrap();

    assert_eq!(debug(shipped), debug(defaults));
}

#[test]
fn the_shipped_file_has_every_key() {
    let text = shipped_with_examples();
    let (_files, environment) = with_tls_files();
    let file = File::new(&text, &environment);
    let root = DeTable::parse(&text).unwrap();
    file.read(root.get_ref(), |top| {
        let routes = routes::read(top);
        Config::with_routes(top, routes)
    });

    let mut occurs = BTreeMap::new();
    for (name, is_there) in file.lookups() {
        let is_matcher =
            |table: &str| ["authenticated", "services_ready", "ready", "match"].contains(&table);
        let name = match name.split_once('.') {
            Some((table, kind)) if is_matcher(table) => format!("matcher.{kind}"),
            _ => name,
        };
        *occurs.entry(name).or_insert(false) |= is_there;
    }
    let missing: Vec<_> = occurs.iter().filter(|(_, is_there)| !**is_there).collect();
    assert!(occurs.len() > 50, "{occurs:?}");
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_of_the_shipped_file_is_shown_with_its_origin() {
    let (_files, environment) = with_tls_files();
    let text = shipped_with_examples();
    let config = Config::parse("proxy.toml", &text, &environment).unwrap();

    let without_numbers = |key: &str| {
        let parts = key.split(['[', ']']).enumerate();
        let names = parts.filter(|(index, _)| index % 2 == 0);
        names.map(|(_, name)| name).collect::<String>()
    };
    let settings = config.effective.settings();
    let files = environment("TLS_FILES").unwrap();
    assert!(!format!("{settings:?}").contains(&files), "{settings:?}");
    let settings = settings.into_iter();
    let shown: BTreeSet<_> = settings.map(|it| without_numbers(&it.key)).collect();
    let mut table = String::new();
    let mut written = BTreeSet::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned() + ".";
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            written.insert(format!("{table}{key}"));
        }
    }
    // An inline table of settings, and not one value.
    written.remove("route.connect.retry");
    assert!(written.len() > 60, "{written:?}");
    let missing: Vec<_> = written.difference(&shown).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_examples_in_the_shipped_file_are_valid() {
    let (_files, environment) = with_tls_files();
    let config = Config::parse("proxy.toml", &shipped_with_examples(), &environment);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));

    let paths: BTreeSet<_> = config
        .routes
        .iter()
        .map(|route| route.path.clone())
        .collect();
    assert_eq!(
        paths,
        ["/", "/assistant", "/chat", "/secure"]
            .map(str::to_owned)
            .into()
    );
}

#[test]
fn without_settings_everything_is_as_the_settings_types_say() {
    let route = route_with("");

    assert_eq!(debug(route.session), debug(session::Settings::default()));
    assert_eq!(debug(route.http), debug(HttpSettings::default()));
}

#[test]
fn plain_requests_wait_as_long_as_sessions_unless_said_otherwise() {
    let held = |settings: &str| route_with(settings).hold_timeout().as_millis();

    assert_eq!(held(""), 30_000);
    assert_eq!(held("gate.timeout = \"60s\""), 60_000);
    assert_eq!(
        held("gate.timeout = \"60s\"\nhttp.hold_timeout = \"\""),
        60_000
    );
    assert_eq!(
        held("gate.timeout = \"60s\"\nhttp.hold_timeout = \"5s\""),
        5_000
    );
    assert_eq!(held("http.hold_timeout = \"0s\""), 0);
}

#[test]
fn the_default_port_comes_from_the_environment() {
    let route = "[[route]]\nupstream = \"http://127.0.0.1:8081\"";
    let listen = |port: Option<&str>| {
        let environment = |name: &str| port.filter(|_| name == "PORT").map(str::to_owned);
        Config::parse("proxy.toml", route, &environment).map(|config| config.listen)
    };
    let on = |port: u16| vec![ListenAddress::Tcp(([0, 0, 0, 0], port).into()).into()];

    assert_eq!(listen(None), Ok(on(8080)));
    assert_eq!(listen(Some("")), Ok(on(8080)));
    assert_eq!(listen(Some("9090")), Ok(on(9090)));
    assert_eq!(
        listen(Some("http")).unwrap_err().to_string(),
        "\
error: the environment variable PORT is not a port
 |
 = note: expected a number from 0 to 65535

error: proxy.toml has a problem"
    );
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
fn a_garbled_port_does_not_matter_where_the_file_says_where_to_listen() {
    let text = "listen = \"127.0.0.1:1\"\n[[route]]\nupstream = \"http://127.0.0.1:8081\"";

    assert!(Config::parse("proxy.toml", text, &|_| Some("x".to_owned())).is_ok());
}

#[test]
fn several_listeners_are_tables() {
    let text = "\
[[listen]]
address = \"127.0.0.1:1\"
[[listen]]
address = \"unix:/run/gate.sock\"
[[route]]
upstream = \"http://127.0.0.1:8081\"";

    assert_eq!(
        parse(text).unwrap().listen,
        [
            ListenAddress::Tcp(([127, 0, 0, 1], 1).into()).into(),
            ListenAddress::Unix("/run/gate.sock".into()).into()
        ]
    );
}

#[test]
fn http_2_is_taken_where_a_listener_says_so() {
    let text = "\
listen = [{ address = \"127.0.0.1:1\", h2c = true }, { address = \"127.0.0.1:2\" }]
limits.max_streams = 7
[[route]]
upstream = \"http://127.0.0.1:8081\"";

    let config = parse(text).unwrap_or_else(|problems| panic!("{problems}"));

    let h2c: Vec<_> = config.listen.iter().map(|listener| listener.h2c).collect();
    assert_eq!(h2c, [true, false]);
    assert_eq!(config.limits.max_streams, 7);
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
fn rules_classify_with_the_matchers_of_the_file() {
    let route = route_with(
        r#"
[route.gate]
ready = { text = "ready" }
[[route.message]]
match = [{ json = { "/type" = ["typing", "heartbeat"] } }, { binary_prefix = "0aFF" }]
priority = "low"
[[route.message]]
match = { regex = '^\d+$' }
priority = "critical"
"#,
    );
    let priority = |payload: &[u8]| {
        let sample = Sample {
            is_text: true,
            payload,
            is_whole: true,
        };
        route.session.rules.classify(&sample).priority
    };

    assert_eq!(priority(br#"{"type":"heartbeat"}"#), Priority::Low);
    assert_eq!(priority(&[0x0a, 0xff, 0x01]), Priority::Low);
    assert_eq!(priority(b"42"), Priority::Critical);
    assert_eq!(priority(br#"{"type":"message"}"#), Priority::Normal);
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
fn several_syntax_errors_are_reported_and_hide_their_consequences() {
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
fn routes_for_the_same_requests_are_refused() {
    let text = "\
[[route]]
host = \"Chat.example\"
path = \"/a/\"
upstream = \"http://127.0.0.1:1\"
[[route]]
upstream = \"http://127.0.0.1:2\"
host = \"chat.example\"
path = \"/a\"
";

    assert_eq!(
        report(text),
        "\
error: two routes are for the same host and path
 --> proxy.toml:5:1
  |
1 | [[route]]
  | --------- the first of them
...
5 | [[route]]
  | ^^^^^^^^^ expected another host or path

error: proxy.toml has a problem"
    );
}

#[test]
fn a_file_without_a_route_or_a_route_without_an_upstream_is_refused() {
    assert!(report("").contains("there is no route"));
    assert!(report("[[route]]\n[[route]]\npath = \"/a\"").contains("has 2 problems"));
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

#[test]
fn a_single_route_table_is_explained() {
    let report = report("[route]\nupstream = \"http://127.0.0.1:1\"");

    assert!(report.contains("write [[route]]"), "{report}");
    assert!(report.ends_with("has a problem"), "{report}");
}

#[test]
fn a_release_that_comes_no_earlier_than_ready_is_refused() {
    let rule = "[[route.message]]\nmatch = { prefix = \"a\" }\nrelease =";
    let gate = "[route.gate]\nready = { text = \"ready\" }";

    let open = report_on_route(&format!("{rule} \"authenticated\""));
    let skipped = report_on_route(&format!("{gate}\n{rule} \"services_ready\""));

    assert!(
        open.contains("gate opens as soon as the upstream is connected"),
        "{open}"
    );
    assert!(
        skipped.contains("no session of this route becomes `services_ready`"),
        "{skipped}"
    );
    route_with(&format!("{gate}\n{rule} \"authenticated\""));
}

#[test]
fn a_rule_without_a_match_is_one_problem() {
    let report = report_on_route("[[route.message]]\npriority = \"low\"");

    assert!(report.contains("this rule matches nothing"), "{report}");
    assert!(report.ends_with("has a problem"), "{report}");
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
fn hosts_and_paths_of_routes_are_normalized() {
    let host_and_path = |settings: &str| {
        let route = route_with(settings);
        (route.host, route.path)
    };
    for (settings, host, path) in [
        ("host = \"Chat.Example\"", "chat.example", "/"),
        ("host = \"*.Example\"\npath = \"/ws/\"", "*.example", "/ws"),
        ("path = \"=/ws/\"", "", "=/ws/"),
        ("path = \"= /ws\"", "", "=/ws"),
        ("path = \"/%77s\"", "", "/ws"),
    ] {
        assert_eq!(host_and_path(settings), (host.into(), path.into()));
    }
}

#[test]
fn a_client_is_accepted_early_unless_the_file_says_otherwise() {
    assert_eq!(route_with("").accept, Accept::Early);
    assert_eq!(route_with("accept = \"early\"").accept, Accept::Early);
    let waiting = route_with("accept = \"after-upstream\"\nsubprotocols = []");
    assert_eq!(waiting.accept, Accept::AfterUpstream);
}

#[test]
fn settings_of_a_route_that_cannot_work_are_refused_each_with_its_reason() {
    assert_refused(&[
        ("path = \"chat\"", "expected a path such as"),
        ("path = \"/a?b\"", "expected a path such as"),
        ("path = \"/a b\"", "expected a path such as"),
        ("host = \"a.*\"", "every host below example.com"),
        ("host = \"*\"", "every host below example.com"),
        ("host = \"*.\"", "every host below example.com"),
        ("[route.http]\nmax_body_bytes = \"1MB\"", "write \"1MiB\""),
        ("proxy_protocol = \"v3\"", "expected ``, `v1` or `v2`"),
        ("path = \"=chat\"", "exactly one"),
        ("path = \"/a/../b\"", "dot segment"),
        ("path = \"/a;b\"", "can be read in two ways"),
        ("path_checks = \"lax\"", "expected `strict`"),
        ("path_checks = [\"%2e\"]", "expected `%5C` or `\\`"),
        ("path_checks = true", "`path_checks` cannot be"),
        ("host = \"a.example:80\"", "without scheme, port and path"),
        (
            "origins = [\"https://a.example/\"]",
            "write \"https://a.example\"",
        ),
        ("origins = [\"*\"]", "an empty list allows every origin"),
        ("origins = \"https://a.example\"", "expected a list"),
        ("subprotocols = [\"a b\"]", "not the name of a subprotocol"),
        ("accept = \"after\"", "expected `early` or `after-upstream`"),
        (
            "accept = \"after-upstream\"\nsubprotocols = [\"a\"]",
            "the upstream chooses the subprotocol",
        ),
        ("[route.connect]\ntimeout = \"0s\"", "must not be zero"),
        (
            "[route.connect]\nretry = { jitter = 1.5 }",
            "expected a number from 0 to 1",
        ),
        (
            "[route.connect]\nretry = { initial = \"2s\" }",
            "`initial` is 2s, `max` is 1s",
        ),
        (
            "[route.connect]\nretry.initial = \"0s\"",
            "must not be zero",
        ),
        ("[[route.message]]\nmatch = []", "this rule matches nothing"),
        (
            "[[route.message]]\nmatch = { first = true }",
            "is for the gate",
        ),
        (
            "[[route.message]]\nmatch = { on = \"pong\" }",
            "is for the gate",
        ),
        ("[route.hold]\nmax_messages = 0", "must not be zero"),
        ("[route.hold]\nmax_bytes = \"1MB\"", "write \"1MiB\""),
        (
            "[route.hold]\norder = \"random\"",
            "expected `priority` or `arrival`",
        ),
        ("[route.close_codes]\n101 = 1008", "expected 200 to 599"),
        (
            "[route.close_codes]\n401 = 1006",
            "not a close code that may be sent",
        ),
        ("[route.http]\nversion = \"3\"", "expected `1.1` or `2`"),
        (
            "[route.http]\nunderscores = \"yes\"",
            "expected `drop` or `pass`",
        ),
        ("[route.http]\nidle_timeout = \"0s\"", "must not be zero"),
        (
            "proxy_protocol = \"v1\"\n[route.http]\nversion = \"2\"",
            "expected only one of `proxy_protocol` and",
        ),
        (
            "[route.http]\nmax_held_requests = 1.5",
            "expected a whole number",
        ),
        (
            "[route.tunnel]\nidle_after = 1979-05-27",
            "cannot be a date or a time",
        ),
    ]);
}

#[test]
fn settings_of_the_gate_that_cannot_work_are_refused_each_with_its_reason() {
    assert_refused(&[
        (
            "[route.gate]\nready = []",
            "no session could become `ready`",
        ),
        ("[route.gate]\nready = {}", "this matcher is empty"),
        (
            "[route.gate]\nready = \"ready\"",
            "expected a matcher such as",
        ),
        ("[route.gate]\nready = { first = false }", "expected true"),
        (
            "[route.gate]\nready = { on = \"upgrad\" }",
            "did you mean `upgrade`?",
        ),
        (
            "[route.gate]\nready = { json = {} }",
            "this matcher is empty",
        ),
        (
            "[route.gate]\nready = { json = { type = 1 } }",
            "write \"/type\"",
        ),
        (
            "[route.gate]\nready = { json = { \"/a~\" = 1 } }",
            "`~` is written `~0`",
        ),
        (
            "[route.gate]\nready = { json = { \"/a\" = [] } }",
            "this matcher cannot match",
        ),
        (
            "[route.gate]\nready = { json = { \"/a\" = nan } }",
            "expected a string, a number",
        ),
        (
            "[route.gate]\nready = { json = { \"/a\" = {} } }",
            "expected a string, a number",
        ),
        (
            "[route.gate]\nready = { text = \"a\", first = true }",
            "has 2 conditions",
        ),
        (
            "[route.gate]\nready = { binary_prefix = \"0a1\" }",
            "two hex digits",
        ),
        (
            "[route.gate]\non_timeout = \"opne\"",
            "did you mean `open`?",
        ),
        ("[route.gate]\nsettle = \"1m\"", "before it has settled"),
        (
            "[route.gate]\nforward_ready = \"yes\"",
            "expected true or false",
        ),
    ]);
}

#[test]
fn an_empty_limit_is_none() {
    let text = "\
[limits]
max_connections_per_address = \"\"
session_rate = 50
session_rate_per_address = \"\"
[[route]]
upstream = \"http://127.0.0.1:8081\"
[route.http]
max_body_bytes = \"1MiB\"
";
    let config = parse(text).unwrap();

    assert_eq!(config.limits.max_connections_per_address, None);
    assert_eq!(config.limits.session_rate, Some(50));
    assert_eq!(config.limits.session_rate_per_address, None);
    let route = config.routes.iter().next().unwrap();
    assert_eq!(route.http.max_body_bytes, Some(1 << 20));
}

#[test]
fn the_proxy_protocol_is_spoken_where_a_listener_or_a_route_says_so() {
    let text = "\
trusted_proxies = [\"10.0.0.0/8\"]
[[listen]]
address = \"127.0.0.1:1\"
proxy_protocol = true
[[route]]
upstream = \"http://127.0.0.1:8081\"
proxy_protocol = \"v2\"
";
    let config = parse(text).unwrap();

    assert!(config.listen[0].proxy_protocol);
    assert!(
        !config
            .routes
            .iter()
            .next()
            .unwrap()
            .upstream
            .may_share_connections()
    );
    assert!(route_with("").upstream.may_share_connections());
}

#[test]
fn trusted_proxies_are_networks_addresses_and_words() {
    let trusted = |list: &str| {
        let text =
            format!("trusted_proxies = {list}\n[[route]]\nupstream = \"http://127.0.0.1:8081\"");
        parse(&text).unwrap().trusted_proxies
    };
    let networks = |list: &str| -> Vec<_> {
        let networks = trusted(list).networks;
        networks.iter().map(ToString::to_string).collect()
    };

    assert!(trusted("[]").is_empty());
    assert_eq!(
        networks("[\"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\", \"::1\"]"),
        ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::1/128"]
    );
    assert!(networks("[\"private\"]").contains(&"169.254.0.0/16".to_owned()));
    assert!(trusted("[\"unix\"]").unix);
}

#[test]
fn values_of_the_process_that_cannot_work_are_refused_each_with_its_reason() {
    for (settings, reason) in [
        ("listen = \"localhost:80\"", "write \"127.0.0.1:80\""),
        ("listen = 80", "write \"0.0.0.0:80\""),
        ("listen = []", "expected at least one address"),
        ("[[listen]]", "this listener has no address"),
        (
            "listen = [{ address = \"0.0.0.0:1\" }, { address = \"0.0.0.0:1\" }]",
            "already",
        ),
        ("workers = -1", "\"auto\" for one per core"),
        (
            "listen = [{ address = \"0.0.0.0:1\", proxy_protocol = true }]",
            "there are no trusted proxies",
        ),
        (
            "listen = [{ address = \"0.0.0.0:1\", proxy_protocol = \"v1\" }]",
            "expected true or false",
        ),
        ("trusted_proxies = \"10.0.0.0/8\"", "expected a list"),
        ("trusted_proxies = [\"all\"]", "is not a network"),
        ("trusted_proxies = [\"10.0.0.0/33\"]", "is not a network"),
        (
            "trusted_proxies = [\"10.1.0.0/8\"]",
            "expected \"10.0.0.0/8\", or \"10.1.0.0\" alone",
        ),
        (
            "trusted_proxies = [\"::ffff:10.0.0.0/104\"]",
            "clients with an IPv4 address count as such",
        ),
        ("log = 5", "expected a table"),
        ("log.level = \"warning\"", "did you mean `warn`?"),
        ("limits.max_connections = 0", "must not be zero"),
        ("limits.max_streams = 0", "must not be zero"),
        ("limits.max_streams = 10001", "at most 10000"),
        ("limits.max_connections_per_address = 0", "must not be zero"),
        ("limits.session_rate = \"fast\"", "expected a whole number"),
        (
            "limits.session_rate_per_address = 4294967296",
            "is too large",
        ),
        ("limits.max_headers = 101", "expected at most 100"),
        ("limits.max_uri_bytes = 0", "must not be zero"),
        ("limits.max_held_bytes = \"0%\"", "from \"1%\" to \"100%\""),
        (
            "limits.max_header_bytes = 100",
            "expected at least \"8KiB\"",
        ),
        ("drain.grace = 8", "write \"8s\""),
        ("drain.spread = \"soon\"", "expected"),
        ("reload.poll = \"0s\"", "expected"),
    ] {
        let text = format!("{settings}\n[[route]]\nupstream = \"http://127.0.0.1:8081\"");
        let report = report(&text);
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

#[test]
fn the_admin_listener_has_an_address_of_its_own_or_none() {
    let admin = |settings: &str| {
        let text = format!("{settings}\n[[route]]\nupstream = \"http://127.0.0.1:8081\"");
        parse(&text)
            .unwrap()
            .admin
            .map(|address| address.to_string())
    };

    assert_eq!(admin("").as_deref(), Some("http://127.0.0.1:9901"));
    assert_eq!(admin("admin.listen = \"\""), None);
    assert_eq!(
        admin("[admin]\nlisten = \"unix:/run/admin.sock\"").as_deref(),
        Some("unix:/run/admin.sock")
    );
    let wrong = report("[admin]\nlisten = \"9901\"\nport = 1");
    assert!(
        wrong.contains("`9901` is not an address to listen on"),
        "{wrong}"
    );
    assert!(wrong.contains("unknown key `port`"), "{wrong}");
}
