//! A worker of the proxy without its acceptor, before an HTTP/1.1 upstream, over sockets.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
};

use readygate::{
    client_addr::Endpoints,
    config_file::Config,
    downstream::{self, HttpVersions},
    limits::connections::Admission,
    state::{process::ProcessState, worker::WorkerState},
    transport::Transport,
};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    task,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A request as browsers send it.
const REQUEST: &str = "GET /api/v1/messages?limit=50 HTTP/1.1\r\n\
    Host: chat.example\r\n\
    Connection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json, text/plain, */*\r\n\
    Accept-Language: en-GB,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://chat.example/rooms/17\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

const RESPONSE: &str = "HTTP/1.1 200 OK\r\n\
    Date: Mon, 30 Nov 2026 12:00:00 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 67\r\n\
    Cache-Control: no-cache\r\n\
    ETag: \"5d41402abc4b2a76b9719d911017c592\"\r\n\r\n\
    {\"messages\":[{\"id\":1,\"text\":\"lorem\"},{\"id\":2,\"text\":\"ipsum dolor\"}]";

/// An opening handshake as browsers send it.
const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\n\
    Host: chat.example\r\n\
    Connection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Origin: https://chat.example\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

/// Requests on one connection, and handshakes, that are counted together.
const COUNT: usize = 20;

pub(crate) struct Worker {
    runtime: LocalRuntime,
    local: Rc<WorkerState>,
    /// Listening socket of the upstream.
    upstream: TcpListener,
    /// Clients' and upstream's ends of the connections: none ends while instructions are
    /// counted.
    open: Vec<TcpStream>,
}

impl Worker {
    fn start() -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").expect("a free port");
        upstream.set_nonblocking(true).expect("a socket");
        let address = upstream.local_addr().expect("it is bound");
        let config = format!("[[route]]\nupstream = \"http://{address}\"\n");
        let config = Config::parse("bench", &config, &|_| None).expect("valid");
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("a runtime");
        Self {
            runtime,
            local: WorkerState::new(Arc::new(ProcessState::new(Arc::new(config)))),
            upstream,
            open: Vec::new(),
        }
    }

    /// A worker that has forwarded requests before, on connections that are kept.
    pub(crate) fn forwarding() -> Self {
        let mut worker = Self::start();
        worker.runtime.block_on(async {
            let mut client = connect(&worker.local);
            client.write_all(REQUEST.as_bytes()).expect("it fits");
            let mut upstream = eventually(|| worker.upstream.accept()).await.0;
            upstream.set_nonblocking(true).expect("a socket");
            read_head(&mut upstream).await;
            upstream.write_all(RESPONSE.as_bytes()).expect("it fits");
            read_whole(&mut client, RESPONSE.len()).await;
            worker.open.extend([client, upstream]);
        });
        worker.forward();
        worker
    }

    /// Has requests forwarded, one after the other.
    pub(crate) fn forward(&mut self) {
        let Self { runtime, open, .. } = self;
        let [client, upstream] = &mut open[..] else {
            panic!("two connections");
        };
        runtime.block_on(async {
            for _ in 0..COUNT {
                client.write_all(REQUEST.as_bytes()).expect("it fits");
                read_head(upstream).await;
                upstream.write_all(RESPONSE.as_bytes()).expect("it fits");
                read_whole(client, RESPONSE.len()).await;
            }
        });
    }

    /// A worker that has opened sessions before.
    pub(crate) fn upgrading() -> Self {
        let mut worker = Self::start();
        worker.open();
        worker
    }

    /// Opens sessions up to the first message that gets to the upstream.
    pub(crate) fn open(&mut self) {
        let Self {
            runtime,
            local,
            upstream,
            open,
        } = self;
        runtime.block_on(async {
            for _ in 0..COUNT {
                let mut client = connect(local);
                client.write_all(HANDSHAKE.as_bytes()).expect("it fits");
                read_head(&mut client).await;
                let mut upstream = eventually(|| upstream.accept()).await.0;
                upstream.set_nonblocking(true).expect("a socket");
                answer_handshake(&mut upstream).await;
                let frame = super::frame(b"hello");
                client.write_all(&frame).expect("it fits");
                read_whole(&mut upstream, frame.len()).await;
                open.extend([client, upstream]);
            }
        });
    }
}

/// Connects a client, which is served.
fn connect(local: &Rc<WorkerState>) -> TcpStream {
    let (client, socket) = super::socket_pair();
    let address: SocketAddr = client.local_addr().expect("it is bound");
    let ends = Endpoints {
        client: address.into(),
        server: None,
        is_known: true,
    };
    let socket = tokio::net::TcpStream::from_std(socket).expect("a runtime");
    let stream = Transport::Tcp(socket);
    let served = downstream::serve(
        stream,
        HttpVersions::Http1,
        ends,
        Admission::Admitted,
        local,
    );
    task::spawn_local(async {
        if let Some(session) = served.await {
            task::spawn_local(session);
        }
    });
    client
}

async fn answer_handshake(upstream: &mut TcpStream) {
    let head = read_head(upstream).await;
    let head = str::from_utf8(&head).expect("ASCII");
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .expect("a handshake");
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    upstream.write_all(answer.as_bytes()).expect("it fits");
}

/// Waits until what is asked of a socket does not block.
async fn eventually<T>(mut ask: impl FnMut() -> io::Result<T>) -> T {
    for _ in 0..1000 {
        task::yield_now().await;
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            answer => return answer.expect("an open socket"),
        }
    }
    panic!("nothing comes");
}

async fn read_head(socket: &mut TcpStream) -> Vec<u8> {
    let mut got = vec![0; 2048];
    let bytes = eventually(|| socket.read(&mut got)).await;
    got.truncate(bytes);
    assert!(got.ends_with(b"\r\n\r\n"), "a head comes in one piece");
    got
}

/// Reads a message of so many bytes, which comes in one piece, or of some more.
async fn read_whole(socket: &mut TcpStream, bytes: usize) {
    let mut got = [0; 2048];
    let read = eventually(|| socket.read(&mut got)).await;
    assert!(read >= bytes, "{read} of {bytes} bytes");
}
