//! Attribution of a session's end before readiness: to the upstream or to the client.

use std::time::Duration;

use tokio::time::Instant;

use super::Holding;
use crate::{
    session::{EndReason, rules::Release},
    transport::Stream,
};

/// Time that a client may owe the upstream a pong without having influenced the outcome.
const PONG_GRACE: Duration = Duration::from_secs(1);

/// A ping of the upstream that the client has not answered.
#[derive(Debug)]
pub(super) struct Owed {
    /// Time at which the first unanswered ping was sent.
    since: Instant,
    /// Payload of the latest ping; its pong answers all of them (RFC 6455 §5.5.3).
    payload: Box<[u8]>,
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Returns whether this end before readiness means that the upstream is failing: not where
    /// the client may have influenced it.
    pub(in crate::session) fn is_upstreams_fault(&self, cause: &EndReason) -> bool {
        let is_blamed = self.upstream.link().is_some() || self.session.attempts().blames_upstream();
        cause.blames_upstream()
            && !self.has_client_part()
            && is_blamed
            && !self.may_wait_for_client()
    }

    /// Returns whether the client has influenced this upstream or an earlier one: by a message,
    /// by a pong that came late, or by not reading what the upstream sent. Once true, it stays
    /// so.
    fn has_client_part(&self) -> bool {
        let has_part_in = |link: &super::Link<U>| {
            link.has_client_message() || link.owed.is_some() || self.client.waiting_bytes() > 0
        };
        self.has_client_part || self.upstream.link().is_some_and(has_part_in)
    }

    /// Keeps the client's influence on record when the upstream is dropped.
    pub(super) fn note_client_part(&mut self) {
        self.has_client_part = self.has_client_part();
    }

    /// Records that a ping of the upstream was forwarded to the client.
    pub(super) fn note_ping(&mut self, payload: &[u8]) {
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        let since = link
            .owed
            .take()
            // The latest payload is the one that a client has to answer (RFC 6455 §5.5.3), but
            // the oldest ping tells how long the upstream has waited.
            .map_or_else(Instant::now, |owed| owed.since);
        let payload = payload.into();
        link.owed = Some(Box::new(Owed { since, payload }));
    }

    /// Records that a pong of the client was forwarded to the upstream.
    pub(super) fn note_pong(&mut self, payload: &[u8]) {
        let Some(link) = self.upstream.link_mut() else {
            return;
        };
        if let Some(owed) = link.owed.take_if(|owed| *owed.payload == *payload) {
            self.has_client_part |= owed.since.elapsed() >= PONG_GRACE;
        }
    }

    /// Returns whether the upstream was connected and may have waited for a message that the
    /// client has to send first.
    fn may_wait_for_client(&self) -> bool {
        let is_released_early = self.settings.rules.release_before(Release::Ready);
        is_released_early && self.session.connected_after().is_some()
    }
}
