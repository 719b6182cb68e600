//! The project id, where only the metadata server provides it.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use serde_json::Value;

use crate::support::{Program, backend, session};

const TRACEPARENT: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The line of a new session, on a machine whose metadata server is at `host`.
fn ended(program: &mut Program) -> Value {
    program.exchange(session("/", &[TRACEPARENT]));
    serde_json::from_str(&program.line_with("session ended")).unwrap()
}

fn start(metadata: &TcpListener) -> Program {
    let host = metadata.local_addr().unwrap().to_string();
    let environment = [("K_SERVICE", "chat"), ("GCE_METADATA_HOST", &*host)];
    Program::start(backend(&[]), "log.format = \"gcp\"", &[], &environment)
}

#[test]
fn on_cloud_run_the_metadata_server_says_which_project_it_is() {
    let metadata = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut program = start(&metadata);

    let (mut stream, _) = metadata.accept().unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request: Vec<_> = lines
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
        .collect();
    let answer = "HTTP/1.0 200 OK\r\nMetadata-Flavor: Google\r\n\r\nproject-7";
    stream.write_all(answer.as_bytes()).unwrap();
    drop(stream);

    assert_eq!(
        request[0],
        "GET /computeMetadata/v1/project/project-id HTTP/1.0"
    );
    assert!(
        request.contains(&"Metadata-Flavor: Google".to_owned()),
        "{request:?}"
    );
    let trace = loop {
        let line = ended(&mut program);
        if let Some(trace) = line.get("logging.googleapis.com/trace") {
            break trace.clone();
        }
    };
    assert_eq!(
        trace,
        "projects/project-7/traces/4bf92f3577b34da6a3ce929d0e0e4736"
    );
}

#[test]
fn nobody_waits_for_a_metadata_server_that_does_not_answer() {
    let metadata = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut program = start(&metadata);
    let _connection = metadata.accept().unwrap();

    let line = ended(&mut program);

    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn an_answer_that_is_no_project_is_none() {
    let metadata = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut program = start(&metadata);
    let server = thread::spawn(move || {
        let (mut stream, _) = metadata.accept().unwrap();
        let answer = "HTTP/1.0 200 OK\r\n\r\n<html>\"},{\"";
        let _ = stream.write_all(answer.as_bytes());
    });
    server.join().unwrap();

    let line = ended(&mut program);

    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}
