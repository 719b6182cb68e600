//! Floods: they cost the client its connection, and other clients nothing.

use std::time::Duration;

use h2::{Reason, client::Builder};
use readygate::config::ListenAddress;
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    client::{Connection, get},
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, GET, GOAWAY, HEADERS, NO_ERROR,
        PING, PRIORITY, PROTOCOL_ERROR, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, block, frame,
        request,
    },
    start,
};
use crate::support::{Proxy, Upstream, config};

const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Asserts that another client is served, which the proxy does on the same thread.
async fn assert_serves(proxy: &Proxy, upstream: &Upstream) {
    let mut connection = Connection::open(proxy).await;
    let (answer, ()) = tokio::join!(connection.ask(get("/last")), async {
        loop {
            let Some(mut exchange) = upstream.accept_raw().await.read_request().await else {
                continue;
            };
            let is_last = exchange.head.starts_with("GET /last ");
            exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
            if is_last {
                return;
            }
        }
    });
    assert_eq!(answer.head.status(), 204);
}

fn odd() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

// CVE-2023-44487, "rapid reset".
#[tokio::test]
async fn a_rapid_reset_ends_the_connection_and_spares_the_upstream() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    let mut flood = Vec::new();
    for stream in odd().take(10_000) {
        flood.extend(request(stream, &GET));
        flood.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    raw.send(&flood).await;

    assert_eq!(raw.goodbye().await, Some(ENHANCE_YOUR_CALM));
    assert!(upstream.waiting() <= 100, "no more than streams at once");
    assert_serves(&proxy, &upstream).await;
}

// A slow "rapid reset": each cancelled request still costs the upstream.
#[tokio::test]
async fn a_client_that_cancels_one_request_after_the_other_is_cut_off() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    let mut cancelled = 0;
    for stream in odd().take(10_000) {
        raw.send(&request(stream, &GET)).await;
        // With the answer to this the request has been taken.
        raw.send(&frame(PING, 0, 0, &[0; 8])).await;
        if raw.next_of(&[PING]).await.is_none() {
            break;
        }
        raw.send(&frame(RST_STREAM, 0, stream, &CANCEL)).await;
        cancelled += 1;
    }

    assert!((200..1000).contains(&cancelled), "{cancelled}");
    assert_serves(&proxy, &upstream).await;
}

/// Sends requests and cancels each when the upstream has it, or what that says at once has
/// come; returns how many were cancelled before the connection ended.
async fn cancel_at_upstream(
    proxy: &Proxy,
    upstream: &Upstream,
    request: impl Fn(u32) -> Vec<u8>,
    answer: Option<&str>,
) -> usize {
    let mut raw = Raw::open(proxy).await;
    for (cancelled, stream) in odd().take(1000).enumerate() {
        raw.send(&request(stream)).await;
        let mut exchange = tokio::select! {
            exchange = upstream.accept() => exchange,
            _goodbye = raw.next_of(&[GOAWAY]) => return cancelled,
        };
        if let Some(answer) = answer {
            exchange.answer(answer).await;
            if raw.next_of(&[DATA]).await.is_none() {
                return cancelled;
            }
        }
        raw.send(&frame(RST_STREAM, 0, stream, &CANCEL)).await;
        exchange.stream.read_to_end().await;
    }
    1000
}

#[tokio::test]
async fn a_client_that_cancels_bodies_or_responses_is_closed() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut post = GET.to_vec();
    post[0] = (":method", "POST");
    let post = |stream| frame(HEADERS, END_HEADERS, stream, &block(&post));
    let get = |stream| request(stream, &GET);
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab";

    let posts = cancel_at_upstream(&proxy, &upstream, post, None).await;
    let gets = cancel_at_upstream(&proxy, &upstream, get, Some(half)).await;

    assert!((200..300).contains(&posts), "{posts}");
    assert!((200..300).contains(&gets), "{gets}");
    assert_serves(&proxy, &upstream).await;
}

#[tokio::test]
async fn a_client_whose_requests_are_answered_is_not_cut_off() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    for answer in [
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nab\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nab\r\n0\r\nx: y\r\n\r\n",
    ] {
        let mut connection = Connection::open(&proxy).await;
        for _ in 0..250 {
            let (mut response, ()) = tokio::join!(connection.ask(get("/")), async {
                upstream.accept().await.answer(answer).await;
            });
            response.stream.read_to_end().await;
        }
    }
}

// VU#421644, "CONTINUATION flood".
#[tokio::test]
async fn a_header_section_without_end_ends_the_connection() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let kilobyte = block(&[("a", "b".repeat(100).as_str()); 10]);
    for continuation in [&kilobyte[..], &[]] {
        let mut raw = Raw::open(&proxy).await;
        raw.send(&frame(HEADERS, 0, 1, &block(&GET))).await;
        let mut flood = Vec::new();
        for _ in 0..10_000 {
            flood.extend(frame(CONTINUATION, 0, 1, continuation));
        }
        raw.send(&flood).await;

        let error = raw.goodbye().await;

        let bytes = continuation.len();
        assert_eq!(error, Some(ENHANCE_YOUR_CALM), "{bytes} bytes each");
    }
    assert_serves(&proxy, &upstream).await;
}

// CVE-2025-8671, "MadeYouReset".
#[tokio::test]
async fn a_client_that_makes_the_proxy_reset_its_streams_is_cut_off() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    let mut resets = 0;
    for stream in odd().take(10_000) {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &block(&GET)))
            .await;
        // A window that overflows is an error of its stream (RFC 9113 §6.9.1).
        raw.send(&frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]))
            .await;
        if raw.next_of(&[RST_STREAM]).await.is_none() {
            break;
        }
        resets += 1;
    }

    assert!(resets <= 1024, "{resets}");
    assert_serves(&proxy, &upstream).await;
}

// CVE-2019-9518.
#[tokio::test]
async fn empty_data_frames_without_end_end_the_connection() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &block(&GET)))
        .await;
    let flood = frame(DATA, 0, 1, &[]).repeat(10_000);
    raw.send(&flood).await;

    let error = raw.goodbye().await;

    assert_eq!(error, Some(ENHANCE_YOUR_CALM));
    assert_serves(&proxy, &upstream).await;
}

#[tokio::test]
async fn a_flood_that_h2_stops_is_counted_and_other_ends_are_not() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.admin = Some(ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()));
    let proxy = start(config);
    let resets = |stream| [request(stream, &GET), frame(RST_STREAM, 0, stream, &CANCEL)].concat();
    let upload = frame(HEADERS, END_HEADERS, 1, &block(&GET));
    let endless = frame(HEADERS, 0, 1, &block(&GET));
    let floods = [
        odd().take(10_000).flat_map(resets).collect(),
        [upload, frame(DATA, 0, 1, &[]).repeat(10_000)].concat(),
        [endless, frame(CONTINUATION, 0, 1, &[]).repeat(10_000)].concat(),
    ];
    // A frame of a stream that was never opened, and what a client says that is flooded itself.
    let others = [
        (frame(DATA, 0, 1, b"a"), PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]), NO_ERROR),
    ];

    for (flood, count) in floods.into_iter().zip(1..) {
        let mut raw = Raw::open(&proxy).await;
        raw.send(&flood).await;
        assert_eq!(raw.goodbye().await, Some(ENHANCE_YOUR_CALM));
        assert_eq!(proxy.rejections("http2_abuse").await, count);
    }
    for (frame, error) in others {
        let mut raw = Raw::open(&proxy).await;
        raw.send(&frame).await;
        assert_eq!(raw.goodbye().await, Some(error));
    }
    assert_eq!(proxy.rejections("http2_abuse").await, 3);
}

// No reply is larger than its frame, so they are harmless while the client reads.
#[tokio::test]
async fn floods_of_control_frames_are_answered_one_by_one() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    for (flood, is_answered) in [
        (frame(SETTINGS, 0, 0, &[]), true),
        (frame(PING, 0, 0, &[7; 8]), true),
        (frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), false),
        (frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), false),
    ] {
        let mut raw = Raw::open(&proxy).await;
        let kind = flood[3];
        raw.send(&flood.repeat(1000)).await;
        let answers = if is_answered { 1000 } else { 0 };
        for _ in 0..answers {
            let answer = raw.next_of(&[kind]).await.unwrap();
            assert_eq!(answer.flags & ACK, ACK);
        }
        raw.send(&frame(PING, 0, 0, &[1; 8])).await;
        assert_eq!(raw.next_of(&[PING]).await.unwrap().payload, [1; 8]);
    }
    assert_serves(&proxy, &upstream).await;
}

// Otherwise its acknowledgements would pile up (CVE-2019-9512, CVE-2019-9515).
#[tokio::test]
async fn a_client_that_does_not_read_answers_is_not_read_either() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8])] {
        let mut raw = Raw::open(&proxy).await;
        let flood = flood.repeat(1_000_000);

        let sent = timeout(Duration::from_millis(300), raw.stream.write_all(&flood)).await;

        assert!(sent.is_err() || sent.unwrap().is_err());
    }
    assert_serves(&proxy, &upstream).await;
}

// A body for which there is no window must not be kept whole (CVE-2019-9517).
#[tokio::test]
async fn a_response_without_a_window_is_hardly_buffered() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let no_window = [0, 4, 0, 0, 0, 0];
    let (mut raw, _) = Raw::open_with(&proxy, &no_window).await;
    raw.send(&request(1, &GET)).await;
    let mut exchange = upstream.accept().await;
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n".to_vec();
    answer.resize(answer.len() + 64 * 1024 * 1024, b'x');

    let taken = timeout(
        Duration::from_millis(300),
        exchange.stream.0.write_all(&answer),
    );

    assert!(taken.await.is_err(), "the proxy took all of it");
    assert_serves(&proxy, &upstream).await;
}

#[tokio::test]
async fn only_the_response_that_is_not_read_times_out() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.write_timeout = Duration::from_millis(200);
    config.admin = Some(ListenAddress::Tcp(([127, 0, 0, 1], 0).into()));
    let proxy = start(config);
    // The client takes answers from the network, but not all of them from their streams.
    let mut settings = Builder::new();
    settings.initial_connection_window_size(16 * 1024 * 1024);
    let mut connection = Connection::open_with(&proxy, &settings).await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut paused, mut pausing) = tokio::join!(connection.ask(get("/paused")), async {
        let mut exchange = upstream.accept().await;
        exchange.answer(&format!("{chunked}2\r\nab\r\n")).await;
        exchange
    });
    assert_eq!(paused.stream.read(2).await, b"ab");
    let (mut stuck, mut exchange) = tokio::join!(connection.ask(get("/stuck")), async {
        let mut exchange = upstream.accept().await;
        exchange.answer(chunked).await;
        exchange
    });

    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    // Backpressure first, and then the end.
    while exchange.stream.0.write_all(chunk.as_bytes()).await.is_ok() {}

    let reset = loop {
        match stuck.stream.receiving.data().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(reset.reason(), Some(Reason::CANCEL), "{reset}");
    assert_eq!(proxy.rejections("write_timeout").await, 1);
    pausing.stream.send("2\r\ncd\r\n0\r\n\r\n").await;
    assert_eq!(paused.stream.read_to_end().await, "cd");
}
