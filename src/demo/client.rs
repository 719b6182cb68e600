//! One client: it sends its schedule and counts what comes back. It knows nothing of
//! proxies and does the same on either way.

use std::{cell::Cell, io, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{self, Instant},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

use super::{
    messages::{Answer, Request, Schedule},
    progress::Counts,
    tally::{Tally, Totals},
};

type Socket = WebSocketStream<TcpStream>;

/// What one client has seen.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) totals: Totals,
    /// From the beginning of its connecting to its `101`.
    pub(super) opened: Option<Duration>,
    /// From the same beginning to the message that says "ready".
    pub(super) ready: Option<Duration>,
    /// At the backend, from its beginning to say "ready" to the arrival of the last of the
    /// messages that the client had sent before it heard that.
    pub(super) flush: Option<Duration>,
    /// Why it could not do all it meant to.
    pub(super) failure: Option<Failure>,
}

/// Why a client could not do all it meant to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    WebSocket(#[from] tungstenite::Error),
    #[error("closed with {0}")]
    Closed(String),
    #[error("the connection ended without a close frame")]
    Lost,
}

impl Outcome {
    pub(super) fn is_refused(&self) -> bool {
        matches!(&self.failure, Some(Failure::Connect(error))
            if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Runs client number `client` against `address` to its end.
pub(super) async fn run(
    address: SocketAddr,
    client: u32,
    schedule: &Schedule,
    counts: &Counts,
) -> Outcome {
    let started = Instant::now();
    let mut heard = Heard::new(schedule);
    let connected = connect(address, client).await;
    let opened_at = Instant::now();
    let opened = connected.is_ok().then(|| opened_at - started);
    let failure = match connected {
        Ok(socket) => {
            let conversation = converse(socket, schedule, opened_at, &mut heard, counts);
            conversation.await.err()
        }
        Err(failure) => Some(failure),
    };
    let outcome = Outcome {
        totals: heard.tally.totals(),
        opened,
        ready: heard.ready_at.map(|ready_at| ready_at - started),
        flush: heard.flush,
        failure,
    };
    counts.end(outcome.is_refused());
    outcome
}

async fn connect(address: SocketAddr, client: u32) -> Result<Socket, Failure> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    let url = format!("ws://{address}/clients/{client}");
    let (socket, _response) = client_async(url, stream).await?;
    Ok(socket)
}

/// Sends and hears at the same time, until the connection is closed.
async fn converse(
    socket: Socket,
    schedule: &Schedule,
    opened_at: Instant,
    heard: &mut Heard,
    counts: &Counts,
) -> Result<(), Failure> {
    let (sink, mut stream) = socket.split();
    let (tell_ready, ready) = oneshot::channel();
    let count = Cell::new(0);
    let send = send(sink, schedule, opened_at, ready, || {
        count.set(count.get() + 1);
        counts.send();
    });
    let hear = async {
        // Dropped at the end, so that nobody waits for a backend that is gone.
        let mut tell_ready = Some(tell_ready);
        while let Some(message) = stream.next().await {
            if heard.hear(&message?, count.get()) {
                counts.deliver();
            }
            if heard.ready_at.is_some()
                && let Some(tell_ready) = tell_ready.take()
            {
                let _ = tell_ready.send(());
            }
        }
        Ok::<_, Failure>(())
    };

    let (is_sent, is_heard) = tokio::join!(send, hear);

    if let Some(close) = heard.close.take() {
        return Err(Failure::Closed(close));
    }
    is_heard.and(is_sent)
}

/// Sends the schedule, with a `tick` for each message, and then a close frame.
async fn send(
    mut sink: SplitSink<Socket, Message>,
    schedule: &Schedule,
    opened_at: Instant,
    ready: oneshot::Receiver<()>,
    tick: impl Fn(),
) -> Result<(), Failure> {
    for (after, request) in schedule.early() {
        time::sleep_until(opened_at + after).await;
        tick();
        sink.send(text(&request)).await?;
    }
    ready.await.map_err(|_| Failure::Lost)?;
    for request in schedule.late() {
        tick();
        sink.send(text(&request)).await?;
    }
    sink.send(Message::Close(None)).await?;
    Ok(())
}

fn text(request: &Request) -> Message {
    let json = serde_json::to_string(request).expect("numbers and names are JSON");
    Message::text(json)
}

/// What a client has heard.
#[derive(Debug)]
struct Heard {
    tally: Tally,
    ready_at: Option<Instant>,
    /// Messages that were sent before the client heard "ready": those with lower numbers.
    sent_before_ready: u32,
    flush: Option<Duration>,
    /// The close frame, if it says more than that the client is answered.
    close: Option<String>,
}

impl Heard {
    fn new(schedule: &Schedule) -> Self {
        Self {
            tally: Tally::new(schedule.kinds()),
            ready_at: None,
            sent_before_ready: 0,
            flush: None,
            close: None,
        }
    }

    /// Takes note of a message, of which `sent` were sent so far the other way; returns
    /// whether it says that one more of them is delivered.
    fn hear(&mut self, message: &Message, sent: u32) -> bool {
        match message {
            Message::Text(json) => match serde_json::from_str(json) {
                Ok(Answer::Ready | Answer::ConnectionEstablished) => {
                    self.ready_at = Some(Instant::now());
                    self.sent_before_ready = sent;
                    false
                }
                Ok(Answer::Ack { n, after_ready_us }) => {
                    if n < self.sent_before_ready {
                        let arrived = Duration::from_micros(after_ready_us);
                        self.flush = self.flush.max(Some(arrived));
                    }
                    self.tally.acknowledge(n)
                }
                Err(_) => false,
            },
            Message::Close(Some(frame)) => {
                self.close = Some(format!("{} {}", frame.code, frame.reason));
                false
            }
            _ => false,
        }
    }
}
