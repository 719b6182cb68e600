//! Idle time of client connections.

use std::time::Duration;

use readygate::config_file::Config;

use crate::support::{Client, Proxy, Upstream, config};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_hours(1);

/// A configuration with these times, and an upstream that answers each request with 204.
async fn with_timeouts(header: Duration, keep_alive: Duration) -> Config {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.header_timeout = header;
    config.limits.keep_alive_timeout = keep_alive;
    tokio::spawn(async move {
        loop {
            let mut exchange = upstream.accept().await;
            exchange
                .answer("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                .await;
        }
    });
    config
}

/// Returns whether a response arrives.
async fn is_answered(client: &mut Client) -> bool {
    let answer = client.read_head().await;
    answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 204 "))
}

/// A connection on which a request has been answered. Where the first one has to come soon, a
/// busy machine may take too long for that.
async fn used(proxy: &Proxy, request: &str) -> Client {
    loop {
        let mut client = proxy.connect().await;
        client.send(request).await;
        if is_answered(&mut client).await {
            return client;
        }
    }
}

#[tokio::test]
async fn a_connection_waits_for_its_next_request_as_it_may() {
    let proxy = Proxy::start(with_timeouts(SHORT, LONG).await);
    let mut client = used(&proxy, GET).await;
    for _ in 0..2 {
        // When one that came later has waited for too long, so has this one.
        assert_eq!(proxy.exchange("").await, "");

        client.send(GET).await;
        assert!(is_answered(&mut client).await);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_before_its_first_not() {
    let proxy = Proxy::start(with_timeouts(LONG, SHORT).await);
    let mut silent = proxy.connect().await;
    let mut slow = proxy.connect().await;
    slow.send(&GET[..9]).await;
    let mut idle = used(&proxy, GET).await;

    assert_eq!(idle.read_to_end().await, "");

    silent.send(GET).await;
    assert!(is_answered(&mut silent).await);
    assert_eq!(silent.read_to_end().await, "");
    slow.send(&GET[9..]).await;
    assert!(is_answered(&mut slow).await);
}

#[tokio::test]
async fn a_request_that_has_begun_has_the_time_of_a_header_section() {
    let proxy = Proxy::start(with_timeouts(SHORT, LONG).await);
    for beginning in ["G", &GET[..GET.len() - 1]] {
        let mut client = used(&proxy, GET).await;

        client.send(beginning).await;

        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_has_begun_may_take_longer_than_an_idle_time() {
    let proxy = Proxy::start(with_timeouts(LONG, SHORT).await);
    let beginning = 9;
    let one_and_more = GET.to_owned() + &GET[..beginning];
    let mut client = used(&proxy, &one_and_more).await;
    assert_eq!(used(&proxy, GET).await.read_to_end().await, "");

    client.send(&GET[beginning..]).await;

    assert!(is_answered(&mut client).await);
}

#[tokio::test]
async fn an_answer_that_pauses_is_not_idle() {
    let upstream = Upstream::listen().await;
    let mut config = with_timeouts(LONG, SHORT).await;
    config.routes = readygate::route::Routes::new(vec![upstream.route()]);
    let proxy = Proxy::start(config);
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        .await;
    client.read_head().await.unwrap();
    assert_eq!(client.read(2).await, b"ab");

    // One that came later and is answered has been idle for too long by then.
    let (mut later, ()) = tokio::join!(used(&proxy, GET), async {
        let mut exchange = upstream.accept().await;
        exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    });
    assert_eq!(later.read_to_end().await, "");
    exchange.stream.send("cd").await;

    assert_eq!(client.read(2).await, b"cd");
    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_a_drain() {
    let mut config = with_timeouts(LONG, LONG).await;
    config.drain.grace = LONG;
    let proxy = Proxy::start(config);
    let mut client = used(&proxy, GET).await;

    let ended = proxy.stop();

    assert_eq!(client.read_to_end().await, "");
    ended.await.unwrap().unwrap();
}
