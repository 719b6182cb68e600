//! Clients that say with their last request that they send no more (RFC 9112 §9.6).

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Proxy, config, gated};

fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
}

/// Sends all that the client ever does.
async fn send_last(proxy: &Proxy, requests: &str) -> TcpStream {
    let mut client = TcpStream::connect(proxy.admin).await.unwrap();
    client.write_all(requests.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    client
}

/// Reads until an event has come; none does when the stream ends.
async fn has_event(client: &mut TcpStream) -> bool {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains("data: ") {
        if client.read_buf(&mut got).await.unwrap() == 0 {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn a_client_that_sends_no_more_gets_each_of_its_answers() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let pipelined = request("GET", "/livez") + &request("GET", "/metrics") + &request("GET", "/");
    for (requests, answers) in [
        (request("GET", "/livez"), 1),
        (request("GET", "/readyz?backend=1&verbose"), 1),
        (request("GET", "/metrics"), 1),
        (request("GET", "/sessions"), 1),
        (request("GET", "/nowhere"), 1),
        (request("POST", "/log?level=info"), 1),
        (pipelined, 3),
    ] {
        let mut client = send_last(&proxy, &requests).await;

        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();

        let heads = got.matches("HTTP/1.1 ").count();
        assert_eq!(heads, answers, "{requests}: {got}");
        assert!(got.ends_with('\n') || got.ends_with('}'), "{got}");
    }
}

#[tokio::test]
async fn a_body_that_ends_too_early_ends_its_connection() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let with_body = "POST /log?level=info HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n";

    let mut client = send_last(&proxy, &format!("{with_body}body")).await;

    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{got}");
}

#[tokio::test]
async fn a_listener_that_sends_no_more_gets_events_until_it_goes() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let events = request("GET", "/events");
    let mut listeners = Vec::new();
    for _ in 0..16 {
        let mut listener = send_last(&proxy, &events).await;
        assert!(has_event(&mut listener).await);
        listeners.push(listener);
    }
    let mut refused = send_last(&proxy, &events).await;
    assert!(!has_event(&mut refused).await);

    drop(listeners);

    while !has_event(&mut send_last(&proxy, &events).await).await {}
}
