//! An independent client: that of the h2 crate.

use bytes::{Buf, Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, SendRequest},
    ext::Protocol,
};
use http::{HeaderMap, Method, Request, Response, request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};

use crate::support::Proxy;

/// A connection.
pub(super) struct Connection {
    pub(super) requests: SendRequest<Bytes>,
    /// Resolves when it has ended.
    pub(super) ended: JoinHandle<Result<(), h2::Error>>,
}

/// An answer, and the stream on which it came.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) stream: Stream,
}

/// Both directions of a stream.
pub(super) struct Stream {
    pub(super) sending: SendStream<Bytes>,
    pub(super) receiving: RecvStream,
    unread: BytesMut,
}

/// A request to the host of the tests.
pub(super) fn get(path: &str) -> request::Builder {
    Request::get(format!("http://chat.example{path}"))
}

/// A valid handshake.
pub(super) fn handshake() -> request::Builder {
    Request::builder()
        .method(Method::CONNECT)
        .uri("http://chat.example/chat?token=secret")
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
}

impl Connection {
    pub(super) async fn open(proxy: &Proxy) -> Self {
        Self::open_with(proxy, &client::Builder::new()).await
    }

    /// With settings of the client's own.
    pub(super) async fn open_with(proxy: &Proxy, settings: &client::Builder) -> Self {
        Self::over(TcpStream::connect(proxy.address).await.unwrap(), settings).await
    }

    /// Over a stream that is open.
    pub(super) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        settings: &client::Builder,
    ) -> Self {
        let (requests, connection) = settings.handshake(stream).await.unwrap();
        let ended = tokio::spawn(connection);
        Self { requests, ended }
    }

    /// Sends a request without a body.
    pub(super) async fn ask(&mut self, request: request::Builder) -> Answer {
        self.send(request, true).await.unwrap()
    }

    /// Opens a WebSocket.
    pub(super) async fn websocket(&mut self) -> Stream {
        self.websocket_with(handshake()).await.stream
    }

    pub(super) async fn websocket_with(&mut self, request: request::Builder) -> Answer {
        self.wait_for_extended_connect().await;
        let answer = self.send(request, false).await.unwrap();
        assert_eq!(answer.head.status(), 200);
        answer
    }

    /// The client must not send an extended `CONNECT` before the server's settings are there.
    pub(super) async fn wait_for_extended_connect(&mut self) {
        while !self.requests.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn send(
        &mut self,
        request: request::Builder,
        is_end: bool,
    ) -> Result<Answer, h2::Error> {
        self.requests.clone().ready().await?;
        let request = request.body(()).unwrap();
        let (response, sending) = self.requests.send_request(request, is_end)?;
        let (head, receiving) = response.await?.into_parts();
        let head = Response::from_parts(head, ());
        let unread = BytesMut::new();
        let stream = Stream {
            sending,
            receiving,
            unread,
        };
        Ok(Answer { head, stream })
    }
}

impl Stream {
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.sending.send_data(bytes, false).unwrap();
    }

    /// Sends nothing more.
    pub(super) fn end(&mut self) {
        self.sending.send_data(Bytes::new(), true).unwrap();
    }

    pub(super) fn reset(mut self, reason: Reason) {
        self.sending.send_reset(reason);
    }

    /// The next piece of the answer; `None` at its end.
    pub(super) async fn piece(&mut self) -> Option<Bytes> {
        let piece = self.receiving.data().await?.unwrap();
        let flow = self.receiving.flow_control();
        flow.release_capacity(piece.len()).unwrap();
        Some(piece)
    }

    pub(super) async fn read(&mut self, bytes: usize) -> Vec<u8> {
        while self.unread.len() < bytes {
            let piece = self.piece().await.expect("more of the stream");
            self.unread.extend_from_slice(&piece);
        }
        self.unread.copy_to_bytes(bytes).into()
    }

    pub(super) async fn read_to_end(&mut self) -> String {
        while let Some(piece) = self.piece().await {
            self.unread.extend_from_slice(&piece);
        }
        String::from_utf8(self.unread.split().to_vec()).unwrap()
    }

    pub(super) async fn trailers(&mut self) -> Option<HeaderMap> {
        self.receiving.trailers().await.unwrap()
    }

    /// The code of a close frame, which is the next thing to come.
    pub(super) async fn read_close_code(&mut self) -> u16 {
        let header = self.read(2).await;
        assert_eq!(header[0], 0x88, "{header:?}");
        let payload = self.read(usize::from(header[1])).await;
        u16::from_be_bytes([payload[0], payload[1]])
    }
}
