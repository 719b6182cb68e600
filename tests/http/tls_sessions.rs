//! Whole sessions with TLS on the client's side, the upstream's, and both.

use std::{sync::Arc, time::Duration};

use readygate::{
    config::Retry,
    matcher::Matcher,
    route::Route,
    session::{
        gate::Trigger,
        rules::{Priority, Release, Rule, Rules},
    },
    tls::ServerTls,
    transport::Transport,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    pki::{self, Authority, Folder},
    support::{Client, Exchange, Proxy, Upstream, config, handshake, text_frame},
};

/// Sides that speak TLS.
#[derive(Clone, Copy, Debug)]
struct Sides {
    client: bool,
    upstream: bool,
}

const ALL: [Sides; 3] = [
    Sides {
        client: true,
        upstream: false,
    },
    Sides {
        client: false,
        upstream: true,
    },
    Sides {
        client: true,
        upstream: true,
    },
];

/// A proxy with TLS on some sides, and what it takes to be a client or upstream of it.
struct World {
    proxy: Proxy,
    upstream: Upstream,
    client: Option<ClientConfig>,
    server: Option<ServerConfig>,
    _folder: Folder,
}

impl World {
    async fn new(sides: Sides) -> Self {
        Self::with_route(sides, |_| {}).await
    }

    async fn with_route(sides: Sides, change: impl FnOnce(&mut Route)) -> Self {
        let authority = Authority::new("authority");
        let issued = authority.issue(&["127.0.0.1", "localhost"]);
        let folder = Folder::new();
        let identity = folder.identity("server", &issued);
        let ca = folder.write("ca.pem", &authority.pem());
        let upstream = Upstream::listen().await;
        let mut route = upstream.route();
        change(&mut route);
        if sides.upstream {
            route = pki::over_tls(route, ca, None);
        }
        let mut config = config(vec![route]);
        if sides.client {
            let tls = ServerTls::load(pki::listener(identity)).unwrap();
            config.listen[0].tls = Some(Arc::new(tls));
        }
        Self {
            proxy: Proxy::start(config),
            upstream,
            client: sides.client.then(|| pki::client_config(authority.roots())),
            server: sides.upstream.then(|| pki::server_config(&issued, None)),
            _folder: folder,
        }
    }

    async fn connect(&self) -> Client<Transport> {
        match &self.client {
            None => {
                let socket = TcpStream::connect(self.proxy.address).await;
                Client(Transport::Tcp(socket.unwrap()))
            }
            Some(config) => pki::connect(self.proxy.address, config.clone(), "localhost")
                .await
                .unwrap(),
        }
    }

    /// The next connection to the upstream, with the head of its request.
    async fn accept(&self) -> Exchange<Transport> {
        let socket = self.upstream.accept_raw().await.0;
        let stream = match &self.server {
            None => Client(Transport::Tcp(socket)),
            Some(config) => pki::accept(socket, config.clone()).await.unwrap(),
        };
        stream.read_request().await.unwrap()
    }

    /// A session in its tunnel.
    async fn tunnel(&self) -> (Client<Transport>, Client<Transport>) {
        let mut client = self.connect().await;
        client.open().await;
        let mut exchange = self.accept().await;
        exchange.answer_101().await;
        exchange.stream.send(frame(1, b"hello")).await;
        assert_eq!(client.read(7).await, frame(1, b"hello"));
        (client, exchange.stream)
    }
}

/// Opens the gate at the message `ready`, and delivers what begins with `!` first.
fn gated(route: &mut Route) {
    let ready = Matcher::Text("ready".to_owned());
    route.session.gate.ready = vec![Trigger::Message(ready)];
    route.session.rules = Rules::new(vec![Rule {
        matchers: vec![Matcher::Prefix("!".to_owned())],
        priority: Priority::Critical,
        release: Release::default(),
    }]);
    route.upstream.retry = Retry {
        initial: Duration::from_millis(1),
        max: Duration::from_millis(5),
        jitter: 0.0,
    };
}

/// A frame of the upstream's, which has no mask.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// A client's binary frame with an empty mask, so that its payload can be read.
fn client_frame(payload: &[u8]) -> Vec<u8> {
    let header = frame(2, payload);
    let header_bytes = header.len() - payload.len();
    let mut frame = header[..header_bytes].to_vec();
    frame[1] |= 0x80;
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A payload in which every place is another one.
fn payload(bytes: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at / 251 + at % 251) % 256).unwrap();
    (0..bytes).map(byte).collect()
}

#[tokio::test]
async fn held_messages_are_flushed_in_order_and_the_tunnel_closes() {
    for sides in ALL {
        let world = World::with_route(sides, gated).await;
        let mut client = world.connect().await;
        // The first message comes with the handshake, in the same record.
        let mut first = handshake(&[]).into_bytes();
        first.extend(text_frame("1"));
        client.send(first).await;
        client.read_head().await.unwrap();
        let mut exchange = world.accept().await;
        exchange.answer_101().await;
        for text in ["2", "!3", "4"] {
            client.send(text_frame(text)).await;
        }
        // Its answer says that they have been read.
        client.send([0x89, 0x80, 0, 0, 0, 0]).await;
        assert_eq!(client.read(2).await, [0x8a, 0], "{sides:?}");

        exchange.stream.send(frame(1, b"ready")).await;

        assert_eq!(client.read(7).await, frame(1, b"ready"));
        let mut held = Vec::new();
        for text in ["!3", "1", "2", "4"] {
            held.extend(text_frame(text));
        }
        assert_eq!(exchange.stream.read(held.len()).await, held, "{sides:?}");
        let mut upstream = exchange.stream;
        for size in [1, 16 * 1024, 300 * 1024] {
            let (up, down) = (client_frame(&payload(size)), frame(2, &payload(size)));
            client.send(&up).await;
            assert!(upstream.read(up.len()).await == up, "{size}, {sides:?}");
            upstream.send(&down).await;
            assert!(client.read(down.len()).await == down, "{size}, {sides:?}");
        }
        client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await;
        assert_eq!(upstream.read(8).await[..2], [0x88, 0x82], "{sides:?}");
        upstream.send([0x88, 2, 0x03, 0xe8]).await;
        assert_eq!(client.read_close_code().await, 1000, "{sides:?}");
        // The end is said, not cut.
        assert_eq!(client.0.read(&mut [0]).await.unwrap(), 0, "{sides:?}");
        upstream.0.shutdown().await.unwrap();
        assert_eq!(upstream.0.read(&mut [0]).await.unwrap(), 0, "{sides:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_waits_for_close_notify_gets_it() {
    let world = World::new(Sides {
        client: false,
        upstream: true,
    })
    .await;
    let (mut client, mut upstream) = world.tunnel().await;
    client.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await;
    assert_eq!(upstream.read(8).await[..2], [0x88, 0x82]);
    upstream.send([0x88, 2, 0x03, 0xe8]).await;
    assert_eq!(client.read_close_code().await, 1000);

    // A connection that ends without it would be an error here.
    assert_eq!(upstream.0.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other_and_loses_nothing() {
    const BYTES: usize = 4 * 1024 * 1024;
    for sides in ALL {
        let world = World::new(sides).await;
        let (client, upstream) = world.tunnel().await;
        let (up, down) = (client_frame(&payload(BYTES)), frame(2, &payload(BYTES)));
        let (mut client_reader, mut client_writer) = tokio::io::split(client.0);
        let (mut upstream_reader, mut upstream_writer) = tokio::io::split(upstream.0);

        // Both write until nothing more is taken before either reads. What a TLS stream has
        // taken it may still have until it is flushed.
        let write = async {
            let up = async {
                client_writer.write_all(&up).await?;
                client_writer.flush().await
            };
            let down = async {
                upstream_writer.write_all(&down).await?;
                upstream_writer.flush().await
            };
            tokio::try_join!(up, down)
        };
        let (mut up_read, mut down_read) = (vec![0; up.len()], vec![0; down.len()]);
        let read = async {
            let up = upstream_reader.read_exact(&mut up_read);
            let down = client_reader.read_exact(&mut down_read);
            tokio::try_join!(up, down)
        };
        let (written, read) = tokio::join!(write, read);

        written.unwrap();
        read.unwrap();
        assert!(up_read == up && down_read == down, "{sides:?}");
    }
}

#[tokio::test]
async fn a_drain_closes_held_and_tunnelled_sessions_with_1001() {
    for sides in ALL {
        let world = World::new(sides).await;
        let (mut tunnelled, mut upstream) = world.tunnel().await;
        let mut held = world.connect().await;
        held.open().await;
        let _unanswered = world.accept().await;

        let ended = world.proxy.stop();

        assert_eq!(held.read_close_code().await, 1001, "{sides:?}");
        assert_eq!(tunnelled.read_close_code().await, 1001, "{sides:?}");
        assert_eq!(upstream.read(2).await[0], 0x88, "{sides:?}");
        drop((held, tunnelled, upstream));
        ended.await.unwrap().unwrap();
    }
}

/// Ends the TCP connection below TLS, which says nothing about it.
async fn cut(stream: Client<Transport>) {
    match stream.0 {
        Transport::Tls(mut stream) => stream.get_mut().0.shutdown().await.unwrap(),
        mut stream => stream.shutdown().await.unwrap(),
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_is_lost() {
    for sides in ALL {
        let world = World::new(sides).await;
        let (client, mut upstream) = world.tunnel().await;
        cut(client).await;
        let close = upstream.read(8).await;
        assert_eq!(close[..2], [0x88, 0x80 | (2 + 11)], "{sides:?}");

        let (mut client, upstream) = world.tunnel().await;
        cut(upstream).await;
        assert_eq!(client.read_close_code().await, 1014, "{sides:?}");
    }
}

#[tokio::test]
async fn an_upstream_lost_before_a_message_is_replaced() {
    for sides in ALL {
        let world = World::with_route(sides, gated).await;
        let mut client = world.connect().await;
        client.open().await;
        client.send(text_frame("held")).await;
        let mut exchange = world.accept().await;
        exchange.answer_101().await;

        cut(exchange.stream).await;

        let mut exchange = world.accept().await;
        exchange.answer_101().await;
        exchange.stream.send(frame(1, b"ready")).await;
        let held = text_frame("held");
        assert_eq!(exchange.stream.read(held.len()).await, held, "{sides:?}");
    }
}

#[tokio::test]
async fn what_a_client_has_sent_before_it_left_is_delivered() {
    for sides in ALL {
        let world = World::with_route(sides, gated).await;
        let mut client = world.connect().await;
        client.open().await;
        client.send(text_frame("last words")).await;
        client.0.shutdown().await.unwrap();
        let mut exchange = world.accept().await;
        exchange.answer_101().await;

        exchange.stream.send(frame(1, b"ready")).await;

        let held = text_frame("last words");
        assert_eq!(exchange.stream.read(held.len()).await, held, "{sides:?}");
        assert_eq!(exchange.stream.read(1).await, [0x88], "{sides:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_not_read_is_noticed() {
    for sides in ALL {
        let world = World::with_route(sides, |route| {
            gated(route);
            route.session.hold.max_messages = 1;
            route.session.hold.on_client_gone = readygate::session::hold::OnClientGone::Discard;
        })
        .await;
        let mut client = world.connect().await;
        client.open().await;
        let mut exchange = world.accept().await;
        exchange.answer_101().await;
        for _ in 0..10 {
            client.send(text_frame("more than may be held")).await;
        }

        drop(client);

        assert_eq!(exchange.stream.read(1).await, [0x88], "{sides:?}");
    }
}

#[tokio::test]
async fn plain_requests_pass_and_say_that_they_came_by_tls() {
    for sides in ALL {
        let world = World::new(sides).await;
        let mut client = world.connect().await;
        for _ in 0..2 {
            let body = payload(100_000);
            let mut request =
                b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".to_vec();
            request.extend(&body);
            let exchange = async {
                let mut exchange = world.accept().await;
                assert!(exchange.stream.read(body.len()).await == body, "{sides:?}");
                exchange
                    .answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    .await;
                exchange
            };

            let (exchange, ()) = tokio::join!(exchange, client.send(&request));

            let scheme = if sides.client { "https" } else { "http" };
            assert_eq!(exchange.header("x-forwarded-proto"), Some(scheme));
            assert_eq!(
                exchange.header("forwarded").unwrap(),
                format!("for=127.0.0.1;host=\"a\";proto={scheme}")
            );
            let head = client.read_head().await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert_eq!(client.read(2).await, b"ok");
        }
    }
}

#[tokio::test]
async fn a_response_that_is_cut_is_not_taken_for_a_whole_one() {
    let world = World::new(Sides {
        client: true,
        upstream: true,
    })
    .await;
    let mut client = world.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut exchange = world.accept().await;
    // Without a length it ends with the connection, which anybody on the way could end.
    exchange.answer("HTTP/1.1 200 OK\r\n\r\nhalf").await;
    client.read_head().await.unwrap();

    cut(exchange.stream).await;

    let mut body = Vec::new();
    let _ = client.0.read_to_end(&mut body).await;
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("half"), "{body}");
    assert!(!body.contains("\r\n0\r\n"), "{body}");
}

#[tokio::test]
async fn idle_sides_are_pinged_and_their_pongs_not_forwarded() {
    for sides in ALL {
        let interval = Some(Duration::from_millis(400));
        let world = World::with_route(sides, |route| {
            route.session.tunnel.ping_interval = interval;
        })
        .await;
        let (mut client, mut upstream) = world.tunnel().await;

        let ping = client.read(14).await;
        assert_eq!(ping[..2], [0x89, 12], "{sides:?}");
        client
            .send([&[0x8a, 0x8c, 0, 0, 0, 0], &ping[2..]].concat())
            .await;
        let ping = upstream.read(18).await;
        assert_eq!(ping[..2], [0x89, 0x8c], "{sides:?}");
        let message = client_frame(b"up");
        client.send(&message).await;

        assert_eq!(upstream.read(message.len()).await, message, "{sides:?}");
        upstream.send(frame(2, b"down")).await;
        assert_eq!(client.read(6).await, frame(2, b"down"), "{sides:?}");
    }
}
