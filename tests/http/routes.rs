//! Choice of the route, and rejected paths and origins.

use readygate::route::Route;

use crate::support::{Proxy, Reserved, Upstream, config, handshake};

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or("none")
}

fn at(path: &str, upstream: &Upstream) -> Route {
    Route {
        path: path.to_owned(),
        ..upstream.route()
    }
}

/// Treatment of a path where `/ws` and everything else have different routes.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// Sent unchanged to the upstream of `/ws`.
    Ws,
    Rest,
    Refused,
}

const PATHS: [(&str, Verdict); 22] = [
    ("/ws", Verdict::Ws),
    ("/ws/a", Verdict::Ws),
    ("/wsx", Verdict::Rest),
    ("/%77s", Verdict::Ws),
    ("/ws/a//b", Verdict::Ws),
    ("/ws/a;x", Verdict::Ws),
    ("/ws/a%2Fb", Verdict::Ws),
    ("/a//b", Verdict::Rest),
    ("/ws%20", Verdict::Rest),
    ("/ws/../admin", Verdict::Refused),
    ("/ws/./a", Verdict::Refused),
    ("/ws/%2e%2e/admin", Verdict::Refused),
    ("/ws/..;/admin", Verdict::Refused),
    ("/ws%2f..%2fadmin", Verdict::Refused),
    ("//ws", Verdict::Refused),
    ("/ws;x", Verdict::Refused),
    ("/ws%2Fadmin", Verdict::Refused),
    ("/ws%00", Verdict::Refused),
    ("/ws\\admin", Verdict::Refused),
    ("/ws%5cadmin", Verdict::Refused),
    ("/ws#x", Verdict::Refused),
    ("/ws%zz", Verdict::Refused),
];

#[tokio::test]
async fn a_path_goes_upstream_unchanged_or_is_refused() {
    let (ws, rest) = (Upstream::listen().await, Upstream::listen().await);
    let proxy = Proxy::start(config(vec![at("/ws", &ws), at("/", &rest)]));
    let handshake = |path: &str| handshake(&[&format!("GET {path} HTTP/1.1")]);
    let plain = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: chat.example\r\n\r\n");
    for (path, verdict) in PATHS {
        for request in [handshake(path), plain(path)] {
            let mut client = proxy.connect().await;
            client.send(&request).await;

            let upstream = match verdict {
                Verdict::Ws => &ws,
                Verdict::Rest => &rest,
                Verdict::Refused => {
                    let answer = client.read_to_end().await;
                    assert_eq!(status(&answer), "400", "{path}: {answer}");
                    continue;
                }
            };
            let exchange = upstream.accept().await;
            let target = format!("GET {path} HTTP/1.1\r\n");
            assert!(exchange.head.starts_with(&target), "{}", exchange.head);
        }
    }
}

#[tokio::test]
async fn each_route_has_an_upstream_of_its_own() {
    let upstreams = [
        ("", "/", Upstream::listen().await),
        ("", "/api", Upstream::listen().await),
        ("", "=/api", Upstream::listen().await),
        ("*.example", "/", Upstream::listen().await),
        ("chat.example", "/", Upstream::listen().await),
    ];
    let route = |(host, path, upstream): &(&str, &str, Upstream)| Route {
        host: (*host).to_owned(),
        path: (*path).to_owned(),
        ..upstream.route()
    };
    let proxy = Proxy::start(config(upstreams.iter().map(route).collect()));
    for (host, path, expected) in [
        ("other", "/", 0),
        ("other", "/apis", 0),
        ("other", "/api/", 1),
        ("other", "/api", 2),
        ("other", "/api?x=/", 2),
        ("api.example", "/api", 3),
        ("CHAT.example:8080", "/api", 4),
        ("chat.example.", "/", 4),
    ] {
        let mut client = proxy.connect().await;
        client
            .send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;

        let exchange = upstreams[expected].2.accept().await;

        assert_eq!(exchange.header("host"), Some(host), "{path}");
    }
}

// RFC 9110 §7.4.
#[tokio::test]
async fn a_name_that_was_rebound_to_the_proxy_is_421() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![Route {
        host: "chat.example".to_owned(),
        ..upstream.route()
    }]));

    let rebound = proxy
        .exchange("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .await;

    assert_eq!(status(&rebound), "421", "{rebound}");
    assert!(
        rebound.contains("\r\n\r\nno route for this host (request "),
        "{rebound}"
    );
}

// RFC 6455 §10.2.
#[tokio::test]
async fn an_origin_that_only_looks_like_an_allowed_one_is_403() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![Route {
        origins: vec!["https://app.example.com".parse().unwrap()],
        ..upstream.route()
    }]));
    for (origins, expected) in [
        (&["Origin: https://app.example.com"][..], "101"),
        (&["Origin: https://APP.Example.com"], "101"),
        (&["Origin: https://app.example.com:443"], "101"),
        (&["Origin: https://other.example.com"], "403"),
        (&[], "403"),
        (&["Origin: null"], "403"),
        (&["Origin: https://app.example.com.evil.com"], "403"),
        (&["Origin: https://evil.com/https://app.example.com"], "403"),
        (&["Origin: http://app.example.com"], "403"),
        (&["Origin: https://app.example.com:8443"], "403"),
        (&["Origin: https://app.example.com."], "403"),
        (&["Origin: https://app.example.com/"], "403"),
        (
            &["Origin: https://app.example.com https://app.example.com"],
            "403",
        ),
        (
            &[
                "Origin: https://app.example.com",
                "Origin: https://app.example.com",
            ],
            "400",
        ),
    ] {
        let mut client = proxy.connect().await;
        client.send(handshake(origins)).await;
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), expected, "{origins:?}");
    }
}

// Clients that are not browsers send none, so the list is optional (RFC 6455 §10.2).
#[tokio::test]
async fn without_a_list_of_origins_every_origin_may_connect() {
    let upstream = Reserved::port();
    let proxy = Proxy::start(config(vec![upstream.route()]));
    for origin in [
        &["Origin: https://evil.example"][..],
        &["Origin: null"],
        &[],
    ] {
        let mut client = proxy.connect().await;
        client.send(handshake(origin)).await;
        let head = client.read_head().await.unwrap();
        assert_eq!(status(&head), "101", "{origin:?}");
    }
}
