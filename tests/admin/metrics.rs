//! `/metrics`, as a scraper reads it.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    certificates,
    support::{Proxy, Upstream, config, gated},
};

/// A close frame of an upstream, and one of a client.
const CLOSE: &[u8] = b"\x88\x02\x03\xe8";
const MASKED_CLOSE: &[u8] = b"\x88\x82\0\0\0\0\x03\xe8";

/// Every series with its value.
type Series = BTreeMap<String, f64>;

async fn scrape(proxy: &Proxy) -> Series {
    let (status, page) = proxy.get("/metrics").await;
    assert_eq!(status, 200);
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let mut series = Series::new();
    for sample in samples {
        let (name, value) = sample.rsplit_once(' ').unwrap();
        let before = series.insert(name.to_owned(), value.parse().unwrap());
        assert_eq!(before, None, "{name} is there twice");
    }
    series
}

/// The sum over the series that begin with `prefix`.
fn sum(series: &Series, prefix: &str) -> f64 {
    let all = series.iter().filter(|(name, _)| name.starts_with(prefix));
    all.map(|(_, value)| value).sum()
}

#[expect(clippy::float_cmp, reason = "whole numbers, far below 2^52")]
fn check_ledger(series: &Series) {
    for route in ["/", "/other"] {
        let of = |name: &str| sum(series, &format!("readygate_{name}{{route=\"{route}\""));
        assert_eq!(
            of("messages_accepted_total"),
            of("messages_settled_total") + of("messages_unconfirmed") + of("messages_held"),
            "{route}"
        );
        let live = of("sessions");
        let opened = sum(
            series,
            &format!("readygate_handshakes_total{{route=\"{route}\",result=\"accepted\"}}"),
        );
        // A session is counted as accepted with its answer, and runs a moment later.
        assert!(
            opened >= live + of("sessions_ended_total"),
            "{route}: {opened} {live}"
        );
    }
}

/// Checks that no counter has gone back.
fn check_counters(before: &Series, after: &Series) {
    let is_counter = |name: &str| {
        let name = name.split('{').next().unwrap();
        ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    for (name, value) in before.iter().filter(|(name, _)| is_counter(name)) {
        let later = after.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        assert!(later >= value, "{name}: {value} then {later}");
    }
}

fn two_routes(upstream: &Upstream) -> String {
    let address = upstream.address();
    gated(address) + &gated(address).replace("[[route]]", "[[route]]\npath = \"/other\"")
}

#[tokio::test]
async fn under_load_accounts_add_up_and_no_counter_decreases() {
    const CLIENTS: usize = 20;
    const MESSAGES: usize = 50;
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(&two_routes(&upstream)));
    let mut load = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = proxy.open(&[]).await;
        let mut backend = upstream.accept().await;
        load.spawn(async move {
            for number in 0..MESSAGES {
                client.send_text("message").await;
                if number == MESSAGES / 2 {
                    backend.say("ready").await;
                }
                tokio::task::yield_now().await;
            }
            backend.read(13 * MESSAGES).await;
        });
    }

    let mut before = scrape(&proxy).await;
    let mut scrapes = 0;
    while load.try_join_next().is_some() || !load.is_empty() {
        let after = scrape(&proxy).await;
        check_ledger(&after);
        check_counters(&before, &after);
        before = after;
        scrapes += 1;
    }
    assert!(scrapes > 0);
    proxy.until("/sessions", |it| it["total"] == 0).await;

    let end = scrape(&proxy).await;
    check_ledger(&end);
    check_counters(&before, &end);
    let of = |name: &str| sum(&end, &format!("readygate_{name}{{route=\"/\""));
    let all = f64::from(u32::try_from(CLIENTS * MESSAGES).unwrap());
    let clients = f64::from(u32::try_from(CLIENTS).unwrap());
    let expected = [
        ("messages_accepted_total", all),
        ("messages_settled_total", all),
        ("messages_unconfirmed", 0.0),
        ("messages_held", 0.0),
        ("queued_messages", 0.0),
        ("session_held_bytes", 0.0),
        ("sessions", 0.0),
        ("handshakes_total", clients),
        ("sessions_ended_total", clients),
        ("upstream_attempts_total", clients),
        ("upstream_attempt_failures_total", 0.0),
        ("time_to_connect_seconds_count", clients),
        ("time_to_ready_seconds_count", clients),
        ("hold_duration_seconds_count", clients),
        ("flush_duration_seconds_count", clients),
        ("session_duration_seconds_count", clients),
    ];
    for (name, value) in expected {
        assert!((of(name) - value).abs() < 0.5, "{name}: {}", of(name));
    }
    assert!(sum(&end, "readygate_held_bytes").abs() < 0.5);
}

/// Reads the close timeouts of clients and upstreams, once all sessions are over.
async fn close_timeouts(proxy: &Proxy) -> [String; 2] {
    proxy.until("/sessions", |it| it["total"] == 0).await;
    let series = scrape(proxy).await;
    let of = |side| format!("readygate_close_timeouts_total{{route=\"/\",side=\"{side}\"}}");
    ["client", "upstream"].map(|side| series[&of(side)].to_string())
}

#[tokio::test]
async fn whoever_does_not_answer_a_close_frame_is_counted() {
    let upstream = Upstream::listen().await;
    let start = |close_timeout| {
        let route = gated(upstream.address());
        let route = format!("{route}tunnel.close_timeout = \"{close_timeout}\"\n");
        Proxy::start(config(&route))
    };

    let open = async |proxy: &Proxy| {
        let (mut client, mut backend) = (proxy.open(&[]).await, upstream.accept().await);
        backend.say("ready").await;
        client.read(2 + "ready".len()).await;
        (client, backend)
    };

    let proxy = start("1h");
    let (mut client, mut backend) = open(&proxy).await;
    backend.0.write_all(CLOSE).await.unwrap();
    client.read(CLOSE.len()).await;
    client.0.write_all(MASKED_CLOSE).await.unwrap();
    assert_eq!(close_timeouts(&proxy).await, ["0", "0"]);

    let proxy = start("50ms");
    let (silent_client, mut backend) = open(&proxy).await;
    backend.0.write_all(CLOSE).await.unwrap();
    assert_eq!(close_timeouts(&proxy).await, ["1", "0"]);
    let (mut client, silent_backend) = open(&proxy).await;
    client.0.write_all(MASKED_CLOSE).await.unwrap();
    assert_eq!(close_timeouts(&proxy).await, ["1", "1"]);
    drop((silent_client, silent_backend));
}

#[tokio::test]
async fn a_side_cut_inside_a_frame_is_not_counted_as_close_timeout() {
    let upstream = Upstream::listen().await;
    let route = gated(upstream.address());
    let route = format!("{route}tunnel.idle_timeout = \"1s\"\ntunnel.close_timeout = \"50ms\"\n");
    for (is_from_client, expected) in [(true, ["1", "0"]), (false, ["0", "1"])] {
        let proxy = Proxy::start(config(&route));
        let (mut client, mut backend) = (proxy.open(&[]).await, upstream.accept().await);
        backend.say("ready").await;
        client.read(2 + "ready".len()).await;
        if is_from_client {
            client.0.write_all(b"\x81\x84\0\0\0\0ha").await.unwrap();
            backend.read(8).await;
        } else {
            backend.0.write_all(b"\x81\x04ha").await.unwrap();
            client.read(4).await;
        }
        assert_eq!(close_timeouts(&proxy).await, expected);
    }
}

#[tokio::test]
async fn what_clients_send_makes_no_series() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(config(&gated(upstream.local_addr().unwrap())));
    let names = |series: Series| series.into_keys().collect::<Vec<_>>();
    let before = names(scrape(&proxy).await);

    for number in 0..20 {
        let mut client = TcpStream::connect(proxy.traffic).await.unwrap();
        let request = format!(
            "M{number} /{number}?{number} HTTP/1.1\r\nHost: h{number}\r\nX-{number}: {number}\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut backend, _) = upstream.accept().await.unwrap();
        let status = 200 + number;
        let answer = format!("HTTP/1.1 {status} Odd{number}\r\nContent-Length: 0\r\n\r\n");
        let mut byte = [0];
        backend.read_exact(&mut byte).await.unwrap();
        backend.write_all(answer.as_bytes()).await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
    }

    let after = scrape(&proxy).await;
    let answered = &after["readygate_http_requests_total{route=\"/\",code=\"2xx\"}"];
    assert!((answered - 20.0).abs() < 0.5, "{answered}");
    assert_eq!(names(after), before);
}

#[tokio::test]
async fn each_metric_stands_in_the_documentation() {
    let page = include_str!("../../docs/admin.md");
    let (_, table) = page.split_once("<!-- generated: metrics -->").unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(certificates::with_everything(directory.path()));

    let (_, page) = proxy.get("/metrics").await;

    let families = page.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("# TYPE readygate_")?.split_once(' ')?;
        Some(name)
    });
    let families: Vec<_> = families.collect();
    for conditional in ["memory_bytes", "session_rate_used_ratio"] {
        assert!(families.contains(&conditional), "{families:?}");
    }
    assert!(families.len() > 45, "{families:?}");
    for name in families {
        let is_told = |end| table.contains(&format!("`{name}{end}"));
        assert!(is_told("`") || is_told("{"), "{name} is not in the table");
    }
}

#[tokio::test]
async fn limits_show_their_use_and_refusals_their_reasons() {
    let upstream = Upstream::listen().await;
    let mut config = config(&gated(upstream.address()));
    config.limits.max_connections = 1;
    let proxy = Proxy::start(config);
    let mut client = proxy.open(&[]).await;
    client.send_text("held").await;
    proxy
        .until("/sessions", |it| {
            it["sessions"][0]["queue"]["messages"] == 1
        })
        .await;
    let mut other = TcpStream::connect(proxy.traffic).await.unwrap();
    other
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");

    let series = scrape(&proxy).await;

    let is = |name: &str, value: f64| {
        assert!(
            (series[name] - value).abs() < 0.5,
            "{name}: {}",
            series[name]
        );
    };
    is("readygate_connections_limit", 1.0);
    is("readygate_connections_accepted_total", 2.0);
    is("readygate_rejections_total{reason=\"connections\"}", 1.0);
    is(
        "readygate_http_requests_total{route=\"none\",code=\"5xx\"}",
        1.0,
    );
    is("readygate_sessions{route=\"/\",state=\"accepted\"}", 1.0);
    is("readygate_messages_held{route=\"/\"}", 1.0);
    is(
        "readygate_queued_messages{route=\"/\",priority=\"normal\"}",
        1.0,
    );
    is("readygate_http_held_requests{route=\"/\"}", 0.0);
    is("readygate_http_held_requests_limit{route=\"/\"}", 500.0);
    is("readygate_draining", 0.0);
    is("readygate_workers", 2.0);
    is("readygate_worker_up{worker=\"1\"}", 1.0);
    let held = series["readygate_held_bytes"];
    assert!(held > 128.0 && held < series["readygate_held_limit_bytes"]);
    assert!(series["process_resident_memory_bytes"] > 0.0);
}

#[tokio::test]
async fn the_fullest_queue_of_a_route_is_shown_against_its_limit() {
    let upstream = Upstream::listen().await;
    let limited = gated(upstream.address()) + "hold.max_messages = 4\n";
    let other = gated(upstream.address()).replace("[[route]]", "[[route]]\npath = \"/other\"");
    let proxy = Proxy::start(config(&(limited + &other)));
    let expect = async |route: &str, expected: f64| {
        let name = format!("readygate_fullest_queue_used_ratio{{route=\"{route}\"}}");
        let ratio = scrape(&proxy).await[&name];
        assert!((ratio - expected).abs() < 1e-9, "{route}: {ratio}");
    };
    expect("/", 0.0).await;
    // Each is on a worker of its own.
    let (mut full, mut other) = (proxy.open(&[]).await, proxy.open(&[]).await);
    let mut backends = [upstream.accept().await, upstream.accept().await];

    for _ in 0..3 {
        full.send_text("held").await;
    }
    other.send_text("held").await;

    let queued = |sessions: &serde_json::Value| {
        let of = |index: usize| sessions["sessions"][index]["queue"]["messages"].as_u64();
        of(0).zip(of(1)).map(|(one, other)| one + other)
    };
    proxy.until("/sessions", |it| queued(it) == Some(4)).await;
    expect("/", 0.75).await;
    expect("/other", 0.0).await;
    for backend in &mut backends {
        backend.say("ready").await;
    }
    proxy.until("/sessions", |it| queued(it) == Some(0)).await;
    expect("/", 0.0).await;
}

#[tokio::test]
async fn limits_of_addresses_and_rates_are_shown_with_their_use() {
    let limits = "[limits]\nmax_connections_per_address = 9\nsession_rate = 1\n\
                  session_rate_per_address = 1\n";
    let trust = "trusted_proxies = [\"127.0.0.1\"]\n";
    let route = gated(([127, 0, 0, 1], 1).into());
    let proxy = Proxy::start(config(&format!("{trust}{limits}{route}")));
    let mut clients = Vec::new();
    for address in [7, 7, 7, 7, 8] {
        let line = format!("X-Forwarded-For: 192.0.2.{address}");
        clients.push(proxy.open(&[&line]).await);
    }

    let series = scrape(&proxy).await;

    let of = |name: &str| series[&format!("readygate_{name}")];
    assert!((of("busiest_address_connections") - 4.0).abs() < 0.5);
    assert!((of("address_connections_limit") - 9.0).abs() < 0.5);
    let ratio = of("busiest_address_session_rate_used_ratio");
    assert!(0.0 < ratio && ratio <= 0.4, "{ratio}");
    let all = of("session_rate_used_ratio");
    assert!(ratio < all && all <= 0.5, "{all}");

    let limits = "[limits]\nmax_connections_per_address = \"\"\nsession_rate_per_address = \"\"\n";
    let unlimited = Proxy::start(config(&format!("{limits}{route}")));
    let series = scrape(&unlimited).await;
    assert!(!series.keys().any(|name| name.contains("rate_used_ratio")));
    assert!(
        !series
            .keys()
            .any(|name| name.starts_with("readygate_busiest_address")
                || name.starts_with("readygate_address"))
    );
}

#[tokio::test]
async fn who_asks_for_open_metrics_gets_them() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";

    let (head, page) = proxy.exchange("GET", "/metrics", &[accept]).await;
    assert!(
        head.contains("content-type: application/openmetrics-text; "),
        "{head}"
    );
    assert!(page.ends_with("\n# EOF\n"));
    assert!(page.contains("# TYPE readygate_handshakes counter\n"));

    let (head, page) = proxy.exchange("GET", "/metrics", &["Accept: */*"]).await;
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; "),
        "{head}"
    );
    assert!(!page.contains("# EOF"));
    assert!(page.contains("# TYPE readygate_handshakes_total counter\n"));
}
