//! Trust in the claims of clients and proxies.

use readygate::client_addr::{Network, TrustedProxies};

use crate::support::{Exchange, Proxy, Upstream, config, handshake};

/// Claims of a client about itself, true or not.
const CLAIMS: [&str; 9] = [
    "X-Forwarded-For: 6.6.6.6, 192.0.2.9",
    "X-Forwarded-For: 127.0.0.9",
    "X-Forwarded-Host: public.example",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Prefix: /app",
    "X-Forwarded-Proto: https",
    "X-Real-IP: 192.0.2.9",
    "Forwarded: for=192.0.2.9;proto=https",
    "X_Forwarded_For: 6.6.6.6",
];

/// Further fields that proxies set and applications believe.
const COUSINS: [&str; 15] = [
    "Forwarded-For",
    "True-Client-IP",
    "Via",
    "X-Client-IP",
    "X-Forwarded",
    "X-Forwarded-By",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Scheme",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Original-Host",
    "X-Original-URL",
    "X-Rewrite-URL",
];

fn loopback() -> TrustedProxies {
    let first = "127.0.0.0".parse().unwrap();
    TrustedProxies {
        networks: vec![Network::of(first, 8).unwrap()],
        unix: false,
    }
}

/// Returns what reaches the upstream of a WebSocket and of a plain request with these claims.
async fn requests(trusted: TrustedProxies, lines: &[&str]) -> [Exchange; 2] {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.trusted_proxies = trusted;
    let proxy = Proxy::start(config);

    let mut websocket = proxy.connect().await;
    websocket.send(handshake(lines)).await;
    let websocket = upstream.accept().await;

    let mut plain = proxy.connect().await;
    let lines = lines.join("\r\n");
    let request = format!("GET / HTTP/1.1\r\nHost: chat.example\r\n{lines}\r\n\r\n");
    plain.send(request).await;
    [websocket, upstream.accept().await]
}

// Anybody can send such fields, so only a trusted proxy's count.
#[tokio::test]
async fn claims_of_a_client_that_is_not_trusted_are_replaced() {
    let connection = "Connection: upgrade, X-Forwarded-For, Forwarded, X-Forwarded-Proto, Host";
    let lines = [&CLAIMS[..], &[connection]].concat();
    for exchange in requests(TrustedProxies::default(), &lines).await {
        for (name, value) in [
            ("x-forwarded-for", Some("127.0.0.1")),
            ("x-forwarded-host", Some("chat.example")),
            ("x-forwarded-proto", Some("http")),
            (
                "forwarded",
                Some("for=127.0.0.1;host=\"chat.example\";proto=http"),
            ),
            ("host", Some("chat.example")),
            ("x-forwarded-port", None),
            ("x-forwarded-prefix", None),
            ("x-real-ip", None),
            ("x_forwarded_for", None),
        ] {
            assert_eq!(exchange.header(name), value, "{}", exchange.head);
        }
    }
}

#[tokio::test]
async fn claims_of_a_trusted_proxy_pass_with_the_proxy_behind_them() {
    for exchange in requests(loopback(), &CLAIMS).await {
        for (name, value) in [
            (
                "x-forwarded-for",
                Some("6.6.6.6, 192.0.2.9, 127.0.0.9, 127.0.0.1"),
            ),
            ("x-forwarded-host", Some("public.example")),
            ("x-forwarded-port", Some("443")),
            ("x-forwarded-prefix", Some("/app")),
            ("x-forwarded-proto", Some("https")),
            ("x-real-ip", Some("192.0.2.9")),
            (
                "forwarded",
                Some("for=192.0.2.9;proto=https, for=127.0.0.1;host=\"chat.example\";proto=http"),
            ),
            ("x_forwarded_for", None),
        ] {
            assert_eq!(exchange.header(name), value, "{}", exchange.head);
        }
    }
}

#[tokio::test]
async fn other_claims_about_a_client_need_a_trusted_proxy() {
    let lines = COUSINS.map(|name| format!("{name}: said"));
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    for (trusted, expected) in [
        (TrustedProxies::default(), None),
        (loopback(), Some("said")),
    ] {
        for exchange in requests(trusted, &lines).await {
            for name in COUSINS {
                let value = exchange.header(name);
                assert_eq!(value, expected, "{name}: {}", exchange.head);
            }
        }
    }
}
