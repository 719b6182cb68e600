//! Access to the endpoints: from which addresses, with which `Host` and `Origin`.

use readygate::server::Listeners;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::support::{Proxy, Upstream, config, gated, port};

const ENDPOINTS: &str = "  GET  /livez\n";

#[tokio::test]
async fn an_unknown_path_is_answered_with_what_there_is() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    for target in [
        "/nothing",
        "/sessions/",
        "/sessions/1/2",
        "//livez",
        "/livez/",
    ] {
        let (status, body) = proxy.get(target).await;
        assert_eq!(status, 404, "{target}");
        assert!(body.contains(ENDPOINTS), "{body}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_answered_with_the_right_one() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    let (head, body) = proxy.exchange("GET", "/drain", &[]).await;
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    assert!(head.contains("\r\nallow: POST\r\n"), "{head}");
    assert!(body.contains(ENDPOINTS), "{body}");
    let (status, _) = proxy.ask("POST", "/livez", &[]).await;
    assert_eq!(status, 405);
    let (head, body) = proxy.exchange("HEAD", "/livez", &[]).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn names_and_pages_of_others_are_refused() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let rebound = &["Host: rebound.example:9901"];

    assert_eq!(proxy.ask("GET", "/sessions", rebound).await.0, 403);
    assert_eq!(proxy.ask("POST", "/drain", rebound).await.0, 403);
    let evil = &["Origin: http://evil.example"];
    assert_eq!(proxy.ask("POST", "/drain", evil).await.0, 403);
    // Monitoring may use any name.
    assert_eq!(proxy.ask("GET", "/readyz", rebound).await.0, 200);
}

#[tokio::test]
async fn a_query_that_means_nothing_is_refused() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    for (target, reason) in [
        ("/sessions?limit=0", "expected 1 to 1000"),
        ("/sessions?colour=red", "expected ended, state, route"),
        ("/sessions/x", "expected a number"),
        ("/readyz?backend=perhaps", "expected 1 or 0"),
        ("/livez?backend=1", "expected verbose"),
        ("/build?x", "there are none here"),
        ("/events?x", "there are none here"),
    ] {
        let (status, body) = proxy.get(target).await;
        assert_eq!(status, 400, "{target}");
        assert!(body.contains(reason), "{target}: {body}");
    }
}

#[tokio::test]
async fn where_clients_connect_there_is_nothing_of_it() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(config(&gated(upstream.local_addr().unwrap())));
    for target in ["/livez", "/readyz", "/sessions", "/metrics", "/build"] {
        let mut client = TcpStream::connect(proxy.traffic).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();

        let (mut request, _) = upstream.accept().await.unwrap();

        let mut line = vec![0; target.len() + 4];
        request.read_exact(&mut line).await.unwrap();
        assert_eq!(line, format!("GET {target}").into_bytes());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&gated(([127, 0, 0, 1], 1).into()));
    let address = taken.local_addr().unwrap();
    config.admin = Some(readygate::config::ListenAddress::Tcp(address));

    let error = Listeners::bind(&config).unwrap_err().to_string();

    assert!(
        error.starts_with(&format!(
            "cannot listen for admin requests on http://{address}: "
        )),
        "{error}"
    );
    assert!(error.contains("it is in use; stop the program"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_needs_no_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let mut config = config(&gated(([127, 0, 0, 1], 1).into()));
    config.admin = Some(readygate::config::ListenAddress::Unix(path.clone()));
    let listeners = Listeners::bind(&config).unwrap();
    let traffic = port(&listeners.traffic[0]);
    let run = tokio::spawn(readygate::server::run(
        listeners,
        std::sync::Arc::new(config),
        std::future::pending(),
    ));

    let mut admin = UnixStream::connect(&path).await.unwrap();
    let request = "POST /drain HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    admin.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    run.await.unwrap().unwrap();
    assert!(TcpStream::connect(traffic).await.is_err());
}

#[tokio::test]
async fn a_drain_that_is_asked_for_is_seen_and_ends_the_process() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(&gated(upstream.address())));
    let mut client = proxy.open(&[]).await;
    client.send_text("held").await;
    let mut backend = upstream.accept().await;
    proxy
        .until("/sessions", |it| {
            it["sessions"][0]["queue"]["messages"] == 1
        })
        .await;
    assert_eq!(proxy.get("/readyz").await, (200, "ok\n".to_owned()));

    let answer = proxy.ask("POST", "/drain", &[]).await;

    assert_eq!(answer, (202, "draining\n".to_owned()));
    let (status, body) = proxy.get("/readyz?verbose").await;
    assert_eq!(status, 503);
    assert_eq!(
        body,
        "[+] worker 0: ok\n[+] worker 1: ok\n[-] drain: draining\n\
         [+] limits.max_connections: ok\n[+] limits.max_held_bytes: ok\n\
         [+] limits.max_memory_bytes: ok\n[+] file descriptors: ok\nnot ok\n"
    );
    // It lives, and what was held is still delivered.
    assert_eq!(proxy.get("/livez").await.0, 200);
    backend.say("ready").await;
    assert_eq!(backend.read(10).await[6..], *b"held");
    drop(client);
    drop(backend);
    proxy.ended().await.unwrap();
}

#[tokio::test]
async fn readiness_asks_the_upstreams_only_when_it_is_told_to() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(&gated(upstream.address())));
    assert_eq!(proxy.get("/readyz?backend=1").await.0, 200);

    drop(upstream);

    assert_eq!(proxy.get("/readyz").await.0, 200);
    assert_eq!(proxy.get("/livez").await.0, 200);
    // The answer is kept for a while.
    let body = loop {
        let (status, body) = proxy.get("/readyz?backend=1").await;
        if status == 503 {
            break body;
        }
        // The end of its lifetime is no event that can be awaited: ask again.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(body.starts_with("[-] upstream of route /: "), "{body}");
}

#[tokio::test]
async fn the_build_is_named() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    let build = proxy.json("/build").await;

    assert_eq!(build["version"], env!("CARGO_PKG_VERSION"));
    assert!(build["rustc"].as_str().unwrap().starts_with("rustc 1."));
    let _stopped = proxy.stop().await.unwrap();
}

#[tokio::test]
async fn a_level_that_is_none_is_refused() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    for target in ["/log", "/log?level=loud"] {
        let (status, body) = proxy.ask("POST", target, &[]).await;
        assert_eq!(status, 400, "{target}");
        assert!(
            body.contains("expected error, warn, info, debug, trace"),
            "{body}"
        );
    }
    // In this process nobody has started a log.
    assert_eq!(proxy.ask("POST", "/log?level=warn", &[]).await.0, 503);
}

#[tokio::test]
async fn the_configuration_says_where_its_values_come_from() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    let value = proxy.json("/config").await;

    assert_eq!(value["workers"], 2);
    let settings = value["settings"].as_array().unwrap();
    let setting = |key: &str| settings.iter().find(|it| it["key"] == key).unwrap();
    assert_eq!(setting("workers")["origin"], "file");
    assert_eq!(setting("route[0].gate.ready")["value"]["text"], "ready");
    assert_eq!(setting("route[0].hold.max_messages")["value"], 1000);
    assert_eq!(setting("route[0].hold.max_messages")["origin"], "default");
}
