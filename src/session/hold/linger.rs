//! The upstream of a client that has gone: it has got all, and is left the time to work on it.
//!
//! An application that answers each message finds out at its first answer that the connection
//! closes, and works on none of the others, if the close comes together with them.

use tokio::time::{self, Instant};

use super::Holding;
use crate::{session::termination::EndReason, transport::Stream, websocket::CloseCode};

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Waits until the upstream has said nothing for as long as the route says, has closed, or
    /// the process drains. What it says is for nobody.
    ///
    /// # Errors
    ///
    /// That the session ends for another reason than its client's leaving.
    pub(in crate::session) async fn linger(&mut self) -> Result<(), EndReason> {
        let (settings, context) = (&self.settings.hold, self.context);
        let ends_at = Instant::now() + settings.max_linger;
        let mut quiet_at = Instant::now() + settings.linger;
        let mut heard_bytes = self.heard_bytes;
        while self.drain_deadline.is_none() && self.is_served()? {
            self.look_at_watch()?;
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
                () = self.progress() => {}
                () = time::sleep_until(wake_at) => {}
                () = context.drain.begun() => break,
            }
        }
        Ok(())
    }

    /// Looks at what has come; whether the upstream still is there.
    fn is_served(&mut self) -> Result<bool, EndReason> {
        match self.exchange() {
            Ok(()) => Ok(true),
            Err(EndReason::UpstreamClosed(frame)) => {
                if frame.code.is_some_and(CloseCode::confirms) {
                    self.session.confirm();
                }
                self.parting = Some(frame);
                Ok(false)
            }
            Err(EndReason::UpstreamLost) => Ok(false),
            Err(cause) => Err(cause),
        }
    }
}
