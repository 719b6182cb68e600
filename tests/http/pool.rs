//! Reuse of upstream connections, and retries of requests.

use std::time::Duration;

use readygate::{config::ListenAddress, route::Route};
use tokio::io::AsyncWriteExt;

use crate::support::{Client, Exchange, Proxy, Upstream, config};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads one answer of a few bytes with a `Content-Length`.
async fn read_answer(client: &mut Client) -> String {
    let head = client.read_head().await.unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let length = length.map_or(0, |length| length.parse().unwrap());
    head + &String::from_utf8(client.read(length).await).unwrap()
}

/// A client and an upstream that have had one exchange.
async fn after_one_exchange(proxy: &Proxy, upstream: &Upstream) -> (Client, Exchange) {
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut exchange = upstream.accept().await;
    exchange.answer(OK).await;
    assert!(read_answer(&mut client).await.ends_with("\r\n\r\nok"));
    (client, exchange)
}

#[tokio::test]
async fn a_connection_is_used_again_by_whichever_client_comes_next() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let (first, mut exchange) = after_one_exchange(&proxy, &upstream).await;

    for mut client in [first, proxy.connect().await] {
        client.send(POST).await;
        exchange = exchange.stream.read_request().await.unwrap();
        assert_eq!(exchange.stream.read(2).await, b"hi");
        // Chunked, so that its end comes apart from its last bytes.
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        exchange.answer(head).await;
        client.read_head().await.unwrap();
        exchange.stream.send("2\r\nok\r\n").await;
        assert_eq!(client.read(7).await, b"2\r\nok\r\n");
        exchange.stream.send("0\r\n\r\n").await;
        assert_eq!(client.read(5).await, b"0\r\n\r\n");
    }
}

#[tokio::test]
async fn concurrent_requests_have_a_connection_each_and_few_are_kept() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.http.max_idle_connections = 1;
    let proxy = Proxy::start(config(vec![route]));
    let (mut one, mut other) = (proxy.connect().await, proxy.connect().await);
    one.send(GET).await;
    let mut first = upstream.accept().await;
    other.send(GET).await;
    let mut second = upstream.accept().await;

    first.answer(OK).await;
    read_answer(&mut one).await;
    second.answer(OK).await;
    read_answer(&mut other).await;

    // The one that was used last is kept.
    assert_eq!(first.stream.read_to_end().await, "");
    one.send(GET).await;
    assert!(second.stream.read_request().await.is_some());
}

// RFC 9112 §6.3, §9.6.
#[tokio::test]
async fn a_connection_is_not_reused_after_an_unclean_response() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for (method, answer, body) in [
        ("GET", format!("{OK}extra"), "ok"),
        ("GET", format!("{OK}HTTP/1.1 200 OK\r\n\r\n"), "ok"),
        ("HEAD", OK.to_owned(), ""),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nextra".to_owned(), ""),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\n\r\nextra".to_owned(),
            "",
        ),
        (
            "GET",
            OK.replace("\r\nContent", "\r\nConnection: close\r\nContent"),
            "ok",
        ),
        ("GET", OK.replace("1.1", "1.0"), "ok"),
    ] {
        let mut client = proxy.connect().await;
        client
            .send(format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            ))
            .await;
        let mut exchange = upstream.accept().await;
        exchange.answer(&answer).await;

        let got = client.read_to_end().await;
        let expected = answer.split(' ').nth(1);
        assert_eq!(got.split(' ').nth(1), expected, "{answer:?}");
        assert!(got.ends_with(&format!("\r\n\r\n{body}")), "{got:?}");
        assert_eq!(exchange.stream.read_to_end().await, "", "{answer:?}");
    }
}

// A client must be able to tell a part from the whole (RFC 9112 §8).
#[tokio::test]
async fn an_answer_that_is_cut_short_is_cut_short_for_the_client_too() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0x0\r\n\r\n",
    ] {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let mut exchange = upstream.accept().await;
        exchange.answer(answer).await;
        drop(exchange);

        // Nothing at all, or a part of it: never something that looks whole.
        let got = client.read_to_end().await;
        let body = got.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(["", "ok", "2\r\nok\r\n"].contains(&body), "{got:?}");
        assert!(
            got.is_empty() || got.starts_with("HTTP/1.1 200 "),
            "{got:?}"
        );
    }
}

// The rest of the body would be taken for the next request (RFC 9112 §9.3).
#[tokio::test]
async fn an_answer_that_ends_before_its_request_ends_both_connections() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome")
        .await;

    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.stream.read(4).await, b"some");
    exchange
        .answer("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        .await;

    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
    assert_eq!(exchange.stream.read_to_end().await, "");
}

// RFC 9112 §9.5.
#[tokio::test]
async fn an_answer_of_an_upstream_that_reads_no_further_is_not_lost() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for _ in 0..20 {
        let mut client = proxy.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
            .await;
        let mut exchange = upstream.accept().await;
        // The upstream closes with unread bytes: what comes after its answer is a reset, which
        // the proxy meets while it writes.
        let upload = async {
            client.send(vec![b'x'; 1_000_000]).await;
            client.read_to_end().await
        };
        let refuse = async {
            assert_eq!(exchange.stream.read(4).await, b"xxxx");
            exchange
                .answer(
                    "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\
                     Connection: close\r\n\r\nno",
                )
                .await;
            drop(exchange);
        };

        let (answer, ()) = tokio::join!(upload, refuse);

        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_the_answer_has_begun() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n")
        .await;
    client.read_head().await.unwrap();
    assert_eq!(client.read(6).await, b"1\r\nA\r\n");
    assert_eq!(exchange.stream.read(6).await, b"1\r\na\r\n");

    for _ in 0..3 {
        client.send("1\r\nb\r\n").await;
        assert_eq!(exchange.stream.read(6).await, b"1\r\nb\r\n");
        exchange.stream.send("1\r\nB\r\n").await;
        assert_eq!(client.read(6).await, b"1\r\nB\r\n");
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(exchange.stream.read(5).await, b"0\r\n\r\n");
    exchange.stream.send("0\r\n\r\n").await;
    assert_eq!(client.read(5).await, b"0\r\n\r\n");

    // Both ended cleanly: both go on.
    client.send(GET).await;
    assert!(exchange.stream.read_request().await.is_some());
}

#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_is_closed() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.http.idle_timeout = Duration::from_millis(1);
    let proxy = Proxy::start(config(vec![route]));

    let (mut client, mut exchange) = after_one_exchange(&proxy, &upstream).await;

    assert_eq!(exchange.stream.read_to_end().await, "");
    client.send(GET).await;
    upstream.accept().await.answer(OK).await;
    read_answer(&mut client).await;
}

#[tokio::test]
async fn no_connection_is_kept_where_none_may_be() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.http.max_idle_connections = 0;
    let proxy = Proxy::start(config(vec![route]));

    let (_client, mut exchange) = after_one_exchange(&proxy, &upstream).await;

    assert_eq!(exchange.stream.read_to_end().await, "");
}

/// Has the upstream close a kept connection when it reads `request` on it, and returns the
/// client, which waits.
async fn close_on(proxy: &Proxy, upstream: &Upstream, request: &str) -> Client {
    let (mut client, exchange) = after_one_exchange(proxy, upstream).await;
    client.send(request).await;
    let exchange = exchange.stream.read_request().await;
    assert!(exchange.is_some());
    client
}

#[tokio::test]
async fn an_idempotent_request_on_a_closing_connection_is_retried() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for request in [
        GET,
        "PUT /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX: y\r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = close_on(&proxy, &upstream, request).await;

        let mut exchange = upstream.accept().await;
        assert_eq!(exchange.head.lines().next(), request.lines().next());
        assert_eq!(exchange.header("x-forwarded-for"), Some("127.0.0.1"));
        exchange.answer(OK).await;

        let answer = read_answer(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // So that the next case does not find it in the pool.
        drop((client, exchange));
    }
}

#[tokio::test]
async fn any_other_request_that_meets_a_closing_connection_is_502() {
    for request in [
        POST,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let upstream = Upstream::listen().await;
        let proxy = Proxy::before(&upstream);

        let mut client = close_on(&proxy, &upstream, request).await;

        let answer = read_answer(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{request}: {answer}");
    }
}

#[tokio::test]
async fn no_request_is_sent_again_once_an_answer_has_begun() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let (mut client, exchange) = after_one_exchange(&proxy, &upstream).await;
    client.send(GET).await;

    let mut exchange = exchange.stream.read_request().await.unwrap();
    exchange.answer("H").await;
    drop(exchange);

    let answer = read_answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn a_closed_idle_connection_is_not_used_even_for_a_post() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let (mut client, mut exchange) = after_one_exchange(&proxy, &upstream).await;
    exchange.shutdown().await;
    // The proxy has noticed when it has closed its side.
    assert_eq!(exchange.stream.read_to_end().await, "");

    client.send(POST).await;

    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.stream.read(2).await, b"hi");
    exchange.answer(OK).await;
    let answer = read_answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A container's port may be open before its application is.
#[tokio::test]
async fn a_safe_request_lost_on_a_new_connection_is_retried_once() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for method in ["GET", "HEAD", "OPTIONS"] {
        let mut client = proxy.connect().await;
        client.send(GET.replacen("GET", method, 1)).await;
        drop(upstream.accept().await);

        let mut exchange = upstream.accept().await;
        assert!(exchange.head.starts_with(method), "{}", exchange.head);
        exchange
            .answer("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            .await;

        let answer = client.read_head().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    }
}

/// The request itself may be what the upstream does not survive.
#[tokio::test]
async fn a_request_that_new_connections_do_not_answer_is_502_soon() {
    let with_body = GET.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi");
    for (request, attempts) in [
        (GET, 2),
        (&with_body, 1),
        (&GET.replacen("GET", "DELETE", 1), 1),
        (&GET.replacen("GET", "PUT", 1), 1),
        (POST, 1),
    ] {
        let upstream = Upstream::listen().await;
        let proxy = Proxy::before(&upstream);
        let mut client = proxy.connect().await;
        client.send(request).await;
        for _ in 0..attempts {
            drop(upstream.accept().await);
        }

        let answer = read_answer(&mut client).await;

        assert!(answer.starts_with("HTTP/1.1 502 "), "{request}: {answer}");
        assert!(upstream.is_untouched(), "{request}");
    }
}

#[tokio::test]
async fn a_request_that_is_not_answered_holds_up_no_other() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    // Whoever waited behind the first one, and not with it, would wait for an hour.
    route.upstream.retry.initial = Duration::from_hours(1);
    route.upstream.retry.max = Duration::from_hours(1);
    let proxy = Proxy::start(config(vec![route]));
    let mut poison = proxy.connect().await;
    poison.send(GET.replace("GET /", "GET /poison")).await;
    drop(upstream.accept().await);

    for _ in 0..2 {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let mut exchange = upstream.accept().await;
        assert!(exchange.head.starts_with("GET / "), "{}", exchange.head);
        exchange.answer(OK).await;
        assert!(read_answer(&mut client).await.ends_with("\r\n\r\nok"));
        drop(exchange);
    }
}

#[tokio::test]
async fn the_response_timeout_ends_with_the_first_byte() {
    let upstream = Upstream::listen().await;
    let timeout = Duration::from_millis(300);
    let mut route: Route = upstream.route();
    route.http.response_timeout = Some(timeout);
    let proxy = Proxy::start(config(vec![route]));

    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut silent = upstream.accept().await;
    let answer = read_answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(silent.stream.read_to_end().await, "");

    client.send(GET).await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        .await;
    client.read_head().await.unwrap();
    // Passing time is the subject: a body may take longer than `timeout`.
    tokio::time::sleep(2 * timeout).await;
    exchange.stream.send("ok").await;
    assert_eq!(client.read(2).await, b"ok");
}

#[tokio::test]
async fn an_upload_may_take_longer_than_its_answer() {
    let upstream = Upstream::listen().await;
    let timeout = Duration::from_secs(1);
    let mut route = upstream.route();
    route.http.response_timeout = Some(timeout);
    let proxy = Proxy::start(config(vec![route]));
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n")
        .await;
    let mut exchange = upstream.accept().await;
    for piece in ["ab", "cd", "ef", "gh", "ij", "kl"] {
        client.send(piece).await;
        assert_eq!(exchange.stream.read(2).await, piece.as_bytes());
        // Passing time is the subject: all pieces together take longer than `timeout`.
        tokio::time::sleep(timeout / 4).await;
    }

    exchange.answer(OK).await;

    let answer = read_answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    client.send(POST).await;
    let silent = exchange.stream.read_request().await.unwrap();
    let answer = read_answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    drop(silent);
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_its_body_is_408() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.http.body_timeout = Some(Duration::from_millis(100));
    let proxy = Proxy::start(config(vec![route]));
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsome")
        .await;

    let mut exchange = upstream.accept().await;
    let answer = client.read_to_end().await;

    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("Connection: close"), "{answer}");
    assert_eq!(exchange.stream.read_to_end().await, "some");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_with_its_upstream() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.write_timeout = Duration::from_millis(200);
    config.admin = Some(ListenAddress::Tcp(([127, 0, 0, 1], 0).into()));
    let proxy = Proxy::start(config);
    assert_eq!(proxy.rejections("write_timeout").await, 0);
    let mut client = proxy.connect().await;
    client.send(GET).await;

    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    // Backpressure first, and then the end.
    while exchange.stream.0.write_all(chunk.as_bytes()).await.is_ok() {}

    let got = client.read_to_end().await;
    assert!(!got.ends_with("0\r\n\r\n"));
    assert_eq!(proxy.rejections("write_timeout").await, 1);
}

// A pause is not a client that takes nothing.
#[tokio::test]
async fn an_answer_may_pause_for_longer_than_a_client() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.write_timeout = Duration::from_millis(50);
    let proxy = Proxy::start(config);
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        .await;
    client.read_head().await.unwrap();
    assert_eq!(client.read(2).await, b"ab");

    tokio::time::sleep(Duration::from_millis(200)).await;
    exchange.stream.send("cd").await;

    assert_eq!(client.read(2).await, b"cd");
}
