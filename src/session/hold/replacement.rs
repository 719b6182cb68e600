//! An upstream that goes before it is ready: it boots, and the next one may stay.
//!
//! # Invariants
//!
//! * Another upstream takes the place of one to which no message of the client has gone:
//!   half of what a client says is never said twice.
//! * A client that has got the beginning of a message gets its end, or nothing more.

use std::mem;

use futures_util::FutureExt;

use super::{HeldClient, Holding, Link};
use crate::{
    session::{gate::Gate, state::SessionState, termination::EndReason},
    transport::Stream,
    websocket::{CloseCode, CloseFrame, Opcode, frame::control_frame},
};

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// The upstream has sent a close frame: it is replaced if it only restarts, otherwise that
    /// is an answer.
    pub(super) fn upstream_closed(&mut self, frame: CloseFrame) -> Result<(), EndReason> {
        let restarts = frame.code.is_some_and(CloseCode::announces_restart);
        if !restarts || !self.may_replace_upstream() {
            return Err(EndReason::UpstreamClosed(frame));
        }
        if let Some(link) = &mut self.link {
            let answer = control_frame(Opcode::Close, &frame.payload(), Some(rand::random()));
            link.peer.outbox.push_close(answer);
            // Nobody waits for an upstream that does not take even that.
            let _ = link.peer.finish().now_or_never();
        }
        self.last_close = Some(Box::new(frame));
        self.drop_upstream("upstream restarts");
        Ok(())
    }

    /// The upstream's connection has ended without a close frame.
    pub(super) fn upstream_lost(&mut self) -> Result<(), EndReason> {
        if !self.may_replace_upstream() {
            return Err(EndReason::UpstreamLost);
        }
        self.drop_upstream("upstream lost");
        Ok(())
    }

    /// Whether the session may go on with another upstream as if this one had never been.
    fn may_replace_upstream(&self) -> bool {
        let has_client_message = self.link.as_ref().is_none_or(Link::has_client_message);
        !has_client_message && self.snapshot.is_none() && !self.has_half_a_message()
    }

    /// Whether the client has got the beginning of a message of which more is to come, its
    /// fragments (RFC 6455 §5.4) included.
    fn has_half_a_message(&self) -> bool {
        let is_told = matches!(&self.client, HeldClient::Here(peer) if !peer.is_broken());
        is_told && self.link.as_ref().is_some_and(Link::is_inside_passing)
    }

    /// Forgets the upstream and what it has said for the gate.
    fn drop_upstream(&mut self, reason: &'static str) {
        self.note_client_part();
        self.link = None;
        self.opening = None;
        self.gate = Gate::new(&self.settings.gate);
        // The end of the frame that a client waited for before it goes will not come.
        if let HeldClient::Leaving(peer, farewell) = &mut self.client
            && !peer.outbox.is_at_boundary()
        {
            let farewell = mem::replace(farewell, super::Farewell::Lost);
            self.client = HeldClient::Gone(farewell);
        }
        if self.session.entered_state() != SessionState::Reconnecting {
            self.session.enter(SessionState::Reconnecting, reason);
        }
    }
}
