//! The upstream's side while the client's messages are held.

use std::{pin::Pin, time::Duration};

use tokio::time::Instant;

use super::{HeldClient, Holding, admission::RESERVE_BYTES, blame::Owed};
use crate::{
    session::{
        close::Forwards,
        gate::{
            self, Signal,
            inspector::{Inspector, Tapped, extend},
        },
        io::endpoint::{EndpointIo, HIGH_WATER_BYTES},
        pings::{own_pong, ping_for_upstream},
        stats::SessionStats,
        termination::EndReason,
    },
    transport::Stream,
    upstream::ConnectError,
    websocket::{
        CloseFrame, Control, Opcode, Opened, extension::Agreement, frame::control_frame,
        message::max_compressed_bytes,
    },
};

/// First wait for a pong to the gate's ping; doubles up to [`MAX_PING_WAIT`].
const FIRST_PING_WAIT: Duration = Duration::from_millis(100);
const MAX_PING_WAIT: Duration = Duration::from_secs(2);

/// One attempt to connect to the upstream.
pub(in crate::session) type Attempt<'s, U> =
    Pin<Box<dyn Future<Output = Result<Opened<U>, ConnectError>> + 's>>;

/// The upstream while messages are held.
pub(in crate::session) enum HeldUpstream<'s, U> {
    /// Is being connected; the attempt makes no progress but in
    /// [`progress`](HeldUpstream::progress).
    Connecting(Attempt<'s, U>),
    /// Connected.
    Connected(Link<U>),
}

impl<U> HeldUpstream<'_, U> {
    /// The connection, if there is one.
    pub(in crate::session) const fn link(&self) -> Option<&Link<U>> {
        match self {
            Self::Connecting(_) => None,
            Self::Connected(link) => Some(link),
        }
    }

    /// Like [`link`](Self::link), to change it.
    pub(in crate::session) const fn link_mut(&mut self) -> Option<&mut Link<U>> {
        match self {
            Self::Connecting(_) => None,
            Self::Connected(link) => Some(link),
        }
    }

    /// The connection, if there is one; an attempt is dropped.
    pub(in crate::session) fn into_link(self) -> Option<Link<U>> {
        match self {
            Self::Connecting(_) => None,
            Self::Connected(link) => Some(link),
        }
    }
}

impl<U: Stream> HeldUpstream<'_, U> {
    /// Resolves when the upstream has made progress, with the connection if that is new. Records in
    /// `session` when its socket is found empty.
    ///
    /// # Cancel safety
    ///
    /// An attempt continues with the next call; otherwise as [`EndpointIo::progress`].
    pub(super) async fn progress(
        &mut self,
        may_read: bool,
        session: &SessionStats,
    ) -> Result<Option<Opened<U>>, ConnectError> {
        match self {
            Self::Connecting(attempt) => attempt.as_mut().await.map(Some),
            Self::Connected(link) => {
                link.progress(may_read, session).await;
                Ok(None)
            }
        }
    }
}

/// Connection to the upstream while messages are held.
#[derive(Debug)]
pub(in crate::session) struct Link<U> {
    pub(in crate::session) endpoint: EndpointIo<U>,
    pub(in crate::session) tap: Inspector,
    /// Whether a message of the client was sent to the upstream, or is in its write buffer.
    has_client_message: bool,
    /// Ping for which the upstream awaits the client's pong.
    pub(super) owed: Option<Box<Owed>>,
    /// Current message, where it may have to be withheld from the client.
    pub(in crate::session) withheld: Option<Withheld>,
    ping: Option<GatePing>,
}

/// Bytes kept of the upstream's current message.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Wire bytes.
    withheld: usize,
    /// Wire bytes or the sample for matchers, whichever is larger.
    larger: usize,
}

/// A message that is withheld from the client, for good or until it is decided.
#[derive(Debug)]
pub(in crate::session) enum Withheld {
    /// May turn out to be the ready message. Contains its wire bytes so far, frame headers
    /// included: at most [`max_compressed_bytes`] of the inspected length and one read.
    Undecided(Vec<u8>),
    /// Is the ready message; nothing is kept.
    Ready,
}

/// The gate's own ping, repeated until a pong arrives. None of the pongs, however late, is
/// forwarded to the client.
#[derive(Debug)]
struct GatePing {
    next_at: Instant,
    wait: Duration,
}

impl<U: Stream> Link<U> {
    pub(super) fn new(
        opened: Opened<U>,
        gate: &gate::Settings,
        agreement: Option<Agreement>,
        session: &SessionStats,
    ) -> Self {
        let ping = gate.wants_pong().then(|| GatePing {
            next_at: Instant::now(),
            wait: FIRST_PING_WAIT,
        });
        let mut link = Self {
            endpoint: EndpointIo::new(opened),
            tap: Inspector::new(gate, agreement),
            has_client_message: false,
            owed: None,
            withheld: None,
            ping,
        };
        link.ping_if_due(Instant::now(), session);
        link
    }

    /// Memory taken by messages of the client and the upstream.
    pub(super) fn held_bytes(&self) -> usize {
        self.endpoint.write_buffer.accounted_bytes()
            + self.tap.held_bytes()
            + match &self.withheld {
                Some(Withheld::Undecided(bytes)) => bytes.capacity(),
                Some(Withheld::Ready) | None => 0,
            }
    }

    /// Bytes kept of the current message.
    fn kept_bytes(&self) -> Kept {
        let withheld = match &self.withheld {
            Some(Withheld::Undecided(bytes)) => bytes.len(),
            Some(Withheld::Ready) | None => 0,
        };
        let larger = withheld.max(self.tap.sample_bytes());
        Kept { withheld, larger }
    }

    /// Sends one whole message of the client upstream.
    pub(in crate::session) fn pass_on(&mut self, wire: Vec<u8>) {
        self.has_client_message = true;
        self.endpoint.write_buffer.push_message(wire);
    }

    /// Returns whether a message of the client was sent to the upstream, or is in its write
    /// buffer.
    pub(in crate::session) const fn has_client_message(&self) -> bool {
        self.has_client_message
    }

    /// Returns whether it is inside a message that has been forwarded in part.
    pub(super) fn is_inside_passing(&self) -> bool {
        self.withheld.is_none() && self.tap.is_in_message()
    }

    /// Resolves when the connection has made progress; records in `session` when the socket is
    /// found empty.
    async fn progress(&mut self, may_read: bool, session: &SessionStats) {
        let Self { endpoint, tap, .. } = self;
        let is_between = tap.is_between_messages() && endpoint.read_buffer.is_empty();
        let on_empty = |write_buffer: &_| {
            if is_between {
                session.note_found_empty(write_buffer);
            }
        };
        endpoint.progress_or(may_read, on_empty).await;
    }

    /// Time at which the gate's ping is to be repeated.
    pub(super) fn ping_at(&self) -> Option<Instant> {
        self.ping.as_ref().map(|ping| ping.next_at)
    }

    pub(super) fn ping_if_due(&mut self, now: Instant, session: &SessionStats) {
        let Some(ping) = &mut self.ping else { return };
        if ping.next_at <= now {
            // An upstream that does not read has one waiting already.
            if self.endpoint.write_buffer.is_empty() {
                let number = session.number_ping(&self.endpoint.write_buffer);
                self.endpoint
                    .write_buffer
                    .push_control(ping_for_upstream(number));
            }
            ping.next_at = now + ping.wait;
            ping.wait = (ping.wait * 2).min(MAX_PING_WAIT);
        }
    }
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Processes the upstream's data, as far as the client has room for it.
    pub(super) fn take_from_upstream(&mut self) -> Result<(), EndReason> {
        let Some(link) = self.upstream.link_mut() else {
            return Ok(());
        };
        let read_buffer = link.endpoint.take_read_buffer();
        let mut input = &read_buffer[..];
        let blocked = self.take_all_tapped(&mut input);
        let left = input.len();
        self.session
            .note_upstream_bytes((read_buffer.len() - left) as u64);
        let Some(link) = self.upstream.link_mut() else {
            return Ok(());
        };
        link.endpoint.put_back(read_buffer, left);
        if !blocked? && link.endpoint.has_ended() {
            return self.upstream_lost();
        }
        Ok(())
    }

    /// Processes all of `input`; returns whether it stopped because the client does not read.
    fn take_all_tapped(&mut self, input: &mut &[u8]) -> Result<bool, EndReason> {
        while self.client.waiting_bytes() < HIGH_WATER_BYTES {
            if !self.take_tapped(input)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the next item that the upstream sent; returns whether there was one.
    fn take_tapped(&mut self, input: &mut &[u8]) -> Result<bool, EndReason> {
        let Some(link) = self.upstream.link_mut() else {
            return Ok(false);
        };
        match link.tap.advance(input).map_err(EndReason::UpstreamError)? {
            None => return Ok(false),
            Some(Tapped::MessageStart(bytes)) => {
                if self.may_withhold()
                    && let Some(link) = self.upstream.link_mut()
                {
                    link.withheld = Some(Withheld::Undecided(Vec::new()));
                }
                self.take_data(bytes);
            }
            Some(Tapped::Data(bytes)) => self.take_data(bytes),
            Some(Tapped::MessageEnd) => self.take_message_end(),
            Some(Tapped::Control(control)) => self.take_upstream_control(&control)?,
        }
        Ok(true)
    }

    fn take_data(&mut self, bytes: &[u8]) {
        self.heard_bytes += bytes.len() as u64;
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        let max_bytes = max_compressed_bytes(self.settings.gate.inspect_bytes);
        // Withheld as wire bytes, so that it can be forwarded unchanged.
        if let Some(Withheld::Undecided(withheld)) = &mut link.withheld {
            extend(withheld, bytes, max_bytes);
        }
        let kept = link.kept_bytes();
        // A message that has arrived completely takes no more memory.
        let is_over = kept.larger > RESERVE_BYTES
            && link.tap.is_in_message()
            && self.context.budget.is_exhausted();
        if kept.withheld >= max_bytes || is_over {
            link.tap.cut_sample();
        }
        match &link.withheld {
            None => self.client.pass(bytes, link.tap.is_at_boundary()),
            // A message longer than the inspected length is decided by the part that was
            // inspected.
            Some(Withheld::Undecided(_)) if link.tap.is_sample_cut() => self.decide(),
            Some(_) => {}
        }
    }

    /// Messages that the client still receives when the session ends at this point: not the rest
    /// of a message whose beginning was withheld, and none that might have been.
    pub(in crate::session) fn forwards(&self) -> Forwards {
        match self.upstream.link() {
            Some(Link {
                withheld: Some(_), ..
            }) => Forwards::Nothing,
            Some(link) if self.may_withhold() && link.tap.is_in_message() => {
                Forwards::RestOfMessage
            }
            Some(_) if self.may_withhold() => Forwards::Nothing,
            Some(_) | None => Forwards::All,
        }
    }

    /// Returns whether a message that begins here may be the ready message and must not reach the
    /// client.
    fn may_withhold(&self) -> bool {
        self.settings.gate.withholds_messages() && !self.gate.is_ready() && self.snapshot.is_none()
    }

    /// Decides whether the withheld message is the ready message; otherwise forwards it.
    fn decide(&mut self) {
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        if self.gate.would_make_ready(link.tap.sample()) {
            link.withheld = Some(Withheld::Ready);
        } else {
            self.let_pass();
        }
    }

    /// Forwards to the client the bytes that were withheld undecided.
    pub(in crate::session) fn let_pass(&mut self) {
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        if let Some(Withheld::Undecided(bytes)) = link
            .withheld
            .take_if(|withheld| matches!(withheld, Withheld::Undecided(_)))
        {
            self.client.pass(&bytes, link.tap.is_at_boundary());
        }
    }

    fn take_message_end(&mut self) {
        // A message confirms whether the client receives it or not.
        self.session.confirm();
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        if matches!(link.withheld, Some(Withheld::Undecided(_))) {
            self.decide();
        }
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        // The ready message is for the proxy and does not count.
        if link.withheld.take().is_none() {
            self.session.note_upstream_messages(1);
        }
        if self.snapshot.is_none() {
            self.observe_message();
        }
    }

    fn observe_message(&mut self) {
        // The sample is borrowed by the gate, which may send messages on this very link.
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        let tap = std::mem::replace(&mut link.tap, Inspector::blind(None));
        self.observe(&Signal::Message(tap.sample()), "upstream message");
        if let Some(link) = self.upstream.link_mut() {
            link.tap = tap;
            if self.gate.is_ready() {
                link.tap.stop_sampling();
            }
        }
    }

    fn take_upstream_control(&mut self, control: &Control) -> Result<(), EndReason> {
        let Some(link) = self.upstream.link_mut() else {
            return Ok(());
        };
        if let Some(number) = own_pong(control) {
            self.session.confirm_by_pong(number);
            if link.ping.take().is_some() {
                self.observe(&Signal::Pong, "upstream answered the ping");
            }
            return Ok(());
        }
        match (control.opcode, &mut self.client) {
            (Opcode::Close, _) => {
                let frame =
                    CloseFrame::parse(&control.payload).map_err(EndReason::UpstreamError)?;
                self.upstream_closed(frame)
            }
            (Opcode::Ping, HeldClient::Leaving(..) | HeldClient::Gone(_)) => {
                let pong = control_frame(Opcode::Pong, &control.payload, Some(rand::random()));
                link.endpoint.write_buffer.push_pong(pong);
                Ok(())
            }
            (opcode, client) => {
                client.pass(&control.wire, true);
                if opcode == Opcode::Ping {
                    self.note_ping(&control.payload);
                }
                Ok(())
            }
        }
    }
}
