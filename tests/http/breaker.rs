//! New clients are refused before their `101` while the upstream is known to be out of order.

use std::time::Duration;

use readygate::{
    route::{Accept, Route},
    session::gate::Trigger,
    upstream::breaker,
};

use crate::support::{Client, Exchange, Proxy, Upstream, config, handshake};

/// Not over before the end of any test.
const LONG: Duration = Duration::from_hours(1);

/// Over as soon as somebody looks.
const SHORT: Duration = Duration::from_millis(1);

const NOT_IMPLEMENTED: &str = "HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\n\r\n";

const BROKEN: &str = "HTTP/1.0 101 Switching Protocols\r\n\r\n";

fn route(upstream: &Upstream, failures: u32, cooldown: Duration) -> Route {
    let mut route = upstream.route();
    route.breaker = breaker::Settings { failures, cooldown };
    route
}

fn proxy(upstream: &Upstream, failures: u32, cooldown: Duration) -> Proxy {
    Proxy::start(config(vec![route(upstream, failures, cooldown)]))
}

/// A client that has sent its handshake, and the head of the answer.
async fn open(proxy: &Proxy) -> (Client, String) {
    let mut client = proxy.connect().await;
    client.send(handshake(&[])).await;
    let head = client.read_head().await.unwrap();
    (client, head)
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or("none")
}

/// Seconds after which a client should come again.
fn retry_after(head: &str) -> u64 {
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    line.unwrap_or_else(|| panic!("{head}")).parse().unwrap()
}

/// A session that ends before it is ready, because the upstream answers like this.
async fn fail(proxy: &Proxy, upstream: &Upstream, answer: &str) {
    let (mut client, head) = open(proxy).await;
    assert_eq!(status(&head), "101");
    upstream.accept().await.answer(answer).await;
    client.read_close_code().await;
}

/// Opens sessions until one is accepted, with its connection to the upstream.
async fn open_when_admitted(proxy: &Proxy, upstream: &Upstream) -> (Client, Exchange) {
    loop {
        let (client, head) = open(proxy).await;
        if status(&head) == "101" {
            return (client, upstream.accept().await);
        }
    }
}

#[tokio::test]
async fn after_failures_in_a_row_clients_get_a_503_before_the_101() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 3, LONG);
    for _ in 0..3 {
        fail(&proxy, &upstream, BROKEN).await;
    }

    let answer = proxy.exchange(&handshake(&[])).await;

    assert_eq!(status(&answer), "503", "{answer}");
    assert!((3600..=3960).contains(&retry_after(&answer)), "{answer}");
    assert!(
        answer.contains("\r\n\r\nupstream is out of order"),
        "{answer}"
    );
    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn a_session_that_becomes_ready_breaks_the_row() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 2, LONG);
    for _ in 0..3 {
        fail(&proxy, &upstream, BROKEN).await;
        let (mut client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101");
        let mut exchange = upstream.accept().await;
        exchange.answer_101().await;
        exchange.stream.send([0x81, 1, b'x']).await;
        client.read(3).await;
    }
}

#[tokio::test]
async fn what_is_the_clients_fault_does_not_count() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 1, LONG);
    for refusal in [
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "200 OK",
    ] {
        let answer = format!("HTTP/1.1 {refusal}\r\ncontent-length: 0\r\n\r\n");
        // What is refused once is waited for the next time.
        let request = format!("GET /{} HTTP/1.1", &refusal[..3]);
        let mut client = proxy.connect().await;
        client.send(handshake(&[&request])).await;
        assert_eq!(status(&client.read_head().await.unwrap()), "101");
        upstream.accept().await.answer(&answer).await;
        client.read_close_code().await;
    }
    let close = |code: u16| {
        let mut frame = vec![0x88, 2];
        frame.extend(code.to_be_bytes());
        frame
    };
    let mut gated = route(&upstream, 1, LONG);
    gated.session.gate.ready = vec![Trigger::First];
    let proxy = Proxy::start(config(vec![gated]));
    for code in [1008, 4401] {
        let (mut client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101");
        let mut exchange = upstream.accept().await;
        exchange.answer_101().await;
        exchange.stream.send(close(code)).await;
        assert_eq!(client.read_close_code().await, code);
    }
    // Nor does it when clients leave.
    for _ in 0..3 {
        let (client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101");
        let mut exchange = upstream.accept().await;
        exchange.answer_101().await;
        drop(client);
        exchange.stream.read_to_end().await;
    }
    assert_eq!(status(&open(&proxy).await.1), "101");
}

#[tokio::test]
async fn each_way_to_fail_before_readiness_counts() {
    let upstream = Upstream::listen().await;
    let broken = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n";
    let switching = crate::support::SWITCHING_PROTOCOLS;
    for (answer, frames, code) in [
        (broken, &[][..], 1014),
        ("NONSENSE\r\n\r\n", &[], 1014),
        // A frame that no server may send, and a close that is about the server.
        (switching, &[0xff, 0], 1014),
        (switching, &[0x88, 2, 0x03, 0xf3], 1011),
        // Never ready.
        (switching, &[], 1013),
    ] {
        let mut route = route(&upstream, 1, LONG);
        route.session.gate.ready = vec![Trigger::First];
        route.session.gate.timeout = Duration::from_millis(500);
        let proxy = Proxy::start(config(vec![route]));
        let (mut client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101");
        let mut exchange = upstream.accept().await;
        exchange.answer(answer).await;
        exchange.stream.send(frames).await;
        assert_eq!(client.read_close_code().await, code, "{answer}");

        assert_eq!(status(&open(&proxy).await.1), "503", "{answer}");
    }
}

#[tokio::test]
async fn one_session_is_let_through_after_the_cooldown_and_closes_it_when_it_is_ready() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 1, SHORT);
    fail(&proxy, &upstream, BROKEN).await;

    let (_probe, mut exchange) = open_when_admitted(&proxy, &upstream).await;
    let (_, head) = open(&proxy).await;
    assert_eq!(status(&head), "503");
    assert_eq!(retry_after(&head), 1);
    assert!(upstream.is_untouched());

    exchange.answer_101().await;
    let _second = open_when_admitted(&proxy, &upstream).await;
    let (_third, head) = open(&proxy).await;
    assert_eq!(status(&head), "101");
}

#[tokio::test]
async fn a_probe_whose_client_leaves_makes_room_for_the_next() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 1, SHORT);
    fail(&proxy, &upstream, BROKEN).await;
    for _ in 0..3 {
        let (probe, exchange) = open_when_admitted(&proxy, &upstream).await;
        assert_eq!(status(&open(&proxy).await.1), "503");
        drop((probe, exchange));
    }

    let (mut probe, mut exchange) = open_when_admitted(&proxy, &upstream).await;
    exchange.answer(BROKEN).await;
    assert_eq!(probe.read_close_code().await, 1014);
}

#[tokio::test]
async fn the_first_waiting_session_that_becomes_ready_closes_it() {
    let upstream = Upstream::listen().await;
    let mut route = route(&upstream, 1, LONG);
    route.session.gate.ready = vec![Trigger::First];
    let proxy = Proxy::start(config(vec![route]));
    let (mut waiting, _) = open(&proxy).await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    fail(&proxy, &upstream, BROKEN).await;
    assert_eq!(status(&open(&proxy).await.1), "503");

    exchange.stream.send([0x81, 1, b'r']).await;
    waiting.read(3).await;

    assert_eq!(status(&open(&proxy).await.1), "101");
}

#[tokio::test]
async fn a_gate_that_opens_without_readiness_is_as_good_as_ready() {
    let upstream = Upstream::listen().await;
    let mut route = route(&upstream, 1, LONG);
    route.session.gate.ready = vec![Trigger::First];
    route.session.gate.timeout = Duration::from_millis(50);
    route.session.gate.on_timeout = readygate::session::gate::OnTimeout::Open;
    let proxy = Proxy::start(config(vec![route]));
    for _ in 0..2 {
        let (mut client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101");
        let mut exchange = upstream.accept().await;
        exchange.answer_101().await;
        let message = crate::support::text_frame("held");
        client.send(&message).await;
        assert_eq!(exchange.stream.read(message.len()).await, message);
    }
}

#[tokio::test]
async fn an_upstream_that_is_asked_first_is_known_to_be_out_of_order_too() {
    let upstream = Upstream::listen().await;
    let mut route = route(&upstream, 2, LONG);
    route.accept = Accept::AfterUpstream;
    let proxy = Proxy::start(config(vec![route]));
    let ask = async |answer: &str| {
        let mut client = proxy.connect().await;
        client.send(handshake(&[])).await;
        upstream.accept().await.answer(answer).await;
        client.read_head().await.unwrap()
    };
    for _ in 0..3 {
        let head = ask("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(status(&head), "404");
    }

    assert_eq!(status(&ask(NOT_IMPLEMENTED).await), "501");
    assert_eq!(status(&ask("NONSENSE\r\n\r\n").await), "502");

    let (_, head) = open(&proxy).await;
    assert_eq!(status(&head), "503");
    assert!(retry_after(&head) >= 3600, "{head}");
}

#[tokio::test]
async fn a_session_whose_upstream_was_asked_first_closes_it_when_it_is_ready() {
    let upstream = Upstream::listen().await;
    let mut route = route(&upstream, 1, SHORT);
    route.accept = Accept::AfterUpstream;
    let proxy = Proxy::start(config(vec![route]));
    let ask = async || {
        let mut client = proxy.connect().await;
        client.send(handshake(&[])).await;
        client
    };
    // Who is refused has an answer at once, and who is not when the upstream gives one.
    let ask_when_admitted = async || {
        loop {
            let mut client = ask().await;
            tokio::select! {
                head = client.read_head() => assert_eq!(status(&head.unwrap()), "503"),
                exchange = upstream.accept() => return (client, exchange),
            }
        }
    };
    let mut failing = ask().await;
    upstream.accept().await.answer(NOT_IMPLEMENTED).await;
    assert_eq!(status(&failing.read_head().await.unwrap()), "501");
    let (mut probe, mut exchange) = ask_when_admitted().await;
    assert_eq!(status(&open(&proxy).await.1), "503", "it is half-open");

    exchange.answer_101().await;

    assert_eq!(status(&probe.read_head().await.unwrap()), "101");
    let _unanswered = ask_when_admitted().await;
    let mut second = ask().await;
    upstream.accept().await.answer_101().await;
    assert_eq!(status(&second.read_head().await.unwrap()), "101");
}

#[tokio::test]
async fn plain_requests_pass_while_it_is_open_and_do_not_open_it() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 1, LONG);
    let get = async |answer: &str| {
        let mut client = proxy.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        upstream.accept().await.answer(answer).await;
        client.read_head().await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(status(&get(NOT_IMPLEMENTED).await), "501");
        assert_eq!(status(&get("NONSENSE\r\n\r\n").await), "502");
    }

    fail(&proxy, &upstream, BROKEN).await;

    assert_eq!(status(&open(&proxy).await.1), "503");
    let answer = "HTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(status(&get(answer).await), "204");
}
