//! Content of the lines, in each format.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;
use socket2::SockRef;

use crate::support::{After, BASE, Program, answering, backend, handshake, nowhere, session};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traceparent() -> String {
    format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01")
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A plain request for `target`.
fn get(target: &str, lines: &[&str]) -> String {
    let more: String = lines.iter().flat_map(|line| [*line, "\r\n"]).collect();
    format!("GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{more}\r\n")
}

#[test]
fn a_session_s_line_says_how_it_ended_and_what_it_is_called() {
    let mut program = Program::start(backend(&[]), "", &[], &[]);

    program.exchange(session("/chat?token=1", &[&traceparent()]));

    let line = json(&program.line_with("session ended"));
    for (field, value) in [
        ("level", Value::from("INFO")),
        ("session", 1.into()),
        ("path", "/chat".into()),
        ("route", "/".into()),
        ("method", "GET".into()),
        ("status", 101.into()),
        ("ended_by", "client".into()),
        ("reason", "client_closed".into()),
        ("close_code", 1000.into()),
        ("client_code", 1000.into()),
        ("upstream_code", 1000.into()),
        ("upstream_attempts", 1.into()),
        ("accepted", 1.into()),
        ("delivered", 1.into()),
        ("trace_id", TRACE.into()),
        ("span_id", "00f067aa0ba902b7".into()),
        ("trace_sampled", true.into()),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(line["request_id"].as_str().unwrap().len() > 12, "{line}");
}

#[test]
fn a_session_s_line_has_the_address_of_its_upstream() {
    let upstream = backend(&[]);
    let mut program = Program::start(upstream, "", &[], &[]);

    program.exchange(session("/chat", &[]));

    let line = json(&program.line_with("session ended"));
    assert_eq!(line["upstream_address"], upstream.to_string(), "{line}");
    let text = format!(
        "{BASE}[[route]]\nupstream = \"http://{}\"\n[route.gate]\ntimeout = \"50ms\"",
        nowhere()
    );
    let mut program = Program::configured(&text, &[], &[]);
    program.exchange(session("/chat", &[]));
    let line = json(&program.line_with("session ended"));
    assert!(line.get("upstream_address").is_none(), "{line}");
}

#[test]
fn a_line_for_people_is_short_and_whole_at_debug() {
    let gated = |upstream, timeout: &str| {
        format!(
            "{BASE}[[route]]\nupstream = \"http://{upstream}\"\n[route.gate]\n\
             ready = {{ text = \"ready\" }}\ntimeout = \"{timeout}\"\n"
        )
    };
    let held = [
        handshake("/agent?token=1", &[]).as_bytes(),
        b"\x81\x82\0\0\0\0hi\x81\x82\0\0\0\0hi",
    ]
    .concat();
    let text = ["--log-format", "text"];
    let mut program = Program::configured(&gated(backend(&[]), "300ms"), &text, &[]);
    program.exchange(&held);
    let line = program.line_with("/agent");
    assert!(
        line.contains(" WARN /agent 1013 ready_timeout after "),
        "{line}"
    );
    assert!(line.ends_with(" s, 2 of 2 lost (#1)"), "{line}");

    let mut program = Program::start(backend(&[]), "", &text, &[]);
    program.exchange(session("/chat", &[]));
    let line = program.line_with("/chat");
    assert!(
        line.contains(" INFO /chat 1000 client_closed after "),
        "{line}"
    );
    assert!(line.ends_with(" s, 1 delivered (#1)"), "{line}");
    program.exchange(get("/a/../b", &[]));
    let line = program.line_with("/a/../b");
    assert!(
        line.contains(" INFO GET /a/../b 400 bad_request after "),
        "{line}"
    );

    let nowhere = nowhere();
    let mut program = Program::configured(&gated(nowhere, "300ms"), &text, &[]);
    program.exchange(&held);
    let line = program.line_with("/agent 1013");
    assert!(
        line.contains(&format!("(#1): cannot connect: {nowhere}: ")),
        "{line}"
    );

    let whole = ["--log-format", "text", "--log-level", "debug"];
    let mut program = Program::start(backend(&[]), "", &whole, &[]);
    program.exchange(session("/chat", &[]));
    let line = program.line_with("session ended");
    assert!(
        line.contains(" path=/chat ") && line.contains(" trail="),
        "{line}"
    );
}

#[test]
fn the_id_in_an_answer_of_the_proxy_is_in_the_log() {
    let mut program = Program::start(backend(&[]), "", &[], &[]);

    let answer = program.exchange(get("/a/../b?token=1", &[&traceparent()]));

    let (_, rest) = answer.split_once("X-Request-Id: ").unwrap();
    let id = rest.lines().next().unwrap();
    let line = json(&program.line_with("request ended"));
    for (field, value) in [
        ("level", "INFO"),
        ("request_id", id),
        ("method", "GET"),
        ("path", "/a/../b"),
        ("answered_by", "proxy"),
        ("reason", "bad_request"),
        ("trace_id", TRACE),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!(line["status"], 400);
}

#[test]
fn what_never_became_a_request_is_logged_and_counted() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70_000));
    let large = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(300_000));
    for (h2c, request, status, reason, has_id) in [
        (
            false,
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            400,
            "bad_request",
            false,
        ),
        (
            false,
            "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03",
            400,
            "bad_request",
            false,
        ),
        (false, PREFACE, 0, "bad_request", false),
        (false, &long, 414, "uri_too_long", false),
        (false, &large, 431, "headers_too_large", false),
        (
            false,
            "GET / HTTP/1.1\r\nHost: a",
            408,
            "header_timeout",
            true,
        ),
        (true, &PREFACE[..20], 0, "header_timeout", false),
    ] {
        let limits = "{ header_timeout = \"100ms\", max_header_bytes = \"256KiB\", max_uri_bytes = \"128KiB\" }";
        let listen = format!("[[listen]]\naddress = \"127.0.0.1:0\"\nh2c = {h2c}\n");
        let route = format!("[[route]]\nupstream = \"http://{}\"\n", backend(&[]));
        let base = "workers = 1\nadmin.listen = \"127.0.0.1:0\"";
        let configuration = format!("{base}\nlimits = {limits}\n{listen}{route}");
        let mut program = Program::configured(&configuration, &[], &[]);

        let answer = program.exchange(request);

        let (_, rest) = answer.split_once("HTTP/1.1 ").unwrap_or_default();
        let answered = rest.get(..3).map(|status| status.parse().unwrap());
        assert_eq!(answered.unwrap_or(0), status, "{answer}");
        let counted = format!("readygate_rejections_total{{reason=\"{reason}\"}} 1\n");
        let metrics = program.ask("GET /metrics");
        assert!(metrics.contains(&counted), "{reason}");
        let line = json(&program.line_with("request ended"));
        assert_eq!(line["status"].as_u64().unwrap_or(0), status, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        let answered_by = line["answered_by"].as_str();
        assert_eq!(answered_by, (status != 0).then_some("proxy"), "{line}");
        let mut lines = answer.lines();
        let id = lines.find_map(|line| line.strip_prefix("X-Request-Id: "));
        assert_eq!(line["request_id"].as_str(), id, "{answer}");
        assert_eq!(id.is_some(), has_id, "{answer}");
    }
}

/// A request that every client can send must not cause warnings.
#[test]
fn a_protocol_that_the_proxy_does_not_know_is_no_warning() {
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "CONNECT"),
        (":protocol", "connect-udp"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    request.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    request.extend(block);
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\nh2c = true\n";
    let route = format!("[[route]]\nupstream = \"http://{}\"\n", backend(&[]));
    let base = "workers = 1\nadmin.listen = \"127.0.0.1:0\"\nlimits.header_timeout = \"100ms\"";
    let mut program = Program::configured(&format!("{base}\n{listen}{route}"), &[], &[]);

    program.exchange(request);

    let line = json(&program.line_with("request ended"));
    assert_eq!(line["status"], 501, "{line}");
    assert_eq!(line["reason"], "connect_protocol", "{line}");
    assert_eq!(line["level"], "INFO", "{line}");
}

#[test]
fn whose_requests_have_a_line_is_a_setting() {
    for (requests, expected) in [
        ("none", [false, false, false]),
        ("errors", [false, true, true]),
        ("all", [true, true, true]),
    ] {
        let configuration = format!("log.requests = \"{requests}\"");
        let mut program = Program::start(backend(&[]), &configuration, &[], &[]);

        let good = program.exchange(get("/good", &[]));
        program.exchange(get("/bad/../", &[]));
        program.exchange(handshake("/handshake", &["Origin: a", "Origin: b"]));
        program.terminate();

        assert!(good.ends_with("hello"), "{good}");
        let lines: Vec<_> = program
            .log
            .by_ref()
            .map(|line| json(&line.unwrap()))
            .collect();
        let has = |path: &str| lines.iter().any(|line| line["path"] == path);
        let found = ["/good", "/bad/../", "/handshake"].map(has);
        assert_eq!(found, expected, "{lines:?}");
        if requests == "all" {
            let line = lines.iter().find(|line| line["path"] == "/good").unwrap();
            assert_eq!(line["answered_by"], "upstream");
            assert_eq!(line["response_bytes"], 5);
            assert_eq!(line["status"], 200);
        }
    }
}

#[test]
fn an_answer_that_breaks_off_has_a_line_that_says_who_broke_it() {
    const PART: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    for (requests, after, level, reason) in [
        ("errors", After::Close, "WARN", "upstream_failed"),
        ("all", After::Close, "WARN", "upstream_failed"),
        ("all", After::Wait, "INFO", "client_gone"),
    ] {
        let configuration = format!("log.requests = \"{requests}\"");
        let upstream = answering(PART, after);
        let mut program = Program::start(upstream, &configuration, &[], &[]);

        let mut client = TcpStream::connect(program.traffic).unwrap();
        client.write_all(get("/part", &[]).as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.ends_with("hello") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            answer.push(char::from(byte[0]));
        }
        if matches!(after, After::Close) {
            // Who leaves before the proxy has seen the end of it is the one who broke it off.
            client
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let end = client.read_to_end(&mut Vec::new());
            assert!(!end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        } else {
            // One that only sends no more is still there.
            SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        drop(client);

        let line = json(&program.line_with("request ended"));
        assert_eq!(line["level"], level, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["answered_by"], "upstream", "{line}");
        assert_eq!(line["status"], 200, "{line}");
        assert_eq!(line["response_bytes"], 5, "{line}");
    }
}

#[test]
fn responses_without_a_body_or_a_length_are_logged_whole() {
    for (method, head) in [
        ("HEAD", "200 OK\r\nContent-Length: 10"),
        ("GET", "304 Not Modified\r\nContent-Length: 10"),
        ("GET", "204 No Content"),
        ("GET", "200 OK\r\nContent-Length: 0"),
        (
            "GET",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0",
        ),
        ("GET", "200 OK\r\nConnection: close\r\n\r\nuntil the end"),
    ] {
        let answer = format!("HTTP/1.1 {head}\r\n\r\n").leak();
        let upstream = answering(answer, After::Close);
        let mut program = Program::start(upstream, "log.requests = \"all\"", &[], &[]);

        program.exchange(get("/", &[]).replacen("GET", method, 1));

        let line = json(&program.line_with("request ended"));
        assert_eq!(line["level"], "INFO", "{line}");
        assert_eq!(line["answered_by"], "upstream", "{line}");
        assert_eq!(line["reason"], Value::Null, "{head}: {line}");
    }
}

#[test]
fn cloud_logging_gets_its_own_names() {
    let environment = [
        ("GOOGLE_CLOUD_PROJECT", "project-1"),
        ("K_SERVICE", "chat"),
        ("K_REVISION", "chat-00042-abc"),
    ];
    let mut program = Program::start(backend(&[]), "log.format = \"gcp\"", &[], &environment);

    program.exchange(session("/chat?token=1", &[&traceparent()]));
    let ended = json(&program.line_with("session ended"));
    program.exchange(get(
        "/a/../b",
        &["X-Cloud-Trace-Context: 1/1", "Content-Length: x"],
    ));
    program.exchange(get(
        "/a/../b",
        &[&format!("X-Cloud-Trace-Context: {TRACE}/25;o=0")],
    ));
    let refused = json(&program.line_with(TRACE));

    assert_eq!(ended["severity"], "INFO");
    assert_eq!(ended["message"], "session ended");
    assert!(ended["time"].as_str().unwrap().ends_with('Z'), "{ended}");
    let request = &ended["httpRequest"];
    assert_eq!(request["requestMethod"], "GET");
    assert_eq!(request["requestUrl"], "/chat");
    assert_eq!(request["status"], 101);
    assert_eq!(request["remoteIp"], "127.0.0.1");
    assert_eq!(request["protocol"], "HTTP/1.1");
    let latency = request["latency"].as_str().unwrap();
    assert!(
        latency.strip_suffix('s').unwrap().parse::<f64>().is_ok(),
        "{latency}"
    );
    let google = |name: &str| &ended[format!("logging.googleapis.com/{name}")];
    assert_eq!(
        *google("trace"),
        format!("projects/project-1/traces/{TRACE}")
    );
    assert_eq!(*google("spanId"), "00f067aa0ba902b7");
    assert_eq!(*google("trace_sampled"), true);
    assert_eq!(google("labels")["service"], "chat");
    assert_eq!(google("labels")["revision"], "chat-00042-abc");
    assert_eq!(google("labels").get("configuration"), None);
    for moved in [
        "trace_id",
        "span_id",
        "path",
        "client",
        "level",
        "timestamp",
    ] {
        assert_eq!(ended.get(moved), None, "{moved} in {ended}");
    }
    assert_eq!(refused["logging.googleapis.com/spanId"], "0000000000000019");
    assert_eq!(refused["httpRequest"]["status"], 400);
}

#[test]
fn values_outside_ascii_are_escaped_in_every_log() {
    let upstream = backend(&[]);
    let configuration = format!(
        "{BASE}\n[[route]]\nupstream = \"http://{upstream}\"\norigins = [\"https://a.example\"]\n"
    );
    for format in ["text", "json", "gcp"] {
        let arguments = ["--log-format", format, "--log-level", "trace"];
        let mut program = Program::configured(&configuration, &arguments, &[]);
        let log = program.collect_log();
        let lines = [
            "Origin: *",
            "Cookie: *",
            "X-Request-Id: *",
            "traceparent: *",
        ];
        let request = handshake("/", &[&lines[..], &["Connection: close"]].concat());
        let parts: Vec<_> = request.split('*').map(str::as_bytes).collect();

        program.exchange(parts.join(&b"caf\xe9\xc3\xa9"[..]));

        program.terminate();
        program.wait();
        let log = log.join().unwrap();
        assert!(log.contains("origin not allowed"), "{format}: {log}");
        assert!(log.is_ascii(), "{format}: {log}");
    }
}

#[test]
fn a_request_of_http_1_0_is_logged_as_one() {
    let arguments = ["--log-format", "json"];
    let mut program = Program::start(backend(&[]), "", &arguments, &[]);

    program.exchange("GET /a HTTP/1.0\r\nHost: a b\r\n\r\n");

    let line = json(&program.line_with("request ended"));
    assert_eq!(line["http"], "1.0", "{line}");
    assert_eq!(line["path"], "/a", "{line}");
}

#[test]
fn what_never_became_a_request_is_one_for_cloud_logging() {
    let arguments = ["--log-format", "gcp"];
    let mut program = Program::start(backend(&[]), "", &arguments, &[]);

    program.exchange("nonsense\r\n\r\n");

    let line = json(&program.line_with("request ended"));
    let request = &line["httpRequest"];
    assert_eq!(request["status"], 400, "{line}");
    assert_eq!(request["remoteIp"], "127.0.0.1", "{line}");
    assert_eq!(request["protocol"], "HTTP/1.1", "{line}");
    for moved in ["client", "http", "status"] {
        assert_eq!(line.get(moved), None, "{moved} in {line}");
    }
}

#[test]
fn without_a_project_cloud_logging_gets_the_bare_trace() {
    let mut program = Program::start(backend(&[]), "", &["--log-format", "gcp"], &[]);

    program.exchange(session("/", &[&traceparent()]));

    let line = json(&program.line_with("session ended"));
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line.get("logging.googleapis.com/trace"), None);
    assert_eq!(line.get("logging.googleapis.com/labels"), None);
}

#[test]
fn text_has_the_same_fields_in_one_line_at_debug() {
    let arguments = ["--log-format", "text", "--log-level", "debug"];
    let mut program = Program::start(backend(&[]), "", &arguments, &[]);

    program.exchange(session("/a%20b", &[]));

    let line = program.line_with("session ended");
    assert!(
        line.contains("  INFO session ended session=1 client=127.0.0.1:"),
        "{line}"
    );
    assert!(line.contains(" path=/a%20b route=/ "), "{line}");
    assert!(!line.contains('\x1b'), "{line}");
}

/// The fields of each line that the documentation names.
fn documented() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let page = include_str!("../../docs/logs.md");
    let (_, table) = page.split_once("<!-- generated: log fields -->").unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut lines: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.split(" | ").collect();
        let fields = cells[0].trim_end_matches('`').split("`, `");
        for field in fields {
            for line in ["session ended", "request ended"] {
                let is_of_all = cells[1].contains("every line");
                if is_of_all || cells[1].contains(line.split(' ').next().unwrap()) {
                    lines.entry(line).or_default().insert(field);
                }
            }
        }
    }
    lines
}

#[test]
fn the_fields_are_those_that_are_documented() {
    let configuration = "log.requests = \"all\"";
    // Ready at once, and a message of the upstream.
    let mut program = Program::start(backend(b"\x81\x02hi"), configuration, &[], &[]);
    let nowhere = nowhere();
    let unreachable =
        format!("{BASE}[[route]]\nupstream = \"http://{nowhere}\"\ngate.timeout = \"50ms\"");
    let mut unreachable = Program::configured(&unreachable, &[], &[]);
    let trace = traceparent();

    let mut written: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    program.exchange(session("/", &[&trace]));
    program.exchange(get("/", &[&trace]));
    program.exchange(get("/a/../", &[&trace]));
    unreachable.exchange(session("/", &[&trace]));
    program.terminate();
    unreachable.terminate();
    for program in [&mut program, &mut unreachable] {
        for line in program.log.by_ref().map(|line| json(&line.unwrap())) {
            let fields = line.as_object().unwrap().keys().cloned();
            let message = line["message"].as_str().unwrap().to_owned();
            written.entry(message).or_default().extend(fields);
        }
    }

    let documented = documented();
    assert_eq!(documented.len(), 2, "{documented:?}");
    for (line, fields) in documented {
        let written: BTreeSet<_> = written[line].iter().map(String::as_str).collect();
        assert_eq!(written, fields, "{line}");
    }
}
