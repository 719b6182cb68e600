//! Listeners, limits and drain.

use std::time::Duration;

use readygate::{config::ListenAddress, server};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
};

use crate::support::{Client, Proxy, Reserved, Upstream, config, handshake};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn connections_over_the_limit_get_a_503() {
    let upstream = Reserved::port();
    let mut config = config(vec![upstream.route()]);
    config.limits.max_connections = 1;
    let proxy = Proxy::start(config);
    let mut first = proxy.connect().await;
    first.open().await;

    let answer = proxy.exchange(&handshake(&[])).await;

    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_drain_closes_idle_connections_and_sessions_with_1001() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    // Whatever does not close by itself keeps this test from ending.
    config.drain.grace = Duration::from_hours(1);
    config.limits.header_timeout = Duration::from_hours(1);
    let proxy = Proxy::start(config);
    let address = proxy.address;
    let mut session = proxy.connect().await;
    session.open().await;
    let _unanswered = upstream.accept().await;
    let mut silent = proxy.connect().await;
    let mut idle = proxy.connect().await;
    idle.send(GET).await;
    upstream
        .accept()
        .await
        .answer("HTTP/1.1 204 No Content\r\n\r\n")
        .await;
    idle.read_head().await.unwrap();

    let ended = proxy.stop();

    assert_eq!(silent.read_to_end().await, "");
    assert_eq!(idle.read_to_end().await, "");
    assert_eq!(session.read_close_code().await, 1001);
    drop(session);
    ended.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_request_under_way_is_finished_during_the_drain() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut exchange = upstream.accept().await;
    let mut silent = proxy.connect().await;

    let ended = proxy.stop();
    // When its connection ends, the drain has begun.
    assert_eq!(silent.read_to_end().await, "");
    exchange
        .answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;

    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_period_is_dropped() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.drain.grace = Duration::from_millis(50);
    config.workers = 3.try_into().unwrap();
    let proxy = Proxy::start(config);
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let _unanswered = upstream.accept().await;

    proxy.stop().await.unwrap().unwrap();

    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn connections_are_spread_over_all_workers() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.workers = 3.try_into().unwrap();
    let proxy = Proxy::start(config);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..9 {
        let mut client = proxy.connect().await;
        client.open().await;
        upstream.accept().await.answer_101().await;
        clients.push(client);
    }

    let ended = proxy.stop();

    for client in &mut clients {
        // What the upstream's end does to the session, and the drain, race; both close it.
        client.read_to_end().await;
    }
    drop(clients);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_listened_on() {
    let path = std::env::temp_dir().join(format!("readygate-{}-l.sock", std::process::id()));
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.listen = vec![ListenAddress::Unix(path.clone()).into()];
    let listeners = server::bind(&config.listen).unwrap();
    let run = server::run(
        listeners,
        std::sync::Arc::new(config),
        std::future::pending(),
    );
    let client = async {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(GET.as_bytes()).await.unwrap();
        upstream.accept().await
    };

    let exchange = tokio::select! {
        _ = run => panic!("nobody has stopped it"),
        exchange = client => exchange,
    };

    assert_eq!(exchange.header("x-forwarded-for"), None);
    assert_eq!(
        exchange.header("forwarded"),
        Some("for=unknown;host=\"a\";proto=http")
    );
    std::fs::remove_file(path).unwrap();
}
