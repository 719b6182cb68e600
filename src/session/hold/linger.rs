//! Delayed close of the upstream of a client that has left: it has received everything, and gets
//! time to process it.
//!
//! An application that replies to each message learns at its first reply that the connection is
//! closing and processes none of the others, if the close comes together with them.

use tokio::time::{self, Instant};

use super::Holding;
use crate::{session::termination::EndReason, transport::Stream, websocket::CloseCode};

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Waits until the upstream has been silent for the route's linger time or has closed, or the
    /// process drains. Whatever it sends is discarded.
    ///
    /// # Errors
    ///
    /// The reason that the session ends other than by its client having left.
    pub(in crate::session) async fn linger(&mut self) -> Result<(), EndReason> {
        let (settings, context) = (&self.settings.hold, self.context);
        let ends_at = Instant::now() + settings.max_linger;
        let mut quiet_at = Instant::now() + settings.linger;
        let mut heard_bytes = self.heard_bytes;
        while self.drain_deadline.is_none() && self.is_served()? {
            self.look_at_watch()?;
            // Any payload counts as a sign of work; pings do not, since libraries send them on a
            // timer.
            if self.heard_bytes > heard_bytes {
                heard_bytes = self.heard_bytes;
                quiet_at = Instant::now() + settings.linger;
            }
            let until = quiet_at.min(ends_at);
            if until <= Instant::now() {
                break;
            }
            let wake_at = self.watch_at().map_or(until, |at| at.min(until));
            tokio::select! {
                progressed = self.progress() => progressed?,
                () = time::sleep_until(wake_at) => {}
                () = context.drain.begun() => break,
            }
        }
        Ok(())
    }

    /// Processes received data; returns whether the upstream is still connected.
    fn is_served(&mut self) -> Result<bool, EndReason> {
        match self.exchange() {
            Ok(()) => Ok(true),
            Err(EndReason::UpstreamClosed(frame)) => {
                if frame.code.is_some_and(CloseCode::confirms) {
                    self.session.confirm();
                }
                // The close frame is answered by the closing handshake, which runs next.
                self.parting = Some(frame);
                Ok(false)
            }
            Err(EndReason::UpstreamLost) => Ok(false),
            Err(cause) => Err(cause),
        }
    }
}
