//! A proxy, a scripted upstream and a client that speak in bytes.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use readygate::{
    client_addr::TrustedProxies,
    config::{DrainSettings, Limits, ListenAddress},
    config_file::{Cautions, Config, Effective},
    observability,
    route::{Route, Routes},
    server::{self, Listener, Listeners},
    upstream::Address,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) fn config(routes: Vec<Route>) -> Config {
    Config {
        listen: vec![ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()).into()],
        trusted_proxies: TrustedProxies::default(),
        workers: NonZeroUsize::MIN,
        admin: None,
        log: observability::Settings::default(),
        limits: Limits::new(1024 * 1024),
        drain: DrainSettings {
            spread: Duration::ZERO,
            ..DrainSettings::default()
        },
        reload_poll: None,
        sha256: None,
        routes: Routes::new(routes),
        effective: Effective::default(),
        cautions: Cautions::default(),
    }
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    admin: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    run: JoinHandle<io::Result<()>>,
}

impl Proxy {
    pub(crate) fn start(config: Config) -> Self {
        let listeners = Listeners::bind(&config).unwrap();
        let tcp = |listener: &Listener| match *listener.address() {
            ListenAddress::Tcp(address) => address,
            ListenAddress::Unix(_) => panic!("tests listen on TCP"),
        };
        let address = tcp(&listeners.traffic[0]);
        let admin = listeners.admin.as_ref().map(tcp);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let run = tokio::spawn(server::run(listeners, Arc::new(config), shutdown));
        Self {
            address,
            admin,
            stop,
            run,
        }
    }

    /// In front of `upstream`, with one default route.
    pub(crate) fn before(upstream: &Upstream) -> Self {
        Self::start(config(vec![upstream.route()]))
    }

    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends `request` on a connection of its own and returns everything that comes back.
    pub(crate) async fn exchange(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.send(request).await;
        client.read_to_end().await
    }

    /// Reads the count of rejections for `reason`; the proxy must have an admin listener.
    pub(crate) async fn rejections(&self, reason: &str) -> u64 {
        let series = format!("readygate_rejections_total{{reason=\"{reason}\"}}");
        self.metric(&series).await
    }

    /// Reads the value of a series; the proxy must have an admin listener.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let mut admin = Client(TcpStream::connect(self.admin.unwrap()).await.unwrap());
        let request = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        admin.send(request).await;
        let metrics = admin.read_to_end().await;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    /// Asks for the drain; what is returned resolves when the server has ended.
    pub(crate) fn stop(self) -> JoinHandle<io::Result<()>> {
        let _ = self.stop.send(());
        self.run
    }
}

pub(crate) struct Upstream(TcpListener);

impl Upstream {
    pub(crate) async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn route(&self) -> Route {
        Route::to(tcp(self.0.local_addr().unwrap()))
    }

    /// The next connection, with the head of its request.
    pub(crate) async fn accept(&self) -> Exchange {
        self.accept_raw().await.read_request().await.unwrap()
    }

    /// Accepts and closes the waiting connections, and returns their number.
    pub(crate) fn waiting(&self) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        let accept = || self.0.poll_accept(&mut context);
        std::iter::repeat_with(accept)
            .take_while(Poll::is_ready)
            .count()
    }

    /// Returns whether no connection waits to be accepted.
    pub(crate) fn is_untouched(&self) -> bool {
        self.waiting() == 0
    }

    pub(crate) async fn accept_raw(&self) -> Client {
        Client(self.0.accept().await.unwrap().0)
    }
}

/// A port that refuses connections for as long as nobody listens on it.
pub(crate) struct Reserved(Socket);

impl Reserved {
    pub(crate) fn port() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any_port.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    pub(crate) fn route(&self) -> Route {
        Route::to(tcp(self.0.local_addr().unwrap().as_socket().unwrap()))
    }

    pub(crate) fn listen(self) -> Upstream {
        self.0.listen(128).unwrap();
        Upstream(TcpListener::from_std(self.0.into()).unwrap())
    }
}

fn tcp(address: SocketAddr) -> Address {
    Address::Tcp {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

/// A connection to the upstream on which a request has arrived.
pub(crate) struct Exchange<S = TcpStream> {
    pub(crate) head: String,
    pub(crate) stream: Client<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    /// The value of a request header that is there once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers(name);
        assert!(values.len() <= 1, "{name} in {}", self.head);
        values.first().copied()
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// Answers with `answer`, in which `{accept}` stands for the right key.
    pub(crate) async fn answer(&mut self, answer: &str) {
        self.answer_bytes(answer.as_bytes()).await;
    }

    pub(crate) async fn answer_bytes(&mut self, answer: &[u8]) {
        let key = self.header("sec-websocket-key").unwrap_or_default();
        let accept = derive_accept_key(key.as_bytes());
        let place = b"{accept}";
        let place = answer.windows(place.len()).position(|it| it == place);
        let (before, after) = place.map_or((answer, &b""[..]), |at| {
            (&answer[..at], &answer[at + "{accept}".len()..])
        });
        let accept = if place.is_some() { &*accept } else { "" };
        let answer = [before, accept.as_bytes(), after].concat();
        self.stream.send(answer).await;
    }

    /// Says that nothing more comes.
    pub(crate) async fn shutdown(&mut self) {
        self.stream.0.shutdown().await.unwrap();
    }

    pub(crate) async fn answer_101(&mut self) {
        self.answer(SWITCHING_PROTOCOLS).await;
    }
}

pub(crate) const SWITCHING_PROTOCOLS: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n";

/// Client side of a connection.
pub(crate) struct Client<S = TcpStream>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Sends what the other end may have stopped reading.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// Reads a head up to its empty line; `None` at an end before its first byte.
    pub(crate) async fn read_head(&mut self) -> Option<String> {
        let head = self.read_head_bytes().await?;
        Some(String::from_utf8(head).unwrap())
    }

    pub(crate) async fn read_head_bytes(&mut self) -> Option<Vec<u8>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) if head.is_empty() => return None,
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
            }
        }
        Some(head)
    }

    pub(crate) async fn read_request(mut self) -> Option<Exchange<S>> {
        let head = self.read_head().await?;
        Some(Exchange { head, stream: self })
    }

    pub(crate) async fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.0.read_exact(&mut read).await.unwrap();
        read
    }

    /// Everything up to the end of the connection, however it ends.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let mut read = Vec::new();
        let _ = self.0.read_to_end(&mut read).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Opens a WebSocket and expects its `101`.
    pub(crate) async fn open(&mut self) -> String {
        self.send(handshake(&[])).await;
        let head = self.read_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        head
    }

    /// The code of a close frame, which is the next thing to come.
    pub(crate) async fn read_close_code(&mut self) -> u16 {
        let frame = self.read(4).await;
        assert_eq!(frame[0], 0x88, "{frame:?}");
        u16::from_be_bytes([frame[2], frame[3]])
    }
}

const HANDSHAKE: [&str; 6] = [
    "GET /chat?token=secret HTTP/1.1",
    "Host: chat.example",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A valid handshake in which the lines that have the same name as one of `lines` are
/// replaced, and the rest of `lines` added; `"Upgrade:"` removes, and a line with spaces
/// and no colon is the request line.
pub(crate) fn handshake(lines: &[&str]) -> String {
    let name = |line: &str| line.split([':', ' ']).next().map(str::to_lowercase);
    let is_request_line = |line: &&&str| line.contains(" HTTP/");
    let request_line = lines.iter().find(is_request_line).unwrap_or(&HANDSHAKE[0]);
    let kept = HANDSHAKE[1..]
        .iter()
        .filter(|kept| !lines.iter().any(|line| name(line) == name(kept)));
    let added = lines
        .iter()
        .filter(|line| !line.ends_with(':') && !is_request_line(line));
    let all: Vec<_> = std::iter::once(request_line)
        .chain(kept)
        .chain(added)
        .copied()
        .collect();
    all.join("\r\n") + "\r\n\r\n"
}

/// A client's text frame.
pub(crate) fn text_frame(text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 126);
    let mut frame = vec![0x81, 0x80 | length];
    frame.extend(mask);
    frame.extend(
        text.bytes()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}
