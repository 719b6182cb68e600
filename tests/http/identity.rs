//! Request ids and traces.

use readygate::client_addr::TrustedProxies;

use crate::support::{Exchange, Proxy, Upstream, config, handshake};

const GIVEN: &str = "X-Request-Id: 01JD-given";

/// Returns what reaches the upstream of a WebSocket and of a plain request with these fields.
async fn requests(is_trusted: bool, lines: &[&str]) -> [Exchange; 2] {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    if is_trusted {
        config.trusted_proxies = TrustedProxies {
            networks: readygate::client_addr::PRIVATE_NETWORKS.into(),
            unix: false,
        };
    }
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

/// The id in an answer of the proxy, which is in its header and in its text.
fn id_of(answer: &str) -> &str {
    let (_, rest) = answer.split_once("X-Request-Id: ").unwrap();
    let id = rest.lines().next().unwrap();
    assert!(answer.ends_with(&format!(" (request {id})\n")), "{answer}");
    id
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own_whatever_a_client_says() {
    let lines = [
        GIVEN,
        "X_Request_Id: 01JD-given",
        "Connection: Upgrade, X-Request-Id",
    ];
    let [websocket, plain] = requests(false, &lines).await;

    let ids = [&websocket, &plain].map(|it| it.header("x-request-id").unwrap());
    assert_ne!(ids[0], ids[1]);
    assert!(!ids.contains(&"01JD-given"), "{ids:?}");
    assert_eq!(plain.header("x_request_id"), None);
}

#[tokio::test]
async fn what_a_trusted_proxy_has_called_a_request_stays() {
    for exchange in requests(true, &[GIVEN]).await {
        assert_eq!(exchange.header("x-request-id"), Some("01JD-given"));
    }
    // The header is there once also where that cannot be an id.
    for exchange in requests(true, &["X-Request-Id: a b", GIVEN]).await {
        let id = exchange.header("x-request-id").unwrap();
        assert_ne!(id, "a b");
    }
}

#[tokio::test]
async fn an_answer_of_the_proxy_has_the_id_of_its_request() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    "/app".clone_into(&mut route.path);
    route.origins = vec!["https://a.example".parse().unwrap()];
    let proxy = Proxy::start(config(vec![route]));

    let unrouted = proxy.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let malformed = "GET /app HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\
                     Transfer-Encoding: chunked\r\n\r\n";
    let malformed = proxy.exchange(malformed);
    let handshake = handshake(&["GET /app HTTP/1.1", "Connection: Upgrade, close"]);
    let foreign = proxy.exchange(&handshake);

    let answers = [unrouted.await, malformed.await, foreign.await];
    let ids: std::collections::BTreeSet<_> = answers.iter().map(|answer| id_of(answer)).collect();
    assert_eq!(ids.len(), 3, "{answers:?}");
    assert!(upstream.is_untouched());
}

// A proxy that takes no part in a trace forwards them unchanged (W3C Trace Context).
#[tokio::test]
async fn headers_of_traces_go_upstream_as_they_came() {
    let valid = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let cloud = "X-Cloud-Trace-Context: 105445aa7843bc8bf206b12000100000/1;o=1";
    for traceparent in [valid, "traceparent: nonsense"] {
        let lines = [
            traceparent,
            "tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            cloud,
        ];
        for exchange in requests(false, &lines).await {
            for line in lines {
                let (name, value) = line.split_once(": ").unwrap();
                assert_eq!(exchange.header(name), Some(value), "{}", exchange.head);
            }
        }
    }
}
