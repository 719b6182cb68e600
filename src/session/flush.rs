//! Sends the held messages upstream, by priority, with as few system calls as possible.
//!
//! # Invariants
//!
//! * Messages that the client sends during the flush are written behind the held ones, in the
//!   order of arrival.
//! * Once the held messages are written, the client is not read until the rest is, too: the flush
//!   ends however fast the client sends.
//! * A drain gives the flush as much time as holding; an upstream that accepts nothing for as
//!   long as the gate's timeout ends the session.

use tokio::time::{self, Instant};

use super::{
    hold::{Holding, Link, Snapshot},
    ledger::Account,
    termination::EndReason,
};
use crate::transport::Stream;

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Writes every held message to the upstream.
    ///
    /// # Errors
    ///
    /// The reason that the session ends instead of becoming a tunnel; also after the client has
    /// left, all its messages are written, and the upstream has had its time for them.
    pub(super) async fn flush(&mut self) -> Result<(), EndReason> {
        let started = Instant::now();
        self.line_up();
        self.write_all().await?;
        self.session.note_flushed(started.elapsed());
        let Some(farewell) = self.client.farewell().cloned() else {
            return Ok(());
        };
        if self.upstream.link().is_some_and(Link::has_client_message) {
            self.linger().await?;
        }
        Err(farewell.cause())
    }

    /// Moves the queue to the upstream's write buffer.
    fn line_up(&mut self) {
        // A message that began before the gate opened is no longer a candidate for the ready
        // message.
        self.let_pass();
        if let Some(max_age) = self.settings.hold.max_age {
            let expired = self.queue.expire(max_age, Instant::now());
            self.session.settle(expired, Account::Expired);
        }
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        while let Some(wire) = self.queue.pop() {
            link.pass_on(wire);
        }
        link.tap.stop_sampling();
        self.assembler.lift_limit();
        self.snapshot = Some(Snapshot::of(&link.endpoint.write_buffer));
    }

    async fn write_all(&mut self) -> Result<(), EndReason> {
        let mut stalls_at = Instant::now() + self.settings.gate.timeout;
        let mut written_before = self.bytes_written();
        loop {
            self.exchange()?;
            self.look_at_watch()?;
            // A withheld ready message is received to its end: the tunnel would forward the rest
            // of it.
            let is_over =
                |link: &Link<U>| link.endpoint.write_buffer.is_empty() && link.withheld.is_none();
            if self.upstream.link().is_none_or(is_over) {
                return Ok(());
            }
            let context = self.context;
            let is_draining = self.drain_deadline.is_some();
            let wake_at = [Some(stalls_at), self.drain_deadline, self.watch_at()];
            let wake_at = wake_at.into_iter().flatten().min().unwrap_or(stalls_at);
            tokio::select! {
                progressed = self.progress() => progressed?,
                () = context.drain.begun(), if !is_draining => self.start_drain(),
                () = time::sleep_until(wake_at) => {
                    if self.drain_deadline.is_some_and(|at| at <= Instant::now()) {
                        return Err(EndReason::Drained);
                    }
                    if stalls_at <= Instant::now() {
                        // One write per period is progress enough: a slow upstream is not a
                        // stalled one.
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
        self.upstream
            .link()
            .map_or(0, |link| link.endpoint.write_buffer.bytes_written())
    }
}
