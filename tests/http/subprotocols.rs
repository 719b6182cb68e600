//! The subprotocol that a client is told before its upstream has chosen one.

use std::num::NonZeroUsize;

use readygate::route::Route;

use crate::support::{
    Client, Exchange, Proxy, SWITCHING_PROTOCOLS, Upstream, config, handshake, text_frame,
};

/// As clients of Kubernetes offer one, beside a subprotocol.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.ZXlKaGJHY2lPaUpTVXpJMU5pSjk";

/// As others do, with nothing beside it.
const TOKEN: &str = "jwt.eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";

/// A client that has sent a handshake for `path` with these offers.
async fn offer(proxy: &Proxy, path: &str, offers: &str) -> Client {
    let mut client = proxy.connect().await;
    let request_line = format!("GET {path} HTTP/1.1");
    let offers = format!("Sec-WebSocket-Protocol: {offers}");
    client.send(handshake(&[&request_line, &offers])).await;
    client
}

/// The subprotocol in a head.
fn named(head: &str) -> Option<&str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let named = lines.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"));
    named.map(|(_, value)| value)
}

/// A client that has its `101`, and the subprotocol in that.
async fn told(proxy: &Proxy, path: &str, offers: &str) -> (Client, Option<String>) {
    let mut client = offer(proxy, path, offers).await;
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (client, named(&head).map(str::to_owned))
}

/// A `101` that names `subprotocol`.
fn naming(subprotocol: &str) -> String {
    let line = format!("\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n");
    SWITCHING_PROTOCOLS.replace("\r\n\r\n", &line)
}

/// A message of the client arrives.
async fn assert_open(client: &mut Client, exchange: &mut Exchange) {
    let frame = text_frame("hello");
    client.send(&frame).await;
    assert_eq!(exchange.stream.read(frame.len()).await, frame);
}

/// The upstream names `chosen` to a client that was told another one.
async fn disappoint(proxy: &Proxy, upstream: &Upstream, path: &str, offers: &str, chosen: &str) {
    let (mut client, told) = told(proxy, path, offers).await;
    assert_ne!(told.as_deref(), Some(chosen));
    upstream.accept().await.answer(&naming(chosen)).await;
    assert_eq!(client.read_close_code().await, 1014);
}

/// The upstream names `chosen` to a client that was told so.
async fn satisfy(proxy: &Proxy, upstream: &Upstream, path: &str, offers: &str, chosen: &str) {
    let (mut client, told) = told(proxy, path, offers).await;
    assert_eq!(told.as_deref(), Some(chosen));
    let mut exchange = upstream.accept().await;
    exchange.answer(&naming(chosen)).await;
    assert_open(&mut client, &mut exchange).await;
}

/// A client with these offers gets what its upstream answers, and not before.
async fn wait(
    proxy: &Proxy,
    upstream: &Upstream,
    offers: &str,
    answer: &str,
) -> (Client, Exchange) {
    let mut client = offer(proxy, "/chat", offers).await;
    let mut exchange = upstream.accept().await;
    exchange.answer(answer).await;
    let head = client.read_head().await.unwrap();
    let status = |head: &str| head.split(' ').nth(1).map(str::to_owned);
    assert_eq!(status(&head), status(answer));
    assert_eq!(named(&head), named(answer));
    (client, exchange)
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

#[tokio::test]
async fn an_upstream_that_names_none_serves_whoever_was_told_one() {
    for configured in [&[][..], &["b".to_owned()]] {
        let (upstream, proxy) = before(|route| route.subprotocols = configured.to_vec()).await;
        for answer in [SWITCHING_PROTOCOLS, &naming("")] {
            let (mut client, told) = told(&proxy, "/chat", "a, b").await;
            let expected = configured.first().map_or("a", String::as_str);
            assert_eq!(told.as_deref(), Some(expected));
            let mut exchange = upstream.accept().await;
            exchange.answer(answer).await;

            assert_open(&mut client, &mut exchange).await;
        }
    }
}

#[tokio::test]
async fn later_clients_are_told_what_was_named_for_the_same_offers() {
    let (upstream, proxy) = before(|_| {}).await;
    disappoint(&proxy, &upstream, "/chat", "a, b", "b").await;

    satisfy(&proxy, &upstream, "/chat?room=1", "a, b", "b").await;
    satisfy(&proxy, &upstream, "/chat", "a,b", "b").await;
    satisfy(&proxy, &upstream, "/other", "a, b", "a").await;
    satisfy(&proxy, &upstream, "/chat", "a, c", "a").await;
    satisfy(&proxy, &upstream, "/chat", "b, a", "b").await;
    satisfy(&proxy, &upstream, "/chat", "a", "a").await;

    // None is never what a client is told, for browsers fail without an answer.
    let (mut client, _) = told(&proxy, "/chat", "a, b").await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    assert_open(&mut client, &mut exchange).await;
    satisfy(&proxy, &upstream, "/chat", "a, b", "b").await;
}

#[tokio::test]
async fn an_upstream_that_changes_its_mind_is_waited_for() {
    let (upstream, proxy) = before(|_| {}).await;
    disappoint(&proxy, &upstream, "/chat", "a, b, c", "b").await;
    disappoint(&proxy, &upstream, "/chat", "a, b, c", "c").await;

    for chosen in ["a", "c", "b"] {
        wait(&proxy, &upstream, "a, b, c", &naming(chosen)).await;
    }
}

#[tokio::test]
async fn what_the_route_names_is_told_whatever_the_upstream_says() {
    let (upstream, proxy) = before(|route| route.subprotocols = vec!["a".to_owned()]).await;

    for _ in 0..3 {
        disappoint(&proxy, &upstream, "/chat", "b, a", "b").await;
    }
    satisfy(&proxy, &upstream, "/chat", "b, a", "a").await;
}

#[tokio::test]
async fn an_offer_that_is_like_a_token_is_not_what_a_client_is_told() {
    let (upstream, proxy) = before(|_| {}).await;
    let offers = format!("{BEARER}, {TOKEN}, base64.binary.k8s.io");
    let (mut client, told) = told(&proxy, "/chat", &offers).await;
    assert_eq!(told.as_deref(), Some("base64.binary.k8s.io"));

    let mut exchange = upstream.accept().await;

    assert_eq!(exchange.header("sec-websocket-protocol"), Some(&*offers));
    exchange.answer(&naming("base64.binary.k8s.io")).await;
    assert_open(&mut client, &mut exchange).await;
}

#[tokio::test]
async fn what_is_known_for_one_token_is_known_for_all() {
    let (upstream, proxy) = before(|_| {}).await;
    let with = |token: &str| format!("{token}, v4.channel.k8s.io, v5.channel.k8s.io");
    disappoint(
        &proxy,
        &upstream,
        "/chat",
        &with(BEARER),
        "v5.channel.k8s.io",
    )
    .await;

    satisfy(
        &proxy,
        &upstream,
        "/chat",
        &with(TOKEN),
        "v5.channel.k8s.io",
    )
    .await;
}

#[tokio::test]
async fn a_client_that_offers_tokens_only_waits_for_the_upstream() {
    let (upstream, proxy) = before(|_| {}).await;
    let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    wait(&proxy, &upstream, TOKEN, not_found).await;
    let offers = format!("{BEARER}, {TOKEN}");
    wait(&proxy, &upstream, &offers, SWITCHING_PROTOCOLS).await;

    let (mut client, mut exchange) = wait(&proxy, &upstream, &offers, &naming(TOKEN)).await;

    assert_open(&mut client, &mut exchange).await;
}

#[tokio::test]
async fn extensions_stay_declined_where_only_this_client_waits() {
    let (upstream, proxy) = before(|_| {}).await;
    let mut client = proxy.connect().await;
    let offers = format!("Sec-WebSocket-Protocol: {TOKEN}");
    let deflate = "Sec-WebSocket-Extensions: permessage-deflate";
    client.send(handshake(&[&offers, deflate])).await;

    let mut exchange = upstream.accept().await;

    assert_eq!(exchange.header("sec-websocket-extensions"), None);
    exchange.answer(&naming(TOKEN)).await;
    let head = client.read_head().await.unwrap();
    assert_eq!(named(&head), Some(TOKEN));
    let head = head.to_lowercase();
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
}

#[tokio::test]
async fn clients_wait_where_the_upstream_has_named_a_token() {
    let (upstream, proxy) = before(|_| {}).await;
    let with = |token: &str| format!("chat, {token}");
    disappoint(&proxy, &upstream, "/chat", &with(TOKEN), TOKEN).await;

    let (mut client, mut exchange) = wait(&proxy, &upstream, &with(BEARER), &naming(BEARER)).await;

    assert_open(&mut client, &mut exchange).await;
}

#[tokio::test]
async fn a_choice_that_no_client_offered_is_1014_and_told_to_nobody() {
    let (upstream, proxy) = before(|_| {}).await;
    for chosen in ["x", "a, b"] {
        disappoint(&proxy, &upstream, "/chat", "a, b", chosen).await;
    }
    let mut client = proxy.connect().await;
    client.open().await;
    upstream.accept().await.answer(&naming("x")).await;
    assert_eq!(client.read_close_code().await, 1014);

    satisfy(&proxy, &upstream, "/chat", "a, b", "a").await;
}

#[tokio::test]
async fn a_choice_of_subprotocols_does_not_open_the_breaker() {
    let (upstream, proxy) = before(|route| route.breaker.failures = 1).await;

    for (path, chosen) in [("/1", "b"), ("/2", "b"), ("/3", "x")] {
        disappoint(&proxy, &upstream, path, "a, b", chosen).await;
    }
    let mut client = offer(&proxy, "/4", TOKEN).await;
    upstream.accept().await.answer(&naming("x")).await;
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");

    satisfy(&proxy, &upstream, "/5", "a, b", "a").await;
}
