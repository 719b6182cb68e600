//! Plain HTTP through the proxy.

use readygate::route::Route;

use tokio::io::AsyncReadExt;

use crate::support::{Proxy, Reserved, SWITCHING_PROTOCOLS, Upstream, config, handshake};

const GET: &str = "GET /page?q=1 HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_request_goes_through_with_clean_headers_both_ways() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send(
            "GET http://web.example/page?q=1 HTTP/1.1\r\nHost: web.example\r\n\
             Connection: close, X-Private\r\nX-Private: 1\r\nProxy-Connection: close\r\n\
             X-Forwarded-For: 1.2.3.4\r\nAccept: a\r\nAccept: b\r\n\r\n",
        )
        .await;

    let mut exchange = upstream.accept().await;
    exchange
        .answer(
            "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
    let answer = client.read_to_end().await;

    assert!(
        exchange.head.starts_with("GET /page?q=1 HTTP/1.1\r\n"),
        "{}",
        exchange.head
    );
    for (name, value) in [
        ("host", Some("web.example")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("web.example")),
        ("x-private", None),
        ("proxy-connection", None),
        ("connection", None),
    ] {
        assert_eq!(exchange.header(name), value, "{}", exchange.head);
    }
    assert_eq!(exchange.headers("accept"), ["a", "b"]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("set-cookie: a=1\r\nset-cookie: b=2\r\n"),
        "{answer}"
    );
    assert!(
        !answer.contains("x-hop") && !answer.contains("keep-alive"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

/// The names of the header fields in `head`.
fn names(head: &str) -> Vec<&str> {
    let lines = head.lines().skip(1);
    let names = lines.filter_map(|line| line.split(": ").next());
    names.filter(|name| !name.is_empty()).collect()
}

#[tokio::test]
async fn names_in_answers_of_the_proxy_are_those_of_the_rfcs() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    for (request, expected) in [
        (
            GET.replace("Host: web.example", "Host: a b"),
            &[
                "Content-Type",
                "Connection",
                "X-Request-Id",
                "Content-Length",
                "Date",
            ][..],
        ),
        (
            handshake(&["Sec-WebSocket-Version: 8", "Connection: Upgrade, close"]),
            &[
                "Content-Type",
                "Sec-WebSocket-Version",
                "Upgrade",
                "Connection",
                "X-Request-Id",
                "Content-Length",
                "Date",
            ],
        ),
    ] {
        let answer = proxy.exchange(&request).await;
        let head = answer.split("\r\n\r\n").next().unwrap();

        assert_eq!(names(head), expected, "{answer}");
    }
}

// An intermediary forwards no upgrade that it does not take part in (RFC 9110 §7.8).
#[tokio::test]
async fn an_upgrade_that_is_not_a_websockets_is_plain_http_without_it() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let requests: [&[&str]; 4] = [
        &["Connection: close"],
        &[
            "Upgrade: h2c",
            "Connection: Upgrade, HTTP2-Settings, close",
            "HTTP2-Settings: AA",
        ],
        &["Upgrade: TLS/1.0", "Connection: Upgrade, close"],
        &[
            "POST /health HTTP/1.1",
            "Connection: close",
            "Content-Length: 0",
        ],
    ];
    for lines in requests {
        let mut client = proxy.connect().await;
        client.send(handshake(lines)).await;

        let mut exchange = upstream.accept().await;
        exchange.answer(OK).await;

        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(exchange.header(name), None, "{}", exchange.head);
        }
        assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
    }
}

// RFC 9110 §15.2.2.
#[tokio::test]
async fn a_101_that_nobody_asked_for_is_502() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.send(GET).await;

    upstream.accept().await.answer(SWITCHING_PROTOCOLS).await;

    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(!answer.contains("127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn a_refused_request_takes_what_is_pipelined_behind_it_with_it() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\
                    \r\n\r\n0\r\n\r\nGET /internal HTTP/1.1\r\nHost: a\r\n\r\n";

    let answer = proxy.exchange(smuggled).await;

    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

// A close with unread bytes resets the connection (RFC 9112 §9.6).
#[tokio::test]
async fn a_refused_body_does_not_reset_the_response() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    client.send(vec![b'x'; 1_000_000]).await;

    let mut answer = String::new();
    client.0.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

// RFC 9112 §3.2 wants a Host of HTTP/1.1 alone; HAProxy's own health check has none.
#[tokio::test]
async fn http_1_0_needs_no_host() {
    let upstream = Upstream::listen().await;
    let named = Route {
        host: "web.example".to_owned(),
        ..Reserved::port().route()
    };
    let proxy = Proxy::start(config(vec![named.clone(), upstream.route()]));
    let mut client = proxy.connect().await;
    client.send("OPTIONS / HTTP/1.0\r\n\r\n").await;

    let mut exchange = upstream.accept().await;
    exchange.answer(OK).await;

    let own = upstream.route().upstream.authority();
    assert_eq!(exchange.header("host"), Some(&*own), "{}", exchange.head);
    assert_eq!(exchange.header("x-forwarded-host"), None);
    let forwarded = Some("for=127.0.0.1;proto=http");
    assert_eq!(exchange.header("forwarded"), forwarded);
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");

    let proxy = Proxy::start(config(vec![named]));
    let answer = proxy.exchange("GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 421 "), "{answer}");
}

// RFC 9112 §9.3
#[tokio::test]
async fn keep_alive_is_promised_to_http_1_0_only_where_it_is_kept() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let get = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    for (request, answer, is_kept) in [
        (get, OK, true),
        (get, "HTTP/1.1 204 No Content\r\n\r\n", true),
        (get, "HTTP/1.1 304 Not Modified\r\n\r\n", true),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        (
            &get.replace("GET", "HEAD"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            true,
        ),
        (
            get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
        ),
        (get, "HTTP/1.0 200 OK\r\n\r\nok", false),
        (&get.replace("Host: a", "Host: a b"), "", false),
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        if !answer.is_empty() {
            let mut exchange = upstream.accept().await;
            exchange.answer(answer).await;
            exchange.shutdown().await;
        }

        let head = client.read_head().await.unwrap();

        let said: Vec<_> = head
            .lines()
            .map(str::to_lowercase)
            .filter(|line| line.starts_with("connection:"))
            .collect();
        let expected = if is_kept { "keep-alive" } else { "close" };
        assert_eq!(
            said,
            [format!("connection: {expected}")],
            "{answer}: {head}"
        );
        if is_kept {
            client.send(GET).await;
            upstream.accept().await.answer(OK).await;
            let rest = client.read_to_end().await;
            assert!(rest.contains("HTTP/1.1 200 "), "{answer}: {rest}");
        } else if answer.is_empty() {
            client.read_to_end().await;
        } else {
            assert_eq!(client.read_to_end().await, "ok", "{answer}");
        }
    }
}

#[tokio::test]
async fn head_204_and_304_have_no_body() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
    ] {
        let mut client = proxy.connect().await;
        client.send(GET.replacen("GET", method, 1)).await;

        let mut exchange = upstream.accept().await;
        assert!(exchange.head.starts_with(method), "{}", exchange.head);
        exchange.answer(answer).await;

        let got = client.read_to_end().await;
        assert_eq!(got.lines().next(), answer.lines().next());
        assert!(got.ends_with("\r\n\r\n"), "{got}");
        assert_eq!(
            got.contains("content-length: 100"),
            method == "HEAD",
            "{got}"
        );
    }
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        .await;
    client.read_head().await.unwrap();

    // Each event is awaited before the next one is sent.
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        exchange.stream.send(event).await;
        let chunk = format!("9\r\n{event}\r\n");
        assert_eq!(client.read(chunk.len()).await, chunk.as_bytes());
    }

    drop(exchange);
    assert_eq!(client.read_to_end().await, "0\r\n\r\n");
}

#[tokio::test]
async fn a_chunked_upload_is_streamed_and_keeps_its_trailer() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum\r\n\r\n2\r\nab\r\n",
        )
        .await;

    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.stream.read(7).await, b"2\r\nab\r\n");
    client.send("2\r\ncd\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    let rest = "2\r\ncd\r\n0\r\nx-sum: 7\r\n\r\n";
    let got = String::from_utf8(exchange.stream.read(rest.len()).await).unwrap();
    assert_eq!(got.to_lowercase(), rest);
    exchange.answer(OK).await;

    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

// RFC 9110 §10.1.1.
#[tokio::test]
async fn expect_is_answered_once_connected_and_not_forwarded() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n\
             Content-Length: 4\r\n\r\n",
        )
        .await;

    let mut exchange = upstream.accept().await;
    let interim = client.read_head().await.unwrap();
    client.send("body").await;
    let body = exchange.stream.read(4).await;
    exchange.answer(OK).await;

    assert_eq!(exchange.header("expect"), None);
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    assert_eq!(body, b"body");
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send(GET.replace("Connection: close\r\n", "")).await;
        upstream.accept().await.answer(OK).await;

        assert!(
            client
                .read_head()
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200 ")
        );
        assert_eq!(client.read(2).await, b"ok");
    }
}

#[tokio::test]
async fn an_upstream_that_gives_no_valid_answer_is_502() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for answer in ["SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 200"] {
        let mut client = proxy.connect().await;
        client.send(GET).await;

        let mut exchange = upstream.accept().await;
        exchange.answer(answer).await;
        drop(exchange);

        let got = client.read_to_end().await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{answer}: {got}");
    }
}
