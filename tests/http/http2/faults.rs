//! Faults of one stream: behind a proxy, the other streams of the connection belong to other
//! clients.

use readygate::config::ListenAddress;

use super::{
    client::{Connection, get, handshake},
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, HEADERS, NO_TABLE, PING,
        PROTOCOL_ERROR, RST_STREAM, Raw, block, frame, status,
    },
    start,
};
use crate::support::{ACCEPT, Exchange, KEY, Proxy, Upstream, config, text_frame};

const CONNECT: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "chat.example"),
    (":path", "/"),
    ("sec-websocket-version", "13"),
];

fn proxy_before(upstream: &Upstream) -> Proxy {
    let mut config = config(vec![upstream.route()]);
    config.admin = Some(ListenAddress::Tcp(([127, 0, 0, 1], 0).into()));
    start(config)
}

/// A connection with the session of somebody on its first stream.
async fn with_a_session(proxy: &Proxy, upstream: &Upstream) -> (Raw, Exchange) {
    let (mut raw, _) = Raw::open_with(proxy, &NO_TABLE).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &block(&CONNECT)))
        .await;
    assert_eq!(raw.next_of(&[HEADERS]).await.unwrap().stream, 1);
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    (raw, exchange)
}

/// Asserts that the session is as it was.
async fn assert_goes_on(raw: &mut Raw, exchange: &mut Exchange) {
    let message = text_frame("hello");
    raw.send(&frame(DATA, 0, 1, &message)).await;
    assert_eq!(exchange.stream.read(message.len()).await, message);
    raw.send(&frame(PING, 0, 0, &[1; 8])).await;
    assert_eq!(raw.next_of(&[PING]).await.unwrap().flags, ACK);
}

/// The status, or `RST_STREAM`, with which a stream ends.
async fn end(raw: &mut Raw, stream: u32) -> String {
    loop {
        let frame = raw.next_of(&[HEADERS, RST_STREAM]).await.expect("an end");
        if frame.stream == stream {
            return match frame.kind {
                HEADERS => status(&frame.payload),
                _ => format!("RST_STREAM {}", frame.error()),
            };
        }
    }
}

/// A block of [`GET`] without one of its fields, and with a literal one.
fn get_but(name: &str, field: (&[u8], &[u8])) -> Vec<u8> {
    let rest: Vec<_> = GET.into_iter().filter(|field| field.0 != name).collect();
    let mut odd = vec![0];
    for text in [field.0, field.1] {
        odd.push(u8::try_from(text.len()).unwrap());
        odd.extend(text);
    }
    // A pseudo-header field comes before all others.
    let parts = if field.0.starts_with(b":") {
        [odd, block(&rest)]
    } else {
        [block(&rest), odd]
    };
    parts.concat()
}

#[tokio::test]
async fn a_connect_with_content_is_refused_and_no_other_stream() {
    let upstream = Upstream::listen().await;
    let proxy = proxy_before(&upstream);
    let (mut raw, mut exchange) = with_a_session(&proxy, &upstream).await;
    let with = |fields: &[(&'static str, &'static str)]| [&CONNECT, fields].concat();
    let length = "content-length";
    let cases = [
        with(&[(length, "5")]),
        with(&[(length, "")]),
        with(&[(length, "-1")]),
        with(&[(length, "0"), (length, "0")]),
        with(&[(length, "0"), (length, "7")]),
        vec![CONNECT[0], CONNECT[3], (length, "5")],
    ];
    for (stream, fields) in (3..).step_by(2).zip(&cases) {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &block(fields)))
            .await;
        assert_eq!(end(&mut raw, stream).await, "400", "{fields:?}");
        assert_goes_on(&mut raw, &mut exchange).await;
    }

    assert!(upstream.is_untouched());
    let refused = proxy.rejections("bad_request").await;
    assert_eq!(refused, u64::try_from(cases.len()).unwrap());
}

#[tokio::test]
async fn a_field_that_http_does_not_have_ends_only_its_stream() {
    let upstream = Upstream::listen().await;
    let proxy = proxy_before(&upstream);
    let (mut raw, mut exchange) = with_a_session(&proxy, &upstream).await;
    let mut kept = get_but("", (b"", b""));
    kept.truncate(block(&GET).len());
    // Into the table, and from there once more.
    kept.extend([0x40, 1, b'x', 1, 0]);
    let mut again = block(&GET);
    again.push(0xbe);
    let cases = [
        get_but("", (b":unknown", b"1")),
        get_but("", (b"X-Upper", b"1")),
        get_but("", (b"x y", b"1")),
        get_but("", (b"", b"1")),
        get_but("", (b"x", b"a\rb")),
        get_but("", (b"x", b"a\nb")),
        get_but("", (b"x", b"a\0b")),
        get_but("", (b"x", b"a\x01b")),
        get_but("", (b"x", b"a\x7fb")),
        get_but("", (b"readygate-refused", b"too large")),
        get_but(":path", (b":path", b"/\xff")),
        get_but(":method", (b":method", b"G T")),
        get_but(":scheme", (b":scheme", b"\xff")),
        get_but(":authority", (b":authority", b"\xff")),
        kept,
        again,
    ];
    for (stream, block) in (3..).step_by(2).zip(&cases) {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
            .await;
        let text = String::from_utf8_lossy(block);
        assert_eq!(end(&mut raw, stream).await, "400", "{text:?}");
        assert_goes_on(&mut raw, &mut exchange).await;
    }

    assert!(upstream.is_untouched());
    let refused = proxy.rejections("bad_request").await;
    assert_eq!(refused, u64::try_from(cases.len()).unwrap());
}

#[tokio::test]
async fn trailers_that_http_does_not_have_end_only_their_stream() {
    let upstream = Upstream::listen().await;
    let proxy = proxy_before(&upstream);
    let (mut raw, mut exchange) = with_a_session(&proxy, &upstream).await;
    let mut post = GET;
    post[0] = (":method", "POST");
    let value = "y".repeat(120);
    let long = [("x", value.as_str()); 200];
    for (stream, trailers) in [(3, block(&[("x", "a\0b")])), (5, block(&long))] {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &block(&post)))
            .await;
        let mut upload = upstream.accept().await;
        for piece in trailers.chunks(16 * 1024) {
            let is_first = piece.as_ptr() == trailers.as_ptr();
            let is_last = piece.as_ptr_range().end == trailers.as_ptr_range().end;
            let kind = if is_first { HEADERS } else { CONTINUATION };
            let end_stream = if is_first { END_STREAM } else { 0 };
            let end_headers = if is_last { END_HEADERS } else { 0 };
            raw.send(&frame(kind, end_stream | end_headers, stream, piece))
                .await;
        }
        let reset = format!("RST_STREAM {PROTOCOL_ERROR}");
        assert_eq!(end(&mut raw, stream).await, reset);
        assert!(!upload.stream.read_to_end().await.contains('\0'));
        assert_goes_on(&mut raw, &mut exchange).await;
    }
}

#[tokio::test]
async fn a_header_section_of_any_length_ends_only_its_stream() {
    let upstream = Upstream::listen().await;
    let proxy = proxy_before(&upstream);
    let (mut raw, mut exchange) = with_a_session(&proxy, &upstream).await;
    let sections = [
        [block(&GET), block(&vec![("a", "b"); 600])].concat(),
        // More than four times the limit, in more than six frames.
        [
            block(&GET),
            block(&vec![("a", "b".repeat(126).as_str()); 1000]),
        ]
        .concat(),
    ];
    for (stream, section) in (3..).step_by(2).zip(sections) {
        let (first, rest) = section.split_at(100);
        raw.send(&frame(HEADERS, END_STREAM, stream, first)).await;
        for piece in rest.chunks(8000) {
            raw.send(&frame(CONTINUATION, 0, stream, piece)).await;
        }
        raw.send(&frame(CONTINUATION, END_HEADERS, stream, &[]))
            .await;
        assert_eq!(end(&mut raw, stream).await, "431");
        assert_goes_on(&mut raw, &mut exchange).await;
    }

    // A path that alone is too long: 20 000 is written as 127 and 19 873.
    let mut section = block(&GET[..3]);
    section.extend([0, 5]);
    section.extend(b":path");
    section.extend([0x7f, 0xa1, 0x9b, 1]);
    section.extend(vec![b'/'; 20_000]);
    let (first, rest) = section.split_at(16_000);
    raw.send(&frame(HEADERS, END_STREAM, 7, first)).await;
    raw.send(&frame(CONTINUATION, END_HEADERS, 7, rest)).await;
    assert_eq!(end(&mut raw, 7).await, "431");
    assert_goes_on(&mut raw, &mut exchange).await;

    assert!(upstream.is_untouched());
    assert_eq!(proxy.rejections("headers_too_large").await, 3);
}

#[tokio::test]
async fn a_stream_that_h2_resets_does_not_cost_the_next_one() {
    let upstream = Upstream::listen().await;
    let proxy = proxy_before(&upstream);
    let (mut raw, mut exchange) = with_a_session(&proxy, &upstream).await;

    // Malformed in its first frame, of two.
    let malformed = [&GET[..], &[("connection", "close")]].concat();
    raw.send(&frame(HEADERS, END_STREAM, 3, &block(&malformed)))
        .await;
    raw.send(&frame(CONTINUATION, END_HEADERS, 3, &block(&[("a", "b")])))
        .await;
    let reset = format!("RST_STREAM {PROTOCOL_ERROR}");
    assert_eq!(end(&mut raw, 3).await, reset);
    assert_goes_on(&mut raw, &mut exchange).await;

    // One that depends on itself, with a field that the next one has from the table.
    let mut itself = vec![0, 0, 0, 5, 16];
    itself.extend(block(&GET));
    itself.extend([0x40, 1, b'x', 1, b'y']);
    let flags = END_HEADERS | END_STREAM | 0x20;
    let mut next = block(&GET);
    next.push(0xbe);
    for request in [
        frame(HEADERS, flags, 5, &itself),
        frame(HEADERS, END_HEADERS | END_STREAM, 7, &next),
    ] {
        raw.send(&request).await;
        let mut served = upstream.accept().await;
        assert_eq!(served.header("x"), Some("y"));
        let answer = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        served.answer(answer).await;
        assert_eq!(
            raw.next_of(&[HEADERS])
                .await
                .map(|frame| status(&frame.payload)),
            Some("404".to_owned())
        );
    }
    assert_goes_on(&mut raw, &mut exchange).await;
}

#[tokio::test]
async fn many_clients_may_leave_at_once() {
    let upstream = Upstream::listen().await;
    let proxy = proxy_before(&upstream);
    let (mut raw, mut exchange) = with_a_session(&proxy, &upstream).await;
    // All in one piece, as a proxy that was stopped for a moment sends them.
    let mut leaving = Vec::new();
    for stream in (3..).step_by(2).take(50) {
        leaving.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &block(&GET),
        ));
        leaving.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    raw.send(&leaving).await;

    assert_goes_on(&mut raw, &mut exchange).await;
}

#[tokio::test]
async fn a_length_of_0_does_not_count_what_a_session_says() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    for _ in 0..3 {
        let request = handshake().header("content-length", "0");
        let mut client = connection.websocket_with(request).await.stream;
        let mut exchange = upstream.accept().await;
        exchange.answer_101().await;
        let message = text_frame("hello");
        client.send(&message);
        assert_eq!(exchange.stream.read(message.len()).await, message);
        client.end();
        assert_eq!(exchange.header("content-length"), None);

        // The client's table has that length now, and others' requests may use it.
        let post = get("/").method("POST").header("content-length", "0");
        let (answer, ()) = tokio::join!(connection.ask(post), async {
            let mut exchange = upstream.accept().await;
            assert_eq!(exchange.header("content-length"), Some("0"));
            let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            exchange.answer(answer).await;
        });
        assert_eq!(answer.head.status(), 204);
    }
}

#[tokio::test]
async fn a_key_in_an_extended_connect_is_answered() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let name = "sec-websocket-key";
    for (keys, accept) in [
        (&[KEY][..], Some(ACCEPT)),
        (&[], None),
        (&["short"], None),
        (&[KEY, KEY], None),
    ] {
        let mut request = handshake();
        for key in keys {
            request = request.header(name, *key);
        }
        let answer = connection.websocket_with(request).await;

        let got = answer.head.headers().get("sec-websocket-accept");
        assert_eq!(got.map(|value| value.to_str().unwrap()), accept, "{keys:?}");
        assert_ne!(upstream.accept().await.header(name), Some(KEY));
    }
}

#[tokio::test]
async fn a_request_whose_length_or_target_is_ambiguous_is_refused() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    let length = "content-length";
    let mut post = GET;
    post[0] = (":method", "POST");
    let of = |path| [GET[0], GET[1], GET[2], (":path", path)];
    let cases = [
        [&post[..], &[(length, "")]].concat(),
        [&post[..], &[(length, "3"), (length, "3")]].concat(),
        [&post[..], &[(length, "3"), (length, "03")]].concat(),
        of("/a#b").to_vec(),
        of("/a?b#").to_vec(),
        of("#").to_vec(),
    ];
    for (stream, fields) in (1..).step_by(2).zip(&cases) {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &block(fields)))
            .await;
        let end = end(&mut raw, stream).await;
        let reset = format!("RST_STREAM {PROTOCOL_ERROR}");
        assert!(end == "400" || end == reset, "{fields:?}: {end}");
    }
    assert!(upstream.is_untouched());
}
