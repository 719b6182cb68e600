//! Whose fault it is when a session ends before it is ready.

use std::time::Duration;

use tokio::time::Instant;

use super::Holding;
use crate::{
    session::{EndReason, rules::Release},
    transport::Stream,
};

/// How long a client may owe the upstream a pong without having had a part in what comes of it.
const PONG_GRACE: Duration = Duration::from_secs(1);

/// A ping of the upstream that the client has not answered.
#[derive(Debug)]
pub(super) struct Owed {
    /// When the first one that it owes was sent.
    since: Instant,
    /// The payload of the latest one, which answers all of them (RFC 6455 §5.5.3).
    payload: Box<[u8]>,
}

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Whether this end before readiness says that the upstream is out of order: not where the
    /// client may have had a part in it.
    pub(in crate::session) fn is_upstreams_fault(&self, cause: &EndReason) -> bool {
        let is_blamed = self.link.is_some() || self.session.attempts().blames_upstream();
        cause.blames_upstream()
            && !self.has_client_part()
            && is_blamed
            && !self.may_wait_for_client()
    }

    /// Whether the upstream, or one before it, has got a message of the client, or not its pong in
    /// time, or could not say more because the client did not read: that stays so.
    fn has_client_part(&self) -> bool {
        let has_part_in = |link: &super::Link<U>| {
            link.has_client_message() || link.owed.is_some() || self.client.waiting_bytes() > 0
        };
        self.has_client_part || self.link.as_ref().is_some_and(has_part_in)
    }

    /// Keeps in mind what the client has had a part in, for the upstream goes.
    pub(super) fn note_client_part(&mut self) {
        self.has_client_part = self.has_client_part();
    }

    /// The client gets a ping of the upstream.
    pub(super) fn note_ping(&mut self, payload: &[u8]) {
        let Some(link) = &mut self.link else { return };
        let since = link
            .owed
            .take()
            .map_or_else(Instant::now, |owed| owed.since);
        let payload = payload.into();
        link.owed = Some(Box::new(Owed { since, payload }));
    }

    /// The upstream gets a pong of the client.
    pub(super) fn note_pong(&mut self, payload: &[u8]) {
        let Some(link) = &mut self.link else { return };
        if let Some(owed) = link.owed.take_if(|owed| *owed.payload == *payload) {
            self.has_client_part |= owed.since.elapsed() >= PONG_GRACE;
        }
    }

    /// Whether the upstream was there, and may have waited for a message that the client has to
    /// send first.
    fn may_wait_for_client(&self) -> bool {
        let is_released_early = self.settings.rules.release_before(Release::Ready);
        is_released_early && self.session.connected_after().is_some()
    }
}
