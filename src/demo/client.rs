//! A client that sends its schedule and counts the acknowledgements. It does not know of proxies
//! and behaves alike on both ways.

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
    messages::{ClientMessage, Reply, SendSchedule},
    progress::Counts,
    tally::{DemoTotals, Tally},
};

type Socket = WebSocketStream<TcpStream>;

/// Result of one client.
#[derive(Debug)]
pub(super) struct ClientOutcome {
    pub(super) totals: DemoTotals,
    /// Time from its first SYN to its `101`.
    pub(super) opened: Option<Duration>,
    /// Time from its first SYN to the ready message.
    pub(super) ready: Option<Duration>,
    /// Time at the backend from sending the ready message to the arrival of the last message that
    /// the client had sent before receiving it.
    pub(super) flush: Option<Duration>,
    /// Reason that it did not finish its schedule.
    pub(super) failure: Option<ClientFailure>,
}

/// Reason that a client did not finish its schedule.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientFailure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    WebSocket(#[from] tungstenite::Error),
    #[error("closed with {0}")]
    Closed(String),
    #[error("the connection ended without a close frame")]
    Lost,
}

impl ClientOutcome {
    pub(super) fn is_refused(&self) -> bool {
        matches!(&self.failure, Some(ClientFailure::Connect(error))
            if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Runs client number `client` against `address` to its end.
pub(super) async fn run(
    address: SocketAddr,
    client: u32,
    schedule: &SendSchedule,
    counts: &Counts,
) -> ClientOutcome {
    let started = Instant::now();
    let mut heard = Received::new(schedule);
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
    let outcome = ClientOutcome {
        totals: heard.tally.totals(),
        opened,
        ready: heard.ready_at.map(|ready_at| ready_at - started),
        flush: heard.flush,
        failure,
    };
    counts.end(outcome.is_refused());
    outcome
}

async fn connect(address: SocketAddr, client: u32) -> Result<Socket, ClientFailure> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(ClientFailure::Connect)?;
    // Nagle's algorithm would add its delays to the measured times.
    stream.set_nodelay(true).map_err(ClientFailure::Connect)?;
    let url = format!("ws://{address}/clients/{client}");
    let (socket, _response) = client_async(url, stream).await?;
    Ok(socket)
}

/// Sends and receives at the same time, until the connection is closed.
async fn converse(
    socket: Socket,
    schedule: &SendSchedule,
    opened_at: Instant,
    heard: &mut Received,
    counts: &Counts,
) -> Result<(), ClientFailure> {
    let (sink, mut stream) = socket.split();
    let (tell_ready, ready) = oneshot::channel();
    let count = Cell::new(0);
    let send = send(sink, schedule, opened_at, ready, || {
        count.set(count.get() + 1);
        counts.send();
    });
    let hear = async {
        // Dropped at the end, so that `send` does not wait for a backend that is gone.
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
        Ok::<_, ClientFailure>(())
    };

    let (is_sent, is_heard) = tokio::join!(send, hear);

    if let Some(close) = heard.close.take() {
        return Err(ClientFailure::Closed(close));
    }
    is_heard.and(is_sent)
}

/// Sends the schedule, calling `tick` for each message, and then a close frame.
async fn send(
    mut sink: SplitSink<Socket, Message>,
    schedule: &SendSchedule,
    opened_at: Instant,
    ready: oneshot::Receiver<()>,
    tick: impl Fn(),
) -> Result<(), ClientFailure> {
    for (after, request) in schedule.early() {
        time::sleep_until(opened_at + after).await;
        // Counted first, because the acknowledgement may arrive before `send` returns.
        tick();
        sink.send(text(&request)).await?;
    }
    ready.await.map_err(|_| ClientFailure::Lost)?;
    for request in schedule.late() {
        tick();
        sink.send(text(&request)).await?;
    }
    sink.send(Message::Close(None)).await?;
    Ok(())
}

fn text(request: &ClientMessage) -> Message {
    let json = serde_json::to_string(request).expect("numbers and names are JSON");
    Message::text(json)
}

/// Messages received by a client.
#[derive(Debug)]
struct Received {
    tally: Tally,
    ready_at: Option<Instant>,
    /// Messages sent before the ready message arrived: those with lower numbers.
    sent_before_ready: u32,
    flush: Option<Duration>,
    /// Close frame, if it carries a code.
    close: Option<String>,
}

impl Received {
    fn new(schedule: &SendSchedule) -> Self {
        Self {
            tally: Tally::new(schedule.kinds()),
            ready_at: None,
            sent_before_ready: 0,
            flush: None,
            close: None,
        }
    }

    /// Records a message, received after `sent` were sent; returns whether it acknowledges one for
    /// the first time.
    fn hear(&mut self, message: &Message, sent: u32) -> bool {
        match message {
            Message::Text(json) => match serde_json::from_str(json) {
                Ok(Reply::Ready | Reply::ConnectionEstablished) => {
                    self.ready_at = Some(Instant::now());
                    self.sent_before_ready = sent;
                    false
                }
                Ok(Reply::Ack { n, after_ready_us }) => {
                    if n < self.sent_before_ready {
                        let arrived = Duration::from_micros(after_ready_us);
                        // Priorities reorder the flush, so the last one to arrive need not have the
                        // highest number.
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
