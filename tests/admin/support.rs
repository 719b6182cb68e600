//! A proxy with an admin listener, scripted upstreams, and clients that speak in bytes.

use std::{io, net::SocketAddr, sync::Arc};

use readygate::{
    config::ListenAddress,
    config_file::Config,
    server::{self, Listener, Listeners},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(crate) struct Proxy {
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: SocketAddr,
    stop: oneshot::Sender<()>,
    run: JoinHandle<io::Result<()>>,
}

/// The configuration of a proxy on any port, with `routes` as TOML.
pub(crate) fn config(routes: &str) -> Config {
    let text = format!(
        "listen = \"127.0.0.1:0\"\nworkers = 2\nadmin.listen = \"127.0.0.1:0\"\n\
                        drain.spread = \"0s\"\n{routes}"
    );
    Config::parse("proxy.toml", &text, &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

/// A route to `upstream` whose sessions are ready when that says so.
pub(crate) fn gated(upstream: SocketAddr) -> String {
    format!("[[route]]\nupstream = \"http://{upstream}\"\ngate.ready = {{ text = \"ready\" }}\n")
}

impl Proxy {
    pub(crate) fn start(config: Config) -> Self {
        let listeners = Listeners::bind(&config).unwrap();
        let traffic = port(&listeners.traffic[0]);
        let admin = port(listeners.admin.as_ref().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // A test that forgets its proxy does not stop it.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let run = tokio::spawn(server::run(listeners, Arc::new(config), shutdown));
        Self {
            traffic,
            admin,
            stop,
            run,
        }
    }

    /// The status and the body of the answer to `GET target`.
    pub(crate) async fn get(&self, target: &str) -> (u16, String) {
        self.ask("GET", target, &[]).await
    }

    pub(crate) async fn json(&self, target: &str) -> Value {
        let (status, body) = self.get(target).await;
        assert_eq!(status, 200, "{target}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The answer to a request with these header lines; `Host` is the address unless given.
    pub(crate) async fn ask(&self, method: &str, target: &str, lines: &[&str]) -> (u16, String) {
        let (head, body) = self.exchange(method, target, lines).await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body)
    }

    pub(crate) async fn exchange(
        &self,
        method: &str,
        target: &str,
        lines: &[&str],
    ) -> (String, String) {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let host = format!("Host: {}", self.admin);
        let has_host = lines.iter().any(|line| line.starts_with("Host:"));
        let host = if has_host { "X-None: 1" } else { &host };
        let lines = lines.join("\r\n");
        let gap = if lines.is_empty() { "" } else { "\r\n" };
        let request = format!(
            "{method} {target} HTTP/1.1\r\n{host}\r\nConnection: close\r\n{lines}{gap}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// Asks again and again until the answer is as it should be: the admin listener is asked, and
    /// announces nothing that could be awaited.
    pub(crate) async fn until(&self, target: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let value = self.json(target).await;
            if is_so(&value) {
                return value;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Asks for the drain; what is returned resolves when the server has ended.
    pub(crate) fn stop(self) -> JoinHandle<io::Result<()>> {
        let _ = self.stop.send(());
        self.run
    }

    /// Resolves when the server has ended by itself.
    pub(crate) async fn ended(self) -> io::Result<()> {
        self.run.await.unwrap()
    }

    /// A client whose WebSocket is open.
    pub(crate) async fn open(&self, lines: &[&str]) -> Peer {
        let mut client = Peer(TcpStream::connect(self.traffic).await.unwrap());
        client.send(&handshake(lines)).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }
}

pub(crate) fn port(listener: &Listener) -> SocketAddr {
    match *listener.address() {
        ListenAddress::Tcp(address) => address,
        ListenAddress::Unix(_) => panic!("tests listen on TCP"),
    }
}

pub(crate) fn handshake(lines: &[&str]) -> String {
    let more = lines.iter().flat_map(|line| [*line, "\r\n"]);
    let more: String = more.collect();
    format!(
        "GET /chat?token=canary-query HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

pub(crate) struct Upstream(TcpListener);

impl Upstream {
    pub(crate) async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection, with its handshake answered.
    pub(crate) async fn accept(&self) -> Peer {
        let mut peer = Peer(self.0.accept().await.unwrap().0);
        let head = peer.read_head().await;
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .unwrap();
        let accept = derive_accept_key(key.as_bytes());
        peer.send(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        ))
        .await;
        peer
    }
}

/// Client or upstream side of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// A short text frame of a client.
    pub(crate) async fn send_text(&mut self, text: &str) {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126);
        // The mask is zero, so that the payload is readable.
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.extend(text.bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    /// A short text frame of an upstream.
    pub(crate) async fn say(&mut self, text: &str) {
        let mut frame = vec![0x81, u8::try_from(text.len()).unwrap()];
        frame.extend(text.bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.0.read_exact(&mut read).await.unwrap();
        read
    }

    pub(crate) async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }
}
