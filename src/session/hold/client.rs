//! The client's side while its messages are held.

use super::{Holding, OnClientGone};
use crate::{
    session::{
        ledger::Account,
        peer::{HIGH_WATER_BYTES, Peer},
        pings::own_pong,
        termination::EndReason,
    },
    transport::Stream,
    websocket::{AssembleError, Assembled, CloseFrame, Control, Opcode, frame::control_frame},
};

/// The client while its messages are held.
#[derive(Debug)]
pub(in crate::session) enum HeldClient<C> {
    /// It is there.
    Here(Peer<C>),
    /// It has said goodbye; what it was sent is still being written, up to the close frame
    /// that answers it. Where it is in the middle of a frame, that is completed first.
    Leaving(Peer<C>, Farewell),
    /// It is not there.
    Gone(Farewell),
}

/// How the client left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) enum Farewell {
    /// With this close frame.
    Closed(CloseFrame),
    /// Without one.
    Lost,
}

impl Farewell {
    /// Why the session ends when nothing is left to do for the client.
    pub(in crate::session) fn cause(&self) -> EndReason {
        match self {
            Self::Closed(frame) => EndReason::ClientClosed(frame.clone()),
            Self::Lost => EndReason::ClientLost,
        }
    }
}

impl<C: Stream> Peer<C> {
    /// Answers a close frame, unless the client is in the middle of a frame.
    fn answer_at_boundary(&mut self, farewell: &Farewell) {
        if let Farewell::Closed(frame) = farewell
            && self.outbox.is_at_boundary()
        {
            self.outbox
                .push_close(control_frame(Opcode::Close, &frame.payload(), None));
        }
    }
}

impl<C: Stream> HeldClient<C> {
    pub(in crate::session) const fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// How the client left, if it did.
    pub(in crate::session) const fn farewell(&self) -> Option<&Farewell> {
        match self {
            Self::Here(_) => None,
            Self::Leaving(_, farewell) | Self::Gone(farewell) => Some(farewell),
        }
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        match self {
            Self::Here(peer) if !peer.is_broken() => peer.outbox.waiting_bytes(),
            Self::Here(_) | Self::Leaving(..) | Self::Gone(_) => 0,
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Here(peer) => peer.inbox.capacity(),
            Self::Leaving(..) | Self::Gone(_) => 0,
        }
    }

    /// Resolves when the client did something, or has finished leaving.
    pub(super) async fn progress(&mut self, may_read: bool) {
        match self {
            Self::Here(peer) => {
                peer.progress(may_read).await;
            }
            Self::Leaving(peer, _) if !peer.outbox.is_at_boundary() => {
                peer.progress(false).await;
            }
            Self::Leaving(peer, farewell) => {
                peer.finish().await;
                *self = Self::Gone(farewell.clone());
            }
            Self::Gone(_) => std::future::pending().await,
        }
    }

    /// Sends passing bytes of the upstream, or drops them when nobody is there.
    pub(super) fn pass(&mut self, bytes: &[u8], ends_frame: bool) {
        match self {
            Self::Here(peer) if !peer.is_broken() => peer.outbox.push_passing(bytes, ends_frame),
            Self::Leaving(peer, farewell) if !peer.outbox.is_at_boundary() => {
                peer.outbox.push_passing(bytes, ends_frame);
                peer.answer_at_boundary(farewell);
                // A client that has left must not keep the others waiting.
                if peer.outbox.waiting_bytes() > 2 * HIGH_WATER_BYTES {
                    *self = Self::Gone(farewell.clone());
                }
            }
            Self::Here(_) | Self::Leaving(..) | Self::Gone(_) => {}
        }
    }
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Looks at what the client has sent, as far as there is room.
    pub(super) fn take_from_client(&mut self) -> Result<(), EndReason> {
        let HeldClient::Here(peer) = &mut self.client else {
            return Ok(());
        };
        let inbox = peer.take_inbox();
        let mut input = &inbox[..];
        let blocked = self.take_all(&mut input);
        let left = input.len();
        self.session.note_client_bytes((inbox.len() - left) as u64);
        if let Some(watch) = &mut self.watch
            && left < inbox.len()
        {
            watch.hear_client();
        }
        if let HeldClient::Here(peer) = &mut self.client {
            peer.put_back(inbox, left);
            if (!blocked? || left == 0) && peer.has_ended() {
                return self.client_left(Farewell::Lost);
            }
            return Ok(());
        }
        blocked.map(|_| ())
    }

    /// Takes what there is; whether it stopped because there is no room.
    fn take_all(&mut self, input: &mut &[u8]) -> Result<bool, EndReason> {
        if !input.is_empty() {
            self.relieve_budget()?;
        }
        while self.client.is_here() {
            if !self.may_take_from_client() {
                return Ok(true);
            }
            if !self.take_one(input)? {
                break;
            }
        }
        Ok(false)
    }

    /// Takes one message or control frame; whether there was a whole one.
    fn take_one(&mut self, input: &mut &[u8]) -> Result<bool, EndReason> {
        let assembled = self.assembler.advance(input).map_err(|error| match error {
            AssembleError::Protocol(error) => EndReason::ClientError(error),
            AssembleError::TooLong { max_bytes } => EndReason::MessageTooBig { max_bytes },
        })?;
        match assembled {
            None => return Ok(false),
            Some(Assembled::Message(message)) => self.admit(message)?,
            Some(Assembled::Control(control)) => self.take_control(control)?,
        }
        Ok(true)
    }

    fn take_control(&mut self, control: Control) -> Result<(), EndReason> {
        match control.opcode {
            Opcode::Ping => {
                if let HeldClient::Here(peer) = &mut self.client {
                    peer.outbox
                        .push_pong(control_frame(Opcode::Pong, &control.payload, None));
                }
                Ok(())
            }
            Opcode::Close => {
                let frame = CloseFrame::parse(&control.payload).map_err(EndReason::ClientError)?;
                self.client_left(Farewell::Closed(frame))
            }
            _ if own_pong(&control).is_some() => Ok(()),
            _ => {
                self.note_pong(&control.payload);
                if let Some(link) = &mut self.link {
                    link.peer.outbox.push_pong(control.wire);
                }
                Ok(())
            }
        }
    }

    /// The client has closed or vanished.
    ///
    /// # Errors
    ///
    /// That the session ends, unless messages are held that are still to be delivered.
    fn client_left(&mut self, farewell: Farewell) -> Result<(), EndReason> {
        if self.is_holding() && self.settings.hold.on_client_gone == OnClientGone::Deliver {
            self.let_go(farewell);
            return Ok(());
        }
        if let Some(link) = &mut self.link
            && self.snapshot.is_some()
        {
            let dropped = link.peer.outbox.drop_waiting_messages();
            self.session.settle(dropped, Account::Discarded);
        }
        Err(farewell.cause())
    }

    /// Whether messages wait for the gate, or for those before them.
    fn is_holding(&self) -> bool {
        !self.queue.is_empty()
            || self.snapshot.is_some()
                && self
                    .link
                    .as_ref()
                    .is_some_and(|link| !link.peer.outbox.is_empty())
    }

    /// Says goodbye to the client: a close frame is answered at once.
    fn let_go(&mut self, farewell: Farewell) {
        let client = std::mem::replace(&mut self.client, HeldClient::Gone(farewell.clone()));
        let (HeldClient::Here(mut peer), Farewell::Closed(_)) = (client, &farewell) else {
            return;
        };
        peer.answer_at_boundary(&farewell);
        self.client = HeldClient::Leaving(peer, farewell);
    }

    /// Takes note of the code that a leaving client's close was answered with.
    pub(super) fn note_client_code(&mut self) {
        if let HeldClient::Leaving(peer, Farewell::Closed(frame)) = &self.client
            && peer.outbox.is_at_boundary()
        {
            self.session.note_client_code(frame.code);
        }
    }

    /// Looks whether a client that is not being read has gone.
    pub(super) fn check_hang_up(&mut self) -> Result<(), EndReason> {
        match &self.client {
            HeldClient::Here(peer)
                if self.settings.hold.on_client_gone == OnClientGone::Discard
                    && !self.may_take_from_client()
                    && peer.stream.is_hung_up() =>
            {
                self.client_left(Farewell::Lost)
            }
            _ => Ok(()),
        }
    }
}
