//! Unread data of streams under memory pressure.

use std::time::Duration;

use readygate::config::ListenAddress;
use tokio::time::timeout;

use super::{
    frames::{DATA, END_HEADERS, GET, HEADERS, PING, Raw, block, frame},
    start,
};
use crate::{
    memory::Reading,
    support::{Proxy, Reserved, config, text_frame},
};

const HANDSHAKE: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "chat.example"),
    (":path", "/"),
    ("sec-websocket-version", "13"),
];

/// The fields of a request with a body.
fn post() -> Vec<(&'static str, &'static str)> {
    [&[(":method", "POST")], &GET[1..]].concat()
}

/// A connection with one stream that has begun so, and what came on it.
async fn open(proxy: &Proxy, fields: &[(&str, &str)], data: &[u8]) -> Raw {
    let mut raw = Raw::open(proxy).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &block(fields)))
        .await;
    if !data.is_empty() {
        raw.send(&frame(DATA, 0, 1, data)).await;
    }
    ping(&mut raw).await;
    raw
}

/// Resolves when the proxy has read what was sent before.
async fn ping(raw: &mut Raw) {
    raw.send(&frame(PING, 0, 0, &[7; 8])).await;
    raw.next_of(&[PING]).await.unwrap();
}

/// Waits until the proxy knows whether memory is short: a new session is refused then.
async fn until_short(proxy: &Proxy, is_short: bool) {
    loop {
        let mut raw = Raw::open(proxy).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &block(&HANDSHAKE)))
            .await;
        let head = raw.next_of(&[HEADERS]).await.unwrap();
        if (super::frames::status(&head.payload) == "503") == is_short {
            return;
        }
    }
}

#[tokio::test]
async fn under_memory_pressure_a_stalled_stream_stops_reading() {
    let upstream = Reserved::port();
    let reading = Reading::new(100);
    let mut route = upstream.route();
    route.session.hold.max_messages = 1;
    let mut config = config(vec![route]);
    config.limits.max_memory = Some(reading.bound());
    let proxy = start(config);
    let post = post();
    let messages = ["held", "unread", "unread"].map(text_frame);
    let mut stalled = [
        open(&proxy, &HANDSHAKE, &messages.concat()).await,
        open(&proxy, &post, b"waits for the upstream").await,
    ];
    let mut others = [open(&proxy, &HANDSHAKE, b"").await, Raw::open(&proxy).await];

    reading.set(101);
    until_short(&proxy, true).await;

    for raw in &mut stalled {
        let answered = timeout(Duration::from_millis(300), ping(raw)).await;
        assert!(answered.is_err(), "it is read");
    }
    for raw in &mut others {
        ping(raw).await;
    }

    reading.set(90);
    until_short(&proxy, false).await;

    for raw in &mut stalled {
        assert_eq!(raw.next_of(&[PING]).await.unwrap().payload, [7; 8]);
    }
}

#[tokio::test]
async fn under_memory_pressure_a_stalled_connection_is_closed() {
    let upstream = Reserved::port();
    let reading = Reading::new(100);
    let mut config = config(vec![upstream.route()]);
    config.limits.max_memory = Some(reading.bound());
    config.admin = Some(ListenAddress::Tcp(([127, 0, 0, 1], 0).into()));
    let proxy = start(config);
    let mut stalled = open(&proxy, &post(), b"waits for the upstream").await;
    let mut other = open(&proxy, &post(), b"").await;
    reading.set(101);
    until_short(&proxy, true).await;
    let refused = proxy.rejections("memory").await;

    stalled.send(&frame(PING, 0, 0, &[7; 8])).await;
    while stalled.next().await.is_some() {}

    assert_eq!(proxy.rejections("memory").await, refused + 1);
    ping(&mut other).await;
}
