//! One WebSocket session, from the client's `101 Switching Protocols` to the last close
//! frame.

pub mod close;
pub mod flush;
pub mod gate;
pub mod hold;
mod inspector;
pub mod ledger;
mod peer;
mod pings;
pub mod queue;
pub mod rules;
mod splice;
pub mod state;
pub mod stats;
pub mod termination;
mod timeouts;
pub mod tunnel;
mod write_buffer;

use std::{mem, ops::Deref, rc::Rc, sync::Arc, time::Duration};

use self::{
    close::{CloseSide, Closing, Forwards},
    hold::{Farewell, HeldClient, Holding},
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

/// How the sessions of a route behave.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When the gate opens.
    pub gate: gate::Settings,
    /// How client messages are classified.
    pub rules: rules::Rules,
    /// The hold queue.
    pub hold: hold::Settings,
    /// The tunnel and the closing handshake.
    pub tunnel: tunnel::Settings,
    /// Which close code an upstream's HTTP status becomes.
    pub close_codes: close::CloseCodes,
}

impl Settings {
    /// Whether no message of the client may depend on those before it: because one may be
    /// looked into by itself, overtake others, or be given up.
    #[must_use]
    pub fn wants_independent_messages(&self) -> bool {
        !self.rules.is_empty()
            || self.hold.overflow == hold::Overflow::Shed
            || self.hold.max_age.is_some()
    }
}

/// What was settled before a session began, perhaps with an upstream that was asked first.
#[derive(Debug, Default)]
pub struct Agreed {
    /// What the client and the upstream may compress, and how; the same for every connection
    /// to the upstream.
    pub compression: Option<Agreement>,
    /// How much of the gate's timeout is over.
    pub waited: Duration,
    /// Where it is said whether the upstream is in order, as soon as the gate opens or the
    /// session ends.
    pub trial: Permit,
}

/// What a session shares with the process it runs in.
#[derive(Clone, Debug)]
pub struct Context {
    /// What all sessions together may hold.
    pub budget: Arc<Budget>,
    /// When they all have to end.
    pub drain: Drain,
}

/// Runs one session to its end.
///
/// `client` has its `101`. `connect` makes one connection to the upstream, retrying what
/// may be retried until it is dropped; it is called again when the upstream is lost, or goes to
/// start again, before it is ready and before any message of the client has gone to it.
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

/// [`run`] for a client and an upstream that have `agreed` on something, with a `record` that
/// others can look at meanwhile.
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
    // Boxed before the future begins: what it takes as arguments it keeps to its end, and a
    // session in its tunnel must not carry what only holding needs.
    let (route, process) = (settings.clone(), context.clone());
    let held = Box::pin(hold(
        client,
        agreed,
        connect,
        route,
        process,
        record.clone(),
    ));
    async move {
        let (cause, closing) = match held.await {
            Err(ended) => *ended,
            Ok(mut ends) => {
                let (drain, tunnel) = (&context.drain, &settings.tunnel);
                let cause = tunnel::run(&mut ends, &record, tunnel, drain).await;
                (cause, Closing::after_tunnel(*ends))
            }
        };
        let state = record.entered_state();
        let written = Box::pin(closing.run(&cause, &record, &settings, &context)).await;
        record.settle_all(written);
        record.enter(cause.final_state(), cause.name());
        record.report(cause, state)
    }
}

/// Both ends of the tunnel, or why there is none and what is left to close.
type Held<C, U> = Result<Box<Ends<C, U>>, Box<(EndReason, Closing<C, U>)>>;

/// Holds and flushes; returns both ends of the tunnel, or why there is none.
async fn hold<C, U>(
    client: Opened<C>,
    agreed: Agreed,
    connect: impl AsyncFn(&Attempts) -> Result<Opened<U>, ConnectError>,
    settings: impl Deref<Target = Settings>,
    context: impl Deref<Target = Context>,
    record: impl Deref<Target = SessionStats>,
) -> Held<C, U>
where
    C: Stream,
    U: Stream,
{
    let mut holding = Holding::new(client, agreed, &record, &settings, &context);
    let open = holding.until_open(&connect).await;
    holding.judge(&open);
    let flushed = match open {
        Ok(()) => holding.flush().await,
        Err(cause) => Err(cause),
    };
    match flushed {
        Ok(()) => Ok(holding.into_ends()),
        Err(cause) => {
            holding.give_up(&cause);
            Err(Box::new((cause, holding.into_closing())))
        }
    }
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Hands over to the tunnel, with a message that the client has sent only in part.
    ///
    /// # Panics
    ///
    /// When a side is missing: a flush succeeds only while both are there.
    fn into_ends(self) -> Box<Ends<C, U>> {
        let (HeldClient::Here(client), Some(link)) = (self.client, self.link) else {
            unreachable!("a flush succeeds only while both sides are there");
        };
        let (partial, scanner) = self.assembler.into_parts();
        let mut charge = self.charge;
        charge.set(partial.capacity());
        let mut upstream = link.peer;
        upstream
            .outbox
            .push_passing(&partial, scanner.is_at_boundary());
        let client = TunnelEnd::new(client, scanner);
        let upstream = TunnelEnd::new(upstream, link.tap.into_scanner());
        Box::new(Ends::new(client, upstream, Some(charge), self.watch))
    }

    /// Says what the session's beginning tells of the upstream. That the gate opens without
    /// readiness, for the route says so, is as good: the client is served.
    fn judge(&mut self, open: &Result<(), EndReason>) {
        let trial = mem::take(&mut self.agreed.trial);
        match open {
            Ok(()) => trial.succeed(),
            Err(cause) if self.is_upstreams_fault(cause) => trial.fail(),
            Err(_) => drop(trial),
        }
    }

    /// Settles what is held when the session ends before its tunnel.
    fn give_up(&mut self, cause: &EndReason) {
        self.session
            .settle(self.queue.len() as u64, Account::Discarded);
        self.session.note_queued(Queued::default());
        let Some(link) = &mut self.link else { return };
        if cause.ends_upstream() {
            let dropped = link.peer.outbox.drop_waiting_messages();
            self.session.settle(dropped, Account::Discarded);
        }
    }

    fn into_closing(self) -> Closing<C, U> {
        let forwards = self.forwards();
        let (_, scanner) = self.assembler.into_parts();
        let silenced =
            |peer, scanner| CloseSide::new(Role::Client, peer, scanner, Forwards::Nothing);
        let client = match self.client {
            HeldClient::Here(peer) => Some(silenced(peer, scanner)),
            HeldClient::Leaving(peer, Farewell::Closed(frame)) if !peer.outbox.is_at_boundary() => {
                Some(silenced(peer, scanner).answering(frame))
            }
            HeldClient::Leaving(peer, _) => Some(silenced(peer, scanner).closed()),
            HeldClient::Gone(_) => None,
        };
        let upstream = self.link.map(|link| {
            let scanner = link.tap.into_scanner();
            let party = CloseSide::new(Role::Server, link.peer, scanner, forwards);
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
                client.peer,
                client.scanner,
                Forwards::All,
            )),
            upstream: Some(CloseSide::new(
                Role::Server,
                upstream.peer,
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
            drain: Drain::new(crate::limits::drain::Settings::default()),
        };
        let settings = Settings::default();

        let session = run(client, connect, &settings, &context);

        // What the tunnel needs, apart from the task around it and the sockets.
        assert!(size_of_val(&session) <= 256, "{}", size_of_val(&session));
        assert!(
            size_of::<SessionStats>() <= 288,
            "{}",
            size_of::<SessionStats>()
        );
        let ends = size_of::<Ends<Transport, Transport>>();
        // What the allocator has a size class for.
        assert!(ends <= 320, "{ends}");
    }
}
