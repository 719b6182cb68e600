//! The PROXY protocol, from proxies before this one and to the upstream.

use std::{path::PathBuf, sync::Arc, time::Duration};

use readygate::{
    client_addr::{Network, TrustedProxies},
    config::{ListenAddress, ListenSettings},
    config_file::Config,
    route::Route,
    server,
    upstream::{self, Address, proxy_protocol::ProxyProtocolVersion},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use crate::support::{ACCEPT, Client, Proxy, Upstream, config, handshake, text_frame};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x34\x01\xbb";
const V2_UNSPEC: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

pub(crate) fn trusting(network: &str) -> TrustedProxies {
    let first = network.parse().unwrap();
    TrustedProxies {
        networks: vec![Network::of(first, 32).unwrap()],
        unix: true,
    }
}

/// A configuration whose listener expects headers from 127.0.0.1.
fn expecting(routes: Vec<Route>) -> Config {
    let mut config = config(routes);
    config.trusted_proxies = trusting("127.0.0.1");
    config.listen[0].proxy_protocol = true;
    config
}

fn telling(upstream: &Upstream, version: ProxyProtocolVersion) -> Route {
    let mut route = upstream.route();
    route.upstream.proxy_protocol = Some(version);
    route
}

#[tokio::test]
async fn the_client_is_who_the_header_names() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(expecting(vec![upstream.route()]));
    for (header, client) in [
        (V1, "192.0.2.7"),
        (V2, "192.0.2.7"),
        (V2_LOCAL, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        for request in [GET.to_owned(), handshake(&[])] {
            let mut connection = proxy.connect().await;
            connection.send([header, request.as_bytes()].concat()).await;

            let exchange = upstream.accept().await;

            assert_eq!(exchange.header("X-Forwarded-For"), Some(client));
        }
    }
}

#[tokio::test]
async fn a_client_whom_the_proxy_does_not_know_is_not_trusted() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(expecting(vec![upstream.route()]));
    for (header, forwarded_for, scheme) in [
        (UNKNOWN, "127.0.0.1", "http"),
        (V2_UNSPEC, "127.0.0.1", "http"),
        (V2_LOCAL, "6.6.6.6, 127.0.0.1", "https"),
    ] {
        let claims = ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https"];
        let get = GET.replacen("\r\n", &format!("\r\n{}\r\n", claims.join("\r\n")), 1);
        for request in [get, handshake(&claims)] {
            let mut connection = proxy.connect().await;
            connection.send([header, request.as_bytes()].concat()).await;

            let exchange = upstream.accept().await;

            assert_eq!(exchange.header("X-Forwarded-For"), Some(forwarded_for));
            assert_eq!(exchange.header("x-forwarded-proto"), Some(scheme));
        }
    }
}

#[tokio::test]
async fn header_handshake_and_frames_may_be_split_at_every_byte() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(expecting(vec![upstream.route()]));
    let frame = text_frame("early");
    for header in [V1, V2] {
        let input = [header, handshake(&[]).as_bytes(), &frame].concat();
        for cut in 1..header.len() + 20 {
            let mut client = proxy.connect().await;
            client.0.set_nodelay(true).unwrap();
            client.send(&input[..cut]).await;
            tokio::task::yield_now().await;
            client.send(&input[cut..]).await;

            let mut exchange = upstream.accept().await;
            exchange.answer_101().await;

            assert_eq!(exchange.header("X-Forwarded-For"), Some("192.0.2.7"));
            assert_eq!(exchange.stream.read(frame.len()).await, frame);
            let answer = client.read_head().await.unwrap();
            assert!(answer.contains(ACCEPT), "cut at {cut}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_connection_without_a_header_or_trust_is_closed() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(expecting(vec![upstream.route()]));
    assert_eq!(proxy.exchange(GET).await, "");
    assert_eq!(proxy.exchange("PROXY TCP4 nonsense\r\n").await, "");

    let mut config = expecting(vec![upstream.route()]);
    config.trusted_proxies = trusting("192.0.2.1");
    let proxy = Proxy::start(config);
    let spoofed = format!("{}{GET}", str::from_utf8(V1).unwrap());
    assert_eq!(proxy.exchange(&spoofed).await, "");
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_closes_the_connection() {
    let upstream = Upstream::listen().await;
    let mut config = expecting(vec![upstream.route()]);
    config.limits.header_timeout = Duration::from_millis(50);
    let proxy = Proxy::start(config);

    assert_eq!(proxy.exchange("PROXY TCP4 192.0.2.7").await, "");
    assert_eq!(proxy.exchange("").await, "");
}

#[tokio::test]
async fn a_connection_without_its_header_does_not_delay_the_drain() {
    let upstream = Upstream::listen().await;
    let mut config = expecting(vec![upstream.route()]);
    config.drain.grace = Duration::from_hours(1);
    config.limits.header_timeout = Duration::from_hours(1);
    let proxy = Proxy::start(config);
    let mut silent = proxy.connect().await;
    silent.send("PROXY").await;

    let ended = proxy.stop();

    assert_eq!(silent.read_to_end().await, "");
    ended.await.unwrap().unwrap();
}

/// The header of version 1 that a connection to the upstream begins with.
async fn read_v1(connection: &mut Client) -> String {
    let mut header = String::new();
    while !header.ends_with("\r\n") {
        header.push(char::from(connection.read(1).await[0]));
    }
    header
}

#[tokio::test]
async fn the_upstream_is_told_the_client_first() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![telling(&upstream, ProxyProtocolVersion::V1)]));
    for request in [GET.to_owned(), handshake(&[])] {
        let mut client = proxy.connect().await;
        let source = client.0.local_addr().unwrap();
        client.send(&request).await;

        let mut connection = upstream.accept_raw().await;

        let ports = (source.port(), proxy.address.port());
        assert_eq!(
            read_v1(&mut connection).await,
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", ports.0, ports.1)
        );
        let exchange = connection.read_request().await.unwrap();
        assert!(exchange.head.starts_with("GET /"), "{}", exchange.head);
    }
}

#[tokio::test]
async fn what_came_in_one_version_goes_on_in_the_other() {
    let upstream = Upstream::listen().await;
    for (version, came, goes) in [
        (ProxyProtocolVersion::V1, V2, V1),
        (ProxyProtocolVersion::V2, V1, V2),
    ] {
        let proxy = Proxy::start(expecting(vec![telling(&upstream, version)]));
        for request in [GET.to_owned(), handshake(&[])] {
            let mut client = proxy.connect().await;
            client.send([came, request.as_bytes()].concat()).await;

            let mut connection = upstream.accept_raw().await;

            assert_eq!(connection.read(goes.len()).await, goes);
            connection.read_request().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_in_x_forwarded_for_has_no_port() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![telling(&upstream, ProxyProtocolVersion::V1)]);
    config.trusted_proxies = trusting("127.0.0.1");
    let proxy = Proxy::start(config);
    let mut client = proxy.connect().await;
    client
        .send(handshake(&["X-Forwarded-For: 2001:db8::7"]))
        .await;

    let mut connection = upstream.accept_raw().await;

    let port = proxy.address.port();
    assert_eq!(
        read_v1(&mut connection).await,
        format!("PROXY TCP6 2001:db8::7 ::ffff:127.0.0.1 0 {port}\r\n")
    );
}

#[tokio::test]
async fn a_connection_that_begins_with_a_header_serves_one_request() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![telling(&upstream, ProxyProtocolVersion::V1)]));
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        client.send(GET).await;
        let mut connection = upstream.accept_raw().await;
        read_v1(&mut connection).await;
        let mut exchange = connection.read_request().await.unwrap();
        exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
        client.read_head().await.unwrap();
        assert_eq!(exchange.stream.read_to_end().await, "");
    }
}

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("readygate-{}-{name}.sock", std::process::id()))
}

/// A proxy that listens on a Unix socket.
fn start(config: Config) -> JoinHandle<std::io::Result<()>> {
    let listeners = server::bind(&config.listen).unwrap();
    tokio::spawn(server::run(
        listeners,
        Arc::new(config),
        std::future::pending(),
    ))
}

async fn read_until(stream: &mut UnixStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(stream.read_u8().await.unwrap());
    }
    read
}

#[tokio::test]
async fn unix_sockets_carry_headers_and_sessions_on_both_sides() {
    let (front, back) = (socket("front"), socket("back"));
    let backend = UnixListener::bind(&back).unwrap();
    let mut route = Route::to(Address::Unix(back.clone()));
    route.upstream.proxy_protocol = Some(ProxyProtocolVersion::V1);
    let mut config = config(vec![route]);
    config.trusted_proxies = trusting("127.0.0.1");
    config.listen = vec![ListenSettings {
        proxy_protocol: true,
        ..ListenAddress::Unix(front.clone()).into()
    }];
    let _proxy = start(config);

    // Somebody behind another proxy, and the proxy itself.
    for (came, goes, forwarded_for) in [(V2, V1, Some("192.0.2.7")), (V2_LOCAL, UNKNOWN, None)] {
        let mut client = UnixStream::connect(&front).await.unwrap();
        let sent = text_frame("held");
        let request = handshake(&[]);
        client
            .write_all(&[came, request.as_bytes(), &sent].concat())
            .await
            .unwrap();
        let (mut upstream, _) = backend.accept().await.unwrap();
        assert_eq!(read_until(&mut upstream, b"\r\n").await, goes);
        let head = String::from_utf8(read_until(&mut upstream, b"\r\n\r\n").await).unwrap();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        assert_eq!(header("X-Forwarded-For"), forwarded_for, "{head}");

        let accept = upstream_accept(header("Sec-WebSocket-Key").unwrap());
        upstream.write_all(accept.as_bytes()).await.unwrap();
        let mut received = vec![0; sent.len()];
        upstream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);

        // Tunnelled: a message back, and the closing handshake.
        read_until(&mut client, b"\r\n\r\n").await;
        let closing = [b"\x81\x02hi".as_slice(), b"\x88\x02\x03\xe8"].concat();
        upstream.write_all(&closing).await.unwrap();
        let mut read = vec![0; closing.len()];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, closing);
    }

    let mut plain = UnixStream::connect(&front).await.unwrap();
    plain
        .write_all(&[V1, GET.as_bytes()].concat())
        .await
        .unwrap();
    let (mut upstream, _) = backend.accept().await.unwrap();
    assert_eq!(read_until(&mut upstream, b"\r\n").await, V1);
    read_until(&mut upstream, b"\r\n\r\n").await;
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    upstream.write_all(answer).await.unwrap();
    let head = read_until(&mut plain, b"\r\n\r\n").await;
    assert!(head.starts_with(b"HTTP/1.1 204 "));

    for path in [front, back] {
        std::fs::remove_file(path).unwrap();
    }
}

const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

fn upstream_accept(key: &str) -> String {
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    crate::support::SWITCHING_PROTOCOLS.replace("{accept}", &accept)
}

#[test]
fn connections_are_shared_unless_they_begin_with_a_header() {
    let mut settings = upstream::Settings::new(Address::Unix("/unused".into()));
    assert!(settings.may_share_connections());

    settings.proxy_protocol = Some(ProxyProtocolVersion::V2);
    assert!(!settings.may_share_connections());
}
