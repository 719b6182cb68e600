//! The opening handshake with a client.

use readygate::{
    route::{Accept, Route},
    upstream::Address,
};

use crate::support::{ACCEPT, KEY, Proxy, Reserved, Upstream, config, handshake, text_frame};

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

/// Sends each request to a proxy whose upstream must not matter, and compares statuses.
async fn assert_statuses(cases: &[(&[&str], &str)]) {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    for (lines, expected) in cases {
        let request = handshake(lines);
        let mut client = proxy.connect().await;
        client.send(&request).await;

        let answer = client.read_head().await.unwrap_or_default();

        assert_eq!(status(&answer), *expected, "{request}{answer}");
    }
}

#[tokio::test]
async fn the_101_does_not_wait_for_the_upstream() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));

    let head = proxy.connect().await.open().await.to_lowercase();

    assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    let accept = format!("\r\nsec-websocket-accept: {}\r\n", ACCEPT.to_lowercase());
    assert!(head.contains(&accept), "{head}");
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
}

// RFC 6455 §4.2.1.
#[tokio::test]
async fn a_key_that_is_not_the_base64_of_16_bytes_is_400() {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    assert_statuses(&[
        (&["Sec-WebSocket-Key:"], "400"),
        (&["Sec-WebSocket-Key: c2hvcnQ="], "400"),
        (&["Sec-WebSocket-Key: not base64, not at all!!"], "400"),
        (&["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA="], "400"),
        (&[&key, &key], "400"),
    ])
    .await;
}

// RFC 6455 §4.4.
#[tokio::test]
async fn another_version_is_426_and_told_the_right_one() {
    assert_statuses(&[
        (&["Sec-WebSocket-Version:"], "426"),
        (&["Sec-WebSocket-Version: 8"], "426"),
        (&["Sec-WebSocket-Version: 13, 8"], "426"),
        (
            &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"],
            "426",
        ),
    ])
    .await;

    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    let mut client = proxy.connect().await;
    client.send(handshake(&["Sec-WebSocket-Version: 8"])).await;
    let head = client.read_head().await.unwrap();
    assert!(head.contains("Sec-WebSocket-Version: 13\r\n"), "{head}");
}

// RFC 6455 §4.1.
#[tokio::test]
async fn another_method_is_405_and_http_1_0_is_400() {
    assert_statuses(&[
        (&["POST /chat HTTP/1.1"], "405"),
        (&["HEAD /chat HTTP/1.1"], "405"),
        (&["GET /chat HTTP/1.0"], "400"),
    ])
    .await;
}

// With several protocols the next proxy might choose another one (RFC 9110 §7.8).
#[tokio::test]
async fn upgrade_must_be_websocket_alone() {
    assert_statuses(&[
        (&["Upgrade: proto1, websocket"], "400"),
        (&["Upgrade: websocket, h2c"], "400"),
        (&["Upgrade: websocket", "Upgrade: websocket"], "400"),
        (&["Upgrade: websocket", "Upgrade: h2c"], "400"),
    ])
    .await;
}

// RFC 9110 §7.6.1.
#[tokio::test]
async fn connection_may_be_a_list_in_any_case() {
    assert_statuses(&[
        (&["Connection: keep-alive, UPGRADE"], "101"),
        (&["Connection: keep-alive", "Connection: upgrade"], "101"),
        (&["Upgrade: WebSocket"], "101"),
    ])
    .await;
}

#[tokio::test]
async fn the_101_says_only_upgrade_to_a_client_that_says_close() {
    for accept in [Accept::Early, Accept::AfterUpstream] {
        let upstream = Upstream::listen().await;
        let proxy = Proxy::start(config(vec![Route {
            accept,
            ..upstream.route()
        }]));
        for connection in [
            &["Connection: Upgrade, close"][..],
            &["Connection: close, Upgrade"],
            &["Connection: Upgrade", "Connection: close"],
        ] {
            let mut client = proxy.connect().await;
            client.send(handshake(connection)).await;
            let mut exchange = upstream.accept().await;
            assert_eq!(exchange.header("connection"), Some("Upgrade"));
            exchange.answer_101().await;

            let head = client.read_head().await.unwrap();

            assert_eq!(status(&head), "101");
            let lines = head.lines().map(str::to_lowercase);
            let said: Vec<_> = lines
                .filter(|line| line.starts_with("connection:"))
                .collect();
            assert_eq!(said, ["connection: upgrade"], "{connection:?}: {head}");
            exchange.stream.send([0x81, 0x00]).await;
            assert_eq!(client.read(2).await, [0x81, 0x00]);
        }
    }
}

#[tokio::test]
async fn a_handshake_behind_a_request_gets_its_101_behind_the_answer() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    let get = "GET /first HTTP/1.1\r\nHost: chat.example\r\n\r\n";
    let frame = text_frame("early");
    client
        .send([get.as_bytes(), handshake(&[]).as_bytes(), &frame].concat())
        .await;
    let body = vec![b'x'; 8 * 1024 * 1024];
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut first = upstream.accept().await;
    let answering = async {
        first.answer(&answer).await;
        first.stream.send(&body).await;
    };
    let reading = async {
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), "200");
        assert_eq!(client.read(body.len()).await, body);
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), "101");
    };
    tokio::join!(answering, reading);

    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;

    assert_eq!(exchange.stream.read(frame.len()).await, frame);
}

/// The names of the header fields in `head`.
fn names(head: &str) -> Vec<&str> {
    let lines = head.lines().skip(1);
    let names = lines.filter_map(|line| line.split(": ").next());
    names.filter(|name| !name.is_empty()).collect()
}

#[tokio::test]
async fn names_are_spelled_as_the_rfcs_and_the_other_side_do() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![Route {
        accept: Accept::AfterUpstream,
        ..upstream.route()
    }]));
    let mut client = proxy.connect().await;
    client
        .send(handshake(&[
            "host: chat.example",
            "CONNECTION: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-KEY: dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-extensions: permessage-deflate",
            "x-Device-ID: 7",
            "Cookie: a",
            "COOKIE: b",
        ]))
        .await;

    let mut exchange = upstream.accept().await;
    let sent = [
        "host",
        "x-Device-ID",
        "Cookie",
        "COOKIE",
        "X-Request-Id",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "Forwarded",
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
    ];
    assert_eq!(names(&exchange.head), sent);
    exchange
        .answer(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             SET-Cookie: a\r\nx-Powered-By: x\r\nSec-Websocket-Accept: {accept}\r\n\
             sec-websocket-extensions: permessage-deflate\r\n\r\n",
        )
        .await;

    let head = client.read_head().await.unwrap();
    let got = [
        "SET-Cookie",
        "x-Powered-By",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Accept",
        "Upgrade",
        "Connection",
    ];
    assert_eq!(names(&head), got, "{head}");
}

// Bytes of a body would be taken for frames.
#[tokio::test]
async fn a_handshake_with_a_body_is_400_and_the_connection_closes() {
    assert_statuses(&[
        (&["Content-Length: 0"], "101"),
        (&["Content-Length: 5"], "400"),
        (&["Transfer-Encoding: chunked"], "400"),
        (&["Content-Length: 5", "Expect: 100-continue"], "400"),
        (&["Expect: 100-continue"], "400"),
        (&["Content-Length: 0", "Transfer-Encoding: chunked"], "400"),
        (&["Transfer-Encoding: chunked", "Content-Length: 0"], "400"),
    ])
    .await;

    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    let request = handshake(&["Content-Length: 5"]) + "GET /";
    let answer = proxy.exchange(&request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn there_must_be_exactly_one_host() {
    assert_statuses(&[
        (&["Host:"], "400"),
        (&["Host: a", "Host: a"], "400"),
        (&["Host: user@a"], "400"),
        (&["Host: a, b"], "400"),
        (&["GET http://user@chat.example/chat HTTP/1.1"], "400"),
        (&["GET http://chat.example/chat HTTP/1.1"], "101"),
    ])
    .await;
}

#[tokio::test]
async fn frames_in_the_same_segment_as_the_handshake_are_not_lost() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let frame = text_frame("early");
    let mut client = proxy.connect().await;
    client
        .send([handshake(&[]).into_bytes(), frame.clone()].concat())
        .await;

    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;

    assert_eq!(exchange.stream.read(frame.len()).await, frame);
}

// RFC 6455 §4.2.2.
#[tokio::test]
async fn the_subprotocol_is_the_routes_first_that_the_client_offers() {
    let upstream = Reserved::port();
    let chosen = async |configured: &[&str], offers: &[&str]| {
        let proxy = Proxy::start(config(vec![Route {
            subprotocols: configured.iter().map(ToString::to_string).collect(),
            ..upstream.route()
        }]));
        let mut client = proxy.connect().await;
        client.send(handshake(offers)).await;
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), "101");
        head.lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "))
            .map(str::to_owned)
    };
    let offers: &[&str] = &["Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Protocol: c"];

    assert_eq!(chosen(&["c", "b"], offers).await.as_deref(), Some("c"));
    assert_eq!(chosen(&["x"], offers).await, None);
    assert_eq!(chosen(&[], offers).await.as_deref(), Some("a"));
    assert_eq!(chosen(&["a"], &[]).await, None);
}

// RFC 6455 §9.1.
#[tokio::test]
async fn extensions_are_declined() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send(handshake(&["Sec-WebSocket-Extensions: permessage-deflate"]))
        .await;

    let head = client.read_head().await.unwrap();
    let exchange = upstream.accept().await;

    assert_eq!(status(&head), "101");
    assert!(!head.contains("Sec-WebSocket-Extensions"), "{head}");
    assert_eq!(exchange.header("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn the_upstream_gets_the_clients_request_with_another_key() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send(handshake(&[
            "Connection: upgrade, keep-alive, X-Private, X-Forwarded-For, Host, Sec-WebSocket-Key",
            "X-Private: 1",
            "Keep-Alive: timeout=5",
            "TE: trailers",
            "Proxy-Authorization: Basic eDp5",
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Proto: https",
            "Forwarded: for=1.2.3.4",
            "Origin: https://chat.example",
            "Authorization: Bearer token",
            "Cookie: a=1",
            "Cookie: b=2",
            "Sec-WebSocket-Protocol: chat, token.abc",
            "X-Last: z",
        ]))
        .await;

    let exchange = upstream.accept().await;

    let target = "GET /chat?token=secret HTTP/1.1\r\n";
    assert!(exchange.head.starts_with(target), "{}", exchange.head);
    let expected = [
        ("host", Some("chat.example")),
        ("upgrade", Some("websocket")),
        ("connection", Some("Upgrade")),
        ("sec-websocket-version", Some("13")),
        ("origin", Some("https://chat.example")),
        ("authorization", Some("Bearer token")),
        ("sec-websocket-protocol", Some("chat, token.abc")),
        ("x-last", Some("z")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("chat.example")),
        (
            "forwarded",
            Some("for=127.0.0.1;host=\"chat.example\";proto=http"),
        ),
        ("x-private", None),
        ("keep-alive", None),
        ("te", None),
        ("proxy-authorization", None),
    ];
    for (name, value) in expected {
        assert_eq!(exchange.header(name), value, "{}", exchange.head);
    }
    assert_eq!(exchange.headers("cookie"), ["a=1", "b=2"]);
    let key = exchange.header("sec-websocket-key").unwrap();
    assert_ne!(key, KEY);
    assert!(readygate::websocket::handshake::is_key(key.as_bytes()));
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_is_403() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![Route {
        origins: vec!["https://chat.example".parse().unwrap()],
        ..upstream.route()
    }]));
    let cases: &[(&[&str], &str)] = &[
        (&["Origin: https://chat.example"], "101"),
        (&["Origin: HTTPS://Chat.Example"], "101"),
        (&["Origin: https://chat.example.evil"], "403"),
        (&["Origin: http://chat.example"], "403"),
        (&["Origin: https://chat.example:8443"], "403"),
        (&["Origin: null"], "403"),
        (&[], "403"),
        (
            &["Origin: https://chat.example", "Origin: https://evil"],
            "400",
        ),
    ];
    for (lines, expected) in cases {
        let mut client = proxy.connect().await;
        client.send(handshake(lines)).await;
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), *expected, "{lines:?}");
    }
}

#[tokio::test]
async fn a_path_without_a_route_is_404_and_a_host_without_one_421() {
    let proxy = Proxy::start(config(vec![Route {
        host: "chat.example".to_owned(),
        path: "/chat".to_owned(),
        ..Route::to(Address::Unix("/nonexistent".into()))
    }]));
    for (lines, expected) in [
        (&["GET /chat HTTP/1.1"], "101"),
        (&["GET /chats HTTP/1.1"], "404"),
        (&["Host: other.example"], "421"),
    ] {
        let mut client = proxy.connect().await;
        client.send(handshake(lines)).await;
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), expected, "{lines:?}");
    }
}

#[tokio::test]
async fn an_exhausted_budget_is_503_with_retry_after() {
    let upstream = Reserved::port();
    let mut config = config(vec![upstream.route()]);
    config.limits.max_held_bytes = 0;
    let proxy = Proxy::start(config);

    let answer = proxy.exchange(&handshake(&[])).await;

    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_header_section_over_the_limit_is_431() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    let long = format!("X-Long: {}", "x".repeat(40_000));

    let mut client = proxy.connect().await;
    client.send(handshake(&[&long])).await;

    assert_eq!(status(&client.read_head().await.unwrap()), "431");
}

// A client that sends its head ever more slowly (Slowloris).
#[tokio::test]
async fn a_header_section_that_does_not_come_in_time_is_408() {
    let upstream = Reserved::port();
    let mut config = config(vec![upstream.route()]);
    config.limits.header_timeout = std::time::Duration::from_millis(50);
    let proxy = Proxy::start(config);

    let slow = proxy.exchange("GET / HTTP/1.1\r\nHost: a").await;
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");

    let silent = proxy.exchange("").await;
    assert_eq!(silent, "");
}

#[tokio::test]
async fn the_connection_is_closed_after_a_session_and_never_reused() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.open().await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.read_close_code().await, 1008);

    // The echo that the closing handshake asks for, and a request behind it.
    client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf0]).await;
    client
        .send("GET /internal HTTP/1.1\r\nHost: chat.example\r\n\r\n")
        .await;

    let rest = client.read_to_end().await;
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
}
