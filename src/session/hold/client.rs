//! The client's side while its messages are held.

use super::{Holding, OnClientGone};
use crate::{
    session::{
        io::endpoint::{EndpointIo, HIGH_WATER_BYTES},
        ledger::Account,
        pings::own_pong,
        termination::EndReason,
    },
    transport::Stream,
    websocket::{AssembleError, Assembled, CloseFrame, Control, Opcode, frame::control_frame},
};

/// The client while its messages are held.
#[derive(Debug)]
pub(in crate::session) enum HeldClient<C> {
    /// Connected.
    Here(EndpointIo<C>),
    /// Has left; the data sent to it is still being written, up to the close frame that answers
    /// its own. If it is in the middle of a frame, that is completed first.
    Leaving(EndpointIo<C>, Farewell),
    /// Disconnected.
    Gone(Farewell),
}

/// The way in which the client left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::session) enum Farewell {
    /// By this close frame.
    Closed(CloseFrame),
    /// Without a close frame.
    Lost,
}

impl Farewell {
    /// Reason of the session's end when nothing is left to do for the client.
    pub(in crate::session) fn cause(&self) -> EndReason {
        match self {
            Self::Closed(frame) => EndReason::ClientClosed(frame.clone()),
            Self::Lost => EndReason::ClientLost,
        }
    }
}

impl<C: Stream> EndpointIo<C> {
    /// Answers a close frame, unless the client is in the middle of a frame.
    fn answer_at_boundary(&mut self, farewell: &Farewell) {
        if let Farewell::Closed(frame) = farewell
            && self.write_buffer.is_at_boundary()
        {
            self.write_buffer
                .push_close(control_frame(Opcode::Close, &frame.payload(), None));
        }
    }
}

impl<C: Stream> HeldClient<C> {
    pub(in crate::session) const fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// The way in which the client left, if it did.
    pub(in crate::session) const fn farewell(&self) -> Option<&Farewell> {
        match self {
            Self::Here(_) => None,
            Self::Leaving(_, farewell) | Self::Gone(farewell) => Some(farewell),
        }
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        match self {
            Self::Here(endpoint) if !endpoint.is_broken() => endpoint.write_buffer.waiting_bytes(),
            Self::Here(_) | Self::Leaving(..) | Self::Gone(_) => 0,
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Here(endpoint) => endpoint.read_buffer.capacity(),
            Self::Leaving(..) | Self::Gone(_) => 0,
        }
    }

    /// Resolves when the client has made progress, or has finished leaving.
    pub(super) async fn progress(&mut self, may_read: bool) {
        match self {
            Self::Here(endpoint) => {
                endpoint.progress(may_read).await;
            }
            // The close frame must wait for the rest of the frame from the upstream.
            Self::Leaving(endpoint, _) if !endpoint.write_buffer.is_at_boundary() => {
                endpoint.progress(false).await;
            }
            Self::Leaving(endpoint, farewell) => {
                endpoint.finish().await;
                *self = Self::Gone(farewell.clone());
            }
            Self::Gone(_) => std::future::pending().await,
        }
    }

    /// Forwards bytes of the upstream to the client; drops them when it has left.
    pub(super) fn pass(&mut self, bytes: &[u8], ends_frame: bool) {
        match self {
            Self::Here(endpoint) if !endpoint.is_broken() => {
                endpoint.write_buffer.push_passing(bytes, ends_frame);
            }
            Self::Leaving(endpoint, farewell) if !endpoint.write_buffer.is_at_boundary() => {
                endpoint.write_buffer.push_passing(bytes, ends_frame);
                endpoint.answer_at_boundary(farewell);
                // A client that has left and no longer reads must not stall the upstream.
                if endpoint.write_buffer.waiting_bytes() > 2 * HIGH_WATER_BYTES {
                    *self = Self::Gone(farewell.clone());
                }
            }
            Self::Here(_) | Self::Leaving(..) | Self::Gone(_) => {}
        }
    }
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Processes the client's data, as far as there is room.
    pub(super) fn take_from_client(&mut self) -> Result<(), EndReason> {
        let HeldClient::Here(endpoint) = &mut self.client else {
            return Ok(());
        };
        let read_buffer = endpoint.take_read_buffer();
        let mut input = &read_buffer[..];
        let blocked = self.take_all(&mut input);
        let left = input.len();
        self.session
            .note_client_bytes((read_buffer.len() - left) as u64);
        // Bytes left over from before are no sign of life.
        if let Some(watch) = &mut self.watch
            && left < read_buffer.len()
        {
            watch.hear_client();
        }
        if let HeldClient::Here(endpoint) = &mut self.client {
            endpoint.put_back(read_buffer, left);
            // A client that has left without a close frame counts as gone only when everything it
            // sent has been taken.
            if (!blocked? || left == 0) && endpoint.has_ended() {
                return self.client_left(Farewell::Lost);
            }
            return Ok(());
        }
        blocked.map(|_| ())
    }

    /// Processes all of `input`; returns whether it stopped for lack of room.
    fn take_all(&mut self, input: &mut &[u8]) -> Result<bool, EndReason> {
        if !input.is_empty() {
            self.relieve_budget()?;
        }
        while self.client.is_here() {
            // Checked for each message: the one before may have filled the queue.
            if !self.may_take_from_client() {
                return Ok(true);
            }
            if !self.take_one(input)? {
                break;
            }
        }
        Ok(false)
    }

    /// Takes one message or control frame; returns whether there was a whole one.
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
                if let HeldClient::Here(endpoint) = &mut self.client {
                    endpoint.write_buffer.push_pong(control_frame(
                        Opcode::Pong,
                        &control.payload,
                        None,
                    ));
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
                if let Some(link) = self.upstream.link_mut() {
                    link.endpoint.write_buffer.push_pong(control.wire);
                }
                Ok(())
            }
        }
    }

    /// Handles a client that has closed or disappeared.
    ///
    /// # Errors
    ///
    /// The reason that the session ends, unless held messages are still to be delivered.
    fn client_left(&mut self, farewell: Farewell) -> Result<(), EndReason> {
        if self.is_holding() && self.settings.hold.on_client_gone == OnClientGone::Deliver {
            self.let_go(farewell);
            return Ok(());
        }
        if let Some(link) = self.upstream.link_mut()
            && self.snapshot.is_some()
        {
            let dropped = link.endpoint.write_buffer.drop_waiting_messages();
            self.session.settle(dropped, Account::Discarded);
        }
        Err(farewell.cause())
    }

    /// Returns whether messages wait for the gate, or for the ones in front of them.
    fn is_holding(&self) -> bool {
        !self.queue.is_empty()
            || self.snapshot.is_some()
                && self
                    .upstream
                    .link()
                    .is_some_and(|link| !link.endpoint.write_buffer.is_empty())
    }

    /// Parts with the client: a close frame is answered at once.
    fn let_go(&mut self, farewell: Farewell) {
        let client = std::mem::replace(&mut self.client, HeldClient::Gone(farewell.clone()));
        let (HeldClient::Here(mut endpoint), Farewell::Closed(_)) = (client, &farewell) else {
            return;
        };
        endpoint.answer_at_boundary(&farewell);
        self.client = HeldClient::Leaving(endpoint, farewell);
    }

    /// Records the code with which a leaving client's close frame was answered.
    pub(super) fn note_client_code(&mut self) {
        if let HeldClient::Leaving(endpoint, Farewell::Closed(frame)) = &self.client
            && endpoint.write_buffer.is_at_boundary()
        {
            self.session.note_client_code(frame.code);
        }
    }

    /// Checks whether a client that is not being read has disconnected.
    pub(super) fn check_hang_up(&mut self) -> Result<(), EndReason> {
        match &self.client {
            HeldClient::Here(endpoint)
                if self.settings.hold.on_client_gone == OnClientGone::Discard
                    && !self.may_take_from_client()
                    && endpoint.stream.is_hung_up() =>
            {
                self.client_left(Farewell::Lost)
            }
            _ => Ok(()),
        }
    }
}
