//! Malformed and refused requests.

use http::HeaderValue;
use readygate::route::{Accept, NonAscii, Route};

use super::{
    client::{Connection, get, handshake},
    frames::{
        END_HEADERS, GET, HEADERS, NO_TABLE, PREFACE, PROTOCOL_ERROR, RST_STREAM, Raw, block,
        frame, request, status,
    },
    start,
};
use crate::support::{Exchange, Proxy, Reserved, SWITCHING_PROTOCOLS, Upstream, config};

/// Outcome of a stream: a status, or the error of its reset.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Status(String),
    Reset(u32),
}

/// Sends these fields as a request of its own on one connection, and asks for a page
/// afterwards, which shows that the connection has survived.
async fn verdict(raw: &mut Raw, stream: u32, fields: &[(&str, &str)]) -> Verdict {
    raw.send(&request(stream, fields)).await;
    loop {
        let answer = raw
            .next_of(&[HEADERS, RST_STREAM])
            .await
            .unwrap_or_else(|| panic!("an answer to {fields:?}"));
        if answer.stream != stream {
            continue;
        }
        return match answer.kind {
            HEADERS => Verdict::Status(status(&answer.payload)),
            _ => Verdict::Reset(answer.error()),
        };
    }
}

fn get_with<'f>(fields: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    GET.into_iter().chain(fields.iter().copied()).collect()
}

// RFC 9113 §8.1.1.
#[tokio::test]
async fn malformed_requests_end_their_stream_and_are_never_forwarded() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    let method = GET[0];
    let scheme = GET[1];
    let authority = GET[2];
    let path = GET[3];
    let cases = [
        vec![method, scheme, authority, ("x", "1"), path],
        get_with(&[("connection", "close")]),
        get_with(&[("keep-alive", "timeout=5")]),
        get_with(&[("proxy-connection", "keep-alive")]),
        get_with(&[("transfer-encoding", "chunked")]),
        get_with(&[("upgrade", "websocket")]),
        get_with(&[("te", "gzip")]),
        get_with(&[(":path", "/twice")]),
        get_with(&[(":status", "200")]),
        get_with(&[("content-length", "1")]),
        vec![scheme, authority, path],
        vec![method, authority, path],
        vec![method, scheme, authority, (":path", "")],
    ];
    for (stream, fields) in (1..).step_by(2).zip(&cases) {
        let verdict = verdict(&mut raw, stream, fields).await;

        assert_eq!(verdict, Verdict::Reset(PROTOCOL_ERROR), "{fields:?}");
    }

    let refused = |code: &str| Verdict::Status(code.to_owned());
    let cases = [
        get_with(&[("host", "other.example")]),
        get_with(&[("host", "chat.example"), ("host", "chat.example")]),
        vec![method, scheme, path],
        vec![method, scheme, (":authority", "user@chat.example"), path],
        vec![method, scheme, authority, (":path", "no-slash")],
        vec![method, scheme, authority, (":path", "*")],
        vec![method, scheme, authority, (":path", "/a/../b")],
        vec![method, scheme, authority, (":path", "/a\\b")],
        vec![method, scheme, authority, (":path", "/ü")],
        get_with(&[("x", " a")]),
        get_with(&[("x", "a\t")]),
        vec![method, (":scheme", "ftp"), authority, path],
    ];
    for (stream, fields) in (101..).step_by(2).zip(&cases) {
        let verdict = verdict(&mut raw, stream, fields).await;

        assert!(
            verdict == refused("400") || verdict == Verdict::Reset(PROTOCOL_ERROR),
            "{fields:?}: {verdict:?}"
        );
    }

    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn values_outside_ascii_pass_byte_for_byte_both_ways() {
    let text = || HeaderValue::from_bytes(b"name=Jos\xe9; b=\xc3\xa9").unwrap();
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![Route {
        accept: Accept::AfterUpstream,
        ..upstream.route()
    }]));
    let mut client = Connection::open(&proxy).await;
    client.wait_for_extended_connect().await;
    for (request, is_end) in [(get("/"), true), (handshake(), false)] {
        let asking = client.send(request.header("cookie", text()), is_end);
        let answering = async {
            let mut connection = upstream.accept_raw().await;
            let head = connection.read_head_bytes().await.unwrap();
            let mut exchange = Exchange {
                head: String::from_utf8_lossy(&head).into_owned(),
                stream: connection,
            };
            let answer = if is_end {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else {
                SWITCHING_PROTOCOLS
            };
            let (line, rest) = answer.split_once("\r\n").unwrap();
            let line = [line.as_bytes(), b"\r\nSet-Cookie: ", text().as_bytes()].concat();
            let answer = [&line, &b"\r\n"[..], rest.as_bytes()].concat();
            exchange.answer_bytes(&answer).await;
            (head, exchange)
        };

        let (answer, (head, _upstream)) = tokio::join!(asking, answering);

        let cookie = text();
        let mut windows = head.windows(cookie.len());
        assert!(windows.any(|window| window == cookie.as_bytes()));
        assert_eq!(answer.unwrap().head.headers()["set-cookie"], cookie);
    }
}

#[tokio::test]
async fn a_route_may_refuse_values_outside_ascii() {
    let upstream = Reserved::port();
    let mut route = upstream.route();
    route.http.non_ascii = NonAscii::Refuse;
    let proxy = start(config(vec![route]));
    let mut client = Connection::open(&proxy).await;
    client.wait_for_extended_connect().await;
    for (request, is_end) in [(get("/"), true), (handshake(), false)] {
        let value = HeaderValue::from_bytes(b"\xe9").unwrap();
        let answer = client.send(request.header("x", value), is_end).await;

        assert_eq!(answer.unwrap().head.status(), 400);
    }
}

// RFC 8441 §4.
#[tokio::test]
async fn a_connect_that_is_no_websocket_is_refused() {
    let upstream = Reserved::port();
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    let method = (":method", "CONNECT");
    let protocol = (":protocol", "websocket");
    let [_, scheme, authority, path] = GET;
    let version = ("sec-websocket-version", "13");
    let status = |code: &str| Verdict::Status(code.to_owned());
    let cases = [
        (
            vec![method, protocol, scheme, authority, version],
            Verdict::Reset(PROTOCOL_ERROR),
        ),
        (
            vec![method, protocol, authority, path, version],
            Verdict::Reset(PROTOCOL_ERROR),
        ),
        (
            vec![GET[0], protocol, scheme, authority, path, version],
            Verdict::Reset(PROTOCOL_ERROR),
        ),
        (
            vec![method, scheme, authority, path],
            Verdict::Reset(PROTOCOL_ERROR),
        ),
        (
            vec![
                method,
                (":protocol", "connect-udp"),
                scheme,
                authority,
                path,
            ],
            status("501"),
        ),
        (vec![method, protocol, scheme, path, version], status("400")),
        (vec![method, (":authority", "other:443")], status("405")),
        (
            vec![method, protocol, scheme, authority, path],
            status("400"),
        ),
    ];
    for (stream, (fields, expected)) in (1..).step_by(2).zip(&cases) {
        let verdict = verdict(&mut raw, stream, fields).await;

        assert_eq!(verdict, *expected, "{fields:?}");
    }
}

#[tokio::test]
async fn a_handshake_is_checked_like_one_of_http_1() {
    let upstream = Reserved::port();
    let mut route = upstream.route();
    route.path = "/chat".to_owned();
    route.origins = vec!["https://good.example".parse().unwrap()];
    let proxy = start(config(vec![route]));
    let mut connection = Connection::open(&proxy).await;
    connection.wait_for_extended_connect().await;
    let good = ("origin", "https://good.example");

    let mut refused = async |request: http::request::Builder| {
        let answer = connection.send(request, false).await.unwrap();
        answer.head
    };

    let other_origin = handshake().header("origin", "https://evil.example");
    assert_eq!(refused(other_origin).await.status(), 403);
    assert_eq!(refused(handshake()).await.status(), 403);
    let elsewhere = handshake()
        .header(good.0, good.1)
        .uri("http://chat.example/x");
    assert_eq!(refused(elsewhere).await.status(), 404);
    // There is no 426 in HTTP/2: it would need an `Upgrade`.
    let newer = handshake()
        .header(good.0, good.1)
        .header("sec-websocket-version", "14");
    let answer = refused(newer).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.headers()["sec-websocket-version"], "13");
    assert_eq!(answer.headers().get("upgrade"), None);
}

// RFC 9113 §3.3.
#[tokio::test]
async fn without_h2c_the_preface_is_closed_without_a_word() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    let mut client = proxy.connect().await;
    client.send(PREFACE).await;
    client.send(frame(4, 0, 0, &[])).await;

    assert_eq!(client.read_to_end().await, "");
}

// The upgrade from HTTP/1.1 is deprecated, and smuggles requests past proxies (RFC 9113 §3.1).
#[tokio::test]
async fn an_upgrade_to_h2c_is_stripped_and_answered_as_http_1() {
    for is_h2c in [false, true] {
        let upstream = Upstream::listen().await;
        let mut config = config(vec![upstream.route()]);
        config.listen[0].h2c = is_h2c;
        let proxy = Proxy::start(config);
        let mut client = proxy.connect().await;
        client
            .send(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            )
            .await;

        let mut exchange = upstream.accept().await;
        exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;

        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(exchange.header(name), None, "{}", exchange.head);
        }
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
    }
}

// A few encoded bytes can stand for many decoded ones (RFC 9113 §10.5.1).
#[tokio::test]
async fn a_header_section_is_bounded_in_decoded_bytes_and_in_fields() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    // A client that does not take the answer's body, either.
    let no_window = [0, 4, 0, 0, 0, 0];
    let settings = [NO_TABLE, no_window].concat();
    let (mut raw, _) = Raw::open_with(&proxy, &settings).await;
    // A field of 3 KB goes into the dynamic table, and each further byte stands for it
    // (RFC 7541 §5.1 writes 3000 as 127 and 2873 in groups of seven bits).
    let bomb = |times: usize| {
        let mut bomb = block(&GET);
        bomb.extend([0x40, 1, b'a', 0x7f, 0xb9, 0x16]);
        bomb.extend([b'v'; 3000]);
        bomb.resize(bomb.len() + times, 0xbe);
        bomb
    };
    for (stream, times) in [(1, 10), (3, 10_000)] {
        raw.send(&frame(HEADERS, END_HEADERS | 1, stream, &bomb(times)))
            .await;
        let answer = raw.next_of(&[HEADERS, RST_STREAM]).await.unwrap();
        assert_eq!((answer.kind, answer.stream), (HEADERS, stream));
        assert_eq!(status(&answer.payload), "431", "{times}");
    }

    let many: Vec<_> = std::iter::repeat_n(("a", ""), 101).collect();
    assert_eq!(
        verdict(&mut Raw::open(&proxy).await, 1, &get_with(&many)).await,
        Verdict::Status("431".to_owned())
    );
    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn a_refused_request_leaves_the_connection_open() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let refused = connection.ask(get("/a/../b")).await;
    assert_eq!(refused.head.status(), 400);

    let (answer, ()) = tokio::join!(connection.ask(get("/")), async {
        let mut exchange = upstream.accept().await;
        exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    });

    assert_eq!(answer.head.status(), 204);
}
