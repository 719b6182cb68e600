//! The circuit breaker of a route over reloads, and its lines in the log.

use std::fs;

use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::support::{Client, Program, Upstream, frame, handshake};

/// A close frame about the server itself (1011).
const FAILED: [u8; 4] = [0x88, 2, 0x03, 0xf3];

/// Configures a single route to `upstream`, which never becomes ready.
fn route(upstream: &Upstream, failures: u32, cooldown: &str) -> String {
    format!(
        "[[route]]\nupstream = \"http://{}\"\n\
         gate.ready = {{ text = \"ready\" }}\n\
         breaker = {{ failures = {failures}, cooldown = \"{cooldown}\" }}\n",
        upstream.address()
    )
}

/// Makes `text` the configuration.
async fn reload(program: &Program, text: &str) {
    program.configure(text);
    let (status, answer) = program.ask("POST", "/reload").await;
    assert_eq!(status, 200, "{answer}");
}

/// A client that opens a WebSocket, and the status of the answer.
async fn open(program: &Program) -> (Client, u16) {
    let mut client = program.connect().await;
    client.send(handshake("/")).await;
    let head = client.read_head().await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (client, status)
}

/// A session that ends before it is ready, for the upstream says that it fails.
async fn fail(program: &Program, upstream: &Upstream) {
    let mut client = program.open("/").await;
    upstream.accept().await.1.send(FAILED).await;
    assert_eq!(client.close_code().await, Some(1011));
}

/// Returns whether a client gets its `101` at once.
async fn is_admitted(program: &Program) -> bool {
    let (_client, status) = open(program).await;
    assert!([101, 503].contains(&status), "{status}");
    status == 101
}

/// The level of each line about breakers, and what it says, once there are `count`: the log is
/// written by a thread of its own.
async fn logged(program: &Program, count: usize) -> Vec<(String, String)> {
    program.logged_times("\"message\":\"breaker ", count).await;
    let log = program.log();
    let lines = log.iter().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let (level, message) = (text("level"), text("message"));
        let is_of_breaker = message.starts_with("breaker ");
        assert!(!is_of_breaker || line["route"] == "/", "{line}");
        is_of_breaker.then_some((level, message))
    });
    lines.collect()
}

fn lines(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |&(level, message): &(&str, &str)| (level.to_owned(), message.to_owned());
    expected.iter().map(owned).collect()
}

const OPENED: (&str, &str) = (
    "WARN",
    "breaker opened: the upstream is failing, new sessions are refused",
);

#[tokio::test]
async fn a_reload_of_what_sessions_fail_by_lets_clients_in_at_once() {
    let upstream = Upstream::listen().await;
    let broken = route(&upstream, 1, "1h");
    let program = Program::start(&broken).await;
    for mended in [
        broken.replace("text = \"ready\"", "first = true"),
        broken.replace("breaker =", "accept = \"after-upstream\"\nbreaker ="),
    ] {
        fail(&program, &upstream).await;
        assert!(!is_admitted(&program).await);

        reload(&program, &mended).await;

        let (_, metrics) = program.ask("GET", "/metrics").await;
        let closed = "readygate_breaker_state{route=\"/\",state=\"closed\"} 1\n";
        assert!(metrics.contains(closed), "{mended}: {metrics}");
        let ((client, status), (_, mut exchange)) = tokio::join!(open(&program), upstream.accept());
        assert_eq!(status, 101, "{mended}");
        drop(client);
        exchange.close_code().await;
        reload(&program, &broken).await;
    }
}

#[tokio::test]
async fn a_reload_of_failing_tls_lets_clients_in_at_once() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = upstream.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let replace_ca = || {
        let certified = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
        fs::write(&ca, certified.cert.pem()).unwrap();
    };
    replace_ca();
    let with = |upstream: String| {
        format!("[[route]]\n{upstream}\nbreaker = {{ failures = 1, cooldown = \"1h\" }}\n")
    };
    let broken = with(format!(
        "upstream = \"https://{address}\"\ntls.ca = \"{}\"",
        ca.display()
    ));
    let program = Program::start(&broken).await;
    let fail = async || {
        let mut client = program.open("/").await;
        assert_eq!(client.close_code().await, Some(1014));
        assert!(!is_admitted(&program).await);
    };

    fail().await;
    reload(&program, &broken).await;
    assert!(!is_admitted(&program).await, "nothing is mended");
    replace_ca();
    reload(&program, &broken).await;
    fail().await;
    reload(&program, &with(format!("upstream = \"http://{address}\""))).await;
    assert!(is_admitted(&program).await);
}

#[tokio::test]
async fn a_breaker_keeps_its_state_over_unrelated_reloads() {
    let upstream = Upstream::listen().await;
    let route = route(&upstream, 2, "1h");
    let program = Program::start(&route).await;
    let other = format!("{route}[[route]]\npath = \"/other\"\nupstream = \"http://127.0.0.1:1\"\n");
    fail(&program, &upstream).await;

    reload(&program, &format!("limits.max_connections = 77\n{other}")).await;
    fail(&program, &upstream).await;
    assert!(!is_admitted(&program).await);
    reload(
        &program,
        &route.replace("breaker =", "http.idle_timeout = \"3s\"\nbreaker ="),
    )
    .await;

    assert!(!is_admitted(&program).await);
    assert_eq!(logged(&program, 1).await, lines(&[OPENED]));
}

#[tokio::test]
async fn each_change_of_a_breaker_is_logged_once_with_its_reason() {
    let upstream = Upstream::listen().await;
    let program = Program::start(&route(&upstream, 1, "1ms")).await;
    fail(&program, &upstream).await;
    let probe = async || {
        loop {
            let (client, status) = open(&program).await;
            if status == 101 {
                return (client, upstream.accept().await.1);
            }
        }
    };
    let (first, mut exchange) = probe().await;
    drop(first);
    exchange.close_code().await;
    let (mut probe, mut exchange) = probe().await;
    exchange.send(frame("ready")).await;
    assert_eq!(probe.read_text().await, "ready");
    let mut second = program.open("/").await;
    upstream.accept().await.1.send(frame("ready")).await;
    assert_eq!(second.read_text().await, "ready");

    program.logged("breaker closed").await;
    let expected = [
        OPENED,
        ("INFO", "breaker half-open: a few sessions are let through"),
        ("INFO", "breaker closed: a session became ready"),
    ];
    assert_eq!(logged(&program, expected.len()).await, lines(&expected));
}

#[tokio::test]
async fn a_session_of_the_old_route_is_not_logged_as_the_new_one() {
    let upstream = Upstream::listen().await;
    let broken = route(&upstream, 1, "1h");
    let program = Program::start(&broken).await;
    let mut waiting = program.open("/").await;
    let (_, mut exchange) = upstream.accept().await;
    fail(&program, &upstream).await;

    reload(
        &program,
        &broken.replace("text = \"ready\"", "first = true"),
    )
    .await;
    exchange.send(frame("ready")).await;
    assert_eq!(waiting.read_text().await, "ready");

    assert!(is_admitted(&program).await);
    let closed = "breaker closed: the configuration has changed";
    assert_eq!(
        logged(&program, 2).await,
        lines(&[OPENED, ("INFO", closed)])
    );
}

/// The lines of the log with this message.
fn lines_of(program: &Program, message: &str) -> Vec<serde_json::Value> {
    let log = program.log();
    let lines = log.iter().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &serde_json::Value| line["message"] == message)
        .collect()
}

const REFUSED: &str = "sessions refused: the breaker is open";

#[tokio::test]
async fn who_is_refused_by_a_breaker_has_no_line_but_a_part_of_one() {
    let upstream = Upstream::listen().await;
    let program = Program::start(&route(&upstream, 1, "1h")).await;
    fail(&program, &upstream).await;
    for _ in 0..20 {
        assert!(!is_admitted(&program).await);
    }
    let refused = || {
        let lines = lines_of(&program, REFUSED);
        let counts = lines.iter().map(|line| line["refused"].as_u64().unwrap());
        counts.sum::<u64>()
    };

    let mut lines = 0;
    while refused() < 20 {
        lines += 1;
        program.logged_times(REFUSED, lines).await;
    }

    assert_eq!(refused(), 20);
    for line in lines_of(&program, REFUSED) {
        assert_eq!(
            (&line["level"], &line["route"]),
            (&"WARN".into(), &"/".into())
        );
    }
    assert_eq!(lines_of(&program, "request ended").len(), 0);
    let (_, metrics) = program.ask("GET", "/metrics").await;
    let counted = "readygate_rejections_total{reason=\"breaker_open\"} 20\n";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn refusals_of_the_last_second_are_told_before_the_end() {
    let upstream = Upstream::listen().await;
    let program = Program::start(&route(&upstream, 1, "1h")).await;
    fail(&program, &upstream).await;
    assert!(!is_admitted(&program).await);

    program.signal("TERM");
    program.end().await;

    let [line] = &lines_of(&program, REFUSED)[..] else {
        panic!("{:?}", program.log());
    };
    assert_eq!(line["refused"], 1);
}
