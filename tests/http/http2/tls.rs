//! HTTP/2 negotiated in the TLS handshake (RFC 7301).

use std::sync::Arc;

use readygate::tls::ServerTls;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::client::{Connection, get};
use crate::{
    pki::{self, Authority, Folder},
    support::{Proxy, Upstream, config, text_frame},
};

/// A proxy with a certificate, and a client that trusts it.
struct World {
    proxy: Proxy,
    upstream: Upstream,
    client: ClientConfig,
    _folder: Folder,
}

impl World {
    async fn new(h2: bool) -> Self {
        let authority = Authority::new("authority");
        let folder = Folder::new();
        let identity = folder.identity("server", &authority.issue(&["localhost"]));
        let mut settings = pki::listener(identity);
        settings.h2 = h2;
        let upstream = Upstream::listen().await;
        let mut config = config(vec![upstream.route()]);
        config.listen[0].tls = Some(Arc::new(ServerTls::load(settings).unwrap()));
        let mut client = pki::client_config(authority.roots());
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            proxy: Proxy::start(config),
            upstream,
            client,
            _folder: folder,
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.proxy.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(self.client.clone()));
        connector.connect(name, socket).await.unwrap()
    }
}

#[tokio::test]
async fn alpn_prefers_http_2_for_requests_and_websockets() {
    let world = World::new(true).await;
    let stream = world.connect().await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut http2 = Connection::over(stream, &h2::client::Builder::new()).await;

    let (mut answer, head) = tokio::join!(http2.ask(get("/a")), async {
        let mut exchange = world.upstream.accept().await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        exchange.answer(answer).await;
        exchange
    });
    assert_eq!(answer.stream.read_to_end().await, "ok");
    assert_eq!(head.header("x-forwarded-proto"), Some("https"));

    let mut websocket = http2.websocket().await;
    websocket.send(text_frame("held"));
    let mut exchange = world.upstream.accept().await;
    assert_eq!(exchange.header("x-forwarded-proto"), Some("https"));
    exchange.answer_101().await;
    let frame = text_frame("held");
    assert_eq!(exchange.stream.read(frame.len()).await, frame);
    let ended = world.proxy.stop();
    assert_eq!(websocket.read_close_code().await, 1001);
    drop((websocket, http2, exchange));
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_h2_it_is_not_offered() {
    let world = World::new(false).await;

    let stream = world.connect().await;

    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}
