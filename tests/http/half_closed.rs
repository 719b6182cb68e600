//! Clients that half-close their connection with their last request (RFC 9112 §9.6).

use std::{sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
};

use readygate::{config::ListenAddress, server, tls::ServerTls};

use crate::{
    pki::{self, Authority, Folder},
    support::{Client, Proxy, Reserved, Upstream, config, handshake},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// Sends all that the client ever does.
async fn send_last<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<S>, request: &str) {
    client.send(request).await;
    client.0.shutdown().await.unwrap();
}

/// Resolves when the proxy's only worker has seen all that was sent before.
async fn seen(proxy: &Proxy) {
    let answer = proxy.exchange("GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_no_more_gets_each_of_its_answers() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let chunked = "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    for (request, answers) in [
        (GET, 1),
        ("GET / HTTP/1.0\r\n\r\n", 1),
        (&GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), 1),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            1,
        ),
        (&format!("POST / HTTP/1.1\r\nHost: a\r\n{chunked}"), 1),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
            1,
        ),
        (&GET.repeat(3), 3),
    ] {
        let mut client = proxy.connect().await;
        send_last(&mut client, request).await;
        for _ in 0..answers {
            let mut exchange = upstream.accept().await;
            seen(&proxy).await;
            if request.contains("body") {
                while !exchange.stream.read(1).await.ends_with(b"y") {}
            }
            exchange.answer(OK).await;
        }

        let got = client.read_to_end().await;

        assert_eq!(
            got.matches(" 200 OK\r\n").count(),
            answers,
            "{request}: {got}"
        );
        assert!(got.ends_with("\r\n\r\nok"), "{request}: {got}");
    }
}

#[tokio::test]
async fn a_client_that_sends_no_more_is_told_why_it_is_refused() {
    let proxy = Proxy::start(config(vec![Reserved::port().route()]));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            400,
        ),
        (&handshake(&["Sec-WebSocket-Version: 7"]), 426),
    ] {
        let mut client = proxy.connect().await;
        send_last(&mut client, request).await;

        let got = client.read_to_end().await;

        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {got}"
        );
    }
}

#[tokio::test]
async fn a_response_in_parts_is_whole_after_a_half_close() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    send_last(&mut client, GET).await;
    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n")
        .await;
    client.read_head().await.unwrap();

    // Each part is more than the proxy takes while the client does not read.
    for _ in 0..4 {
        seen(&proxy).await;
        let part = vec![b'x'; 1_000_000];
        let ((), got) = tokio::join!(exchange.stream.send(&part), client.read(part.len()));
        assert_eq!(got, part);
    }

    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn who_sends_no_more_and_breaks_the_connection_is_gone() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for head in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"] {
        let mut client = proxy.connect().await;
        send_last(&mut client, GET).await;
        let mut exchange = upstream.accept().await;
        exchange.answer(head).await;
        seen(&proxy).await;

        SockRef::from(&client.0)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);

        assert_eq!(exchange.stream.read_to_end().await, "");
    }
}

#[tokio::test]
async fn a_body_that_ends_too_early_stays_an_error() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for body in [
        "Content-Length: 9\r\n\r\nbody",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
    ] {
        let mut client = proxy.connect().await;
        send_last(
            &mut client,
            &format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"),
        )
        .await;

        // Its connection breaks off before the end of the body.
        let sent = upstream.accept_raw().await.read_to_end().await;

        assert!(!sent.ends_with("0\r\n\r\n"), "{sent}");
        let got = client.read_to_end().await;
        assert!(!got.contains(" 200 "), "{got}");
    }
}

#[tokio::test]
async fn what_can_only_be_held_is_over_when_the_client_sends_no_more() {
    let reserved = Reserved::port();
    let proxy = Proxy::start(config(vec![reserved.route()]));
    for request in [
        GET,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut client = proxy.connect().await;
        send_last(&mut client, request).await;

        // Sooner than it would be given up otherwise.
        let got = client.read_to_end().await;
        assert!(got.is_empty() || got.contains("client left"), "{got}");
    }
}

#[tokio::test]
async fn an_answer_under_way_is_finished_though_the_proxy_drains() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    send_last(&mut client, GET).await;
    let mut exchange = upstream.accept().await;
    seen(&proxy).await;

    let ended = proxy.stop();
    exchange.answer(OK).await;

    assert!(client.read_to_end().await.ends_with("\r\n\r\nok"));
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_says_over_tls_that_it_sends_no_more() {
    let upstream = Upstream::listen().await;
    let authority = Authority::new("authority");
    let (folder, issued) = (Folder::new(), authority.issue(&["localhost"]));
    let mut config = config(vec![upstream.route()]);
    let settings = pki::listener(folder.identity("server", &issued));
    config.listen[0].tls = Some(Arc::new(ServerTls::load(settings).unwrap()));
    let proxy = Proxy::start(config);
    let roots = pki::client_config(authority.roots());
    let mut client = pki::connect(proxy.address, roots, "localhost")
        .await
        .unwrap();
    send_last(&mut client, GET).await;

    upstream.accept().await.answer(OK).await;

    assert!(client.read_to_end().await.ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn a_client_of_a_unix_socket_may_send_no_more_or_be_gone() {
    let path = std::env::temp_dir().join(format!("readygate-{}-h.sock", std::process::id()));
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.listen = vec![ListenAddress::Unix(path.clone()).into()];
    let listeners = server::bind(&config.listen).unwrap();
    let run = server::run(listeners, Arc::new(config), std::future::pending());
    let clients = async {
        let mut client = Client(UnixStream::connect(&path).await.unwrap());
        send_last(&mut client, GET).await;
        upstream.accept().await.answer(OK).await;
        let got = client.read_to_end().await;

        let mut client = Client(UnixStream::connect(&path).await.unwrap());
        send_last(&mut client, GET).await;
        let mut exchange = upstream.accept().await;
        drop(client);
        let mut rest = Vec::new();
        let _ = exchange.stream.0.read_to_end(&mut rest).await;
        got
    };

    let got = tokio::select! {
        _ = run => panic!("nobody has stopped it"),
        got = clients => got,
    };

    assert!(got.ends_with("\r\n\r\nok"), "{got}");
    std::fs::remove_file(path).unwrap();
}
