//! Replacement of an upstream that goes away before it is ready: it may be booting, and the next
//! one may stay.
//!
//! # Invariants
//!
//! * Only an upstream to which no client message was sent is replaced: no part of a client's
//!   conversation is ever sent twice.
//! * A client that has received the beginning of a message receives its end, or nothing more.

use std::mem;

use futures_util::FutureExt;

use super::{HeldClient, HeldUpstream, Holding, Link};
use crate::{
    session::{gate::Gate, state::SessionState, termination::EndReason},
    transport::Stream,
    websocket::{CloseCode, CloseFrame, Opcode, frame::control_frame},
};

impl<C: Stream, U: Stream> Holding<'_, C, U> {
    /// Handles a close frame of the upstream: a restarting upstream is replaced, any other code
    /// ends the session.
    pub(super) fn upstream_closed(&mut self, frame: CloseFrame) -> Result<(), EndReason> {
        let restarts = frame.code.is_some_and(CloseCode::announces_restart);
        if !restarts || !self.may_replace_upstream() {
            return Err(EndReason::UpstreamClosed(frame));
        }
        if let Some(link) = self.upstream.link_mut() {
            let answer = control_frame(Opcode::Close, &frame.payload(), Some(rand::random()));
            link.endpoint.write_buffer.push_close(answer);
            // An upstream that does not even accept the close frame is not waited for.
            let _ = link.endpoint.finish().now_or_never();
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

    /// Returns whether the session may continue with another upstream as if this one had never
    /// been.
    fn may_replace_upstream(&self) -> bool {
        let has_client_message = self.upstream.link().is_none_or(Link::has_client_message);
        !has_client_message && self.snapshot.is_none() && !self.has_half_a_message()
    }

    /// Returns whether the client has received the beginning of a message, or of a fragment (RFC
    /// 6455 §5.4), of which more is to come.
    fn has_half_a_message(&self) -> bool {
        let is_told = matches!(&self.client, HeldClient::Here(endpoint) if !endpoint.is_broken());
        is_told && self.upstream.link().is_some_and(Link::is_inside_passing)
    }

    /// Drops the upstream, and the signals that it has given to the gate.
    fn drop_upstream(&mut self, reason: &'static str) {
        self.note_client_part();
        self.upstream = HeldUpstream::Connecting((self.connect)());
        self.opening = None;
        self.gate = Gate::new(&self.settings.gate);
        // A leaving client may be waiting for the end of a frame, which will not come.
        if let HeldClient::Leaving(endpoint, farewell) = &mut self.client
            && !endpoint.write_buffer.is_at_boundary()
        {
            let farewell = mem::replace(farewell, super::Farewell::Lost);
            self.client = HeldClient::Gone(farewell);
        }
        // Several failed upstreams in a row are one state for operators.
        if self.session.entered_state() != SessionState::Reconnecting {
            self.session.enter(SessionState::Reconnecting, reason);
        }
    }
}
