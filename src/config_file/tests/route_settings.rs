//! Settings of routes.

use super::*;

#[test]
fn without_settings_everything_is_as_the_settings_types_say() {
    let route = route_with("");

    assert_eq!(debug(route.session), debug(session::Settings::default()));
    assert_eq!(debug(route.http), debug(HttpSettings::default()));
}

#[test]
fn plain_requests_wait_as_long_as_sessions_by_default() {
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
fn a_route_and_its_upstream_are_required() {
    assert!(report("").contains("there is no route"));
    assert!(report("[[route]]\n[[route]]\npath = \"/a\"").contains("has 2 problems"));
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
fn impossible_settings_of_a_route_are_refused_with_reasons() {
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
fn impossible_settings_of_the_gate_are_refused_with_reasons() {
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
