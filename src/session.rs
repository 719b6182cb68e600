//! One WebSocket session, from the client's `101 Switching Protocols` to the last close
//! frame.
//!
//! ```text
//!  client ──► connect_and_hold ──► flush ──► tunnel ──► closing
//!                    │               │         │           ▲
//!                    └──── end ──────┴── end ──┴─── end ───┘
//! ```
//!
//! [`run`] goes from phase to phase. Each is one function that takes what it needs by value and
//! returns what the next one needs; none calls another.

pub mod close;
pub mod flush;
pub mod gate;
pub mod hold;
mod io;
pub mod ledger;
mod pings;
pub mod queue;
pub mod rules;
pub mod state;
pub mod stats;
pub mod termination;
pub mod timeouts;
pub mod tunnel;

use std::{mem, ops::Deref, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use self::{
    close::{CloseSide, Closing, Forwards},
    hold::{Attempt, Farewell, HeldClient, Holding},
    ledger::Account,
    stats::Queued,
    tunnel::{Ends, TunnelEnd},
};
pub use self::{
    stats::SessionStats,
    termination::{EndReason, Report},
};
use crate::{
    limits::{drain::Drain, held_bytes::Budget},
    transport::Stream,
    upstream::{Attempts, ConnectError, Permit},
    websocket::{Opened, Role, extension::Agreement},
};

/// Settings of the sessions of a route.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Conditions under which the gate opens.
    pub gate: gate::Settings,
    /// Classification of client messages.
    pub rules: rules::Rules,
    /// The hold queue.
    pub hold: hold::Settings,
    /// The tunnel and the closing handshake.
    pub tunnel: timeouts::Settings,
    /// Close codes for the HTTP statuses of an upstream.
    pub close_codes: termination::CloseCodes,
}

impl Settings {
    /// Returns whether every client message must be decodable on its own: because rules inspect
    /// it, or because another may overtake it, be shed or expire.
    #[must_use]
    pub fn wants_independent_messages(&self) -> bool {
        !self.rules.is_empty()
            || self.hold.overflow == hold::Overflow::Shed
            || self.hold.max_age.is_some()
    }
}

/// Outcome of the opening handshake, which the upstream may already have taken part in.
#[derive(Debug, Default)]
pub struct Agreed {
    /// Compression negotiated with the client; every connection to the upstream has to agree to
    /// the same.
    pub compression: Option<Agreement>,
    /// Part of the readiness timeout that has already elapsed.
    pub waited: Duration,
    /// Receives the verdict on the upstream's health once the gate opens or the session ends.
    pub trial: Permit,
}

/// State of the process that its sessions share.
#[derive(Clone, Debug)]
pub struct Context {
    /// Bound on the bytes that all sessions together may hold.
    pub budget: Arc<Budget>,
    /// Signals the sessions to end.
    pub drain: Drain,
}

/// Runs one session to its end.
///
/// `client` has already received its `101`. `connect` makes one connection to the upstream,
/// retrying as the route allows until it is dropped; it is called again when the upstream is lost
/// or restarts before it is ready, provided that no client message has been sent to it.
///
/// `settings` and `context` are references or shared pointers.
pub fn run<C, U>(
    client: Opened<C>,
    connect: impl AsyncFn(&Attempts) -> Result<Opened<U>, ConnectError>,
    settings: impl Deref<Target = Settings> + Clone,
    context: impl Deref<Target = Context> + Clone,
) -> impl Future<Output = Report>
where
    C: Stream,
    U: Stream,
{
    let record = Rc::new(SessionStats::accepted());
    run_agreed(
        client,
        Agreed::default(),
        connect,
        settings,
        context,
        record,
    )
}

/// Like [`run`], for a session whose opening handshake had the outcome `agreed`, with a `record`
/// that other tasks of the thread can read while the session runs.
pub fn run_agreed<C, U>(
    client: Opened<C>,
    agreed: Agreed,
    connect: impl AsyncFn(&Attempts) -> Result<Opened<U>, ConnectError>,
    settings: impl Deref<Target = Settings> + Clone,
    context: impl Deref<Target = Context> + Clone,
    record: impl Deref<Target = SessionStats> + Clone,
) -> impl Future<Output = Report>
where
    C: Stream,
    U: Stream,
{
    // Boxed before the future begins: a future keeps its arguments until it completes, and a
    // session in its tunnel must not pay for the state that only holding needs.
    let (route, process) = (settings.clone(), context.clone());
    let held = hold_and_flush(client, agreed, connect, route, process, record.clone());
    let mut phase = SessionPhase::Held(Box::pin(held));
    async move {
        let (cause, closing) = loop {
            match phase {
                SessionPhase::Held(held) => match held.await {
                    Ok(ends) => phase = SessionPhase::Tunnelled(ends),
                    Err(ended) => break (ended.cause, ended.closing),
                },
                SessionPhase::Tunnelled(ends) => {
                    let (drain, timeouts) = (&context.drain, &settings.tunnel);
                    let (cause, ends) = tunnel::run(ends, &record, timeouts, drain).await;
                    break (cause, Closing::after_tunnel(*ends));
                }
            }
        };
        let state = record.entered_state();
        let written = Box::pin(closing.run(&cause, &record, &settings, &context)).await;
        record.settle_all(written);
        record.enter(cause.final_state(), cause.name());
        record.report(cause, state)
    }
}

/// Phase of a session before its closing handshake, with what it needs.
enum SessionPhase<H, C, U> {
    /// The upstream is being connected, or the client's messages are held or flushed.
    Held(Pin<Box<H>>),
    /// Bytes are relayed.
    Tunnelled(Box<Ends<C, U>>),
}

/// A session that ends before its tunnel: the reason, and the connections left to close.
struct Ended<C, U> {
    cause: EndReason,
    closing: Closing<C, U>,
}

/// Result of a phase: the input of the next one, or the end of the session.
type Next<T, C, U> = Result<T, Box<Ended<C, U>>>;

/// A session whose gate is open, and whose held messages are to be flushed.
struct Open<'s, C, U>(Holding<'s, C, U>);

/// The phases up to the tunnel.
async fn hold_and_flush<C, U>(
    client: Opened<C>,
    agreed: Agreed,
    connect: impl AsyncFn(&Attempts) -> Result<Opened<U>, ConnectError>,
    settings: impl Deref<Target = Settings>,
    context: impl Deref<Target = Context>,
    record: impl Deref<Target = SessionStats>,
) -> Next<Box<Ends<C, U>>, C, U>
where
    C: Stream,
    U: Stream,
{
    let attempts = record.attempts();
    let connect = || -> Attempt<'_, U> { Box::pin(connect(attempts)) };
    let holding = Holding::new(client, agreed, &record, &settings, &context, &connect);
    let open = connect_and_hold(holding).await?;
    flush(open).await
}

/// Connects the upstream and holds the client's messages until the gate opens.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn has room for its arguments twice"
)]
fn connect_and_hold<C: Stream, U: Stream>(
    mut holding: Holding<'_, C, U>,
) -> impl Future<Output = Next<Open<'_, C, U>, C, U>> {
    async move {
        let open = holding.until_open().await;
        holding.judge(&open);
        match open {
            Ok(()) => Ok(Open(holding)),
            Err(cause) => Err(holding.into_ended(cause)),
        }
    }
}

/// Writes the held messages to the upstream, and what the client sends meanwhile.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn has room for its arguments twice"
)]
fn flush<C: Stream, U: Stream>(
    Open(mut holding): Open<'_, C, U>,
) -> impl Future<Output = Next<Box<Ends<C, U>>, C, U>> {
    async move {
        match holding.flush().await {
            Ok(()) => Ok(holding.into_ends()),
            Err(cause) => Err(holding.into_ended(cause)),
        }
    }
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Moves the session on to the tunnel, with a message that the client has sent only in part.
    ///
    /// # Panics
    ///
    /// When a side is missing: a flush succeeds only while both are there.
    fn into_ends(self) -> Box<Ends<C, U>> {
        let (HeldClient::Here(client), Some(link)) = (self.client, self.upstream.into_link())
        else {
            unreachable!("a flush succeeds only while both sides are there");
        };
        // The client may have been in the middle of a message when the gate opened: the part that
        // was assembled goes out raw, and the tunnel relays the rest.
        let (partial, scanner) = self.assembler.into_parts();
        let mut charge = self.charge;
        charge.set(partial.capacity());
        let mut upstream = link.endpoint;
        upstream
            .write_buffer
            .push_passing(&partial, scanner.is_at_boundary());
        let client = TunnelEnd::new(client, scanner);
        let upstream = TunnelEnd::new(upstream, link.tap.into_scanner());
        Box::new(Ends::new(client, upstream, Some(charge), self.watch))
    }

    /// Reports to the circuit breaker how the upstream did. A gate that the route opens without
    /// readiness counts as a success, since the client is served.
    fn judge(&mut self, open: &Result<(), EndReason>) {
        let trial = mem::take(&mut self.agreed.trial);
        match open {
            Ok(()) => trial.succeed(),
            Err(cause) if self.is_upstreams_fault(cause) => trial.fail(),
            // The client or the proxy ended it: that says nothing about the upstream.
            Err(_) => drop(trial),
        }
    }

    /// Settles the held messages of a session that ends before its tunnel.
    fn give_up(&mut self, cause: &EndReason) {
        self.session
            .settle(self.queue.len() as u64, Account::Discarded);
        self.session.note_queued(Queued::default());
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        if cause.ends_upstream() {
            let dropped = link.endpoint.write_buffer.drop_waiting_messages();
            self.session.settle(dropped, Account::Discarded);
        }
    }

    fn into_ended(mut self, cause: EndReason) -> Box<Ended<C, U>> {
        self.give_up(&cause);
        let closing = self.into_closing();
        Box::new(Ended { cause, closing })
    }

    fn into_closing(self) -> Closing<C, U> {
        let forwards = self.forwards();
        let (_, scanner) = self.assembler.into_parts();
        let silenced =
            |endpoint, scanner| CloseSide::new(Role::Client, endpoint, scanner, Forwards::Nothing);
        let client = match self.client {
            HeldClient::Here(endpoint) => Some(silenced(endpoint, scanner)),
            HeldClient::Leaving(endpoint, Farewell::Closed(frame))
                if !endpoint.write_buffer.is_at_boundary() =>
            {
                Some(silenced(endpoint, scanner).answering(frame))
            }
            HeldClient::Leaving(endpoint, _) => Some(silenced(endpoint, scanner).closed()),
            HeldClient::Gone(_) => None,
        };
        let upstream = self.upstream.into_link().map(|link| {
            let scanner = link.tap.into_scanner();
            let party = CloseSide::new(Role::Server, link.endpoint, scanner, forwards);
            match self.parting {
                Some(frame) => party.parted(frame),
                None => party,
            }
        });
        Closing { client, upstream }
    }
}

impl<C: Stream, U: Stream> Closing<C, U> {
    fn after_tunnel(ends: Ends<C, U>) -> Self {
        let Ends {
            client, upstream, ..
        } = ends;
        Self {
            client: Some(CloseSide::new(
                Role::Client,
                client.endpoint,
                client.scanner,
                Forwards::All,
            )),
            upstream: Some(CloseSide::new(
                Role::Server,
                upstream.endpoint,
                upstream.scanner,
                Forwards::All,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use bytes::Bytes;
    use tokio::net::UnixStream;

    use super::*;
    use crate::transport::Transport;

    #[tokio::test]
    async fn an_idle_session_takes_little_memory() {
        let (stream, _client) = UnixStream::pair().unwrap();
        let client = Opened {
            stream: Transport::Unix(stream),
            read_buf: Bytes::new(),
        };
        let connect =
            async |_: &Attempts| pending::<Result<Opened<Transport>, ConnectError>>().await;
        let context = Context {
            budget: Arc::new(Budget::new(0)),
            drain: Drain::new(crate::config::DrainSettings::default()),
        };
        let settings = Settings::default();

        let session = run(client, connect, &settings, &context);

        // The tunnel's own state, apart from the task around it and the sockets.
        assert!(size_of_val(&session) <= 256, "{}", size_of_val(&session));
        assert!(
            size_of::<SessionStats>() <= 288,
            "{}",
            size_of::<SessionStats>()
        );
        let ends = size_of::<Ends<Transport, Transport>>();
        // The allocator has a size class of 320 bytes.
        assert!(ends <= 320, "{ends}");
    }
}
