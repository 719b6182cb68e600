//! Which messages are taken in, at which place, and what gives way to them.

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

/// What a session may hold of its client although the process's budget is used up, in accounted
/// bytes: what other sessions hold must not keep one from the message that its upstream waits
/// for. Once more as much may be kept of its upstream's message.
pub(super) const RESERVE_BYTES: usize = 4096;

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Whether bytes of the client may be read.
    pub(super) fn may_read_client(&self) -> bool {
        self.client.is_here() && self.may_take_from_client()
    }

    /// Whether bytes of the client may be looked at.
    ///
    /// What waits to be written upstream is bounded under every policy. A full queue is no
    /// obstacle under [`Overflow::Shed`] and [`Overflow::Close`]: the next message decides
    /// what gives way. What a critical message has made too full is.
    pub(super) fn may_take_from_client(&self) -> bool {
        if let Some(snapshot) = &self.snapshot {
            let Some(link) = &self.link else { return false };
            return !snapshot.is_written(&link.peer.outbox)
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

    /// Whether the process's budget leaves this session nothing: it is used up, and the
    /// session has more than its reserve of it.
    pub(super) fn is_starved(&self) -> bool {
        self.context.budget.is_exhausted() && self.charge.bytes() > RESERVE_BYTES
    }

    /// Whether the queue, and what waits to be written upstream, leave room.
    fn fits(&self, messages: usize, bytes: usize) -> bool {
        let (waiting, waiting_bytes) = self.link.as_ref().map_or((0, 0), |link| {
            let (messages, _) = link.peer.outbox.messages_waiting();
            (
                usize::try_from(messages).unwrap_or(usize::MAX),
                link.peer.outbox.accounted_bytes(),
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
                }
                Ok(())
            }
            Overflow::Close if self.is_starved() => Err(EndReason::QueueFull),
            Overflow::Backpressure | Overflow::Close => Ok(()),
        }
    }

    /// Takes responsibility for one message of the client.
    pub(super) fn admit(&mut self, message: Message) -> Result<(), EndReason> {
        if self.snapshot.is_some() {
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
                    return Ok(());
                }
            }
        }
        self.queue.push(message.wire, class, Instant::now());
        Ok(())
    }

    /// What the rules say of `message`. What would have to be inflated by more than data
    /// becomes is not looked at, so that no rule matches it.
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

    /// Sheds what is below `incoming` until `bytes` more fit; whether they do.
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
        self.link.is_some() && release <= reached
    }

    fn pass_on(&mut self, wire: Vec<u8>) -> Result<(), EndReason> {
        let Some(link) = &mut self.link else {
            return Err(EndReason::UpstreamLost);
        };
        link.pass_on(wire);
        Ok(())
    }

    /// Sends upstream what waits for no more than `reached`.
    pub(super) fn release(&mut self, reached: Release) {
        let Some(link) = &mut self.link else { return };
        for wire in self.queue.take_released(reached) {
            link.pass_on(wire);
        }
    }
}
