//! Admission of client messages to the queue: which are admitted, released at once, or shed for
//! others.

use tokio::time::Instant;

use super::{Holding, Overflow};
use crate::{
    session::{
        gate::Stage,
        ledger::Account,
        queue::accounted_bytes,
        rules::{Class, Priority, Release},
        termination::EndReason,
    },
    transport::Stream,
    websocket::{Message, ProtocolError, Role},
};

/// Accounted bytes that a session may hold for its client even when the process's budget is used
/// up: the messages held by other sessions must not keep it from the one that its upstream waits
/// for. The same amount again may be kept of the upstream's message.
pub(super) const RESERVE_BYTES: usize = 4096;

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Returns whether the client may be read.
    pub(super) fn may_read_client(&self) -> bool {
        self.client.is_here() && self.may_take_from_client()
    }

    /// Returns whether received bytes of the client may be processed.
    ///
    /// The data waiting to be written upstream is bounded under every policy. A full queue is no
    /// obstacle under [`Overflow::Shed`] and [`Overflow::Close`]: the next message decides which
    /// one is shed. A queue that a critical message has pushed over its limit is one.
    pub(super) fn may_take_from_client(&self) -> bool {
        if let Some(snapshot) = &self.snapshot {
            let Some(link) = self.upstream.link() else {
                return false;
            };
            return !snapshot.is_written(&link.endpoint.write_buffer)
                && self.fits(0, self.assembler.held_bytes());
        }
        match self.settings.hold.overflow {
            Overflow::Backpressure => {
                self.fits(1, self.assembler.held_bytes() + 1) && !self.is_starved()
            }
            Overflow::Shed => self.fits(0, 0) && !self.is_starved(),
            Overflow::Close => self.fits(0, 0),
        }
    }

    /// Returns whether the process's budget leaves nothing to this session: it is used up, and
    /// the session holds more than its reserve.
    pub(super) fn is_starved(&self) -> bool {
        self.context.budget.is_exhausted() && self.charge.bytes() > RESERVE_BYTES
    }

    /// Returns whether the queue, together with the data waiting to be written upstream, has
    /// room.
    fn fits(&self, messages: usize, bytes: usize) -> bool {
        let (waiting, waiting_bytes) = self.upstream.link().map_or((0, 0), |link| {
            let (messages, _) = link.endpoint.write_buffer.messages_waiting();
            (
                usize::try_from(messages).unwrap_or(usize::MAX),
                link.endpoint.write_buffer.accounted_bytes(),
            )
        });
        let limits = &self.settings.hold;
        self.queue.len() + waiting + messages <= limits.max_messages
            && self.queue.held_bytes() + waiting_bytes + bytes <= limits.max_bytes
    }

    /// Makes room in the process's budget, as far as the route's policy allows.
    pub(super) fn relieve_budget(&mut self) -> Result<(), EndReason> {
        match self.settings.hold.overflow {
            Overflow::Shed => {
                while self.is_starved() && self.queue.shed_below(Priority::Critical) {
                    self.session.settle(1, Account::Shed);
                    self.recharge();
                    // Released at once, so that the check above sees it.
                }
                Ok(())
            }
            Overflow::Close if self.is_starved() => Err(EndReason::QueueFull),
            Overflow::Backpressure | Overflow::Close => Ok(()),
        }
    }

    /// Accepts one message of the client: holds it, sends it on, or sheds it.
    pub(super) fn admit(&mut self, message: Message) -> Result<(), EndReason> {
        if self.snapshot.is_some() {
            // The gate is open: the message follows the flushed ones.
            self.session.accept(1);
            return self.pass_on(message.wire);
        }
        let class = self.classify(&message).map_err(EndReason::ClientError)?;
        self.session.accept(1);
        if self.is_released(class.release) {
            return self.pass_on(message.wire);
        }
        let bytes = accounted_bytes(&message.wire);
        match self.settings.hold.overflow {
            Overflow::Backpressure => {}
            Overflow::Close if self.fits(1, bytes) => {}
            Overflow::Close => {
                self.session.settle(1, Account::Discarded);
                return Err(EndReason::QueueFull);
            }
            Overflow::Shed => {
                if !self.make_room(bytes, class.priority) && class.priority != Priority::Critical {
                    self.session.settle(1, Account::Shed);
                    // A critical message is never shed; it may exceed the limits, which then
                    // stops the reading.
                    return Ok(());
                }
            }
        }
        self.queue.push(message.wire, class, Instant::now());
        Ok(())
    }

    /// Classifies `message` by the rules. A message that would inflate far more than ordinary
    /// data does is not inspected, and so matches no rule.
    fn classify(&mut self, message: &Message) -> Result<Class, ProtocolError> {
        if self.settings.rules.is_empty() {
            return Ok(Class::default());
        }
        if message.is_compressed {
            self.inflation.add(message.wire.len() as u64, 0);
            if self.inflation.is_suspicious() {
                return Ok(Class::default());
            }
        }
        let inspect_bytes = self.settings.gate.inspect_bytes;
        let (payload, is_whole) = message.sample(Role::Client, inspect_bytes)?;
        if message.is_compressed {
            self.inflation.add(0, payload.len() as u64);
        }
        Ok(self.settings.rules.classify(&crate::matcher::Sample {
            is_text: message.is_text,
            payload: &payload,
            is_whole,
        }))
    }

    /// Sheds messages below `incoming` until `bytes` more fit; returns whether they do.
    fn make_room(&mut self, bytes: usize, incoming: Priority) -> bool {
        while !self.fits(1, bytes) {
            if !self.queue.shed_below(incoming) {
                return false;
            }
            self.session.settle(1, Account::Shed);
        }
        true
    }

    fn is_released(&self, release: Release) -> bool {
        let Some(stage) = self.gate.stage() else {
            return false;
        };
        let reached = match stage {
            Stage::Authenticated => Release::Authenticated,
            Stage::ServicesReady | Stage::Ready => Release::ServicesReady,
        };
        self.upstream.link().is_some() && release <= reached
    }

    fn pass_on(&mut self, wire: Vec<u8>) -> Result<(), EndReason> {
        let Some(link) = self.upstream.link_mut() else {
            return Err(EndReason::UpstreamLost);
        };
        link.pass_on(wire);
        Ok(())
    }

    /// Sends upstream the messages that wait for no more than `reached`.
    pub(super) fn release(&mut self, reached: Release) {
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        for wire in self.queue.take_released(reached) {
            link.pass_on(wire);
        }
    }
}
