//! Text from others that must not write the log, and secrets that must not be in it.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use h2::client;
use hyper::Request;

use crate::support::{Program, backend, handshake, session};

const FORMATS: [&str; 3] = ["text", "json", "gcp"];

/// Places of tokens.
const SECRETS: [&str; 9] = [
    "Cookie: session=canary-cookie",
    "Authorization: Bearer canary-authorization",
    "Proxy-Authorization: Basic canary-proxy",
    "Sec-WebSocket-Protocol: chat, bearer.canary-subprotocol",
    "X-Api-Key: canary-header",
    "X-Canary-Name: 1",
    "Referer: https://a.example/?token=canary-referer",
    "X-Request-Id: canary-request-id",
    "traceparent: canary-trace",
];

fn lines(of: &[&str]) -> String {
    of.iter().flat_map(|line| [*line, "\r\n"]).collect()
}

/// A backend that refuses everything, and says so at length.
fn refusing(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = BufReader::new(stream.try_clone().unwrap()).lines();
            let _ = head.map_while(Result::ok).find(String::is_empty);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn configuration() -> String {
    // A close frame with a reason, and text.
    let silent = backend(&[]);
    let talkative = backend(b"\x81\x06canary\x88\x08\x03\xe8canary");
    let forbidding = refusing(
        "HTTP/1.1 403 canary-phrase\r\nSet-Cookie: canary-set-cookie\r\nContent-Length: 6\r\n\r\ncanary",
    );
    let garbled = refusing("HTTP/1.1 101 canary-phrase\r\nX: canary\x01\r\nY canary\r\n\r\n");
    format!(
        r#"
        listen = [{{ address = "127.0.0.1:0", h2c = true }}]
        workers = 1
        admin.listen = "127.0.0.1:0"
        log.requests = "all"
        limits.header_timeout = "1s"
        drain.grace = "1s"
        [[route]]
        upstream = "http://{talkative}"
        subprotocols = ["known"]
        gate.timeout = "5s"
        [[route]]
        path = "/held"
        upstream = "http://{silent}"
        subprotocols = ["known"]
        gate.ready = {{ text = "${{TOKEN}}" }}
        gate.timeout = "1h"
        hold.on_client_gone = "discard"
        [[route]]
        path = "/forbidden"
        upstream = "http://{forbidding}"
        accept = "after-upstream"
        [[route]]
        path = "/refused"
        upstream = "http://{forbidding}"
        [[route]]
        path = "/garbled"
        upstream = "http://{garbled}"
        gate.timeout = "100ms"
        [[route]]
        path = "/origin"
        origins = ["https://a.example"]
        upstream = "http://{garbled}"
        "#
    )
}

/// Everything that a client can do wrong with a token in its hand.
fn misbehave(program: &Program) {
    let close = "Connection: close";
    for target in [
        "/",
        "/forbidden",
        "/refused",
        "/garbled",
        "/origin",
        "/a/../b",
        "/%00",
    ] {
        let target = format!("{target}?token=canary-query");
        let secrets = [&SECRETS[..], &["Connection: Upgrade, close"]].concat();
        program.exchange(session(&target, &secrets));
        let get = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\n{close}\r\n{}\r\n",
            lines(&SECRETS)
        );
        program.exchange(get);
    }
    let secrets = lines(&SECRETS);
    let long = "canary".repeat(2000);
    for request in [
        format!("GET /?canary HTTP/9.9\r\nHost: a\r\n{secrets}\r\n"),
        format!("GET /?canary HTTP/1.1\r\nHost: a\r\nX-Canary\r\n{secrets}\r\n"),
        format!("GET /?canary HTTP/1.1\r\n{secrets}\r\n"),
        format!("GET /?canary HTTP/1.1\r\nHost: canary@a\r\n{secrets}\r\n"),
        format!("GET http://user:canary@a/?canary HTTP/1.1\r\nHost: a\r\n{secrets}\r\n"),
        format!("GET /?{long} HTTP/1.1\r\nHost: a\r\n{secrets}\r\n"),
        format!("GET /?a HTTP/1.1\r\nHost: a\r\nX: {long}{long}{long}\r\n{secrets}\r\n"),
        format!("POST /?canary HTTP/1.1\r\nHost: a\r\nContent-Length: canary\r\n{secrets}\r\n"),
        format!(
            "POST /?canary HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{secrets}\r\ncanary"
        ),
        format!("POST /?canary HTTP/1.1\r\nHost: a\r\nExpect: canary\r\n{secrets}\r\n"),
        format!("CONNECT canary:1 HTTP/1.1\r\nHost: canary:1\r\n{secrets}\r\n"),
        format!("OPTIONS * HTTP/1.1\r\nHost: canary.example\r\n{close}\r\n{secrets}\r\n"),
    ] {
        program.exchange(request);
    }
    // A message that breaks the protocol, and a close frame with a reason.
    let broken = [
        handshake("/?canary", &SECRETS).as_bytes(),
        b"\xf1\x86\0\0\0\0canary",
    ]
    .concat();
    program.exchange(broken);
    let reason = b"\x88\x88\0\0\0\0\x03\xe8canary";
    program.exchange([handshake("/?canary", &SECRETS).as_bytes(), reason].concat());
}

/// A request over HTTP/2, whose library has much to say about it.
fn over_http2(program: &Program) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(program.traffic)
            .await
            .unwrap();
        let (mut client, connection) = client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(format!("http://{}/?token=canary-query", program.traffic));
        for line in SECRETS {
            let (name, value) = line.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let (answer, _) = client
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        answer.await.unwrap();
    });
}

/// Returns the messages held by the first session.
fn queued_messages(program: &Program) -> u64 {
    let answer = program.ask("GET /sessions");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let list: serde_json::Value = serde_json::from_str(body).unwrap();
    let messages = &list["sessions"][0]["queue"]["messages"];
    messages.as_u64().unwrap_or_default()
}

/// Reads every endpoint of the admin listener.
fn look_around(program: &Program) {
    for target in [
        "/sessions",
        "/sessions/1",
        "/config",
        "/metrics",
        "/readyz?verbose&backend=1",
    ] {
        let answer = program.ask(&format!("GET {target}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{target}: {answer}");
        assert!(
            !answer.to_lowercase().contains("canary"),
            "{target}: {answer}"
        );
    }
    let mut events = TcpStream::connect(program.admin).unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", program.admin);
    events.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(events).lines().map(Result::unwrap);
    let event = lines.find(|line| line.starts_with("data:")).unwrap();
    assert!(event.contains("\"waiting\":[{"), "{event}");
    assert!(!event.to_lowercase().contains("canary"), "{event}");
}

#[test]
fn no_secret_is_anywhere_at_any_level_in_any_form() {
    for level in ["debug", "trace"] {
        for format in FORMATS {
            let arguments = ["--log-level", level, "--log-format", format];
            let environment = [("TOKEN", "canary-variable")];
            let mut program = Program::configured(&configuration(), &arguments, &environment);

            let mut held = TcpStream::connect(program.traffic).unwrap();
            let handshake = handshake("/held?token=canary-query", &SECRETS);
            let message = b"\x81\x86\0\0\0\0canary";
            held.write_all(&[handshake.as_bytes(), message].concat())
                .unwrap();
            while queued_messages(&program) < 1 {}
            let log = program.collect_log();
            look_around(&program);
            misbehave(&program);
            over_http2(&program);
            drop(held);
            program.terminate();

            let log = log.join().unwrap();
            assert!(log.matches("session ended").count() > 4, "{log}");
            assert!(log.matches("request ended").count() > 12, "{log}");
            for line in log.lines() {
                assert!(
                    !line.to_lowercase().contains("canary"),
                    "{format} {level}: {line}"
                );
                if format != "text" {
                    let line: serde_json::Value = serde_json::from_str(line).unwrap();
                    let target = line["target"].as_str().unwrap();
                    assert!(target.starts_with("readygate"), "{line}");
                }
            }
            assert_eq!(program.wait().code(), Some(0));
        }
    }
}

/// A configuration with a token in every kind of text that may have one, and `more` in those of the routes that
/// are no name of theirs.
fn with_tokens(more: &str) -> String {
    format!(
        r#"
        listen = "127.0.0.1:0"
        workers = "${{WORKERS}}"
        admin.listen = "127.0.0.1:0"
        [[route]]
        host = "${{TOKEN}}.example"
        path = "/${{TOKEN}}"
        upstream = "http://${{BACKEND}}:81"
        origins = ["https://${{TOKEN}}.example{more}"]
        subprotocols = ["${{TOKEN}}{more}"]
        gate.ready = {{ text = "${{TOKEN}}{more}" }}
        message = [{{ match = {{ prefix = "${{TOKEN}}{more}" }}, priority = "high" }}]
        [[route]]
        upstream = "https://${{BACKEND}}"
        tls.server_name = "${{TOKEN}}.example"
        "#
    )
}

#[test]
fn a_variable_in_a_text_is_shown_as_written_everywhere() {
    let environment = [
        ("TOKEN", "canary"),
        ("WORKERS", "1"),
        ("BACKEND", "nowhere"),
    ];
    let mut program = Program::configured(&with_tokens(""), &[], &environment);
    let says_no_secret = |what: &str, text: &str| {
        assert!(!text.contains("canary"), "{what}: {text}");
    };

    let shown = program.ask("GET /config");
    says_no_secret("/config", &shown);
    assert!(shown.contains("\"http://nowhere:81\""), "{shown}");
    let shown = program.run(&["config", "show"], &environment);
    says_no_secret("config show", &shown);
    let upstream = "upstream = \"http://nowhere:81\"";
    assert!(shown.contains(upstream), "{shown}");
    assert!(shown.contains("workers = \"1\""), "{shown}");

    let route = "route ${TOKEN}.example/${TOKEN} ";
    program.configure(&with_tokens("more"));
    let answer = program.ask("POST /reload");
    says_no_secret("POST /reload", &answer);
    for key in ["origins", "subprotocols", "gate.ready", "message[0].match"] {
        assert!(answer.contains(&format!("\n{route}{key}: ")), "{answer}");
    }
    let reloaded = program.line_with("configuration reloaded");
    says_no_secret("the log", &reloaded);
    assert!(reloaded.contains("${TOKEN}"), "{reloaded}");

    program.configure(&with_tokens("*"));
    let refused = program.ask("POST /reload");
    says_no_secret("a refused reload", &refused);
    assert!(refused.contains("${TOKEN}"), "{refused}");
}

/// A route to `upstream`, which has a name and a password, and another with these everywhere else
/// where somebody could take a URL to belong.
fn with_passwords(upstream: &str) -> String {
    format!(
        r#"
        listen = "127.0.0.1:0"
        workers = 1
        admin.listen = "127.0.0.1:0"
        trusted_proxies = ["{upstream}"]
        [[route]]
        upstream = "{upstream}"
        tls.server_name = '{upstream}'
        origins = ["{upstream}"]
        host = "{upstream}"
        "{upstream}" = 1
        gate.timeout = 1 # {upstream}
        [[route]]
        path = "/b"
        upstream = {upstream}
        [[route]]
        path = "/c"
        upstream = "${{UPSTREAM}}"
        "#
    )
}

#[test]
fn a_password_in_a_url_is_nowhere_that_a_problem_is() {
    let good = "listen = \"127.0.0.1:0\"\nworkers = 1\nadmin.listen = \"127.0.0.1:0\"\n\
                [[route]]\nupstream = \"http://127.0.0.1:1\"";
    for format in FORMATS {
        let secret = [("UPSTREAM", "http://canary:canary@a/b")];
        let mut program = Program::configured(good, &["--log-format", format], &secret);
        for upstream in [
            "http://canary:canary@127.0.0.1:1",
            "https://canary@127.0.0.1",
            "ws://canary:c/a?n#canary@a:1",
            "http://canary:canary@canary@a:x",
            "canary:canary@a:1",
        ] {
            program.configure(&with_passwords(upstream));
            let shown = [
                program.ask("POST /reload"),
                program.line_with("configuration"),
                program.errors(&["check"], &secret),
                program.errors(&["--upstream", upstream], &secret),
                program.errors(&["explain", "/", "--upstream", upstream], &secret),
                program.errors(&["--listen", upstream], &secret),
                program.errors(&[upstream], &secret),
            ];
            for shown in shown {
                assert!(
                    !shown.to_lowercase().contains("canary"),
                    "{upstream}: {shown}"
                );
                assert!(shown.contains("*@"), "{upstream}: {shown}");
            }
        }
    }
}

/// Returns whether a character could control a terminal.
fn is_harmful(character: char) -> bool {
    character != '\n' && character.is_control()
        || ('\u{2028}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{2069}').contains(&character)
        || ['\u{200e}', '\u{200f}', '\u{61c}'].contains(&character)
}

#[test]
fn text_from_peers_begins_no_line_and_controls_no_terminal() {
    let evil: [&[u8]; 10] = [
        b"\r\n{\"message\":\"forged\"}",
        b"\rforged",
        b"\nforged",
        b"\x1b[2Jforged",
        b"\x9b2Jforged",
        "\u{9b}2Jforged".as_bytes(),
        "\u{202e}forged".as_bytes(),
        "\u{2028}forged".as_bytes(),
        b"\xff\xfeforged",
        b"\"},forged\\",
    ];
    for format in FORMATS {
        let configuration = "log.requests = \"all\"\nlog.level = \"trace\"";
        let reason = b"\x88\x0a\x03\xe8\r\nforged";
        let arguments = ["--log-format", format];
        let mut program = Program::start(backend(reason), configuration, &arguments, &[]);
        let log = program.collect_log();

        let mut requests = 0;
        for evil in evil {
            let header = b"X: 1\r\nOrigin: ";
            for request in [
                [
                    b"GET /",
                    evil,
                    b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                ]
                .concat(),
                [
                    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
                    &header[..],
                    evil,
                    b"\r\n\r\n",
                ]
                .concat(),
                [evil, b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat(),
                [
                    b"GET / HTTP/1.1\r\nConnection: close\r\nHost: ",
                    evil,
                    b"\r\n\r\n",
                ]
                .concat(),
            ] {
                program.exchange(request);
                requests += 1;
            }
        }
        program.exchange(session("/", &["Origin: \u{202e}\u{9b}forged"]));
        program.terminate();

        let log = log.join().unwrap();
        assert!(!log.contains(is_harmful), "{format}: {log:?}");
        assert!(log.lines().count() < 3 * requests, "{log}");
        for line in log.lines() {
            if format == "text" {
                assert!(line.starts_with("20") && line.contains("Z "), "{line}");
            } else {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_ne!(line["message"], "forged");
            }
        }
    }
}
