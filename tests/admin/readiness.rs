//! Readiness for new clients, and the limit that is named when there is none.

use std::path::Path;

use readygate::limits::overload::{Bound, Usage};
use tokio::net::TcpStream;

use crate::support::{Peer, Proxy, Upstream, config, gated, handshake};

/// The status that another client gets for its handshake.
async fn knock(proxy: &Proxy) -> String {
    let mut client = Peer(TcpStream::connect(proxy.traffic).await.unwrap());
    client.send(&handshake(&[])).await;
    client.read_head().await[9..12].to_owned()
}

/// Asks until everything is well: only the answer tells, so there is no event to await.
async fn until_ready(proxy: &Proxy) {
    while proxy.get("/readyz").await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Checks that nobody is welcome because of `bound` alone, that this is no reason to be killed,
/// and that it is true.
async fn expect_full(proxy: &Proxy, bound: &str) {
    let (status, problems) = proxy.get("/readyz").await;
    assert_eq!(status, 503, "{problems}");
    assert!(
        problems.starts_with(&format!("[-] {bound}: ")),
        "{problems}"
    );
    assert_eq!(problems.lines().count(), 2, "{problems}");
    let (status, checks) = proxy.get("/readyz?verbose").await;
    assert_eq!(status, 503, "{checks}");
    assert!(checks.contains("[+] drain: ok\n"), "{checks}");
    assert_eq!(proxy.get("/livez").await.0, 200);
    assert_eq!(knock(proxy).await, "503");
}

#[tokio::test]
async fn a_full_process_is_not_ready_until_a_connection_ends() {
    let upstream = Upstream::listen().await;
    let mut config = config(&gated(upstream.address()));
    config.limits.max_connections = 3;
    let proxy = Proxy::start(config);
    let mut clients = vec![proxy.open(&[]).await, proxy.open(&[]).await];
    let (status, checks) = proxy.get("/readyz?verbose").await;
    assert_eq!(status, 200, "{checks}");
    assert!(
        checks.contains("[+] limits.max_connections: ok\n"),
        "{checks}"
    );

    clients.push(proxy.open(&[]).await);

    expect_full(&proxy, "limits.max_connections").await;
    clients.pop();
    until_ready(&proxy).await;
}

#[tokio::test]
async fn a_process_is_not_ready_until_its_held_bytes_are_delivered() {
    let upstream = Upstream::listen().await;
    let mut config = config(&gated(upstream.address()));
    config.limits.max_held_bytes = 100;
    let proxy = Proxy::start(config);
    let mut client = proxy.open(&[]).await;
    let mut backend = upstream.accept().await;
    until_ready(&proxy).await;

    client.send_text(&"x".repeat(125)).await;

    proxy
        .until("/sessions", |it| {
            it["sessions"][0]["queue"]["bytes"].as_u64() > Some(100)
        })
        .await;
    expect_full(&proxy, "limits.max_held_bytes").await;
    backend.say("ready").await;
    until_ready(&proxy).await;
    assert_eq!(knock(&proxy).await, "101");
}

#[tokio::test]
async fn a_process_that_is_short_of_memory_is_not_ready() {
    let upstream = Upstream::listen().await;
    let mut config = config(&gated(upstream.address()));
    config.limits.max_memory = Some(Bound {
        max_bytes: 1 << 20,
        usage: Usage::of_process(Path::new("/")),
    });

    let proxy = Proxy::start(config);

    // Memory is sampled once a second, and only the answer tells: ask again.
    while proxy.get("/readyz").await.0 == 200 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    expect_full(&proxy, "limits.max_memory_bytes").await;
}

#[tokio::test]
async fn a_bound_that_refuses_only_some_does_not_count() {
    let upstream = Upstream::listen().await;
    let mut config = config(&gated(upstream.address()));
    config.limits.session_rate = Some(1);
    let proxy = Proxy::start(config);

    while knock(&proxy).await == "101" {}

    assert_eq!(proxy.get("/readyz").await, (200, "ok\n".to_owned()));
}
