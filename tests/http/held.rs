//! Requests that are held until their upstream listens.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use readygate::{
    config::ListenAddress,
    config_file::Config,
    route::{HttpSettings, Route},
    upstream::protocol::Protocol,
};
use tokio::io::AsyncWriteExt;

use crate::{
    multiplexed,
    support::{Client, Proxy, Reserved, Upstream, config},
};

const GET: &str = "GET /page?q=1 HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A route to an upstream that does not listen yet, which holds one request.
fn holding_one(reserved: &Reserved) -> Route {
    Route {
        http: HttpSettings {
            hold_timeout: Some(Duration::from_secs(30)),
            max_held_requests: 1,
            ..HttpSettings::default()
        },
        ..reserved.route()
    }
}

/// Sends two requests, of which the proxy holds one; returns that one's client after the
/// other one has been refused, which shows that it is held.
async fn hold_one(proxy: &Proxy, request: &str) -> Client {
    let (mut one, mut other) = (proxy.connect().await, proxy.connect().await);
    one.send(request).await;
    other.send(request).await;
    let (refusal, held) = tokio::select! {
        refusal = one.read_head() => (refusal, other),
        refusal = other.read_head() => (refusal, one),
    };
    let refusal = refusal.unwrap();
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("Retry-After: "), "{refusal}");
    held
}

#[tokio::test]
async fn a_request_is_held_until_the_upstream_listens_and_sent_once() {
    let reserved = Reserved::port();
    let proxy = Proxy::start(config(vec![holding_one(&reserved)]));
    let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody";
    let mut held = hold_one(&proxy, post).await;

    let upstream = reserved.listen();
    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.stream.read(4).await, b"body");
    exchange.answer(OK).await;

    assert!(held.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_held_request_whose_client_sends_no_more_is_not_sent() {
    let long = format!("Content-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    for body in [
        "Content-Length: 0\r\n\r\n",
        "Content-Length: 4\r\n\r\nbody",
        // hyper does not see the end of the connection behind what it has not read.
        "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        &long,
    ] {
        let reserved = Reserved::port();
        let proxy = Proxy::start(config(vec![holding_one(&reserved)]));
        let gone = format!("POST /gone HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{body}");
        let mut held = hold_one(&proxy, &gone).await;
        held.0.shutdown().await.unwrap();

        let upstream = reserved.listen();
        // Another request gets through when that one is over, one way or the other.
        let mut next = proxy.connect().await;
        next.send(GET).await;
        loop {
            let mut first = [0];
            tokio::select! {
                // Reading a head here would lose its begin to the other branch.
                _ = next.0.peek(&mut first) => {
                    let refusal = next.read_head().await.unwrap();
                    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
                    next = proxy.connect().await;
                    next.send(GET).await;
                }
                connection = upstream.accept_raw() => {
                    if let Some(exchange) = connection.read_request().await {
                        assert!(exchange.head.starts_with("GET "), "{}", exchange.head);
                        break;
                    }
                }
            }
        }
    }
}

// Nothing of it has gone anywhere: the client may go to another proxy with it.
#[tokio::test]
async fn a_held_request_is_503_as_soon_as_the_proxy_drains() {
    let reserved = Reserved::port();
    let mut config = config(vec![holding_one(&reserved)]);
    config.drain.grace = Duration::from_hours(1);
    let proxy = Proxy::start(config);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let mut held = hold_one(&proxy, request).await;

    let ended = proxy.stop();

    let answer = held.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    for header in ["Retry-After: 1\r\n", "Connection: close\r\n"] {
        assert!(answer.contains(header), "{answer}");
    }
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_waited_too_long_is_504() {
    let reserved = Reserved::port();
    let mut of_its_own = holding_one(&reserved);
    of_its_own.http.hold_timeout = Some(Duration::from_millis(50));
    let mut of_the_gate = holding_one(&reserved);
    of_the_gate.http.hold_timeout = None;
    of_the_gate.session.gate.timeout = Duration::from_millis(50);
    for route in [of_its_own, of_the_gate] {
        let proxy = Proxy::start(config(vec![route]));
        for _ in 0..2 {
            let answer = proxy.exchange(GET).await;
            assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        }
    }
}

/// Ways to reach an upstream, of which the second shares connections.
const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// A route to an upstream that does not listen yet, which holds three requests, with an admin
/// listener.
fn holding_three(reserved: &Reserved, version: Protocol) -> Config {
    let mut route = holding_one(reserved);
    route.http.max_held_requests = 3;
    route.http.version = version;
    Config {
        admin: Some(ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())),
        ..config(vec![route])
    }
}

/// Sends a request on each of these clients' connections, with nothing in between.
async fn send_at_once(clients: &mut [Client], request: &str) {
    for client in clients {
        client.send(request).await;
    }
}

async fn connect_ten(proxy: &Proxy) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(proxy.connect().await);
    }
    clients
}

/// Sends ten requests at once, of which the proxy holds three; returns those clients after the
/// others have been refused.
async fn hold_three(proxy: &Proxy, request: &str) -> Vec<Client> {
    let mut clients = connect_ten(proxy).await;
    send_at_once(&mut clients, request).await;
    let mut are_held = [true; 10];
    let heads = clients.iter_mut().enumerate();
    let mut heads: FuturesUnordered<_> = heads
        .map(|(index, client)| async move { (index, client.read_head().await) })
        .collect();
    for _ in 0..7 {
        let (index, refusal) = heads.next().await.unwrap();
        let refusal = refusal.unwrap();
        assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
        are_held[index] = false;
    }
    drop(heads);
    let mut are_held = are_held.into_iter();
    clients.retain(|_| are_held.next().unwrap());
    clients
}

async fn held(proxy: &Proxy) -> u64 {
    proxy
        .metric("readygate_http_held_requests{route=\"/\"}")
        .await
}

#[tokio::test]
async fn requests_that_come_at_once_are_held_up_to_the_limit() {
    for version in PROTOCOLS {
        let reserved = Reserved::port();
        let proxy = Proxy::start(holding_three(&reserved, version));

        let clients = hold_three(&proxy, GET).await;

        assert_eq!(clients.len(), 3);
        assert_eq!(held(&proxy).await, 3, "{version:?}");
    }
}

#[tokio::test]
async fn each_held_client_that_sends_no_more_frees_its_slot() {
    for version in PROTOCOLS {
        for head in ["GET / HTTP/1.1", "POST / HTTP/1.1\r\nContent-Length: 4"] {
            let reserved = Reserved::port();
            let proxy = Proxy::start(holding_three(&reserved, version));
            let request = format!("{head}\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
            let mut clients = hold_three(&proxy, &request).await;

            for left in [2, 1, 0] {
                let mut last = clients.pop().unwrap();
                last.0.shutdown().await.unwrap();
                let answer = last.read_to_end().await;
                let is_told = answer.contains("client left");
                assert!(answer.is_empty() || is_told, "{version:?}: {answer}");
                assert_eq!(held(&proxy).await, left, "{version:?}, {head}");
            }
        }
    }
}

#[tokio::test]
async fn each_held_request_is_503_as_soon_as_the_proxy_drains() {
    for version in PROTOCOLS {
        let reserved = Reserved::port();
        let mut config = holding_three(&reserved, version);
        config.drain.grace = Duration::from_hours(1);
        let proxy = Proxy::start(config);
        let clients = hold_three(&proxy, GET).await;

        let ended = proxy.stop();

        for mut client in clients {
            let answer = client.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{version:?}: {answer}");
        }
        ended.await.unwrap().unwrap();
    }
}

// The first of them connects for all, which is no reason to hold the others.
#[tokio::test]
async fn requests_need_no_slot_while_the_upstream_listens() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.http.version = Protocol::Http2;
    route.http.max_held_requests = 0;
    let proxy = Proxy::start(config(vec![route]));
    let mut clients = connect_ten(&proxy).await;

    send_at_once(&mut clients, GET).await;

    let mut connection = multiplexed::accept(&upstream, 100).await;
    for _ in 0..10 {
        let (_, mut respond) = connection.streams.recv().await.unwrap();
        multiplexed::answer(&mut respond, "ok");
    }
    for mut client in clients {
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
