//! Whose fault it is when a session ends before it is ready.

use super::{Holding, Link};
use crate::{
    session::{Cause, rules::Release},
    transport::Stream,
};

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Whether this end before readiness says that the upstream is out of order: not where the
    /// client may have had a part in it.
    pub(in crate::session) fn is_upstreams_fault(&self, cause: &Cause) -> bool {
        let has_part = match &self.link {
            None => !self.session.attempts().blames_upstream(),
            Some(link) => self.has_client_part(link),
        };
        cause.blames_upstream() && !has_part && !self.may_wait_for_client()
    }

    /// Whether the upstream has got a message of the client, or not its pong, or cannot say more
    /// because the client does not read.
    fn has_client_part(&self, link: &Link<U>) -> bool {
        link.has_client_message() || link.asks_client || self.client.waiting_bytes() > 0
    }

    /// Whether the upstream was there, and may have waited for a message that the client has to
    /// send first.
    fn may_wait_for_client(&self) -> bool {
        let is_released_early = self.settings.rules.release_before(Release::Ready);
        is_released_early && self.session.connected_after().is_some()
    }
}
