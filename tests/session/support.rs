//! A session between two in-memory pipes, with tungstenite at both far ends.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use readygate::{
    config::DrainSettings,
    limits::{drain::Drain, held_bytes::Budget},
    matcher::Matcher,
    session::{self, Agreed, Context, Report, SessionStats, Settings, gate::Trigger},
    transport::Stream,
    upstream::{Attempts, ConnectError},
    websocket::Opened,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, DuplexStream},
    sync::mpsc,
    task::{JoinHandle, LocalSet},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

/// Bytes that a pipe buffers, like a socket.
pub(crate) const PIPE_BYTES: usize = 64 * 1024;

/// Result of one attempt at the upstream.
pub(crate) type Outcome = Result<Opened<DuplexStream>, ConnectError>;

/// Decides what the session's attempts at its upstream come to.
pub(crate) struct Upstream(mpsc::UnboundedSender<Outcome>);

/// A session that runs beside the test.
pub(crate) struct Running {
    pub(crate) client: DuplexStream,
    pub(crate) upstream: Upstream,
    pub(crate) drain: Drain,
    pub(crate) budget: Arc<Budget>,
    pub(crate) record: Rc<SessionStats>,
    pub(crate) report: JoinHandle<Report>,
}

/// Starts a session with `early` bytes behind the client's handshake.
pub(crate) fn start_with(settings: Settings, budget: Arc<Budget>, early: Vec<u8>) -> Running {
    start_agreed(settings, budget, early, Agreed::default())
}

/// Starts a session of a client and an upstream that have `agreed` on something.
pub(crate) fn start_agreed(
    settings: Settings,
    budget: Arc<Budget>,
    early: Vec<u8>,
    agreed: Agreed,
) -> Running {
    let (client, proxy) = tokio::io::duplex(PIPE_BYTES);
    let (outcomes, attempts) = mpsc::unbounded_channel();
    let attempts = Rc::new(RefCell::new(attempts));
    let drain = at_once();
    let context = Context {
        budget: budget.clone(),
        drain: drain.clone(),
    };
    let record = Rc::new(SessionStats::accepted());
    let noted = Rc::clone(&record);
    let report = tokio::task::spawn_local(async move {
        let connect = async |count: &Attempts| {
            let next = std::future::poll_fn(|context| attempts.borrow_mut().poll_recv(context));
            let outcome = next.await;
            count.count();
            match outcome {
                Some(outcome) => outcome,
                None => std::future::pending().await,
            }
        };
        let client = Opened {
            stream: proxy,
            read_buf: Bytes::from(early),
        };
        session::run_agreed(client, agreed, connect, &settings, &context, noted).await
    });
    Running {
        client,
        upstream: Upstream(outcomes),
        drain,
        budget,
        record,
        report,
    }
}

pub(crate) fn start(settings: Settings) -> Running {
    start_with(
        settings,
        Arc::new(Budget::new(64 * 1024 * 1024)),
        Vec::new(),
    )
}

impl Upstream {
    /// Lets the next attempt fail for good.
    pub(crate) fn refuse(&self, error: ConnectError) {
        self.0.send(Err(error)).ok();
    }

    /// Lets the next attempt succeed; `early` is what it sends in the
    /// same segment as its `101`.
    pub(crate) fn connect(&self, early: &[u8]) -> DuplexStream {
        let (upstream, proxy) = tokio::io::duplex(PIPE_BYTES);
        let opened = Opened {
            stream: proxy,
            read_buf: Bytes::copy_from_slice(early),
        };
        self.0.send(Ok(opened)).ok();
        upstream
    }
}

pub(crate) async fn as_client(stream: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

pub(crate) async fn as_server(stream: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(stream, Role::Server, None).await
}

/// Runs a test with its session on one thread.
pub(crate) async fn local<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(test).await
}

pub(crate) fn text(text: &str) -> Message {
    Message::text(text.to_owned())
}

/// Sends texts in order.
pub(crate) async fn send_all(to: &mut WebSocketStream<DuplexStream>, texts: &[&str]) {
    for it in texts {
        to.send(text(it)).await.unwrap();
    }
}

/// Receives `count` data messages as texts.
pub(crate) async fn receive(from: &mut WebSocketStream<DuplexStream>, count: usize) -> Vec<String> {
    let mut received = Vec::new();
    while received.len() < count {
        match from.next().await {
            Some(Ok(message)) if message.is_text() || message.is_binary() => {
                received.push(message.into_text().unwrap().to_string());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("after {received:?}: {other:?}"),
        }
    }
    received
}

/// The close frame that comes next, after any data; it is answered.
pub(crate) async fn close_frame(from: &mut WebSocketStream<DuplexStream>) -> (u16, String) {
    let frame = loop {
        match from.next().await {
            Some(Ok(Message::Close(frame))) => break frame,
            Some(Ok(_)) => {}
            other => panic!("no close frame but {other:?}"),
        }
    };
    // Whoever has closed first needs no answer any more.
    let _ = from.flush().await;
    frame.map_or((1005, String::new()), |frame| {
        (frame.code.into(), frame.reason.to_string())
    })
}

/// A trigger on this text.
pub(crate) fn on_text(text: &str) -> Vec<Trigger> {
    vec![Trigger::Message(Matcher::Text(text.to_owned()))]
}

/// Settings whose gate opens on the message `ready`.
pub(crate) fn gated() -> Settings {
    let mut settings = Settings::default();
    settings.gate.ready = on_text("ready");
    settings
}

/// A frame of a client, masked with a fixed key.
pub(crate) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            frame.push(0xfe);
            frame.extend_from_slice(&u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&key);
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// A frame of a server.
pub(crate) fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, u8::try_from(payload.len()).unwrap()];
    frame.extend_from_slice(payload);
    frame
}

/// A drain in which nobody waits for a turn.
fn at_once() -> Drain {
    Drain::new(DrainSettings {
        spread: Duration::ZERO,
        ..Default::default()
    })
}

/// Starts a session between two streams of any kind.
pub(crate) fn start_between<C, U>(
    client: C,
    upstream: U,
    settings: Settings,
) -> (JoinHandle<Report>, Drain)
where
    C: Stream + 'static,
    U: Stream + 'static,
{
    let (session, drain) = session_between(client, upstream, settings);
    (tokio::task::spawn_local(session), drain)
}

/// A session between two streams of any kind.
pub(crate) fn session_between<C, U>(
    client: C,
    upstream: U,
    settings: Settings,
) -> (impl Future<Output = Report>, Drain)
where
    C: Stream + 'static,
    U: Stream + 'static,
{
    let drain = at_once();
    let context = Context {
        budget: Arc::new(Budget::new(64 * 1024 * 1024)),
        drain: drain.clone(),
    };
    let upstream = RefCell::new(Some(upstream));
    let session = async move {
        let connect = async |count: &Attempts| {
            count.count();
            let stream = upstream.borrow_mut().take().expect("one connection");
            Ok(opened(stream))
        };
        session::run(opened(client), connect, &settings, &context).await
    };
    (session, drain)
}

fn opened<S>(stream: S) -> Opened<S> {
    Opened {
        stream,
        read_buf: Bytes::new(),
    }
}

/// Reads frames of the proxy, all short, up to its close frame; returns the payloads before
/// it and what it says.
///
/// Tungstenite refuses 1014, which IANA registered after its table was made.
pub(crate) async fn read_to_close(from: &mut DuplexStream) -> (Vec<Vec<u8>>, u16, String) {
    let mut payloads = Vec::new();
    loop {
        let mut head = [0; 2];
        from.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1])];
        from.read_exact(&mut payload).await.unwrap();
        if head[0] == 0x88 {
            let (code, reason) = payload.split_first_chunk().expect("a code");
            let reason = String::from_utf8(reason.to_vec()).unwrap();
            return (payloads, u16::from_be_bytes(*code), reason);
        }
        payloads.push(payload);
    }
}

/// A frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) key: Option<[u8; 4]>,
}

impl Frame {
    /// Takes one frame from the front of `input`; `None` when it is not there as a whole.
    pub(crate) fn take(input: &mut &[u8]) -> Option<Self> {
        let (&[first, second], rest) = input.split_first_chunk()?;
        let (length, rest) = match second & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)
            }
            short => (usize::from(short), rest),
        };
        let (key, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            let (key, rest) = rest.split_first_chunk::<4>()?;
            (Some(*key), rest)
        };
        let (payload, rest) = rest.split_at_checked(length)?;
        let key_bytes = key.unwrap_or_default();
        let payload = payload.iter().zip(key_bytes.iter().cycle());
        *input = rest;
        Some(Self {
            first,
            payload: payload.map(|(byte, key)| byte ^ key).collect(),
            key,
        })
    }

    /// Parses all frames of `input`.
    ///
    /// # Panics
    ///
    /// When it does not end with a whole one.
    pub(crate) fn all(mut input: &[u8]) -> Vec<Self> {
        let mut frames = Vec::new();
        while let Some(frame) = Self::take(&mut input) {
            frames.push(frame);
        }
        assert!(input.is_empty(), "{frames:?}, then {input:02x?}");
        frames
    }

    /// First byte and payload, for comparisons.
    pub(crate) fn content(&self) -> (u8, &[u8]) {
        (self.first, &self.payload)
    }
}

/// Everything that comes until the stream ends.
pub(crate) async fn read_to_end(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// The next frame, as soon as it is there as a whole.
pub(crate) async fn read_frame(from: &mut DuplexStream) -> Frame {
    let mut bytes = Vec::new();
    loop {
        if let Some(frame) = Frame::take(&mut &bytes[..]) {
            return frame;
        }
        bytes.push(from.read_u8().await.unwrap());
    }
}
