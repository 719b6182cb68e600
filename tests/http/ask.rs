//! `accept = "after-upstream"`: the client gets the upstream's own response.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use readygate::{
    config::Retry,
    matcher::Matcher,
    route::{Accept, Route},
    session::{
        gate::Trigger,
        hold::Overflow,
        rules::{Priority, Release, Rule, Rules},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    ACCEPT, Client, Exchange, Proxy, Reserved, SWITCHING_PROTOCOLS, Upstream, config, handshake,
    text_frame,
};

/// The route in this mode, without waits between attempts.
fn asking(route: Route) -> Route {
    let mut route = route;
    route.accept = Accept::AfterUpstream;
    route.upstream.retry = Retry {
        initial: Duration::from_millis(1),
        max: Duration::from_millis(5),
        jitter: 0.0,
    };
    route
}

fn on_text(text: &str) -> Vec<Trigger> {
    vec![Trigger::Message(Matcher::Text(text.to_owned()))]
}

/// A proxy in front of an upstream, with one route that `change` has changed.
async fn before(change: impl FnOnce(&mut Route)) -> (Upstream, Proxy) {
    let upstream = Upstream::listen().await;
    let mut route = asking(upstream.route());
    change(&mut route);
    let proxy = Proxy::start(config(vec![route]));
    (upstream, proxy)
}

/// A client that has sent a handshake with `lines`.
async fn ask(proxy: &Proxy, lines: &[&str]) -> Client {
    let mut client = proxy.connect().await;
    client.send(handshake(lines)).await;
    client
}

/// A `101` with further `lines`.
fn switching(lines: &[&str]) -> String {
    let all = [&[""], lines, &["\r\n"]].concat().join("\r\n");
    SWITCHING_PROTOCOLS.replace("\r\n\r\n", &all)
}

/// The value of a header in a head that has it once.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut values = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(header, _)| header.eq_ignore_ascii_case(name))
        .map(|(_, value)| value);
    let value = values.next();
    assert_eq!(values.next(), None, "{head}");
    value
}

/// Resolves once the other end of `exchange` has closed it without a further byte.
async fn until_closed(exchange: &mut Exchange) {
    let mut rest = Vec::new();
    let _ = exchange.stream.0.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

fn compressed(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1000);
    let mut stream = Compress::new(Compression::default(), false);
    stream
        .compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync)
        .unwrap();
    out.truncate(out.len() - 4);
    out
}

/// A whole text message that is compressed, of a client.
fn compressed_of_client(text: &str) -> Vec<u8> {
    let payload = compressed(text);
    let mut frame = vec![0xc1, 0x80 | u8::try_from(payload.len()).unwrap()];
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Returns a compressed message as a server sends it.
fn compressed_of_server(text: &str) -> Vec<u8> {
    let payload = compressed(text);
    let mut frame = vec![0xc1, u8::try_from(payload.len()).unwrap()];
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn the_client_gets_the_upstreams_101_with_its_own_accept_key() {
    let (upstream, proxy) = before(|_| {}).await;
    let mut client = ask(&proxy, &["Sec-WebSocket-Protocol: a, b"]).await;

    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.header("sec-websocket-protocol"), Some("a, b"));
    exchange
        .answer(&switching(&[
            "Sec-WebSocket-Protocol: b",
            "Set-Cookie: one=1",
            "set-cookie: two=2",
            "X-Private: hop",
            "Connection: X-Private",
            "Keep-Alive: timeout=5",
            "Content-Length: 0",
            "Transfer-Encoding: chunked",
        ]))
        .await;

    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(header(&head, "sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(header(&head, "sec-websocket-protocol"), Some("b"));
    assert_eq!(header(&head, "connection"), Some("Upgrade"));
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "x-private"), None);
    assert_eq!(header(&head, "keep-alive"), None);
    assert_eq!(header(&head, "content-length"), None);
    assert_eq!(header(&head, "transfer-encoding"), None);
    assert_eq!(header(&head, "sec-websocket-extensions"), None);
    assert!(head.contains("Set-Cookie: one=1\r\n") && head.contains("set-cookie: two=2\r\n"));
    let frame = text_frame("hello");
    client.send(&frame).await;
    assert_eq!(exchange.stream.read(frame.len()).await, frame);
}

#[tokio::test]
async fn a_rejection_reaches_the_client_whole_in_every_framing() {
    let (upstream, proxy) = before(|_| {}).await;
    for (status, framing, body) in [
        (401, "Content-Length: 9", "who are y"),
        (
            403,
            "Transfer-Encoding: chunked",
            "3\r\nwho\r\n6\r\n are y\r\n0\r\n\r\n",
        ),
        (404, "Connection: close", "who are y"),
        (200, "Content-Length: 9", "who are y"),
        (302, "Content-Length: 9\r\nLocation: /login", "who are y"),
        (426, "Content-Length: 9\r\nUpgrade: websocket", "who are y"),
    ] {
        let mut client = ask(&proxy, &[]).await;
        let mut exchange = upstream.accept().await;
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\n{framing}\r\nSet-Cookie: a=b\r\n\
             WWW-Authenticate: Basic\r\nProxy-Authenticate: Basic\r\n\r\n"
        );
        exchange.answer(&head).await;
        exchange.answer(body).await;
        drop(exchange);

        let answer = client.read_to_end().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(header(head, "set-cookie"), Some("a=b"));
        assert_eq!(header(head, "www-authenticate"), Some("Basic"));
        assert_eq!(header(head, "proxy-authenticate"), None);
        assert_eq!(header(head, "connection"), Some("close"));
        assert_eq!(header(head, "upgrade"), None);
        assert_eq!(
            header(head, "location"),
            (status == 302).then_some("/login")
        );
        let body = body.replace("\r\n", "");
        let is_chunked = header(head, "transfer-encoding") == Some("chunked");
        assert!(is_chunked || body == "who are y", "{status}: {body}");
        let words: String = body.chars().filter(|one| !one.is_ascii_digit()).collect();
        assert_eq!(words, "who are y", "{status}: {body}");
    }
}

#[tokio::test]
async fn a_long_rejection_is_streamed_with_backpressure() {
    let (upstream, proxy) = before(|_| {}).await;
    let mut client = ask(&proxy, &[]).await;
    let mut exchange = upstream.accept().await;
    let length = 64 << 20;
    let head = format!("HTTP/1.1 403 No\r\nContent-Length: {length}\r\n\r\n");
    exchange.answer(&head).await;
    let piece = vec![b'x'; 1 << 20];

    let mut sent = 0;
    let mut blocked = false;
    while sent < length && !blocked {
        let write = exchange.stream.0.write(&piece);
        match tokio::time::timeout(Duration::from_millis(500), write).await {
            Ok(written) => sent += written.unwrap(),
            Err(_elapsed) => blocked = true,
        }
    }
    assert!(blocked, "{sent} bytes were taken and nobody has read them");

    let head = client.read_head().await.unwrap();
    assert_eq!(header(&head, "content-length"), Some(&*length.to_string()));
    let got = client.read(sent).await;
    assert!(got.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn an_upstream_that_does_not_listen_is_retried_until_it_answers() {
    let reserved = Reserved::port();
    let proxy = Proxy::start(config(vec![asking(reserved.route())]));
    let mut client = ask(&proxy, &[]).await;
    let upstream = reserved.listen();
    for status in [500, 502, 503, 504] {
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 7\r\n\r\nbooting");
        upstream.accept().await.answer(&answer).await;
    }
    drop(upstream.accept().await);
    upstream.accept().await.answer_101().await;

    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
async fn at_the_deadline_the_latest_answer_is_passed_on() {
    let (upstream, proxy) = before(|route| {
        route.session.gate.timeout = Duration::from_millis(300);
    })
    .await;
    let mut client = ask(&proxy, &[]).await;
    let answering = async {
        loop {
            let answer = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 7\r\n\r\nbooting";
            // The last attempt may be given up before its request is written.
            if let Some(mut exchange) = upstream.accept_raw().await.read_request().await {
                exchange.answer(answer).await;
            }
        }
    };

    let answer = tokio::select! {
        answer = client.read_to_end() => answer,
        () = answering => unreachable!(),
    };

    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(header(&answer, "retry-after"), Some("7"));
    assert!(answer.ends_with("\r\n\r\nbooting"), "{answer}");
}

#[tokio::test]
async fn a_failed_attempt_is_closed_before_the_next_one() {
    let (upstream, proxy) = before(|_| {}).await;
    let mut client = ask(&proxy, &[]).await;
    for body in ["7\r\n\r\nbooting", "100000\r\n\r\nbooting", "7\r\n\r\nboo"] {
        let mut exchange = upstream.accept().await;
        let answer = format!("HTTP/1.1 503 Busy\r\nContent-Length: {body}");
        exchange.answer(&answer).await;
        // It keeps the connection for a further request.
        until_closed(&mut exchange).await;
    }
    upstream.accept().await.answer_101().await;

    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
async fn a_kept_answer_whose_body_is_too_long_is_passed_on_without_it() {
    let (upstream, proxy) = before(|route| {
        route.session.gate.timeout = Duration::from_millis(300);
    })
    .await;
    let mut client = ask(&proxy, &[]).await;
    let body = "x".repeat(65 * 1024);
    let answering = async {
        loop {
            if let Some(mut exchange) = upstream.accept_raw().await.read_request().await {
                let lines = "Retry-After: 7\r\nContent-Type: text/plain\r\nContent-Encoding: x";
                let head = "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked";
                let answer = format!("{head}\r\n{lines}\r\n\r\n{:x}\r\n{body}", body.len());
                let _ = exchange.stream.0.write_all(answer.as_bytes()).await;
            }
        }
    };

    let answer = tokio::select! {
        answer = client.read_to_end() => answer,
        () = answering => unreachable!(),
    };

    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(header(&answer, "retry-after"), Some("7"));
    assert_eq!(header(&answer, "content-type"), None);
    assert_eq!(header(&answer, "content-encoding"), None);
    assert_eq!(header(&answer, "content-length"), Some("0"));
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn without_any_answer_it_is_504_and_with_one_that_is_none_502() {
    let reserved = Reserved::port();
    let mut route = asking(reserved.route());
    route.session.gate.timeout = Duration::from_millis(100);
    let proxy = Proxy::start(config(vec![route]));
    let mut client = ask(&proxy, &[]).await;
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");

    let (upstream, proxy) = before(|_| {}).await;
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 401 No\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &switching(&["Sec-WebSocket-Protocol: unasked"]),
        &switching(&["Sec-WebSocket-Extensions: permessage-deflate"]),
        &SWITCHING_PROTOCOLS.replace("{accept}", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let mut client = ask(&proxy, &[]).await;
        upstream.accept().await.answer(answer).await;
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer}: {head}");
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_before_the_upstream_is_asked() {
    let (upstream, proxy) = before(|route| {
        route.origins = vec!["https://a.example".parse().unwrap()];
    })
    .await;
    let good = "Origin: https://a.example";
    for (lines, status) in [
        (&[good, "Sec-WebSocket-Version: 8"][..], 426),
        (&[good, "Sec-WebSocket-Key: short"], 400),
        (
            &[good, "Sec-WebSocket-Extensions: permessage-deflate;"],
            400,
        ),
        (&["Origin: https://evil.example"], 403),
    ] {
        let mut client = ask(&proxy, lines).await;
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    // The first that the upstream hears of is the good one.
    let _client = ask(&proxy, &[good, "X-Number: 1"]).await;
    assert_eq!(upstream.accept().await.header("x-number"), Some("1"));
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_attempt_with_it() {
    let (upstream, proxy) = before(|_| {}).await;
    for early in [&b""[..], b"\x81\x80\x00\x00\x00\x00"] {
        for only_sends_no_more in [false, true] {
            let mut client = ask(&proxy, &[]).await;
            client.send(early).await;
            let mut exchange = upstream.accept().await;

            if only_sends_no_more {
                client.0.shutdown().await.unwrap();
            } else {
                drop(client);
            }

            until_closed(&mut exchange).await;
        }
    }
    // Nobody asks for them again.
    let _client = ask(&proxy, &["X-Number: 1"]).await;
    assert_eq!(upstream.accept().await.header("x-number"), Some("1"));
}

#[tokio::test]
async fn a_drain_answers_503_while_the_upstream_is_asked() {
    let (upstream, proxy) = before(|_| {}).await;
    let mut client = ask(&proxy, &[]).await;
    let mut exchange = upstream.accept().await;

    let stopped = proxy.stop();

    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(header(&answer, "retry-after"), Some("1"));
    until_closed(&mut exchange).await;
    stopped.await.unwrap().unwrap();
}

// Neither side may send frames before it has seen the 101 (RFC 6455 §4.1).
#[tokio::test]
async fn bytes_behind_either_handshake_wait_for_the_101() {
    let (upstream, proxy) = before(|_| {}).await;
    let mut client = proxy.connect().await;
    let early = text_frame("GET /internal HTTP/1.1\r\n\r\n");
    client
        .send([handshake(&[]).into_bytes(), early.clone()].concat())
        .await;
    let late = text_frame("late");
    let mut exchange = upstream.accept().await;
    client.send(&late).await;
    exchange.answer(&(switching(&[]) + "\u{1}\u{2}hi")).await;

    assert_eq!(exchange.stream.read(early.len()).await, early);
    assert_eq!(exchange.stream.read(late.len()).await, late);
    client.read_head().await.unwrap();
    assert_eq!(client.read(4).await, b"\x01\x02hi");

    let mut client = proxy.connect().await;
    client
        .send([handshake(&[]).into_bytes(), early].concat())
        .await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 401 "));
    until_closed(&mut exchange).await;
}

#[tokio::test]
async fn messages_are_held_though_the_upstream_has_accepted_first() {
    let (upstream, proxy) = before(|route| route.session.gate.ready = on_text("ready")).await;
    let mut client = ask(&proxy, &[]).await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    client.read_head().await.unwrap();
    client.send(text_frame("held")).await;
    exchange.stream.send(b"\x81\x04wait").await;
    assert_eq!(client.read(6).await, b"\x81\x04wait");

    exchange.stream.send(b"\x81\x05ready").await;

    let held = text_frame("held");
    assert_eq!(exchange.stream.read(held.len()).await, held);
}

#[tokio::test]
async fn a_replaced_upstream_must_negotiate_the_same_again() {
    let (upstream, proxy) = before(|route| route.session.gate.ready = on_text("ready")).await;
    let offers = [
        "Sec-WebSocket-Protocol: a, b",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ];
    let terms = [
        "Sec-WebSocket-Protocol: b",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ];
    for (second, is_same) in [
        (switching(&terms), true),
        (switching(&terms[..1]), false),
        // Both can do without a subprotocol.
        (switching(&terms[1..]), true),
        (switching(&["Sec-WebSocket-Protocol: a", terms[1]]), false),
        (
            switching(&[
                terms[0],
                "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover",
            ]),
            false,
        ),
    ] {
        let mut client = ask(&proxy, &offers).await;
        upstream.accept().await.answer(&switching(&terms)).await;
        client.read_head().await.unwrap();
        let frame = compressed_of_client("held");
        client.send(&frame).await;

        let mut exchange = upstream.accept().await;
        assert_eq!(
            exchange.header("sec-websocket-extensions"),
            Some("permessage-deflate")
        );
        exchange.answer(&second).await;

        if is_same {
            exchange.stream.send(compressed_of_server("ready")).await;
            assert_eq!(exchange.stream.read(frame.len()).await, frame);
        } else {
            assert_eq!(client.read_close_code().await, 1014, "{second}");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_rejects_a_reconnect_ends_the_session() {
    let (upstream, proxy) = before(|route| route.session.gate.ready = on_text("ready")).await;
    let mut client = ask(&proxy, &[]).await;
    upstream.accept().await.answer_101().await;
    client.read_head().await.unwrap();
    let refusal = "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n";
    upstream.accept().await.answer(refusal).await;

    assert_eq!(client.read_close_code().await, 1008);
}

/// Returns the offer to the upstream and the negotiated extension that the client gets.
async fn negotiate(
    change: impl FnOnce(&mut Route),
    offer: &str,
    answer: &str,
) -> (Option<String>, Option<String>) {
    let (upstream, proxy) = before(change).await;
    let offer = format!("Sec-WebSocket-Extensions: {offer}");
    let mut client = ask(&proxy, &[&offer]).await;
    let mut exchange = upstream.accept().await;
    let answer = match answer {
        "" => switching(&[]),
        answer => switching(&[&format!("Sec-WebSocket-Extensions: {answer}")]),
    };
    exchange.answer(&answer).await;
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let owned = |value: Option<&str>| value.map(str::to_owned);
    (
        owned(exchange.header("sec-websocket-extensions")),
        owned(header(&head, "sec-websocket-extensions")),
    )
}

fn with_rules(route: &mut Route) {
    route.session.gate.ready = on_text("ready");
    route.session.rules = Rules::new(vec![Rule {
        matchers: vec![Matcher::Text("urgent".to_owned())],
        priority: Priority::Critical,
        release: Release::Ready,
    }]);
}

// RFC 7692 §5.1, §7.1.
#[tokio::test]
async fn only_valid_offers_of_permessage_deflate_are_negotiated() {
    let told = |offer: &str, answer: &str| {
        (
            Some(offer.to_owned()).filter(|offer| !offer.is_empty()),
            Some(answer.to_owned()).filter(|answer| !answer.is_empty()),
        )
    };
    let chrome = "permessage-deflate; client_max_window_bits";
    for answer in [
        "",
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits=11",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    ] {
        assert_eq!(
            negotiate(|_| {}, chrome, answer).await,
            told(chrome, answer)
        );
    }
    let bad = "permessage-deflate; server_max_window_bits=99, x-other, permessage-deflate; a=1";
    assert_eq!(negotiate(|_| {}, bad, "").await, told("", ""));
    let mixed = format!("{bad}, {chrome}");
    assert_eq!(negotiate(|_| {}, &mixed, "").await, told(chrome, ""));
}

// A message that refers to one before it cannot change places (RFC 7692 §7.1.1).
#[tokio::test]
async fn reordered_or_shed_messages_are_compressed_on_their_own() {
    let plain = "permessage-deflate";
    let alone = "permessage-deflate; client_no_context_takeover";
    let shed = |route: &mut Route| route.session.hold.overflow = Overflow::Shed;
    let expire = |route: &mut Route| route.session.hold.max_age = Some(Duration::from_secs(1));
    for (negotiated, expected) in [
        (negotiate(|_| {}, plain, plain).await, plain),
        (negotiate(with_rules, plain, plain).await, alone),
        (negotiate(shed, plain, plain).await, alone),
        (negotiate(expire, plain, plain).await, alone),
    ] {
        let (offered, told) = negotiated;
        assert_eq!(offered.as_deref(), Some(plain));
        assert_eq!(told.as_deref(), Some(expected));
    }
    let withheld = |route: &mut Route| {
        route.session.gate.ready = on_text("ready");
        route.session.gate.forward_ready = false;
    };
    let server = "permessage-deflate; server_no_context_takeover";
    let (offered, told) = negotiate(withheld, plain, server).await;
    assert_eq!(offered.as_deref(), Some(server));
    assert_eq!(told.as_deref(), Some(server));
}

#[tokio::test]
async fn an_upstream_that_keeps_its_context_against_the_offer_fails() {
    let (upstream, proxy) = before(|route| {
        route.session.gate.ready = on_text("ready");
        route.session.gate.forward_ready = false;
    })
    .await;
    let extensions = "Sec-WebSocket-Extensions: permessage-deflate";
    let mut client = ask(&proxy, &[extensions]).await;
    upstream
        .accept()
        .await
        .answer(&switching(&[extensions]))
        .await;

    let head = client.read_head().await.unwrap();

    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn compressed_messages_are_held_and_flushed_by_what_they_say() {
    let (upstream, proxy) = before(with_rules).await;
    let extensions = "Sec-WebSocket-Extensions: permessage-deflate";
    let mut client = ask(&proxy, &[extensions]).await;
    let mut exchange = upstream.accept().await;
    exchange.answer(&switching(&[extensions])).await;
    client.read_head().await.unwrap();
    let frames = ["first", "urgent"].map(compressed_of_client);
    client.send(frames.concat()).await;
    client.send(b"\x89\x80\x00\x00\x00\x00").await;
    assert_eq!(client.read(2).await, b"\x8a\x00");

    exchange.stream.send(compressed_of_server("ready")).await;

    let flushed = exchange.stream.read(frames.concat().len()).await;
    let [first, urgent] = frames;
    assert_eq!(flushed, [urgent, first].concat());
}

// Nobody knows yet which extensions the upstream would accept.
#[tokio::test]
async fn a_client_that_is_accepted_early_is_offered_no_compression() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = ask(&proxy, &["Sec-WebSocket-Extensions: permessage-deflate"]).await;
    let head = client.read_head().await.unwrap();
    assert_eq!(header(&head, "sec-websocket-extensions"), None);
    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.header("sec-websocket-extensions"), None);
    exchange.answer_101().await;

    client.send(compressed_of_client("no")).await;

    assert_eq!(client.read_close_code().await, 1002);
}
