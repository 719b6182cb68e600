//! The flush: what was held goes upstream, by priority, with as few system calls as
//! possible.
//!
//! # Invariants
//!
//! * What the client sends meanwhile is written behind what was held when the gate opened,
//!   in the order in which it came.
//! * Once what was held is written, the client is not read until the rest is: the flush
//!   ends however fast the client sends.
//! * A drain leaves the flush the time that holding has; an upstream that takes nothing for as
//!   long as the gate may take ends the session.

use tokio::time::{self, Instant};

use super::{
    hold::{Holding, Link},
    ledger::Account,
    termination::EndReason,
    write_buffer::WriteBuffer,
};
use crate::transport::Stream;

/// What was held when the gate opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    /// The outbox's count of written messages once all of it is written.
    last_message: u64,
}

impl Snapshot {
    fn of(outbox: &WriteBuffer) -> Self {
        Self {
            last_message: outbox.messages_written() + outbox.messages_waiting().0,
        }
    }

    /// Whether everything that was held is written.
    pub(super) fn is_written(self, outbox: &WriteBuffer) -> bool {
        outbox.messages_written() >= self.last_message
    }
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Writes everything that is held to the upstream.
    ///
    /// # Errors
    ///
    /// Why the session ends instead of becoming a tunnel; also when the client has left, all its
    /// messages are written, and the upstream has had its time for them.
    pub(super) async fn flush(&mut self) -> Result<(), EndReason> {
        let started = Instant::now();
        self.line_up();
        self.write_all().await?;
        self.session.note_flushed(started.elapsed());
        let Some(farewell) = self.client.farewell().cloned() else {
            return Ok(());
        };
        if self.link.as_ref().is_some_and(Link::has_client_message) {
            self.linger().await?;
        }
        Err(farewell.cause())
    }

    /// Moves the queue to the upstream's outbox.
    fn line_up(&mut self) {
        self.let_pass();
        if let Some(max_age) = self.settings.hold.max_age {
            let expired = self.queue.expire(max_age, Instant::now());
            self.session.settle(expired, Account::Expired);
        }
        let Some(link) = &mut self.link else { return };
        while let Some(wire) = self.queue.pop() {
            link.pass_on(wire);
        }
        link.tap.stop_sampling();
        self.assembler.lift_limit();
        self.snapshot = Some(Snapshot::of(&link.peer.outbox));
    }

    async fn write_all(&mut self) -> Result<(), EndReason> {
        let mut stalls_at = Instant::now() + self.settings.gate.timeout;
        let mut written_before = self.bytes_written();
        loop {
            self.exchange()?;
            self.look_at_watch()?;
            let is_over = |link: &Link<U>| link.peer.outbox.is_empty() && link.withheld.is_none();
            if self.link.as_ref().is_none_or(is_over) {
                return Ok(());
            }
            let context = self.context;
            let is_draining = self.drain_deadline.is_some();
            let wake_at = [Some(stalls_at), self.drain_deadline, self.watch_at()];
            let wake_at = wake_at.into_iter().flatten().min().unwrap_or(stalls_at);
            tokio::select! {
                () = self.progress() => {}
                () = context.drain.begun(), if !is_draining => self.start_drain(),
                () = time::sleep_until(wake_at) => {
                    if self.drain_deadline.is_some_and(|at| at <= Instant::now()) {
                        return Err(EndReason::Drained);
                    }
                    if stalls_at <= Instant::now() {
                        if self.bytes_written() == written_before {
                            return Err(EndReason::FlushStalled);
                        }
                        written_before = self.bytes_written();
                        stalls_at = Instant::now() + self.settings.gate.timeout;
                    }
                }
            }
        }
    }

    fn bytes_written(&self) -> u64 {
        self.link
            .as_ref()
            .map_or(0, |link| link.peer.outbox.bytes_written())
    }
}
