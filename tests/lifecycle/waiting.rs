//! The log while clients wait for a backend.

use std::net::SocketAddr;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::support::{Program, Upstream, frame};

const GONE: &str = "upstream is unavailable";
const BACK: &str = "upstream is available again";

/// The lines of the log that begin with this message.
fn lines(program: &Program, message: &str) -> Vec<Value> {
    let log = program.log();
    let lines = log.iter().map(|line| serde_json::from_str(line).unwrap());
    let is_it = |line: &Value| line["message"].as_str().unwrap().starts_with(message);
    lines.filter(is_it).collect()
}

/// A port at which nobody listens yet.
fn reserve() -> (Socket, SocketAddr) {
    let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
    reserved.bind(&any_port.into()).unwrap();
    reserved.set_nonblocking(true).unwrap();
    let address = reserved.local_addr().unwrap().as_socket().unwrap();
    (reserved, address)
}

#[tokio::test]
async fn an_unreachable_upstream_and_its_return_are_logged_once() {
    let (reserved, address) = reserve();
    let routes = format!(
        "[[route]]\nupstream = \"http://{address}\"\n\
         [[route]]\npath = \"/other\"\nupstream = \"http://{address}\"\n"
    );
    let program = Program::start(&routes).await;

    let _first = program.open("/").await;
    program.logged(GONE).await;
    let _more = [program.open("/").await, program.open("/").await];
    reserved.listen(128).unwrap();
    let listener = TcpListener::from_std(reserved.into()).unwrap();
    for _ in 0..3 {
        listener.accept().await.unwrap();
    }
    program.logged(BACK).await;

    let [gone] = &lines(&program, GONE)[..] else {
        panic!("{:?}", program.log());
    };
    assert_eq!(gone["level"], "WARN");
    assert_eq!(gone["route"], "/");
    assert_eq!(gone["upstream_address"], address.to_string());
    let error = gone["upstream_error"].as_str().unwrap();
    assert!(error.contains("refused"), "{error}");
    assert_eq!(gone["waiting"], 1);
    let [back] = &lines(&program, BACK)[..] else {
        panic!("{:?}", program.log());
    };
    assert_eq!(back["level"], "INFO");
    assert!(back["unavailable_ms"].is_u64(), "{back}");
}

#[tokio::test]
async fn held_requests_are_counted_among_those_that_wait() {
    for version in ["1.1", "2"] {
        let (reserved, address) = reserve();
        let route =
            format!("[[route]]\nupstream = \"http://{address}\"\nhttp.version = \"{version}\"\n");
        let program = Program::start(&route).await;
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(program.connect().await);
        }
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        }
        let are_held = "readygate_http_held_requests{route=\"/\"} 5\n";
        while !program.ask("GET", "/metrics").await.1.contains(are_held) {}

        reserved.listen(128).unwrap();
        program.logged(BACK).await;

        assert_eq!(lines(&program, BACK)[0]["waiting"], 5, "{version}");
    }
}

#[tokio::test]
async fn a_backend_that_lets_nobody_in_is_told_with_its_answer() {
    let upstream = Upstream::listen().await;
    let routes = format!("[[route]]\nupstream = \"http://{}\"\n", upstream.address());
    let program = Program::start(&routes).await;
    let _client = program.open("/").await;
    let unavailable = async {
        loop {
            upstream.refuse().await;
        }
    };
    tokio::select! {
        () = unavailable => {}
        _ = program.logged(GONE) => {}
    }
    let (_, mut exchange) = upstream.accept().await;
    exchange.send(frame("hello")).await;
    program.logged(BACK).await;

    let gone = lines(&program, GONE);
    assert_eq!(gone.len(), 1);
    let error = gone[0]["upstream_error"].as_str().unwrap();
    assert!(error.contains("503"), "{error}");
}

#[tokio::test]
async fn a_backend_that_does_not_answer_yet_is_what_is_waited_for() {
    let upstream = Upstream::listen().await;
    let routes = format!("[[route]]\nupstream = \"http://{}\"\n", upstream.address());
    let program = Program::start(&routes).await;
    let _client = program.open("/").await;

    program.logged("waiting for the upstream to answer").await;

    let waiting = lines(&program, "waiting for the upstream to answer");
    assert_eq!(waiting[0]["level"], "INFO");
    assert_eq!(waiting[0]["waiting"], 1);
    assert_eq!(
        waiting[0]["upstream_address"],
        upstream.address().to_string()
    );
}
