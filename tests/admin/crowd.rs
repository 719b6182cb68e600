//! More connections than there are slots, none of which reads.

use std::path::Path;

use readygate::{config::ListenAddress, server::Listeners};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixStream},
};

use crate::support::{Proxy, config, gated};

/// Many times as many connections as the listener serves at once.
const CROWD: usize = 400;

/// Requests on each connection, so that most of their responses stay unread.
const REQUESTS: usize = 3;

/// Requests of one connection, sent at once.
fn requests() -> String {
    "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(REQUESTS)
}

async fn crowd(proxy: &Proxy) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(proxy.admin).await.unwrap();
        // It may have had to go already.
        let _ = client.write_all(requests().as_bytes()).await;
        crowd.push(client);
    }
    crowd
}

/// Asks on a connection that stays open, and awaits that all is well.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), target: &str) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok\n") {
        let byte = stream.read_u8().await;
        answer.push(byte.unwrap_or_else(|error| panic!("{target}: {error}")));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test]
async fn health_is_answered_while_a_crowd_does_not_read() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    let _crowd = crowd(&proxy).await;

    for target in ["/livez", "/readyz", "/livez"] {
        assert_eq!(proxy.get(target).await, (200, "ok\n".to_owned()));
    }
}

#[tokio::test]
async fn health_keeps_its_connection_while_a_crowd_asks() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let mut health = TcpStream::connect(proxy.admin).await.unwrap();
    ask(&mut health, "/livez").await;

    // Each has read its answer later than that, and is more than may be idle at once.
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut client = TcpStream::connect(proxy.admin).await.unwrap();
        let request = b"GET /build HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        client.write_all(request).await.unwrap();
        assert_ne!(client.read(&mut [0; 4096]).await.unwrap(), 0);
        crowd.push(client);
    }

    ask(&mut health, "/livez").await;
}

#[tokio::test]
async fn events_go_on_while_a_crowd_does_not_read() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let mut listener = TcpStream::connect(proxy.admin).await.unwrap();
    let request = "GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    listener.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = [0; 4096];
    assert_ne!(listener.read(&mut bytes).await.unwrap(), 0);

    let _crowd = crowd(&proxy).await;
    assert_eq!(proxy.get("/livez").await.0, 200);

    // The second of them was made after the crowd had come.
    let mut events = 0;
    while events < 3 {
        let read = listener.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "the stream has ended");
        let text = String::from_utf8_lossy(&bytes[..read]);
        events += text.matches("data: ").count();
    }
}

#[tokio::test]
async fn health_is_answered_at_a_unix_socket_with_a_crowd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let mut config = config(&gated(([127, 0, 0, 1], 1).into()));
    config.admin = Some(ListenAddress::Unix(path.clone()));
    let listeners = Listeners::bind(&config).unwrap();
    let run = readygate::server::run(
        listeners,
        std::sync::Arc::new(config),
        std::future::pending(),
    );
    tokio::spawn(run);
    let connect = |path: &Path| UnixStream::connect(path.to_owned());

    let mut crowd = Vec::new();
    while crowd.len() < CROWD {
        let mut client = connect(&path).await.unwrap();
        let _ = client.write_all(requests().as_bytes()).await;
        crowd.push(client);
    }

    ask(&mut connect(&path).await.unwrap(), "/livez").await;
    ask(&mut connect(&path).await.unwrap(), "/readyz").await;
}
