//! Backends that are not ready when their clients connect.
//!
//! Whatever arrives before a backend is ready is read and dropped, without an error. A library does
//! so where no handler is attached (Node `ws`), and an application whose services are still
//! starting; on the wire the two look alike.

use std::{io, net::SocketAddr, ops::Range, pin::pin, time::Duration};

use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        self, Message,
        handshake::server::{ErrorResponse, Request as Opening, Response},
    },
};

use super::messages::{ClientMessage, Reply, dice};

/// Length of the kernel's queue of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Kind of backend, by the way in which it is not ready.
#[derive(Clone, Debug)]
pub(super) struct Behaviour {
    pub(super) name: &'static str,
    /// Time for which it does not listen.
    pub(super) down: Duration,
    /// Time from a connection's handshake to its readiness.
    pub(super) starting: Range<Duration>,
    /// Message that announces readiness.
    pub(super) ready: Reply,
}

impl Behaviour {
    /// Returns the backends of the demo.
    pub(super) fn all() -> [Self; 3] {
        let millis = Duration::from_millis;
        [
            Self {
                name: "late handler",
                down: Duration::ZERO,
                starting: millis(500)..millis(1500),
                ready: Reply::ConnectionEstablished,
            },
            Self {
                name: "not ready yet",
                down: Duration::ZERO,
                starting: millis(500)..millis(3000),
                ready: Reply::Ready,
            },
            Self {
                name: "not listening",
                down: millis(2000),
                starting: millis(500)..millis(1000),
                ready: Reply::Ready,
            },
        ]
    }

    /// Describes the behaviour in words.
    pub(super) fn description(&self) -> String {
        let Range { start, end } = self.starting;
        let (start, end) = (start.as_secs_f32(), end.as_secs_f32());
        match self.ready {
            _ if !self.down.is_zero() => format!(
                "refuses connections for {} s, then needs {start} to {end} s to start",
                self.down.as_secs_f32()
            ),
            Reply::ConnectionEstablished => {
                format!("attaches its message handler {start} to {end} s after the handshake")
            }
            _ => format!("drops what it reads until its services are up, after {start} to {end} s"),
        }
    }

    /// Returns the time that the connection of `client` takes to be ready, the same for both ways.
    fn starting_time(&self, seed: u64, client: u32) -> Duration {
        dice(seed, self.name, client).random_range(self.starting.clone())
    }
}

/// A backend whose port is bound but does not listen, so that no other process gets it.
#[derive(Debug)]
pub(super) struct Backend {
    behaviour: Behaviour,
    seed: u64,
    socket: TcpSocket,
}

impl Backend {
    pub(super) fn bind(behaviour: Behaviour, seed: u64) -> io::Result<Self> {
        // Bound now and listening later: the port is known while connections are still refused.
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self {
            behaviour,
            seed,
            socket,
        })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Listens after the configured delay, and serves until the future is dropped.
    pub(super) async fn serve(self) -> io::Result<()> {
        let Self {
            behaviour,
            seed,
            socket,
        } = self;
        // Even a sleep of zero would yield, and refuse the first client.
        if !behaviour.down.is_zero() {
            time::sleep(behaviour.down).await;
        }
        let listener = socket.listen(BACKLOG)?;
        serve(listener, &behaviour, seed).await
    }
}

async fn serve(listener: TcpListener, behaviour: &Behaviour, seed: u64) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        // Nagle's algorithm would add its delays to the measured times.
        stream.set_nodelay(true)?;
        let behaviour = behaviour.clone();
        // A broken connection shows in its client's tally.
        connections.spawn_local(async move {
            let _ = serve_client(stream, &behaviour, seed).await;
        });
    }
}

/// Serves a connection: drops messages, announces readiness, then acknowledges messages.
async fn serve_client(
    stream: TcpStream,
    behaviour: &Behaviour,
    seed: u64,
) -> Result<(), tungstenite::Error> {
    let (mut socket, client) = accept(stream).await?;
    let starting = time::sleep(behaviour.starting_time(seed, client));
    let mut started = pin!(starting);
    loop {
        tokio::select! {
            () = &mut started => break,
            message = socket.next() => match message {
                Some(message) => drop(message?),
                None => return Ok(()),
            },
        }
    }
    let ready_at = Instant::now();
    socket.send(text(&behaviour.ready)).await?;
    while let Some(message) = socket.next().await {
        if let Message::Text(request) = message?
            && let Ok(ClientMessage { n, .. }) = serde_json::from_str(&request)
        {
            let after_ready = ready_at.elapsed().as_micros();
            let after_ready_us = u64::try_from(after_ready).unwrap_or(u64::MAX);
            socket.send(text(&Reply::Ack { n, after_ready_us })).await?;
        }
    }
    Ok(())
}

/// Completes the handshake; the last segment of the path is the number of the client.
async fn accept(
    stream: TcpStream,
) -> Result<(WebSocketStream<TcpStream>, u32), tungstenite::Error> {
    let mut client = 0;
    #[expect(clippy::result_large_err, reason = "tungstenite's type")]
    let read_path = |opening: &Opening, response: Response| -> Result<Response, ErrorResponse> {
        let number = opening.uri().path().rsplit('/').next();
        client = number.and_then(|it| it.parse().ok()).unwrap_or(0);
        Ok(response)
    };
    let socket = accept_hdr_async(stream, read_path).await?;
    Ok((socket, client))
}

fn text(answer: &Reply) -> Message {
    let json = serde_json::to_string(answer).expect("numbers and names are JSON");
    Message::text(json)
}
