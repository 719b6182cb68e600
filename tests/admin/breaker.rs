//! The circuit breaker in `/metrics`.

use crate::support::{Peer, Proxy, Upstream, config, gated, handshake};

/// The value of a series that there is.
async fn value(proxy: &Proxy, series: &str) -> String {
    let (_, page) = proxy.get("/metrics").await;
    let of = |line: &str| Some(line.strip_prefix(series)?.trim().to_owned());
    page.lines()
        .find_map(of)
        .unwrap_or_else(|| panic!("{series} in {page}"))
}

#[tokio::test]
async fn an_open_breaker_is_in_the_metrics_and_in_the_events() {
    let upstream = Upstream::listen().await;
    let routes = gated(upstream.address()) + "breaker = { failures = 1, cooldown = \"1h\" }\n";
    let proxy = Proxy::start(config(&routes));
    let state = |state: &str| format!("readygate_breaker_state{{route=\"/\",state=\"{state}\"}}");
    assert_eq!(value(&proxy, &state("closed")).await, "1");
    assert_eq!(value(&proxy, &state("open")).await, "0");

    let mut client = proxy.open(&[]).await;
    // A close frame of the upstream's, with 1011.
    let mut backend = upstream.accept().await;
    tokio::io::AsyncWriteExt::write_all(&mut backend.0, &[0x88, 2, 0x03, 0xf3])
        .await
        .unwrap();
    client.read(4).await;
    let mut refused = Peer(tokio::net::TcpStream::connect(proxy.traffic).await.unwrap());
    refused.send(&handshake(&[])).await;
    let head = refused.read_head().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");

    assert_eq!(value(&proxy, &state("closed")).await, "0");
    assert_eq!(value(&proxy, &state("open")).await, "1");
    let opened = "readygate_breaker_transitions_total{route=\"/\",state=\"open\"}";
    assert_eq!(value(&proxy, opened).await, "1");
    let rejected = "readygate_rejections_total{reason=\"breaker_open\"}";
    assert_eq!(value(&proxy, rejected).await, "1");

    let (_head, mut listener) = crate::events::listen(&proxy).await;
    let event = crate::events::next(&mut listener).await;
    let routes = event["routes"].as_array().unwrap();
    let route = routes.iter().find(|it| it["route"] == "/").unwrap();
    assert_eq!(route["breaker"]["state"], "open");
    assert_eq!(route["breaker"]["failures"], 0);
    let probe_in_ms = route["breaker"]["probe_in_ms"].as_u64().unwrap();
    assert!(
        (3_000_000..4_000_000).contains(&probe_in_ms),
        "{probe_in_ms}"
    );
}
