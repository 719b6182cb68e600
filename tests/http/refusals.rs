//! Clients that reconnect after an early `101` led to nothing.

use std::{num::NonZeroUsize, time::Duration};

use readygate::{
    config::Retry,
    route::{Accept, Route},
    session::termination::CloseCodes,
    websocket::CloseCode,
};

use crate::support::{
    Client, Exchange, Proxy, SWITCHING_PROTOCOLS, Upstream, config, handshake, text_frame,
};

/// Rejection that a client would get from the backend directly.
fn refusal(status: u16) -> String {
    format!("HTTP/1.1 {status} x\r\nContent-Length: 4\r\nX-Why: gone\r\n\r\ngone")
}

/// A `101` that no client can have got from the proxy alone.
fn own_101() -> String {
    SWITCHING_PROTOCOLS.replace("\r\n\r\n", "\r\nSet-Cookie: own=1\r\n\r\n")
}

fn is_own_101(head: &str) -> bool {
    head.starts_with("HTTP/1.1 101 ") && head.to_lowercase().contains("\r\nset-cookie: own=1\r\n")
}

async fn before(change: impl FnOnce(&mut Route)) -> (Upstream, Proxy) {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    change(&mut route);
    let mut config = config(vec![route]);
    // What one worker learns all of them know.
    config.workers = NonZeroUsize::new(2).unwrap();
    let proxy = Proxy::start(config);
    (upstream, proxy)
}

async fn ask(proxy: &Proxy, lines: &[&str]) -> Client {
    let mut client = proxy.connect().await;
    client.send(handshake(lines)).await;
    client
}

/// A client has its `101` at once, with its connection to the upstream.
async fn open(proxy: &Proxy, upstream: &Upstream, lines: &[&str]) -> (Client, Exchange) {
    let mut client = ask(proxy, lines).await;
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (client, upstream.accept().await)
}

/// A client that has its `101` is closed, for the upstream refuses with `status`.
async fn refuse(proxy: &Proxy, upstream: &Upstream, lines: &[&str], status: u16) -> u16 {
    let (mut client, mut exchange) = open(proxy, upstream, lines).await;
    exchange.answer(&refusal(status)).await;
    client.read_close_code().await
}

/// A client gets what the upstream answers, and not before.
async fn wait(proxy: &Proxy, upstream: &Upstream, lines: &[&str], answer: &str) -> String {
    let mut client = ask(proxy, lines).await;
    upstream.accept().await.answer(answer).await;
    client.read_to_end().await
}

#[tokio::test]
async fn who_was_refused_after_a_101_gets_the_refusal_next_time() {
    for status in [200, 302, 400, 404, 501] {
        let (upstream, proxy) = before(|_| {}).await;
        assert_eq!(refuse(&proxy, &upstream, &[], status).await, 1014);

        for _ in 0..3 {
            let answer = wait(&proxy, &upstream, &[], &refusal(status)).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(
                answer.to_lowercase().contains("\r\nx-why: gone\r\n"),
                "{answer}"
            );
            assert!(answer.ends_with("\r\n\r\ngone"), "{answer}");
        }
    }
}

#[tokio::test]
async fn another_handshake_than_the_refused_one_gets_its_101_at_once() {
    let (upstream, proxy) = before(|_| {}).await;
    let refused = &["Authorization: Bearer a", "Cookie: a=1", "Cookie: b=2"][..];
    refuse(&proxy, &upstream, refused, 404).await;

    for others in [
        &["Authorization: Bearer b", "Cookie: a=1", "Cookie: b=2"][..],
        &["Authorization: Bearer a", "Cookie: a=1"],
        &["Authorization: Bearer a", "Cookie: a=1b=2"],
        &["Cookie: a=1", "Cookie: b=2"],
        &[],
        &[refused, &["Sec-WebSocket-Protocol: a"]].concat(),
        &[refused, &["GET /chat?token=other HTTP/1.1"]].concat(),
        &[refused, &["GET /other?token=secret HTTP/1.1"]].concat(),
    ] {
        open(&proxy, &upstream, others).await;
    }
    let answer = wait(&proxy, &upstream, refused, &refusal(404)).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn an_upstream_that_accepts_again_makes_the_next_101_early() {
    let (upstream, proxy) = before(|_| {}).await;
    refuse(&proxy, &upstream, &[], 404).await;
    let mut client = ask(&proxy, &[]).await;
    let frame = text_frame("sent too early");
    client.send(&frame).await;

    let mut exchange = upstream.accept().await;
    exchange.answer(&own_101()).await;

    let head = client.read_head().await.unwrap();
    assert!(is_own_101(&head), "{head}");
    assert_eq!(exchange.stream.read(frame.len()).await, frame);
    open(&proxy, &upstream, &[]).await;
}

#[tokio::test]
async fn a_client_that_waits_with_extensions_has_them_declined() {
    let (upstream, proxy) = before(|_| {}).await;
    refuse(&proxy, &upstream, &[], 404).await;
    let mut client = ask(&proxy, &["Sec-WebSocket-Extensions: permessage-deflate"]).await;

    let mut exchange = upstream.accept().await;

    assert_eq!(exchange.header("sec-websocket-extensions"), None);
    exchange.answer(&own_101()).await;
    let head = client.read_head().await.unwrap();
    assert!(is_own_101(&head), "{head}");
    assert!(
        !head.to_lowercase().contains("sec-websocket-extensions"),
        "{head}"
    );
}

#[tokio::test]
async fn a_refusal_with_a_close_code_of_its_own_is_not_remembered() {
    let codes = [(404, CloseCode::try_from(4404).unwrap())];
    let (upstream, proxy) =
        before(|route| route.session.close_codes = CloseCodes::new(codes)).await;

    for (status, code) in [(404, 4404), (401, 1008), (403, 1008)].repeat(2) {
        assert_eq!(refuse(&proxy, &upstream, &[], status).await, code);
    }
}

#[tokio::test]
async fn a_refusal_that_may_be_another_answer_soon_is_not_remembered() {
    for status in [500, 502, 503, 504] {
        let (upstream, proxy) = before(|route| {
            route.session.gate.timeout = Duration::from_millis(100);
            route.upstream.retry = Retry {
                initial: Duration::from_hours(1),
                max: Duration::from_hours(1),
                jitter: 0.0,
            };
        })
        .await;
        for _ in 0..2 {
            assert_eq!(refuse(&proxy, &upstream, &[], status).await, 1013);
        }
    }
}

#[tokio::test]
async fn a_broken_upstream_is_no_refusal() {
    let (upstream, proxy) = before(|route| route.breaker.failures = 0).await;
    for _ in 0..2 {
        let (mut client, mut exchange) = open(&proxy, &upstream, &[]).await;
        exchange.answer("HTTP/1.0 101 x\r\n\r\n").await;
        assert_eq!(client.read_close_code().await, 1014);
    }
}

#[tokio::test]
async fn who_hammers_at_what_does_not_exist_does_not_open_the_breaker() {
    let (upstream, proxy) = before(|route| route.breaker.failures = 1).await;
    refuse(&proxy, &upstream, &[], 404).await;
    for _ in 0..3 {
        let answer = wait(&proxy, &upstream, &[], &refusal(404)).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }

    open(&proxy, &upstream, &["GET /other HTTP/1.1"]).await;
}

#[tokio::test]
async fn where_clients_wait_anyway_nothing_changes() {
    let (upstream, proxy) = before(|route| route.accept = Accept::AfterUpstream).await;
    for _ in 0..2 {
        let answer = wait(&proxy, &upstream, &[], &refusal(404)).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
}
