//! Plain HTTP to an upstream that speaks HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, server, server::SendResponse};
use http::{HeaderMap, Request, Response};
use readygate::{route::Route, upstream::protocol::Protocol};
use socket2::SockRef;
use tokio::{net::TcpStream, task};

use crate::support::{Client, Proxy, Reserved, Upstream, config, handshake};

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n";

fn over_http2(route: Route) -> Route {
    let mut route = route;
    route.http.version = Protocol::Http2;
    route
}

/// A connection of the proxy, driven in a task of its own.
pub(crate) struct Connection {
    pub(crate) streams: tokio::sync::mpsc::Receiver<(Request<RecvStream>, SendResponse<Bytes>)>,
    /// Dropped to say `GOAWAY` and to end after the streams that are open.
    go_away: tokio::sync::oneshot::Sender<()>,
    /// Ends with the connection.
    ended: task::JoinHandle<()>,
}

pub(crate) async fn accept(upstream: &Upstream, max_streams: u32) -> Connection {
    let stream: TcpStream = upstream.accept_raw().await.0;
    let mut connection = server::Builder::new()
        .max_concurrent_streams(max_streams)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    let (accepted, streams) = tokio::sync::mpsc::channel(100);
    let (go_away, mut told) = tokio::sync::oneshot::channel();
    let ended = task::spawn(async move {
        loop {
            tokio::select! {
                stream = connection.accept() => match stream {
                    Some(Ok(stream)) => accepted.send(stream).await.unwrap(),
                    _ => return,
                },
                _ = &mut told, if !told.is_terminated() => connection.graceful_shutdown(),
            }
        }
    });
    Connection {
        streams,
        go_away,
        ended,
    }
}

pub(crate) fn answer(respond: &mut SendResponse<Bytes>, body: impl Into<Bytes>) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(body.into(), true).unwrap();
}

#[tokio::test]
async fn a_request_and_its_answer_go_through_with_trailers_both_ways() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client
        .send(
            "POST /a?b HTTP/1.1\r\nHost: web.example:8080\r\nTE: trailers\r\nConnection: x, te\r\n\
             Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\
             Host: b\r\n\r\n",
        )
        .await;

    let mut connection = accept(&upstream, 100).await;
    let (request, mut respond) = connection.streams.recv().await.unwrap();
    let (head, mut body) = request.into_parts();
    assert_eq!(head.uri, "http://web.example:8080/a?b");
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.headers["x-forwarded-for"], "127.0.0.1");
    assert!(!head.headers.contains_key("host"), "{head:?}");
    assert_eq!(body.data().await.unwrap().unwrap(), "hi");
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["x-sum"], "7");
    assert_eq!(trailers.len(), 1, "{trailers:?}");

    let answer = Response::builder()
        .header("trailer", "grpc-status")
        .body(());
    let mut stream = respond.send_response(answer.unwrap(), false).unwrap();
    stream.send_data(Bytes::from_static(b"ok"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers).unwrap();

    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let expected = "2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n";
    assert_eq!(client.read(expected.len()).await, expected.as_bytes());
}

#[tokio::test]
async fn an_upload_may_take_longer_than_its_answer() {
    let upstream = Upstream::listen().await;
    let timeout = Duration::from_secs(1);
    let mut route = over_http2(upstream.route());
    route.http.response_timeout = Some(timeout);
    let proxy = Proxy::start(config(vec![route]));
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n")
        .await;
    let mut connection = accept(&upstream, 100).await;
    let (request, mut respond) = connection.streams.recv().await.unwrap();
    let mut body = request.into_body();
    for piece in ["ab", "cd", "ef", "gh", "ij", "kl"] {
        client.send(piece).await;
        assert_eq!(body.data().await.unwrap().unwrap(), piece);
        // Passing time is the subject: all pieces together take longer than `timeout`.
        tokio::time::sleep(timeout / 4).await;
    }

    answer(&mut respond, "ok");
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    let mut client = proxy.connect().await;
    client.send(GET).await;
    let _silent = connection.streams.recv().await.unwrap();
    let got = client.read_to_end().await;
    assert!(got.starts_with("HTTP/1.1 504 "), "{got}");
}

/// A request of which the answer has begun, so that the proxy has seen the upstream's limits.
async fn begin(
    proxy: &Proxy,
    accept: impl Future<Output = Connection>,
) -> (Client, Connection, SendStream<Bytes>) {
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut connection = accept.await;
    let (_, mut respond) = connection.streams.recv().await.unwrap();
    let stream = respond.send_response(Response::new(()), false).unwrap();
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    (client, connection, stream)
}

#[tokio::test]
async fn requests_share_a_connection_up_to_its_stream_limit() {
    let upstream = Upstream::listen().await;
    let mut route = over_http2(upstream.route());
    route.http.idle_timeout = Duration::from_millis(1);
    let proxy = Proxy::start(config(vec![route]));
    let (mut one, first, mut one_answer) = begin(&proxy, accept(&upstream, 2)).await;
    let (mut two, mut first, mut two_answer) = begin(&proxy, async { first }).await;

    let (mut three, mut second, mut three_answer) = begin(&proxy, accept(&upstream, 2)).await;

    for (client, answer) in [
        (&mut one, &mut one_answer),
        (&mut two, &mut two_answer),
        (&mut three, &mut three_answer),
    ] {
        answer.send_data("ok".into(), true).unwrap();
        assert_eq!(client.read_to_end().await, "2\r\nok\r\n0\r\n\r\n");
    }
    let kept = tokio::select! {
        ended = &mut first.ended => ended.map(|()| second),
        ended = &mut second.ended => ended.map(|()| first),
    };
    begin(&proxy, async { kept.unwrap() }).await;
}

#[tokio::test]
async fn requests_wait_when_eight_connections_are_full() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut full = Vec::new();
    for _ in 0..8 {
        full.push(begin(&proxy, accept(&upstream, 1)).await);
    }

    let mut client = proxy.connect().await;
    client.send(GET).await;
    let (_, connection, first_answer) = &mut full[0];
    first_answer.send_data("ok".into(), true).unwrap();

    tokio::select! {
        biased;
        _ = upstream.accept_raw() => panic!("a ninth connection"),
        Some((_, mut respond)) = connection.streams.recv() => answer(&mut respond, "ok"),
    }
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn requests_wait_when_the_upstream_takes_no_other_connection() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let (_first, mut connection, mut first_answer) = begin(&proxy, accept(&upstream, 1)).await;
    drop(upstream);

    let mut client = proxy.connect().await;
    client.send(GET).await;
    first_answer.send_data("ok".into(), true).unwrap();

    let (_, mut respond) = connection.streams.recv().await.unwrap();
    answer(&mut respond, "ok");
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_stop_the_others() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut reading = proxy.connect().await;
    reading.send(GET).await;
    let mut connection = accept(&upstream, 100).await;
    let (_, mut respond) = connection.streams.recv().await.unwrap();
    // More than a connection and the sockets behind it take by default.
    let body = Bytes::from(vec![b'x'; 32 << 20]);
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let (_, mut respond) = connection.streams.recv().await.unwrap();
        answer(&mut respond, body.clone());
        client.read_head().await.unwrap();
        stalled.push(client);
    }

    answer(&mut respond, body.slice(..8 << 20));

    let got = reading.read_to_end().await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{}", &got[..100]);
    assert!(got.ends_with("\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn goaway_replaces_a_connection_and_spares_its_requests() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut old_client = proxy.connect().await;
    old_client.send(GET).await;
    let mut old = accept(&upstream, 100).await;
    let (_, mut respond) = old.streams.recv().await.unwrap();
    drop(old.go_away);

    let mut new_client = proxy.connect().await;
    let mut new = loop {
        new_client
            .send(GET.replace("Connection: close\r\n", ""))
            .await;
        tokio::select! {
            new = accept(&upstream, 100) => break new,
            // It was sent before the word came.
            Some((_, mut respond)) = old.streams.recv() => answer(&mut respond, "ok"),
        }
        new_client.read_head().await.unwrap();
        new_client.read("2\r\nok\r\n0\r\n\r\n".len()).await;
    };
    let (_, mut new_respond) = new.streams.recv().await.unwrap();
    answer(&mut new_respond, "ok");
    let head = new_client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    answer(&mut respond, "ok");
    assert!(old_client.read_to_end().await.starts_with("HTTP/1.1 200 "));
    old.ended.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_dies_is_replaced() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut connection = accept(&upstream, 100).await;
    connection.streams.recv().await.unwrap();
    // Without an answer: this request is idempotent.
    connection.ended.abort();

    let mut connection = accept(&upstream, 100).await;
    let (_, mut respond) = connection.streams.recv().await.unwrap();
    answer(&mut respond, "ok");

    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_reset_stream_is_502_and_a_leaving_client_resets_its_own() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut connection = accept(&upstream, 100).await;
    let (_, mut respond) = connection.streams.recv().await.unwrap();
    respond.send_reset(h2::Reason::INTERNAL_ERROR);
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 502 "));

    let mut client = proxy.connect().await;
    client.send(GET).await;
    let (_, mut respond) = connection.streams.recv().await.unwrap();
    SockRef::from(&client.0)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let reason = std::future::poll_fn(|context| respond.poll_reset(context)).await;
    assert_eq!(reason.unwrap(), h2::Reason::CANCEL);
}

const POST: &str = "POST /a HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\
                    Content-Length: 2\r\n\r\n";

#[tokio::test]
async fn a_request_that_is_refused_is_sent_again_whatever_its_method() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(POST).await;
    let mut connection = accept(&upstream, 100).await;
    let (_, mut respond) = connection.streams.recv().await.unwrap();
    respond.send_reset(h2::Reason::REFUSED_STREAM);

    let (request, mut respond) = connection.streams.recv().await.unwrap();
    client.send("hi").await;
    let (head, mut body) = request.into_parts();
    assert_eq!(head.method, "POST");
    assert_eq!(body.data().await.unwrap().unwrap(), "hi");
    answer(&mut respond, "ok");

    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_request_of_whose_body_something_was_read_is_not_sent_again() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(POST.to_owned() + "h").await;
    let mut connection = accept(&upstream, 100).await;
    let (request, mut respond) = connection.streams.recv().await.unwrap();
    assert_eq!(request.into_body().data().await.unwrap().unwrap(), "h");

    respond.send_reset(h2::Reason::REFUSED_STREAM);

    assert!(client.read_to_end().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn a_request_that_is_refused_again_and_again_is_502() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut connection = accept(&upstream, 100).await;

    for _ in 0..4 {
        let (_, mut respond) = connection.streams.recv().await.unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    }

    assert!(client.read_to_end().await.starts_with("HTTP/1.1 502 "));
}

const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// GOAWAY with no processed stream, as a server that shuts down right then sends it.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn a_request_beyond_the_last_stream_of_a_goaway_is_retried() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(POST).await;
    let mut old = upstream.accept_raw().await;
    old.send(EMPTY_SETTINGS).await;
    old.read("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()).await;
    loop {
        let head = old.read(9).await;
        let payload = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        old.read(payload as usize).await;
        if head[3] == 1 {
            break;
        }
    }

    old.send(GOAWAY).await;

    let mut new = accept(&upstream, 100).await;
    let (request, mut respond) = new.streams.recv().await.unwrap();
    client.send("hi").await;
    assert_eq!(request.into_body().data().await.unwrap().unwrap(), "hi");
    answer(&mut respond, "ok");
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn requests_are_held_until_the_upstream_listens() {
    let reserved = Reserved::port();
    let proxy = Proxy::start(config(vec![over_http2(reserved.route())]));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        clients.push(client);
    }

    let upstream = reserved.listen();
    let mut connection = accept(&upstream, 100).await;
    for _ in 0..3 {
        let (_, mut respond) = connection.streams.recv().await.unwrap();
        answer(&mut respond, "ok");
    }

    for mut client in clients {
        let got = client.read_to_end().await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    }
}

#[tokio::test]
async fn a_websocket_is_opened_with_http_1_1() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(handshake(&[])).await;

    let exchange = upstream.accept().await;

    assert!(exchange.head.contains(" HTTP/1.1\r\n"), "{}", exchange.head);
}

#[tokio::test]
async fn an_answer_whose_length_is_ambiguous_is_502() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut connection = accept(&upstream, 100).await;
    let mut asked = connection.streams.recv().await;
    for lengths in [&[""][..], &["2", "2"], &["2", "02"], &["2"]] {
        let (_request, mut respond) = asked.unwrap();
        let mut head = Response::builder();
        for length in lengths {
            head = head.header("content-length", *length);
        }
        let mut stream = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        // The stream is reset meanwhile.
        let _ = stream.send_data(Bytes::from_static(b"ok"), true);

        let got = client.read_to_end().await;
        let status = if *lengths == ["2"] { "200" } else { "502" };
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{lengths:?}: {got}"
        );
        client = proxy.connect().await;
        client.send(GET).await;
        asked = connection.streams.recv().await;
    }
}

#[tokio::test]
async fn an_answer_with_too_many_or_too_long_headers_is_502_alone() {
    let upstream = Upstream::listen().await;
    let mut route = over_http2(upstream.route());
    route.http.response_limits.max_headers = 3;
    route.http.response_limits.max_header_bytes = 1024;
    let proxy = Proxy::start(config(vec![route]));
    let mut other = proxy.connect().await;
    other.send(GET).await;
    let mut connection = accept(&upstream, 100).await;
    let (_other, mut respond_to_other) = connection.streams.recv().await.unwrap();

    // As HTTP/2 counts: 32 bytes for each field, and `:status: 200` is one. To h2 a section that is
    // as long as it may be is too long.
    let most = 1023 - (32 + 10) - (32 + 1);
    for (fields, length, status) in [(3, 1, 200), (4, 1, 502), (1, most, 200), (1, most + 1, 502)] {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let (_request, mut respond) = connection.streams.recv().await.unwrap();
        let mut head = Response::builder();
        for _ in 0..fields {
            head = head.header("x", "y".repeat(length));
        }
        respond.send_response(head.body(()).unwrap(), true).unwrap();

        let got = client.read_to_end().await;
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{fields}, {length}: {got}"
        );
    }

    answer(&mut respond_to_other, "ok");
    let got = other.read_to_end().await;
    assert!(got.ends_with("\r\nok\r\n0\r\n\r\n"), "{got}");
}

/// Reads frames until the heads of so many requests have come.
async fn read_requests(upstream: &mut Client, count: usize) {
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(upstream.read(preface.len()).await, preface.as_bytes());
    let mut heads = 0;
    while heads < count {
        let head = upstream.read(9).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        upstream.read(length as usize).await;
        heads += usize::from(head[3] == 1);
    }
}

#[tokio::test]
async fn requests_beside_a_response_that_is_not_hpack_are_repeated() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![over_http2(upstream.route())]));
    let [mut broken, mut other] = [proxy.connect().await, proxy.connect().await];
    broken.send(GET).await;
    let mut raw = upstream.accept_raw().await;
    other.send(GET).await;
    // Settings, without which nothing else may come.
    raw.send([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    read_requests(&mut raw, 2).await;

    // An answer to the first: `:status: 200`, and a name in upper case.
    raw.send([0, 0, 6, 1, 5, 0, 0, 0, 1]).await;
    raw.send(b"\x88\x00\x01X\x01y").await;

    let mut connection = accept(&upstream, 100).await;
    for _ in 0..2 {
        let (_request, mut respond) = connection.streams.recv().await.unwrap();
        answer(&mut respond, "ok");
    }
    for client in [&mut broken, &mut other] {
        let got = client.read_to_end().await;
        assert!(got.ends_with("\r\nok\r\n0\r\n\r\n"), "{got}");
    }
}
