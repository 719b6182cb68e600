//! Snapshots for the dashboard.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Peer, Proxy, Upstream, config, gated};

/// A connection on which events come.
pub(crate) async fn listen(proxy: &Proxy) -> (String, Peer) {
    let mut listener = Peer(TcpStream::connect(proxy.admin).await.unwrap());
    let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin);
    listener.send(&request).await;
    let head = listener.read_head().await;
    (head, listener)
}

/// The next event, which is in one chunk.
pub(crate) async fn next(listener: &mut Peer) -> Value {
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(listener.0.read_u8().await.unwrap());
        }
        if let Some(data) = line.strip_prefix(b"data: ") {
            return serde_json::from_slice(data).unwrap();
        }
    }
}

#[tokio::test]
async fn a_snapshot_comes_at_once_and_then_every_second_with_rates() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(&gated(upstream.address())));
    let mut client = proxy.open(&["Cookie: canary"]).await;
    client.send_text("held").await;
    let mut backend = upstream.accept().await;
    proxy
        .until("/sessions", |it| {
            it["sessions"][0]["queue"]["messages"] == 1
        })
        .await;

    let (head, mut listener) = listen(&proxy).await;
    assert!(
        head.contains("content-type: text/event-stream\r\n"),
        "{head}"
    );
    let first = next(&mut listener).await;

    assert_eq!(first["sessions"]["total"], 1);
    assert_eq!(first["waiting"][0]["queue"]["by_priority"]["normal"], 1);
    assert_eq!(first["held"]["messages"], 1);
    assert_eq!(first["ledger"]["held"], 1);
    assert_eq!(first["time_to_ready"]["count"], 0);
    assert_eq!(first["totals"]["sessions_started"], 1);
    assert_eq!(first["rates"], Value::Null);
    assert_eq!(first["workers"][1]["has_answered"], true);
    assert_eq!(first["routes"].as_array().unwrap().len(), 1);
    assert_eq!(first["routes"][0]["held_messages"], 1);
    assert_eq!(first["routes"][0]["waiting"], 1);
    assert_eq!(first["routes"][0]["lost"], 0);
    assert_eq!(first["waiting_total"], 1);
    assert_eq!(first["listen"][0], "http://127.0.0.1:0");
    assert_eq!(first["held_requests"]["limit"], 500);
    assert_ne!(first["files"]["open"], 0);
    assert!(!first.to_string().contains("canary"));

    backend.say("ready").await;
    backend.read(10).await;
    let second = next(&mut listener).await;
    assert_eq!(second["waiting"].as_array().unwrap().len(), 0);
    assert_eq!(second["time_to_ready"]["count"], 1);
    assert_eq!(second["routes"][0]["waiting"], 0);
    assert_eq!(second["routes"][0]["ready"], 1);
    assert_eq!(second["rates"]["sessions_started"], 0.0);
    assert!(second["rates"]["upstream_messages"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn the_use_of_every_limit_of_the_process_is_in_it() {
    let limits = "trusted_proxies = [\"127.0.0.1\"]\n[limits]\nmax_connections_per_address = 9\n\
                  session_rate = 1\nsession_rate_per_address = 1\nmax_memory_bytes = \"1024GiB\"\n";
    let upstream = Upstream::listen().await;
    let route = gated(upstream.address()) + "hold.max_messages = 4\n";
    let proxy = Proxy::start(config(&format!("{limits}{route}")));
    let mut clients = Vec::new();
    for address in [7, 7, 8] {
        let line = format!("X-Forwarded-For: 192.0.2.{address}");
        clients.push(proxy.open(&[&line]).await);
    }
    clients[0].send_text("held").await;
    proxy
        .until("/sessions?sort=waiting&limit=1", |it| {
            it["sessions"][0]["queue"]["messages"] == 1
        })
        .await;

    let (_, mut listener) = listen(&proxy).await;
    let limited = next(&mut listener).await;

    let share = |value: &Value| value.as_f64().unwrap();
    let busiest = &limited["busiest_address"];
    assert_eq!(busiest["connections"]["open"], 2);
    assert_eq!(busiest["connections"]["limit"], 9);
    let of_address = share(&busiest["session_rate_used"]);
    assert!(0.0 < of_address && of_address <= 0.2, "{busiest}");
    let of_all = share(&limited["session_rate_used"]);
    assert!(of_address < of_all && of_all <= 0.3, "{limited}");
    assert!((share(&limited["fullest_queue"]) - 0.25).abs() < 1e-9);
    assert_eq!(limited["memory"]["bytes_limit"], 1_u64 << 40);
    assert!(limited["memory"]["bytes"].as_u64().unwrap() > 0);

    let limits = "[limits]\nmax_connections_per_address = \"\"\nsession_rate_per_address = \"\"\n\
                  max_memory_bytes = \"\"\n";
    let unlimited = Proxy::start(config(&format!("{limits}{route}")));
    let (_, mut listener) = listen(&unlimited).await;
    let unlimited = next(&mut listener).await;
    for absent in [
        &unlimited["busiest_address"]["connections"],
        &unlimited["busiest_address"]["session_rate_used"],
        &unlimited["session_rate_used"],
        &unlimited["memory"],
    ] {
        assert_eq!(*absent, Value::Null, "{unlimited}");
    }
}

#[tokio::test]
async fn listeners_are_bounded_and_leave_their_places() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let mut listeners = Vec::new();
    for _ in 0..16 {
        let (head, listener) = listen(&proxy).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        listeners.push(listener);
    }

    let (status, body) = proxy.get("/events").await;
    assert_eq!((status, body.as_str()), (503, "16 others listen already\n"));

    listeners.pop();
    loop {
        let (head, _) = listen(&proxy).await;
        if head.starts_with("HTTP/1.1 200 ") {
            break;
        }
    }
}

#[tokio::test]
async fn events_end_with_the_process() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let (_, mut listener) = listen(&proxy).await;
    next(&mut listener).await;

    let ended = proxy.stop();

    let mut rest = String::new();
    listener.0.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_pipelined_request_is_not_mixed_into_a_stream_of_events() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let (_, mut listener) = listen(&proxy).await;
    next(&mut listener).await;

    listener
        .0
        .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();

    assert!(next(&mut listener).await["version"].is_string());
}
