//! Requests and their responses.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::time::timeout;

use super::{
    client::{Connection, get},
    frames::{self, ACK, DATA, END_STREAM, GOAWAY, PING, Raw, frame},
    start,
};
use crate::support::{Reserved, Upstream, config};

#[tokio::test]
async fn the_settings_are_those_for_the_open_internet() {
    let upstream = Reserved::port();
    let proxy = start(config(vec![upstream.route()]));

    let (_raw, settings) = Raw::open_with(&proxy, &[]).await;

    let max_concurrent_streams = settings.setting(3);
    let initial_window_bytes = settings.setting(4);
    let max_header_list_bytes = settings.setting(6);
    let is_connect_protocol_enabled = settings.setting(8);
    assert_eq!(max_concurrent_streams, Some(100));
    assert_eq!(initial_window_bytes, Some(64 * 1024));
    assert_eq!(max_header_list_bytes, Some(16 * 1024));
    assert_eq!(is_connect_protocol_enabled, Some(1));
}

#[tokio::test]
async fn http_1_and_http_2_share_a_listener() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut http1 = proxy.connect().await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\n\r\n";
    // The first byte may be that of either.
    for byte in request.bytes() {
        http1.send([byte]).await;
    }
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        .await;
    let head = http1.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 204 "), "{head}");

    let mut http2 = Connection::open(&proxy).await;
    let answer = tokio::join!(http2.ask(get("/a?b=c")), async {
        let mut exchange = upstream.accept().await;
        assert!(exchange.head.starts_with("GET /a?b=c HTTP/1.1\r\n"));
        assert_eq!(exchange.header("host"), Some("chat.example"));
        assert_eq!(exchange.header("x-forwarded-host"), Some("chat.example"));
        exchange
            .answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x\r\nX: 1\r\n\r\nok")
            .await;
    });
    let (mut answer, ()) = answer;

    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.head.headers().get("x"), None);
    assert_eq!(answer.stream.read_to_end().await, "ok");
}

#[tokio::test]
async fn requests_of_one_connection_do_not_wait_for_each_other() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut first = Connection::open(&proxy).await;
    let mut second = Connection {
        requests: first.requests.clone(),
        ended: tokio::spawn(async { Ok(()) }),
    };
    let slow = tokio::spawn(async move { first.ask(get("/slow")).await.head.status() });
    let mut unanswered = upstream.accept().await;

    let (answer, ()) = tokio::join!(second.ask(get("/fast")), async {
        let mut exchange = upstream.accept().await;
        exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    });

    assert_eq!(answer.head.status(), 204);
    unanswered
        .answer("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(slow.await.unwrap(), 202);
}

#[tokio::test]
async fn bodies_go_through_as_they_come_in_both_directions() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let request = Request::post("http://chat.example/up").body(()).unwrap();
    let (response, mut sending) = connection.requests.send_request(request, false).unwrap();
    let mut exchange = upstream.accept().await;
    assert_eq!(exchange.header("transfer-encoding"), Some("chunked"));
    assert_eq!(exchange.header("content-length"), None);

    sending
        .send_data(Bytes::from_static(b"one"), false)
        .unwrap();
    assert_eq!(exchange.stream.read(8).await, b"3\r\none\r\n");
    exchange
        .answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nuno\r\n")
        .await;
    let mut receiving = response.await.unwrap().into_body();
    assert_eq!(receiving.data().await.unwrap().unwrap(), "uno");
    sending
        .send_data(Bytes::from_static(b"two"), false)
        .unwrap();
    assert_eq!(exchange.stream.read(8).await, b"3\r\ntwo\r\n");

    sending.send_data(Bytes::new(), true).unwrap();
    assert_eq!(exchange.stream.read(5).await, b"0\r\n\r\n");
    exchange.stream.send("3\r\ndos\r\n0\r\n\r\n").await;
    assert_eq!(receiving.data().await.unwrap().unwrap(), "dos");
    while let Some(rest) = receiving.data().await {
        assert_eq!(rest.unwrap(), "");
    }
}

#[tokio::test]
async fn trailers_of_the_answer_go_through() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;

    let (mut answer, ()) = tokio::join!(connection.ask(get("/").header("te", "trailers")), async {
        let mut exchange = upstream.accept().await;
        assert_eq!(exchange.header("te"), Some("trailers"));
        exchange
            .answer(
                "HTTP/1.1 200 OK\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n",
            )
            .await;
    });

    assert_eq!(answer.stream.read_to_end().await, "ok");
    let trailers: HeaderMap = answer.stream.trailers().await.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn cookies_become_one_line() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let request = get("/").header("cookie", "a=1").header("cookie", "b=2");

    let (_, ()) = tokio::join!(connection.ask(request), async {
        let mut exchange = upstream.accept().await;
        assert_eq!(exchange.header("cookie"), Some("a=1; b=2"));
        exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    });
}

/// Here the connection is of many requests, and may be of many clients.
#[tokio::test]
async fn nobody_is_logged_in_with_the_credentials_of_another_stream() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let unauthorized = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\
        WWW-Authenticate: Basic realm=\"a\", NTLM\r\n\r\nno";
    for (scheme, answer) in [
        ("Negotiate x", ok),
        ("NTLM x", ok),
        ("Basic x", unauthorized),
    ] {
        let request = get("/").header("authorization", scheme);
        let (mut response, mut exchange) = tokio::join!(connection.ask(request), async {
            let mut exchange = upstream.accept().await;
            exchange.answer(answer).await;
            exchange
        });
        response.stream.read_to_end().await;

        let (_response, ()) = tokio::join!(connection.ask(get("/next")), async {
            assert_eq!(exchange.stream.read_head().await, None, "{scheme}");
            let close = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            upstream.accept().await.answer(close).await;
        });
    }
}

#[tokio::test]
async fn a_request_reset_by_the_client_is_cancelled_upstream() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;
    let request = get("/").body(()).unwrap();
    let (response, mut sending) = connection.requests.send_request(request, false).unwrap();
    let mut exchange = upstream.accept().await;

    sending.send_reset(h2::Reason::CANCEL);

    exchange.stream.read_to_end().await;
    assert!(response.await.is_err());
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_503_for_each_request() {
    let upstream = Reserved::port();
    let mut config = config(vec![upstream.route()]);
    config.limits.max_connections = 1;
    let proxy = start(config);
    let _first = Raw::open(&proxy).await;
    let mut second = Connection::open(&proxy).await;

    let answer = second.ask(get("/")).await;

    assert_eq!(answer.head.status(), 503);
    assert_eq!(answer.head.headers()["retry-after"], "1");
    assert_eq!(answer.head.headers().get("connection"), None);
}

#[tokio::test]
async fn a_drain_says_goaway_and_lets_requests_finish() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut raw = Raw::open(&proxy).await;
    raw.send(&frames::request(1, &frames::GET)).await;
    let mut exchange = upstream.accept().await;

    let ended = proxy.stop();

    // First without a last stream, for requests that are under way, and a ping behind it.
    let goaway = raw.next_of(&[GOAWAY]).await.unwrap();
    assert_eq!(goaway.payload[..4], 0x7fff_ffff_u32.to_be_bytes());
    let ping = raw.next_of(&[PING]).await.unwrap();
    raw.send(&frame(PING, ACK, 0, &ping.payload)).await;
    let goaway = raw.next_of(&[GOAWAY]).await.unwrap();
    assert_eq!(goaway.payload[..4], 1_u32.to_be_bytes());
    assert_eq!(goaway.error(), frames::NO_ERROR);
    exchange
        .answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde")
        .await;
    let data = raw.next_of(&[DATA]).await.unwrap();
    assert_eq!(data.payload, b"abcde");
    assert_eq!(data.flags & END_STREAM, END_STREAM);
    while raw.next().await.is_some() {}
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_does_not_wait_to_hear_what_a_client_speaks() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    // Whatever does not close by itself keeps this test from ending.
    config.drain.grace = Duration::from_hours(1);
    config.limits.header_timeout = Duration::from_hours(1);
    let proxy = start(config);
    let mut silent = proxy.connect().await;
    let mut undecided = proxy.connect().await;
    undecided.send("P").await;
    // They were accepted before it.
    let mut last = Connection::open(&proxy).await;
    assert!(is_answered(&mut last, &upstream).await);
    drop(last);

    let ended = proxy.stop();

    assert_eq!(silent.read_to_end().await, "");
    assert_eq!(undecided.read_to_end().await, "");
    ended.await.unwrap().unwrap();
}

/// Sends a request, which `upstream` answers if it comes; whether it was answered.
async fn is_answered(connection: &mut Connection, upstream: &Upstream) -> bool {
    let answering = async {
        loop {
            let mut exchange = upstream.accept().await;
            let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            exchange.answer(answer).await;
        }
    };
    tokio::select! {
        answer = connection.send(get("/"), true) => {
            answer.is_ok_and(|answer| answer.head.status() == 204)
        }
        () = answering => unreachable!("it answers for ever"),
    }
}

#[tokio::test]
async fn a_connection_waits_for_its_next_request_as_it_may() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.header_timeout = Duration::from_millis(50);
    config.limits.keep_alive_timeout = Duration::from_hours(1);
    let proxy = start(config);
    let mut connection = Connection::open(&proxy).await;
    // A busy machine may take too long for the first one.
    while !is_answered(&mut connection, &upstream).await {
        connection = Connection::open(&proxy).await;
    }

    // When one that came later has waited for too long, so has this one.
    let silent = Connection::open(&proxy).await;
    let _ = silent.ended.await.unwrap();

    assert!(is_answered(&mut connection, &upstream).await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_last_request() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.header_timeout = Duration::from_hours(1);
    config.limits.keep_alive_timeout = Duration::from_millis(50);
    let proxy = start(config);
    let mut silent = Connection::open(&proxy).await;
    let mut idle = Connection::open(&proxy).await;
    for connection in [&mut idle, &mut silent] {
        assert!(is_answered(connection, &upstream).await);
        (&mut connection.ended).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_header_timeout() {
    let upstream = Reserved::port();
    let mut config = config(vec![upstream.route()]);
    config.limits.header_timeout = Duration::from_millis(20);
    let proxy = start(config);
    // One that answers the ping of a graceful end, and one that does not.
    let polite = Connection::open(&proxy).await;
    let mut rude = Raw::open(&proxy).await;

    polite.ended.await.unwrap().unwrap();
    assert_eq!(
        rude.next_of(&[GOAWAY]).await.unwrap().error(),
        frames::NO_ERROR
    );
    assert_eq!(rude.goodbye().await, None);
}

#[tokio::test]
async fn a_silent_client_is_closed_after_the_header_timeout() {
    let upstream = Reserved::port();
    let mut config = config(vec![upstream.route()]);
    config.limits.header_timeout = Duration::from_millis(20);
    let proxy = start(config);

    for beginning in ["", "P", "PRI * HTTP/2.0\r\n"] {
        assert_eq!(proxy.exchange(beginning).await, "");
    }
}

#[tokio::test]
async fn of_an_answer_that_breaks_off_the_client_gets_what_has_come() {
    let upstream = Upstream::listen().await;
    let proxy = start(config(vec![upstream.route()]));
    let mut connection = Connection::open(&proxy).await;

    let (mut answer, ()) = tokio::join!(connection.ask(get("/")), async {
        let mut exchange = upstream.accept().await;
        exchange
            .answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            .await;
    });

    assert_eq!(answer.head.status(), 200);
    assert_eq!(answer.stream.read(2).await, b"ab");
    let reset = answer.stream.receiving.data().await.unwrap().unwrap_err();
    assert!(reset.is_reset(), "{reset}");
}

#[tokio::test]
async fn a_download_is_not_idle() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.limits.header_timeout = Duration::from_millis(20);
    config.limits.keep_alive_timeout = Duration::from_millis(20);
    let proxy = start(config);
    let mut connection = Connection::open(&proxy).await;
    let (mut answer, mut exchange) = tokio::join!(connection.ask(get("/")), async {
        let mut exchange = upstream.accept().await;
        exchange
            .answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
            .await;
        exchange
    });
    assert_eq!(answer.stream.read(2).await, b"ab");

    // An idle connection is gone by then.
    let pause = timeout(Duration::from_millis(200), answer.stream.piece());
    assert!(pause.await.is_err());
    exchange.stream.send("cde").await;

    assert_eq!(answer.stream.read_to_end().await, "cde");
}
