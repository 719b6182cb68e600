//! Sessions over HTTP/2 (RFC 8441).

use std::time::Duration;

use h2::{Reason, client};
use readygate::{
    client_addr::{Network, TrustedProxies},
    matcher::Matcher,
    route::{Accept, Route},
    session::{
        gate::Trigger,
        hold::OnClientGone,
        rules::{Priority, Release, Rule, Rules},
    },
};

use super::{
    client::{Answer, Connection, Stream, get, handshake},
    start,
};
use crate::support::{Client, Exchange, Proxy, SWITCHING_PROTOCOLS, Upstream, config, text_frame};

/// A route whose application is ready when it says so, and to which `now` is urgent.
fn gated(upstream: &Upstream) -> Route {
    let mut route = upstream.route();
    route.session.gate.ready = vec![Trigger::Message(Matcher::Text("ready".to_owned()))];
    route.session.rules = Rules::new(vec![Rule {
        matchers: vec![Matcher::Text("now".to_owned())],
        priority: Priority::Critical,
        release: Release::Ready,
    }]);
    route
}

/// A server's text frame.
fn server_text(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(text.len()).unwrap()];
    frame.extend(text.bytes());
    frame
}

/// The next frame of a client: its first byte and its payload.
async fn read_frame(upstream: &mut Client) -> (u8, Vec<u8>) {
    let header = upstream.read(2).await;
    assert_eq!(header[1] & 0x80, 0x80, "a client's frame is masked");
    let mask = upstream.read(4).await;
    let mut payload = upstream.read(usize::from(header[1] & 0x7f)).await;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    (header[0], payload)
}

async fn read_text(upstream: &mut Client) -> String {
    let (first, payload) = read_frame(upstream).await;
    assert_eq!(first, 0x81);
    String::from_utf8(payload).unwrap()
}

async fn read_close(upstream: &mut Client) -> u16 {
    let (first, payload) = read_frame(upstream).await;
    assert_eq!(first, 0x88);
    u16::from_be_bytes([payload[0], payload[1]])
}

fn close_frame(code: u16) -> Vec<u8> {
    let mut frame = vec![0x88, 0x82, 0, 0, 0, 0];
    frame.extend(code.to_be_bytes());
    frame
}

/// A session in its tunnel: both ends.
async fn tunnel(connection: &mut Connection, upstream: &Upstream) -> (Stream, Exchange) {
    let client = connection.websocket().await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    (client, exchange)
}

// RFC 8441 §5.
#[tokio::test]
async fn a_session_is_held_flushed_by_priority_tunnelled_and_closed() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![gated(&upstream)]));
    let mut connection = Connection::open(&proxy).await;

    let request = handshake()
        .header("sec-websocket-protocol", "chat, other")
        .header("authorization", "secret");
    let mut answer = connection.websocket_with(request).await;
    let headers = answer.head.headers();
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    for name in [
        "sec-websocket-accept",
        "upgrade",
        "connection",
        "content-length",
    ] {
        assert_eq!(headers.get(name), None, "{name}");
    }
    let client = &mut answer.stream;
    for text in ["first", "second", "now"] {
        client.send(text_frame(text));
    }

    let mut exchange = upstream.accept().await;
    assert!(
        exchange
            .head
            .starts_with("GET /chat?token=secret HTTP/1.1\r\n")
    );
    assert_eq!(exchange.header("host"), Some("chat.example"));
    assert_eq!(exchange.header("authorization"), Some("secret"));
    assert_eq!(
        exchange.header("sec-websocket-protocol"),
        Some("chat, other")
    );
    assert_eq!(exchange.header("sec-websocket-version"), Some("13"));
    assert!(exchange.header("sec-websocket-key").is_some());
    exchange
        .answer(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
        )
        .await;
    let server = &mut exchange.stream;
    server.send(server_text("wait")).await;
    assert_eq!(client.read(6).await, server_text("wait"));
    server.send(server_text("ready")).await;
    assert_eq!(client.read(7).await, server_text("ready"));

    for text in ["now", "first", "second"] {
        assert_eq!(read_text(server).await, text);
    }
    client.send(text_frame("tunnelled"));
    assert_eq!(read_text(server).await, "tunnelled");
    client.send(close_frame(4000));
    assert_eq!(read_close(server).await, 4000);
    server.send([0x88, 2, 0x0f, 0xa0]).await;
    assert_eq!(client.read_close_code().await, 4000);
    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn the_upstreams_close_code_reaches_the_client() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let (mut client, mut exchange) = tunnel(&mut connection, &upstream).await;

    exchange.stream.send([0x88, 2, 0x0f, 0xa1]).await;

    assert_eq!(client.read_close_code().await, 4001);
    client.send(close_frame(4001));
    assert_eq!(read_close(&mut exchange.stream).await, 4001);
}

#[tokio::test]
async fn keys_and_the_scheme_of_a_client_say_nothing() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let request = handshake()
        .uri("https://chat.example/chat")
        .header("sec-websocket-key", key)
        .header("sec-websocket-extensions", "permessage-deflate");

    let answer = connection.websocket_with(request).await;

    assert_eq!(answer.head.headers().get("sec-websocket-extensions"), None);
    let exchange = upstream.accept().await;
    assert_ne!(exchange.header("sec-websocket-key"), Some(key));
    assert_eq!(exchange.header("sec-websocket-extensions"), None);
    assert_eq!(exchange.header("x-forwarded-proto"), Some("http"));
}

#[tokio::test]
async fn a_drain_closes_sessions_with_1001_and_the_connection() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.drain.grace = Duration::from_hours(1);
    let proxy = start(config);
    let mut connection = Connection::open(&proxy).await;
    let (mut client, mut exchange) = tunnel(&mut connection, &upstream).await;
    client.send(text_frame("tunnelled"));
    assert_eq!(read_text(&mut exchange.stream).await, "tunnelled");

    let ended = proxy.stop();

    assert_eq!(client.read_close_code().await, 1001);
    client.send(close_frame(1001));
    client.end();
    assert_eq!(read_close(&mut exchange.stream).await, 1001);
    drop(exchange);
    client.read_to_end().await;
    drop((client, connection.requests));
    connection.ended.await.unwrap().unwrap();
    ended.await.unwrap().unwrap();
}

// RFC 8441 §5: a reset stream is a reset connection.
#[tokio::test]
async fn a_reset_stream_in_the_tunnel_ends_the_upstream() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let upstream = Upstream::listen().await;
        let proxy = start(config(vec![upstream.route()]));
        let mut connection = Connection::open(&proxy).await;
        let (mut client, mut exchange) = tunnel(&mut connection, &upstream).await;
        client.send(text_frame("last words"));
        assert_eq!(read_text(&mut exchange.stream).await, "last words");

        client.reset(reason);

        assert_eq!(read_close(&mut exchange.stream).await, 1001, "{reason}");
        // The others on the connection go on.
        let (_client, _exchange) = tunnel(&mut connection, &upstream).await;
    }
}

#[tokio::test]
async fn an_ended_stream_in_the_tunnel_ends_the_upstream() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let (mut client, mut exchange) = tunnel(&mut connection, &upstream).await;
    client.send(text_frame("last words"));

    client.end();

    assert_eq!(read_text(&mut exchange.stream).await, "last words");
    assert_eq!(read_close(&mut exchange.stream).await, 1001);
}

#[tokio::test]
async fn messages_are_delivered_though_the_held_stream_has_ended() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![gated(&upstream)]));
    let mut connection = Connection::open(&proxy).await;
    let mut client = connection.websocket().await;
    client.send(text_frame("last words"));
    client.end();
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    exchange.stream.send(server_text("ready")).await;

    assert_eq!(read_text(&mut exchange.stream).await, "last words");
    assert_eq!(read_close(&mut exchange.stream).await, 1001);
}

#[tokio::test]
async fn a_client_that_resets_its_stream_while_held_ends_its_session() {
    let upstream = Upstream::listen().await;
    let mut route = gated(&upstream);
    route.session.hold.on_client_gone = OnClientGone::Discard;
    let proxy = start(config(vec![route]));
    let mut connection = Connection::open(&proxy).await;
    let client = connection.websocket().await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;

    client.reset(Reason::CANCEL);

    assert_eq!(read_close(&mut exchange.stream).await, 1001);
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_client_is_not_read() {
    let upstream = Upstream::listen().await;
    let mut route = gated(&upstream);
    route.session.hold.max_messages = 1;
    route.session.hold.on_client_gone = OnClientGone::Discard;
    let proxy = start(config(vec![route]));
    let mut connection = Connection::open(&proxy).await;
    let mut client = connection.websocket().await;
    for _ in 0..10 {
        client.send(text_frame("held"));
    }
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;

    client.reset(Reason::CANCEL);

    assert_eq!(read_close(&mut exchange.stream).await, 1001);
}

/// The status with which `connection` gets an answer to a handshake.
async fn try_websocket(connection: &mut Connection) -> (u16, Stream) {
    connection.wait_for_extended_connect().await;
    let answer = connection.send(handshake(), false).await.unwrap();
    (answer.head.status().as_u16(), answer.stream)
}

#[tokio::test]
async fn a_reset_makes_no_room_for_more_sessions_than_streams() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![gated(&upstream)]);
    config.limits.max_streams = 3;
    let proxy = start(config);
    let mut connection = Connection::open(&proxy).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut client = connection.websocket().await;
        client.send(text_frame("last words"));
        let mut exchange = upstream.accept().await;
        exchange.answer_101().await;
        client.reset(Reason::CANCEL);
        sessions.push(exchange);
    }

    for _ in 0..10 {
        let (status, _) = try_websocket(&mut connection).await;
        assert_eq!(status, 503);
    }

    assert!(upstream.is_untouched());
    // What is held is delivered, and then there is room.
    sessions[0].stream.send(server_text("ready")).await;
    assert_eq!(read_text(&mut sessions[0].stream).await, "last words");
    sessions.remove(0);
    while try_websocket(&mut connection).await.0 != 200 {}
}

#[tokio::test]
async fn sessions_count_as_connections_of_the_process() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.max_connections = 3;
    let proxy = start(config);
    let mut connection = Connection::open(&proxy).await;
    let (_first, exchange) = tunnel(&mut connection, &upstream).await;
    let _second = tunnel(&mut connection, &upstream).await;

    let (status, _) = try_websocket(&mut connection).await;
    assert_eq!(status, 503);
    let mut other = Connection::open(&proxy).await;
    assert_eq!(other.ask(get("/")).await.head.status(), 503);

    drop(exchange);
    while try_websocket(&mut connection).await.0 != 200 {}
}

#[tokio::test]
async fn sessions_count_as_connections_of_their_address() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.trusted_proxies = TrustedProxies {
        networks: vec![Network::of("127.0.0.1".parse().unwrap(), 32).unwrap()],
        unix: false,
    };
    config.listen[0].proxy_protocol = true;
    config.limits.max_connections_per_address = Some(3);
    let proxy = start(config);
    let open = async |header: &str| {
        let mut client = proxy.connect().await;
        client.send(header).await;
        Connection::over(client.0, &client::Builder::new()).await
    };
    let mut connection = open("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n").await;
    let (_first, exchange) = tunnel(&mut connection, &upstream).await;
    let _second = tunnel(&mut connection, &upstream).await;

    assert_eq!(try_websocket(&mut connection).await.0, 429);
    let mut other = open("PROXY TCP4 192.0.2.8 10.0.0.1 1 2\r\n").await;
    let _third = tunnel(&mut other, &upstream).await;

    drop(exchange);
    while try_websocket(&mut connection).await.0 != 200 {}
}

#[tokio::test]
async fn sessions_end_when_their_connection_does() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let (_client, mut exchange) = tunnel(&mut connection, &upstream).await;

    connection.ended.abort();

    assert_eq!(read_close(&mut exchange.stream).await, 1001);
}

/// Sends a handshake on a route that waits for the upstream, which responds with `head`; the proxy
/// stops when it is dropped.
async fn ask(head: &str) -> (Answer, Exchange, Proxy) {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.accept = Accept::AfterUpstream;
    let proxy = start(config(vec![route]));
    let mut connection = Connection::open(&proxy).await;
    connection.wait_for_extended_connect().await;
    let (answer, exchange) = tokio::join!(connection.send(handshake(), false), async {
        let mut exchange = upstream.accept().await;
        exchange.answer(head).await;
        exchange
    });
    (answer.unwrap(), exchange, proxy)
}

#[tokio::test]
async fn a_client_that_waits_for_the_upstream_gets_its_101_as_200() {
    let (mut answer, mut exchange, _proxy) = ask(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n",
    )
    .await;

    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.head.headers()["set-cookie"], "a=1");
    assert_eq!(answer.head.headers().get("sec-websocket-accept"), None);
    assert_eq!(answer.head.headers().get("content-length"), None);
    answer.stream.send(text_frame("hello"));
    assert_eq!(read_text(&mut exchange.stream).await, "hello");
}

#[tokio::test]
async fn a_client_that_waits_for_the_upstream_gets_its_refusal() {
    let (mut answer, ..) =
        ask("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nX: 1\r\n\r\nno").await;

    assert_eq!(answer.head.status(), 401);
    assert_eq!(answer.head.headers()["x"], "1");
    assert_eq!(answer.stream.read_to_end().await, "no");
}

/// Sends a handshake with these offers; the upstream answers `head`.
async fn offer(
    connection: &mut Connection,
    upstream: &Upstream,
    offers: &'static str,
    head: &str,
) -> (Answer, Exchange) {
    let request = handshake().header("sec-websocket-protocol", offers);
    let (answer, exchange) = tokio::join!(connection.send(request, false), async {
        let mut exchange = upstream.accept().await;
        exchange.answer(head).await;
        exchange
    });
    (answer.unwrap(), exchange)
}

#[tokio::test]
async fn a_client_of_http2_gets_the_refusal_of_its_200_next_time() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone";
    let (mut answer, _) = offer(&mut connection, &upstream, "a", not_found).await;
    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.stream.read_close_code().await, 1014);

    let (mut answer, _) = offer(&mut connection, &upstream, "a", not_found).await;

    assert_eq!(answer.head.status(), 404);
    assert_eq!(answer.stream.read_to_end().await, "gone");
    let mut other = connection.websocket().await;
    upstream.accept().await.answer(not_found).await;
    assert_eq!(other.read_close_code().await, 1014);
}

#[tokio::test]
async fn a_client_of_http2_is_told_what_was_named_before_or_waits() {
    let naming = |subprotocol: &str| {
        let line = format!("\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n");
        SWITCHING_PROTOCOLS.replace("\r\n\r\n", &line)
    };
    let named = |answer: &Answer| {
        let value = answer.head.headers().get("sec-websocket-protocol");
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    connection.wait_for_extended_connect().await;
    let (mut answer, _) = offer(&mut connection, &upstream, "a, b", &naming("b")).await;
    assert_eq!(named(&answer).as_deref(), Some("a"));
    assert_eq!(answer.stream.read_close_code().await, 1014);

    for (offers, told, head) in [
        ("a, b", "b", naming("b")),
        ("a, b", "b", SWITCHING_PROTOCOLS.to_owned()),
        ("a.AAAAAAAAAAAAAAAAAAA0, b", "b", naming("b")),
        (
            "a.AAAAAAAAAAAAAAAAAAA0",
            "a.AAAAAAAAAAAAAAAAAAA0",
            naming("a.AAAAAAAAAAAAAAAAAAA0"),
        ),
    ] {
        let (mut answer, mut exchange) = offer(&mut connection, &upstream, offers, &head).await;
        assert_eq!(answer.head.status(), 200);
        assert_eq!(named(&answer).as_deref(), Some(told));
        answer.stream.send(text_frame("hello"));
        assert_eq!(read_text(&mut exchange.stream).await, "hello");
    }
}

#[tokio::test]
async fn a_200_of_the_upstream_does_not_accept_a_handshake() {
    let (answer, ..) = ask("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;

    assert_eq!(answer.head.status(), 502);
}

/// Messages that are held to the last, on streams beside others that are not held.
#[tokio::test]
async fn flooded_held_streams_lose_nothing_and_spare_the_others() {
    const FLOODED: usize = 5;
    const MESSAGES: usize = 20_000;
    let slow = Upstream::listen().await;
    let fast = Upstream::listen().await;
    let mut held = gated(&slow);
    held.path = "/chat".to_owned();
    let proxy = start(config(vec![held, fast.route()]));
    let mut connection = Connection::open(&proxy).await;
    let mut flooded = Vec::new();
    for _ in 0..FLOODED {
        let mut client = connection.websocket().await;
        // Each in a frame of its own, as browsers send them.
        for message in 0..MESSAGES {
            client.send(text_frame(&message.to_string()));
        }
        let mut exchange = slow.accept().await;
        exchange.answer_101().await;
        flooded.push((client, exchange));
    }

    let request = handshake().uri("http://chat.example/other");
    let mut other = connection.websocket_with(request).await.stream;
    let mut exchange = fast.accept().await;
    exchange.answer_101().await;
    for round in 0..1000 {
        let text = round.to_string();
        other.send(text_frame(&text));
        assert_eq!(read_text(&mut exchange.stream).await, text);
        exchange.stream.send(server_text(&text)).await;
        assert_eq!(other.read(2 + text.len()).await, server_text(&text));
    }
    let (answer, ()) = tokio::join!(connection.ask(get("/")), async {
        let mut exchange = fast.accept().await;
        exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    });
    assert_eq!(answer.head.status(), 204);

    for (_client, exchange) in &mut flooded {
        exchange.stream.send(server_text("ready")).await;
    }
    for (_client, exchange) in &mut flooded {
        for message in 0..MESSAGES {
            assert_eq!(read_text(&mut exchange.stream).await, message.to_string());
        }
    }
}
