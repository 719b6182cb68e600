//! The log of an upstream that chooses another subprotocol than its client was told.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::{BASE, Program, handshake};

const TOKEN: &str = "jwt.eyJhbGciOiJIUzI1NiJ9.Y2FuYXJ5";

/// A backend that names the last subprotocol that it is offered.
fn naming_the_last() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let head = reader.by_ref().lines().map_while(Result::ok);
            let head: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
            let value = |name: &str| {
                let mut lines = head.iter().filter_map(|line| line.split_once(": "));
                let line = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
                line.unwrap().1
            };
            let accept = derive_accept_key(value("Sec-WebSocket-Key").as_bytes());
            let (_, last) = value("Sec-WebSocket-Protocol").rsplit_once(", ").unwrap();
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {last}\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

/// Runs sessions with these targets and offers, and returns what the log says, as JSON, and the
/// whole of it.
fn log_of(routes: &str, sessions: &[(&str, &str)]) -> (Vec<Value>, String) {
    let mut program = Program::configured(&format!("{BASE}{routes}"), &[], &[]);
    for (target, offers) in sessions {
        let offers = format!("Sec-WebSocket-Protocol: {offers}");
        program.exchange(handshake(target, &[&offers]));
    }
    program.terminate();
    let log = program.collect_log().join().unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), log)
}

fn with_message<'a>(lines: &'a [Value], start: &str) -> Vec<&'a Value> {
    let is_it = |line: &&Value| line["message"].as_str().unwrap().starts_with(start);
    lines.iter().filter(is_it).collect()
}

#[test]
fn each_route_is_told_once_what_to_configure() {
    let upstream = naming_the_last();
    let routes = format!(
        "[[route]]\nupstream = \"http://{upstream}\"\ntunnel.close_timeout = \"10ms\"\n\
         [[route]]\npath = \"/named\"\nupstream = \"http://{upstream}\"\n\
         subprotocols = [\"a\", \"b\"]\ntunnel.close_timeout = \"10ms\"\n"
    );

    let (lines, log) = log_of(
        &routes,
        &[
            ("/1", "a, b"),
            ("/2", "a, b"),
            ("/named", "a, b"),
            ("/named", "a, b"),
        ],
    );

    let warnings = with_message(&lines, "upstream chose another subprotocol");
    let said = |field: &str| -> Vec<_> { warnings.iter().map(|line| &line[field]).collect() };
    assert_eq!(said("level"), ["WARN", "WARN"], "{log}");
    assert_eq!(said("route"), ["/", "/named"]);
    assert_eq!(said("told"), ["\"a\"", "\"a\""]);
    assert_eq!(said("chosen"), ["\"b\"", "\"b\""]);
    let advice = ["subprotocols = [\"b\"]", "subprotocols = [\"b\", \"a\"]"];
    assert_eq!(said("advice"), advice);
    let ended = with_message(&lines, "session ended");
    assert_eq!(ended.len(), 4, "{log}");
    for line in ended {
        assert_eq!(line["reason"], "bad_upstream_handshake");
        let error = "upstream chose the subprotocol \"b\", and the client was told \"a\"";
        assert_eq!(line["upstream_error"], error);
    }
}

#[test]
fn of_a_token_only_the_length_is_said() {
    let upstream = naming_the_last();
    let routes = format!(
        "log.level = \"trace\"\n\
         [[route]]\nupstream = \"http://{upstream}\"\ntunnel.close_timeout = \"10ms\"\n"
    );

    let (lines, log) = log_of(&routes, &[("/", &format!("chat, {TOKEN}"))]);

    let warnings = with_message(&lines, "upstream chose another subprotocol");
    assert_eq!(warnings.len(), 1, "{log}");
    assert_eq!(warnings[0]["chosen"], "a token of 33 characters");
    assert_eq!(warnings[0]["advice"], "accept = \"after-upstream\"");
    let ended = with_message(&lines, "session ended");
    let error = "upstream chose the subprotocol a token of 33 characters, and the client was told \
                 \"chat\"";
    assert_eq!(ended[0]["upstream_error"], error);
    assert!(!log.contains("eyJ") && !log.contains("Y2FuYXJ5"), "{log}");
}
