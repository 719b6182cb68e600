//! `readygate explain`: what becomes of a request.

use std::process::Output;

use crate::support::{directory_with, run, stderr, stdout};

const FILE: &str = r#"
[[route]]
upstream = "http://127.0.0.1:8081"

[[route]]
host = "*.chat.example"
path = "/ws"
upstream = "http://127.0.0.1:8082"
origins = ["https://a.example"]
subprotocols = ["v1", "v2"]
gate = { ready = { json = { "/type" = "ready" } }, timeout = "45s" }
[[route.message]]
match = { prefix = "say:" }
priority = "critical"

[[route]]
path = "=/only"
accept = "after-upstream"
upstream = "http://127.0.0.1:8083"
"#;

fn explain(arguments: &[&str]) -> Output {
    let directory = directory_with("proxy.toml", FILE);
    run(directory.path(), &[&["explain"], arguments].concat())
}

/// The value behind `name`, in the section of that name.
fn value<'a>(output: &'a Output, section: &str, name: &str) -> Option<&'a str> {
    let sections = stdout(output).split("\n\n");
    let mut sections = sections.filter(|it| section.is_empty() || it.starts_with(section));
    let mut lines = sections.next()?.lines().map(str::trim);
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

#[test]
fn a_websocket_is_followed_from_its_route_to_its_queue() {
    let output = explain(&[
        "wss://a.chat.example:8443/ws/room?x=1",
        "-H",
        "Origin: https://A.example",
        "--header",
        "Sec-WebSocket-Protocol: v3, v2",
    ]);

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let is = |section: &str, name: &str, expected: &str| {
        assert_eq!(
            value(&output, section, name),
            Some(expected),
            "{}",
            stdout(&output)
        );
    };
    is(
        "",
        "request",
        "a WebSocket for /ws/room on host a.chat.example:8443",
    );
    is(
        "",
        "route",
        "2 of 3: every host below chat.example, /ws and all below it",
    );
    is("", "upstream", "http://127.0.0.1:8082");
    is(
        "A WebSocket",
        "answer",
        "101 at once, with the subprotocol v2",
    );
    is(
        "A WebSocket",
        "gate",
        "opens at { json = { \"/type\" = \"ready\" } }; after 45s without: close",
    );
    is(
        "A WebSocket",
        "messages",
        "{ prefix = \"say:\" }: critical, held until ready",
    );
    is(
        "A WebSocket",
        "hold",
        "1000 messages or 1MiB, then backpressure; delivered by priority",
    );
    is("Limits", "connections", "10000, and 1000 from one address");
    assert!(!stdout(&output).contains("A plain request"));
}

#[test]
fn an_origin_that_is_not_allowed_is_refused() {
    for headers in [&[][..], &["-H", "Origin: https://b.example"]] {
        let output = explain(&[&["ws://a.chat.example/ws"], headers].concat());

        assert_eq!(output.status.code(), Some(1));
        let refused = value(&output, "A WebSocket", "refused").unwrap();
        assert!(refused.starts_with("403 Forbidden: "), "{refused}");
    }
}

#[test]
fn a_plain_request_and_one_that_may_be_either_are_told_apart() {
    let plain = explain(&["http://chat.example/x"]);
    let either = explain(&["/only", "--header", "Host: b.example"]);
    let upgrade = explain(&["http://b.example/only", "-H", "Upgrade: WebSocket"]);

    assert_eq!(
        value(&plain, "", "route"),
        Some("1 of 3: every host, every path")
    );
    assert_eq!(
        value(&plain, "A plain request", "upstream"),
        Some("HTTP/1.1")
    );
    assert!(!stdout(&plain).contains("A WebSocket"));
    assert_eq!(
        value(&either, "", "route"),
        Some("3 of 3: every host, /only alone")
    );
    for output in [&either, &upgrade] {
        let answer = value(output, "A WebSocket", "answer").unwrap();
        assert_eq!(answer, "that of the upstream, or 504 after 30s");
    }
    assert!(stdout(&either).contains("A plain request"));
    assert!(!stdout(&upgrade).contains("A plain request"));
}

#[test]
fn a_request_without_a_route_is_refused_as_the_proxy_does() {
    let refused = |url: &str| {
        let output = explain(&[url]);
        assert_eq!(output.status.code(), Some(1), "{url}");
        value(&output, "", "refused").unwrap().to_owned()
    };
    assert!(refused("http://x/a/../b").starts_with("400 Bad Request: "));
    assert!(refused("http://a.chat.example/ws;x").starts_with("400 Bad Request: "));

    let directory = directory_with(
        "proxy.toml",
        "[[route]]\nhost = \"a.example\"\npath = \"/ws\"\nupstream = \"http://127.0.0.1:1\"\n",
    );
    for (url, status) in [
        ("http://a.example/x", "404 Not Found: "),
        ("http://b.example/ws", "421 Misdirected Request: "),
    ] {
        let output = run(directory.path(), &["explain", url]);
        let refused = value(&output, "", "refused").unwrap();
        assert!(refused.starts_with(status), "{refused}");
    }
}

#[test]
fn what_cannot_be_asked_is_a_wrong_command_line() {
    for arguments in [&["http://a b/"][..], &["/", "-H", "no header"], &[]] {
        let output = explain(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
