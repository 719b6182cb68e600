//! The circuit breaker: clients are rejected before their `101` while the upstream is failing.

use std::time::Duration;

use readygate::{
    config::BreakerSettings,
    matcher::Matcher,
    route::{Accept, Route},
    session::{
        gate::Trigger,
        rules::{Priority, Release, Rule, Rules},
    },
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
    route.breaker = BreakerSettings { failures, cooldown };
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
        .find_map(|line| line.strip_prefix("Retry-After: "));
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
async fn after_enough_failures_clients_get_a_503_before_the_101() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 3, LONG);
    for _ in 0..3 {
        fail(&proxy, &upstream, BROKEN).await;
    }

    let answer = proxy.exchange(&handshake(&[])).await;

    assert_eq!(status(&answer), "503", "{answer}");
    assert!((3600..=3960).contains(&retry_after(&answer)), "{answer}");
    assert!(answer.contains("\r\n\r\nupstream is failing"), "{answer}");
    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn after_a_session_that_becomes_ready_the_count_begins_anew() {
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

/// A close frame with this code.
fn close(code: u16) -> Vec<u8> {
    let mut frame = vec![0x88, 2];
    frame.extend(code.to_be_bytes());
    frame
}

#[tokio::test]
async fn no_status_of_the_upstream_counts() {
    let upstream = Upstream::listen().await;
    let mut route = route(&upstream, 1, LONG);
    route.session.gate.timeout = Duration::from_millis(300);
    let proxy = Proxy::start(config(vec![route]));
    for refusal in [
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "200 OK",
        "501 Not Implemented",
        // These are tried again until the gate's deadline.
        "500 Internal Server Error",
        "503 Service Unavailable",
    ] {
        let answer = format!("HTTP/1.1 {refusal}\r\ncontent-length: 0\r\n\r\n");
        // What is refused once is waited for the next time.
        let request = format!("GET /{} HTTP/1.1", &refusal[..3]);
        let mut client = proxy.connect().await;
        client.send(handshake(&[&request])).await;
        assert_eq!(status(&client.read_head().await.unwrap()), "101");
        let answered = async {
            loop {
                upstream.accept().await.answer(&answer).await;
            }
        };
        tokio::select! {
            _ = client.read_close_code() => {}
            () = answered => {}
        }
    }
    assert_eq!(status(&open(&proxy).await.1), "101");
}

#[tokio::test]
async fn an_upstream_that_is_there_and_takes_too_long_does_not_count() {
    let upstream = Upstream::listen().await;
    let mut route = route(&upstream, 1, LONG);
    route.session.gate.ready = vec![Trigger::First];
    route.session.gate.timeout = Duration::from_millis(100);
    let proxy = Proxy::start(config(vec![route]));
    for answers in [true, false] {
        let (mut client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101", "{answers}");
        let mut exchange = upstream.accept().await;
        if answers {
            exchange.answer_101().await;
        }
        assert_eq!(client.read_close_code().await, 1013);
    }
    assert_eq!(status(&open(&proxy).await.1), "101");
}

#[tokio::test]
async fn what_a_client_has_a_part_in_does_not_count() {
    let upstream = Upstream::listen().await;
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
    // Nor when they name a subprotocol that is not the upstream's.
    for _ in 0..3 {
        let mut client = proxy.connect().await;
        client.send(handshake(&["Sec-WebSocket-Protocol: a"])).await;
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), "101");
        let chosen = "\r\nSec-WebSocket-Protocol: b\r\n\r\n";
        let answer = crate::support::SWITCHING_PROTOCOLS.replace("\r\n\r\n", chosen);
        upstream.accept().await.answer(&answer).await;
        assert_eq!(client.read_close_code().await, 1014);
    }
    // Nor when they do not answer the upstream's ping, which then gives them up.
    let (mut client, head) = open(&proxy).await;
    assert_eq!(status(&head), "101");
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    exchange.stream.send([0x89, 0]).await;
    exchange.stream.send(close(1011)).await;
    assert_eq!(client.read(2).await, [0x89, 0]);
    assert_eq!(client.read_close_code().await, 1011);

    assert_eq!(status(&open(&proxy).await.1), "101");
}

#[tokio::test]
async fn an_upstream_that_gives_silent_clients_up_does_not_count() {
    let upstream = Upstream::listen().await;
    let mut route = route(&upstream, 1, LONG);
    route.session.gate.ready = vec![Trigger::First];
    route.session.rules = Rules::new(vec![Rule {
        matchers: vec![Matcher::Prefix("init".to_owned())],
        priority: Priority::Normal,
        release: Release::Authenticated,
    }]);
    let proxy = Proxy::start(config(vec![route]));
    for _ in 0..3 {
        let (mut client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101");
        let mut exchange = upstream.accept().await;
        exchange.answer_101().await;
        exchange.stream.send(close(1011)).await;
        assert_eq!(client.read_close_code().await, 1011);
    }
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
    ] {
        let mut route = route(&upstream, 1, LONG);
        route.session.gate.ready = vec![Trigger::First];
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
async fn the_probe_after_the_cooldown_closes_it_when_ready() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 1, SHORT);
    fail(&proxy, &upstream, BROKEN).await;

    let (_first, mut exchange) = open_when_admitted(&proxy, &upstream).await;
    exchange.answer_101().await;
    let mut all = vec![open_when_admitted(&proxy, &upstream).await];

    // More than are let through while it is not closed.
    for _ in 0..2 * breaker::TRIALS {
        let (client, head) = open(&proxy).await;
        assert_eq!(status(&head), "101");
        all.push((client, upstream.accept().await));
    }
}

#[tokio::test]
async fn a_session_whose_client_leaves_makes_room_for_the_next() {
    let upstream = Upstream::listen().await;
    let proxy = proxy(&upstream, 1, SHORT);
    fail(&proxy, &upstream, BROKEN).await;
    for _ in 0..2 * breaker::TRIALS {
        drop(open_when_admitted(&proxy, &upstream).await);
    }

    let (mut last, mut exchange) = open_when_admitted(&proxy, &upstream).await;
    exchange.answer(BROKEN).await;
    assert_eq!(last.read_close_code().await, 1014);
}

#[tokio::test]
async fn the_limits_are_asked_before_it() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![route(&upstream, 1, LONG)]);
    config.limits.session_rate = Some(1);
    let proxy = Proxy::start(config);
    fail(&proxy, &upstream, BROKEN).await;

    let mut answers = Vec::new();
    for _ in 0..100 {
        answers.push(proxy.exchange(&handshake(&[])).await);
    }

    let is_of = |text: &str| answers.iter().any(|answer| answer.contains(text));
    assert!(is_of("upstream is failing"), "{answers:?}");
    assert!(is_of("too many new sessions"), "{answers:?}");
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
async fn the_breaker_also_opens_where_the_upstream_accepts_first() {
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
        assert_eq!(status(&ask(NOT_IMPLEMENTED).await), "501");
    }

    assert_eq!(status(&ask(BROKEN).await), "502");
    assert_eq!(status(&ask("NONSENSE\r\n\r\n").await), "502");

    let (_, head) = open(&proxy).await;
    assert_eq!(status(&head), "503");
    assert!(retry_after(&head) >= 3600, "{head}");
}

#[tokio::test]
async fn the_breaker_also_closes_where_the_upstream_accepts_first() {
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
    upstream.accept().await.answer(BROKEN).await;
    assert_eq!(status(&failing.read_head().await.unwrap()), "502");
    let (mut first, mut exchange) = ask_when_admitted().await;

    exchange.answer_101().await;

    assert_eq!(status(&first.read_head().await.unwrap()), "101");
    let mut all = vec![ask_when_admitted().await];
    // More than are let through while it is not closed.
    for _ in 0..2 * breaker::TRIALS {
        let client = ask().await;
        all.push((client, upstream.accept().await));
    }
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
