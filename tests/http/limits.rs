//! Limits of the process, of addresses and of requests, and clients that try to evade them.

use std::time::Duration;

use futures_util::future;
use readygate::{
    client_addr::{Network, TrustedProxies},
    config_file::Config,
    route::Route,
    session::gate::Trigger,
};

use crate::support::{Client, Proxy, Reserved, Upstream, config, handshake, text_frame};

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

/// Behind a trusted proxy, so that clients can have addresses on the Internet.
fn behind_a_proxy(routes: Vec<Route>) -> Config {
    let mut config = config(routes);
    let first = "127.0.0.1".parse().unwrap();
    config.trusted_proxies = TrustedProxies {
        networks: vec![Network::of(first, 32).unwrap()],
        unix: false,
    };
    config
}

async fn open_from(proxy: &Proxy, address: &str) -> (Client, String) {
    let mut client = proxy.connect().await;
    let from = format!("X-Forwarded-For: {address}");
    client.send(handshake(&[&from])).await;
    let head = client.read_head().await.unwrap();
    (client, head)
}

#[tokio::test]
async fn sessions_over_the_limit_of_their_address_get_a_429() {
    let upstream = Reserved::port();
    let mut config = behind_a_proxy(vec![upstream.route()]);
    config.limits.max_connections_per_address = Some(2);
    let proxy = Proxy::start(config);
    let open = async |address: &str| {
        let (client, head) = open_from(&proxy, address).await;
        (client, status(&head).to_owned(), head)
    };

    let first = open("203.0.113.7").await;
    let second = open("203.0.113.7").await;
    let third = open("203.0.113.7").await;
    let other = open("203.0.113.8").await;
    let private = [
        open("10.0.0.1").await,
        open("10.0.0.1").await,
        open("10.0.0.1").await,
    ];

    assert_eq!((&*first.1, &*second.1), ("101", "101"));
    assert_eq!(third.1, "429");
    assert!(third.2.contains("\r\nRetry-After: 1\r\n"), "{}", third.2);
    assert_eq!(other.1, "101");
    assert!(private.iter().all(|(_, status, _)| status == "101"));

    // A place becomes free with the end of a session.
    drop(first);
    while open("203.0.113.7").await.1 != "101" {}
}

#[tokio::test]
async fn connections_over_the_address_limit_get_429_or_are_closed() {
    let upstream = Reserved::port();
    let mut config = behind_a_proxy(vec![upstream.route()]);
    config.listen[0].proxy_protocol = true;
    config.limits.max_connections_per_address = Some(1);
    config.limits.header_timeout = Duration::from_hours(1);
    let proxy = Proxy::start(config);
    let connect = async |address: &str| {
        let mut client = proxy.connect().await;
        let header = format!("PROXY TCP6 {address} ::1 1 2\r\n");
        client.send(header + &handshake(&[])).await;
        client
    };
    let mut first = connect("2001:db8::1").await;
    assert_eq!(status(&first.read_head().await.unwrap()), "101");

    // Of the same network as the first.
    let answer = connect("2001:db8::2").await.read_to_end().await;
    assert_eq!(status(&answer), "429", "{answer}");
    assert!(answer.contains("\r\n\r\ntoo many connections from this address (request "));

    let mut other = connect("2001:db8:0:1::1").await;
    assert_eq!(status(&other.read_head().await.unwrap()), "101");

    // So many silent ones that some are not even told so.
    let mut silent = Vec::new();
    for _ in 0..30 {
        let mut client = proxy.connect().await;
        client.send("PROXY TCP6 2001:db8::3 ::1 1 2\r\n").await;
        silent.push(client);
    }
    let ends = silent.iter_mut().map(|it| Box::pin(it.read_to_end()));
    assert_eq!(future::select_all(ends).await.0, "");
}

#[tokio::test]
async fn sessions_that_begin_too_fast_get_a_503_or_a_429() {
    let upstream = Reserved::port();
    let mut config = behind_a_proxy(vec![upstream.route()]);
    config.limits.session_rate_per_address = Some(1);
    let proxy = Proxy::start(config.clone());
    let first_refusal = async |proxy: &Proxy| {
        // Ten may come at once; the loop ends unless one takes a second.
        for _ in 0..100 {
            let (_, head) = open_from(proxy, "203.0.113.7").await;
            if status(&head) != "101" {
                return head;
            }
        }
        panic!("no session was refused");
    };

    let refusal = first_refusal(&proxy).await;
    assert_eq!(status(&refusal), "429");
    assert!(refusal.contains("\r\nRetry-After: 1\r\n"), "{refusal}");
    assert_eq!(status(&open_from(&proxy, "203.0.113.8").await.1), "101");

    config.limits.session_rate_per_address = None;
    config.limits.session_rate = Some(1);
    let proxy = Proxy::start(config);
    let refusal = first_refusal(&proxy).await;
    assert_eq!(status(&refusal), "503");
    assert!(refusal.contains("\r\nRetry-After: 1\r\n"), "{refusal}");
}

#[tokio::test]
async fn an_address_over_its_limits_leaves_the_process_rate_alone() {
    let upstream = Reserved::port();
    let mut config = behind_a_proxy(vec![upstream.route()]);
    // Twenty may come at once, ten of them from one address.
    config.limits.session_rate = Some(2);
    config.limits.session_rate_per_address = Some(1);
    let proxy = Proxy::start(config.clone());
    for _ in 0..100 {
        open_from(&proxy, "203.0.113.7").await;
    }
    let (_, head) = open_from(&proxy, "203.0.113.8").await;
    assert_eq!(status(&head), "101");

    config.limits.session_rate = Some(1);
    config.limits.session_rate_per_address = None;
    config.limits.max_connections_per_address = Some(1);
    let proxy = Proxy::start(config);
    let _open = open_from(&proxy, "203.0.113.7").await;
    for _ in 0..100 {
        let (_, head) = open_from(&proxy, "203.0.113.7").await;
        assert_eq!(status(&head), "429");
    }
    let (_, head) = open_from(&proxy, "203.0.113.8").await;
    assert_eq!(status(&head), "101");
}

#[tokio::test]
async fn a_trusted_proxy_that_names_no_client_is_not_limited() {
    let upstream = Reserved::port();
    let mut config = behind_a_proxy(vec![upstream.route()]);
    let balancer = Network::of("192.0.2.7".parse().unwrap(), 32).unwrap();
    config.trusted_proxies.networks.push(balancer);
    config.listen[0].proxy_protocol = true;
    config.limits.max_connections_per_address = Some(1);
    config.limits.session_rate_per_address = Some(1);
    let proxy = Proxy::start(config);

    let mut sessions = Vec::new();
    for from in ["X-Forwarded-For: ", "X-Forwarded-For: 192.0.2.7", "A: b"].repeat(10) {
        let mut client = proxy.connect().await;
        let header = "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_owned();
        client.send(header + &handshake(&[from])).await;
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), "101", "{from}");
        sessions.push(client);
    }
}

#[tokio::test]
async fn a_target_or_headers_over_the_limit_are_414_and_431() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let get = |target_bytes: usize, headers: usize| {
        let target = format!("/?{}", "x".repeat(target_bytes - 2));
        let headers = "X-Header: y\r\n".repeat(headers - 1);
        format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
    };
    let accepted = async |request: String| {
        let mut client = proxy.connect().await;
        client.send(&request).await;
        upstream.accept().await;
    };

    accepted(get(8 * 1024, 1)).await;
    assert_eq!(status(&proxy.exchange(&get(8 * 1024 + 1, 1)).await), "414");

    accepted(get(10, 100)).await;
    assert_eq!(status(&proxy.exchange(&get(10, 101)).await), "431");
    assert_eq!(status(&proxy.exchange(&get(10, 2000)).await), "431");

    let mut config = config(vec![upstream.route()]);
    config.limits.max_headers = 10;
    config.limits.max_uri_bytes = 10;
    let proxy = Proxy::start(config);
    assert_eq!(status(&proxy.exchange(&get(10, 11)).await), "431");
    assert_eq!(status(&proxy.exchange(&get(11, 1)).await), "414");
}

#[tokio::test]
async fn a_body_declared_too_large_is_413_and_not_sent_upstream() {
    let upstream = Reserved::port();
    let mut route = upstream.route();
    route.http.max_body_bytes = Some(4);
    let proxy = Proxy::start(config(vec![route]));

    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde";
    let answer = proxy.exchange(request).await;

    assert_eq!(status(&answer), "413", "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_that_becomes_too_large_is_413_and_cut_off_upstream() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.http.max_body_bytes = Some(4);
    let proxy = Proxy::start(config(vec![route]));
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = proxy.connect().await;
    client.send(format!("{chunked}4\r\nabcd\r\n")).await;
    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.stream.read(9).await, b"4\r\nabcd\r\n");

    client.send("1\r\ne\r\n").await;

    assert_eq!(exchange.stream.read_to_end().await, "");
    let answer = client.read_to_end().await;
    assert_eq!(status(&answer), "413", "{answer}");

    // Just as much as may be.
    let mut client = proxy.connect().await;
    client
        .send(format!("{chunked}4\r\nabcd\r\n0\r\n\r\n"))
        .await;
    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.stream.read(14).await, b"4\r\nabcd\r\n0\r\n\r\n");
    exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(status(&client.read_head().await.unwrap()), "204");
}

// Slowloris: connections that only cost slots.
#[tokio::test]
async fn slow_and_silent_clients_time_out_and_others_are_served() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.max_connections = 50;
    config.limits.header_timeout = Duration::from_millis(200);
    let proxy = Proxy::start(config);
    let mut slow = Vec::new();
    for number in 0..49 {
        let mut client = proxy.connect().await;
        let beginning = if number % 2 == 0 {
            ""
        } else {
            "GET / HTTP/1.1\r\nHos"
        };
        client.send(beginning).await;
        slow.push(client);
    }

    let served = async || {
        let mut client = proxy.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        upstream
            .accept()
            .await
            .answer("HTTP/1.1 204 No Content\r\n\r\n")
            .await;
        status(&client.read_head().await.unwrap()).to_owned()
    };
    assert_eq!(served().await, "204");

    for (number, client) in slow.iter_mut().enumerate() {
        let answer = client.read_to_end().await;
        let expected = if number % 2 == 0 { "none" } else { "408" };
        assert_eq!(status(&answer), expected, "{answer}");
    }
    assert_eq!(served().await, "204");
}

#[tokio::test]
async fn a_held_clients_flood_of_pings_is_answered_by_the_proxy() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.session.gate.ready = vec![Trigger::First];
    let proxy = Proxy::start(config(vec![route]));
    let mut client = proxy.connect().await;
    client.open().await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;

    let ping = [0x89, 0x81, 0, 0, 0, 0, b'x'];
    for _ in 0..100 {
        client.send(ping.repeat(100)).await;
    }
    let message = text_frame("after");
    client.send(&message).await;
    client.send([0x89, 0x81, 0, 0, 0, 0, b'z']).await;
    // One pong may answer several pings (RFC 6455 §5.5.3); this one answers the last.
    while client.read(3).await != [0x8a, 1, b'z'] {}

    exchange.stream.send([0x81, 1, b'r']).await;
    assert_eq!(exchange.stream.read(message.len()).await, message);
}

#[tokio::test]
async fn a_trickling_frame_delays_neither_deadline_nor_upstream() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.session.gate.ready = vec![Trigger::First];
    route.session.gate.timeout = Duration::from_millis(300);
    let proxy = Proxy::start(config(vec![route]));
    let frame = text_frame("slowly");

    // The backend is never ready.
    let mut client = proxy.connect().await;
    client.open().await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    client.send(&frame[..3]).await;
    assert_eq!(client.read_close_code().await, 1013);

    // It is, in the middle of the frame.
    let mut client = proxy.connect().await;
    client.open().await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    client.send(&frame[..8]).await;
    exchange.stream.send([0x81, 1, b'r']).await;
    assert_eq!(client.read(3).await, [0x81, 1, b'r']);
    client.send(&frame[8..]).await;
    assert_eq!(exchange.stream.read(frame.len()).await, frame);
}
