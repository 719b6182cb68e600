//! `readygate explain`: the route of a request, and its treatment there.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::{Output, Stdio},
    thread,
};

use crate::support::{Killed, VALID, directory_with, readygate, run, stderr, stdout};

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

/// A route for every host, where only pages of one origin may open a session.
const ONE_ORIGIN: &str = r#"
[[route]]
upstream = "http://127.0.0.1:8081"
origins = ["https://a.example"]
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
fn the_gate_is_the_first_that_is_said_of_a_websocket() {
    let waiting = explain(&["ws://a.chat.example/ws", "-H", "Origin: https://a.example"]);
    let at_once = explain(&["ws://b.example/ws"]);

    for (output, gate) in [
        (&waiting, "{ json = { \"/type\" = \"ready\" } }; after 45s"),
        (
            &at_once,
            "{ on = \"upgrade\" }: nothing is held once the upstream has answered with 101; after",
        ),
    ] {
        let text = stdout(output);
        let section = text.split("A WebSocket\n").nth(1).unwrap();
        let line = section.lines().next().unwrap();
        assert!(line.starts_with("  gate         opens at "), "{text}");
        assert!(line.contains(gate), "{text}");
    }
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
fn a_plain_request_is_explained_where_a_websocket_is_refused() {
    let directory = directory_with("proxy.toml", ONE_ORIGIN);
    let output = run(
        directory.path(),
        &["explain", "/ws", "-H", "Origin: https://b.example"],
    );

    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(value(&output, "A WebSocket", "refused").is_some());
    assert!(value(&output, "A plain request", "hold").is_some());
    let headers = value(&output, "To the upstream", "headers");
    assert!(headers.is_some(), "{}", stdout(&output));
}

#[test]
fn what_is_off_is_said_to_be_off() {
    let off = format!("{VALID}breaker.failures = 0\ntunnel.ping_interval = \"\"\n");
    let on = format!("{VALID}breaker.failures = 3\ntunnel.ping_interval = \"7s\"\n");
    for (file, breaker, ping) in [
        (off, "never: ", "a ping after silence: none; "),
        (on, "503 for ", "a ping after silence: 7s; "),
    ] {
        let directory = directory_with("proxy.toml", &file);
        let output = run(directory.path(), &["explain", "ws://a.example/"]);

        let told = value(&output, "A WebSocket", "breaker").unwrap();
        assert!(told.starts_with(breaker), "{told}");
        let told = value(&output, "A WebSocket", "tunnel").unwrap();
        assert!(told.contains(ping), "{told}");
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

/// A handshake as a client sends it that is asked for `url`, with these headers.
fn handshake(url: &str, headers: &[&str]) -> String {
    let (host, path) = url.trim_start_matches("ws://").split_once('/').unwrap();
    let mut lines: Vec<_> = headers.iter().map(|&line| line.to_owned()).collect();
    for (name, value) in [
        ("Host", host),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ] {
        if !headers
            .iter()
            .any(|line| line.starts_with(&format!("{name}:")))
        {
            lines.push(format!("{name}: {value}"));
        }
    }
    format!("GET /{path} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"))
}

#[test]
fn a_handshake_is_refused_or_not_as_the_proxy_that_runs_does() {
    let directory = directory_with("proxy.toml", FILE);
    let mut proxy = readygate(
        directory.path(),
        &["--listen", "127.0.0.1:0", "--admin", ""],
    )
    .stdout(Stdio::piped())
    .spawn()
    .map(Killed)
    .unwrap();
    let mut log = BufReader::new(proxy.0.stdout.take().unwrap()).lines();
    let mut lines = log.by_ref().map_while(Result::ok);
    let line = lines.find(|line| line.contains("\"listening\"")).unwrap();
    let (_, address) = line.split_once("\"address\":\"http://").unwrap();
    let address = address.split('"').next().unwrap();
    // Whatever else it logs must not block it.
    thread::spawn(move || log.for_each(drop));

    let too_long = format!("ws://a/{}", "x".repeat(9000));
    for (url, headers, status) in [
        ("ws://a/x", &[][..], "101"),
        ("ws://a.chat.example/ws", &[], "403"),
        ("ws://a/x", &["Host: h/x"], "400"),
        ("ws://a/x", &["Host: a", "Host: b"], "400"),
        ("ws://a/x", &["Host:"], "400"),
        ("ws://a:99999/x", &[], "400"),
        ("ws://a/é", &[], "400"),
        (&too_long, &[], "414"),
        ("ws://a/x", &["Sec-WebSocket-Version: 8"], "426"),
        ("ws://a/x", &["Sec-WebSocket-Key: short"], "400"),
        ("ws://a/x", &["Upgrade: h2c, websocket"], "400"),
        ("ws://a/x", &["Content-Length: 5"], "400"),
    ] {
        let mut client = TcpStream::connect(address).unwrap();
        let sent = handshake(url, headers);
        client.write_all(sent.as_bytes()).unwrap();
        let mut lines = BufReader::new(client).lines().map_while(Result::ok);
        let answered = lines.next().unwrap().replace("HTTP/1.1 ", "");
        assert!(
            answered.starts_with(status),
            "{url} {headers:?}: {answered}"
        );
        let is_taken = status == "101";
        let expected = (!is_taken).then(|| {
            let text = lines.find_map(|line| Some(line.split_once(" (request ")?.0.to_owned()));
            format!("{answered}: {}", text.unwrap())
        });

        let mut arguments = vec!["explain", url];
        arguments.extend(headers.iter().flat_map(|header| ["-H", header]));
        let output = run(directory.path(), &arguments);
        let mut told = stdout(&output).lines().map(str::trim);
        let refused = told.find_map(|line| line.strip_prefix("refused "));
        assert_eq!(
            refused.map(str::trim),
            expected.as_deref(),
            "{url} {headers:?}"
        );
        assert_eq!(output.status.success(), is_taken, "{url} {headers:?}");
    }
}

#[test]
fn what_cannot_be_asked_is_a_wrong_command_line() {
    for (arguments, advice) in [
        (
            &["http://a b/"][..],
            "expected a URL such as wss://chat.example/room",
        ),
        (&["/", "-H", "no header"], "expected \"Name: value\""),
        (&[], "<URL>"),
        (&["chat.example/ws"], "write wss://chat.example/ws"),
        (
            &["user:canary@chat.example/ws"],
            "write wss://chat.example/ws",
        ),
        (&["ftp://u:canary@a.example/x"], "write wss://a.example/x"),
        (&["u:canary@ws://a.example/x"], "write wss://"),
        (&["ws://u:canary@a b/x"], "expected a URL"),
        (&["*"], "or a path: /room"),
        (&["ws:///ws"], "expected a URL"),
        // There are routes for some hosts alone.
        (&["/ws"], "add --header 'Host: HOST'"),
    ] {
        let output = explain(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = stderr(&output);
        assert!(error.contains(advice), "{arguments:?}: {error}");
        assert!(!error.contains("canary"), "{arguments:?}: {error}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn credentials_in_a_url_are_not_in_the_host_and_not_shown() {
    let output = explain(&[
        "ws://user:canary@a.chat.example/ws",
        "-H",
        "Origin: https://a.example",
    ]);

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let request = value(&output, "", "request").unwrap();
    assert_eq!(request, "a WebSocket for /ws on host a.chat.example");
    assert!(!stdout(&output).contains("canary"));
}

#[test]
fn a_path_is_enough_where_every_route_is_for_every_host() {
    let file = "[[route]]\npath = \"/ws\"\nupstream = \"http://127.0.0.1:1\"\n";
    let directory = directory_with("proxy.toml", file);
    for (url, status) in [("/ws", 0), ("/x", 1)] {
        let output = run(directory.path(), &["explain", url]);

        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        let request = value(&output, "", "request").unwrap();
        assert!(request.ends_with(" on any host"), "{request}");
    }
}

/// A file with every key that bears on a request, but for those of TLS, none as by default and
/// no two alike.
const EVERY_KEY: &str = r#"
[limits]
max_connections = 9001
max_connections_per_address = 9002
session_rate = 9003
session_rate_per_address = 9004
max_held_bytes = "11%"
max_memory_bytes = "12%"
max_header_bytes = "9005B"
max_headers = 13
max_uri_bytes = "9006B"
header_timeout = "9007ms"
keep_alive_timeout = "9046ms"
max_streams = 9008
write_timeout = "9009ms"
[drain]
grace = "9010ms"
spread = "9011ms"
delay = "9044ms"
[[route]]
host = "a.example"
path = "/prefix"
upstream = "unix:/run/9012.sock"
proxy_protocol = "v2"
path_checks = ["%5C"]
accept = "after-upstream"
subprotocols = []
origins = ["https://a.example"]
connect.timeout = "9013ms"
connect.handshake_timeout = "9014ms"
connect.retry = { initial = "9015ms", max = "9016ms", jitter = 0.9017 }
close_codes = { 401 = 4018, 403 = 4019 }
[route.gate]
authenticated = { text = "9020" }
services_ready = { text = "9021" }
ready = { text = "9022" }
settle = "9023ms"
timeout = "9024ms"
on_timeout = "open"
forward_ready = false
inspect_bytes = "9025B"
[[route.message]]
match = { prefix = "9026" }
priority = "critical"
release = "authenticated"
[route.hold]
max_messages = 9027
max_bytes = "9028B"
overflow = "shed"
order = "arrival"
max_age = "9029ms"
on_client_gone = "discard"
linger = "9044ms"
max_linger = "9045ms"
[route.tunnel]
idle_after = "9030ms"
idle_timeout = "9031ms"
ping_interval = "9032ms"
max_session_age = "9033ms"
close_timeout = "9034ms"
[route.http]
version = "1.1"
hold_timeout = "9035ms"
max_held_requests = 9036
max_body_bytes = "9037B"
underscores = "pass"
non_ascii = "refuse"
max_idle_connections = 9038
idle_timeout = "9039ms"
response_timeout = "9040ms"
body_timeout = "9041ms"
max_response_header_bytes = "9047B"
max_response_headers = 948
[route.breaker]
failures = 9042
cooldown = "9043ms"
"#;

/// The settings in the tables of `config show` that bear on a request.
fn shown(show: &str) -> Vec<&str> {
    let mut is_of_request = false;
    let mut settings = Vec::new();
    for line in show.lines() {
        if line.starts_with('[') {
            let tables = ["[limits]", "[drain]", "[[route", "[route"];
            is_of_request = tables.iter().any(|table| line.starts_with(table));
        } else if is_of_request && line.contains(" = ") {
            settings.push(line);
        }
    }
    settings
}

#[test]
fn no_setting_of_the_route_and_no_limit_is_left_out() {
    let directory = directory_with("proxy.toml", EVERY_KEY);
    let show = run(directory.path(), &["config", "show"]);
    assert_eq!(show.status.code(), Some(0), "{}", stderr(&show));
    let told = |url: &str| {
        let origin = ["-H", "Origin: https://a.example"];
        let output = run(directory.path(), &[&["explain", url][..], &origin].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).to_owned()
    };
    let [websocket, plain] =
        ["ws", "http"].map(|scheme| told(&format!("{scheme}://a.example/prefix")));

    let settings = shown(stdout(&show));
    assert!(settings.len() > 55, "{settings:#?}");
    for setting in settings {
        let (setting, origin) = setting.rsplit_once(" # ").unwrap();
        assert_eq!(
            origin, "file",
            "a key that this test does not have: {setting}"
        );
        let (key, value) = setting.split_once(" = ").unwrap();
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        let is_told = |page: &str| page.contains(value);
        assert!(is_told(&websocket) || is_told(&plain), "{key} = {value}");
    }
    // Settings whose values stand in other lines or words as well.
    for told in [
        "1 of 1: host a.example, /prefix and all below it",
        "9005B, 13 lines, within 9007ms",
        "; after 9024ms without: open\n",
        "{ prefix = \"9026\" }: critical, held until authenticated\n",
        " then shed; delivered by arrival\n",
        "; when the client leaves: discard\n",
        "is closed after 9044ms of silence, 9045ms at most\n",
        "whose names have an underscore: pass\n",
        "that of the upstream, or 504 after 9024ms\n",
        "upstream     HTTP/1.1\n",
    ] {
        assert!(websocket.contains(told) || plain.contains(told), "{told}");
    }
    // What bears on the one alone is not told of the other.
    assert!(!websocket.contains("9035ms") && !plain.contains("9031ms"));
    // And what has no line of its own.
    for (page, setting) in [
        (&websocket, "gate.inspect_bytes = \"9025B\""),
        (&plain, "http.max_idle_connections = 9038"),
        (&plain, "proxy_protocol = \"v2\""),
        (&websocket, "max_streams = 9008"),
    ] {
        assert!(page.contains(setting), "{setting}: {page}");
    }
}
