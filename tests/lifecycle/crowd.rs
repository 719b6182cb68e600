//! The drain of more than a thousand sessions.

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, ext::Protocol};
use http::{Method, Request};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{self, JoinHandle},
    time,
};

use crate::support::{Client, Program, Upstream, all_settled, closed_port, frame, outcome, text};

/// Time within which the program must end.
const GRACE: Duration = Duration::from_secs(4);

/// Sessions of each kind.
const EACH: usize = 100;

/// Kinds of sessions by their paths: the messages that the proxy has accepted before the drain, and
/// the close code of their clients.
///
/// Those between the opening of the gate and the end of the flush have tests of their own: it
/// takes more than the buffers of sockets to stay there.
const KINDS: [(&str, usize, u16); 11] = [
    // No upstream, and nothing said.
    ("/down/silent", 0, 1001),
    // No upstream, and something said.
    ("/down/held", 1, 1001),
    // The upstream will never be ready.
    ("/gated/never", 1, 1001),
    // It has said that its services are, and not more.
    ("/services/half", 1, 1001),
    // It was lost, and nobody is in its place.
    ("/lost/held", 1, 1001),
    // It becomes ready while the process drains.
    ("/gated/late", 1, 1001),
    ("/open/idle", 0, 1001),
    // Nothing has happened for long enough to be called idle.
    ("/quiet/idle", 0, 1001),
    // The client is in the middle of a frame.
    ("/open/client-half", 0, 1001),
    // The upstream is.
    ("/open/upstream-half", 0, 1001),
    // The client has closed, and the upstream does not answer that.
    ("/open/closing", 0, 1000),
];

#[tokio::test]
async fn a_drain_ends_1000_sessions_in_every_state_in_time() {
    let (upstream, lost) = (Upstream::listen().await, Upstream::listen().await);
    let config = format!(
        "listen = [{{ address = \"127.0.0.1:0\", h2c = true }}]\n[drain]\ngrace = \"{GRACE:?}\"\nspread = \"1s\"\n\
         [[route]]\npath = \"/down\"\nupstream = \"http://{down}\"\ngate.timeout = \"1h\"\n\
         [[route]]\npath = \"/gated\"\nupstream = \"http://{up}\"\ngate.timeout = \"1h\"\n\
         gate.ready = {{ text = \"ready\" }}\n\
         [[route]]\npath = \"/services\"\nupstream = \"http://{up}\"\ngate.timeout = \"1h\"\n\
         gate.ready = {{ text = \"ready\" }}\ngate.services_ready = {{ text = \"services\" }}\n\
         [[route]]\npath = \"/lost\"\nupstream = \"http://{lost}\"\ngate.timeout = \"1h\"\n\
         gate.ready = {{ text = \"ready\" }}\n\
         [[route]]\npath = \"/quiet\"\nupstream = \"http://{up}\"\ntunnel.idle_after = \"1ms\"\n\
         [[route]]\npath = \"/\"\nupstream = \"http://{up}\"\ntunnel.close_timeout = \"1h\"\n",
        down = closed_port().await,
        up = upstream.address(),
        lost = lost.address(),
    );
    let program = Program::start(&config).await;
    let address = program.address().await;
    let (drained, draining) = watch::channel(false);
    let serving = tokio::spawn(serve(upstream, draining));
    let losing = tokio::spawn(lose(lost));
    let mut clients = Vec::new();
    for (path, _, code) in KINDS {
        for _ in 0..EACH {
            clients.push((path, code, begin(&program, path).await));
        }
    }
    let streams = begin_over_http2(address).await;
    let mut request = program.connect().await;
    request.send("GET /plain HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut idle = program.connect().await;
    let messages: usize = KINDS.iter().map(|(_, messages, _)| messages * EACH).sum();
    losing.await.unwrap();
    let states = ["closing", "services_ready", "reconnecting", "idle"].map(|state| (state, EACH));
    all_settled(&program, (KINDS.len() + 1) * EACH, &states, messages).await;

    let told_to_stop = time::Instant::now();
    program.signal("TERM");
    program.logged("\"draining\"").await;

    assert_eq!(
        program.ask("GET", "/readyz").await,
        (503, "[-] drain: draining\nnot ok\n".to_owned())
    );
    assert_eq!(idle.read_to_end().await, "");
    assert!(TcpStream::connect(address).await.is_err());
    drained.send_replace(true);
    let answer = request.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.to_lowercase().contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    for stream in streams {
        assert_eq!(end_over_http2(stream).await, 1001);
    }
    let told: Vec<_> = clients
        .into_iter()
        .map(|(path, code, client)| {
            tokio::spawn(async move { (path, Some(code), end(path, client).await) })
        })
        .collect();
    for told in told {
        let (path, expected, code) = told.await.unwrap();
        assert_eq!(code, expected, "{path}");
    }
    assert_eq!(outcome(program.end().await), Ok(0));
    // The log says whether it was in time; but not if the drain takes itself to be longer.
    assert!(told_to_stop.elapsed() < GRACE * 3 / 2);
    let cut = "forcibly closed at the end";
    assert!(!program.log().iter().any(|line| line.contains(cut)));
    assert_eq!(serving.await.unwrap(), EACH);
}

/// Opens a session, and brings it to where it is to be.
async fn begin(program: &Program, path: &str) -> Client {
    let mut client = program.open(path).await;
    match path {
        "/down/held" | "/gated/never" | "/gated/late" | "/services/half" | "/lost/held" => {
            client.send(text("a")).await;
        }
        "/open/client-half" => client.send(&text("half")[..8]).await,
        "/open/upstream-half" => assert_eq!(client.read(4).await, frame("half")[..4]),
        "/open/closing" => {
            assert_eq!(client.read_text().await, "hello");
            client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await;
        }
        _ => {}
    }
    client
}

/// The close code that the client of a session gets.
async fn end(path: &str, mut client: Client) -> Option<u16> {
    if path == "/open/upstream-half" {
        assert_eq!(client.read(2).await, frame("half")[4..]);
    }
    client.close_code().await
}

/// Both directions of a stream.
type Stream = (SendStream<Bytes>, RecvStream);

/// Opens as many sessions as there are of a kind, on one connection.
async fn begin_over_http2(address: std::net::SocketAddr) -> Vec<Stream> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (requests, connection) = client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    // They are allowed once the settings of the proxy are there.
    while !requests.is_extended_connect_protocol_enabled() {
        task::yield_now().await;
    }
    let mut streams = Vec::new();
    for _ in 0..EACH {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("http://a/open/http2")
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        let mut requests = requests.clone().ready().await.unwrap();
        let request = request.body(()).unwrap();
        let (answer, sending) = requests.send_request(request, false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        streams.push((sending, answer.into_body()));
    }
    streams
}

/// The close code that the client of a stream gets, which it answers.
async fn end_over_http2((mut sending, mut receiving): Stream) -> u16 {
    let mut read = Vec::new();
    while read.len() < 4 {
        read.extend(receiving.data().await.unwrap().unwrap());
    }
    assert_eq!(read[0], 0x88);
    let answer = [0x88, 0x82, 0, 0, 0, 0, read[2], read[3]];
    let answer = Bytes::copy_from_slice(&answer);
    sending.send_data(answer, true).unwrap();
    u16::from_be_bytes([read[2], read[3]])
}

/// Serves what the clients want; returns how many messages it got of those whose upstream is
/// ready late.
async fn serve(upstream: Upstream, draining: watch::Receiver<bool>) -> usize {
    let is_served = |path: &str| !path.starts_with("/down") && !path.starts_with("/lost");
    let connections = KINDS.iter().filter(|(path, ..)| is_served(path));
    let connections = (connections.count() + 1) * EACH + 1;
    let mut served: Vec<JoinHandle<usize>> = Vec::new();
    for _ in 0..connections {
        let (path, client) = upstream.accept().await;
        served.push(tokio::spawn(serve_one(path, client, draining.clone())));
    }
    let mut messages = 0;
    for served in served {
        messages += served.await.unwrap();
    }
    messages
}

/// Takes the connections of one kind, and then none any more.
async fn lose(upstream: Upstream) {
    let mut lost = Vec::new();
    for _ in 0..EACH {
        lost.push(upstream.accept().await);
    }
    // First, for there are further attempts at once.
    drop(upstream);
    drop(lost);
}

async fn serve_one(path: String, mut client: Client, draining: watch::Receiver<bool>) -> usize {
    let mut draining = draining;
    if path == "/open/upstream-half" {
        client.send(&frame("half")[..4]).await;
    }
    let is_waiting = ["/gated/late", "/open/upstream-half", "/plain"].contains(&&*path);
    if is_waiting {
        draining.wait_for(|draining| *draining).await.unwrap();
    }
    match &*path {
        "/gated/late" => client.send(frame("ready")).await,
        "/services/half" => client.send(frame("services")).await,
        "/open/upstream-half" => client.send(&frame("half")[4..]).await,
        "/plain" => {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            client.send(answer).await;
        }
        "/open/closing" => {
            client.send(frame("hello")).await;
            client.read_to_end().await;
        }
        _ => {}
    }
    let mut messages = 0;
    while let Some((first, payload)) = client.read_frame().await {
        match first {
            0x81 => messages += usize::from(path == "/gated/late"),
            _ => client.send([&[first, 2], &payload[..2]].concat()).await,
        }
    }
    messages
}
