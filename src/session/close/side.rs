//! One side of a session during the closing handshake: the close frames it has sent and received.

use crate::{
    session::{io::endpoint::EndpointIo, stats::SessionStats},
    transport::Stream,
    websocket::{CloseCode, CloseFrame, FrameScanner, Opcode, Role, frame::control_frame},
};

/// One side during the closing handshake.
#[derive(Debug)]
pub(in crate::session) struct CloseSide<S> {
    pub(super) endpoint: EndpointIo<S>,
    pub(super) scanner: FrameScanner,
    pub(super) role: Role,
    /// Data of this side that is still forwarded to the other.
    pub(super) forwards: Forwards,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    /// Data messages received from it since the closing began.
    pub(super) messages: u64,
    /// Highest number of a ping of the proxy that it has answered since the closing began, or 0.
    own_pong: u32,
    /// Whether its socket was found empty before its close frame was sent.
    pub(super) was_silent: bool,
    /// Whether its socket was found empty after its close frame was written.
    pub(super) was_asked: bool,
}

/// Snapshot of the signs that a side reads what it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    messages: u64,
    own_pong: u32,
    is_open: bool,
}

/// Data of one side that is forwarded to the other during the closing handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Forwards {
    /// Everything.
    All,
    /// The rest of the message whose beginning was forwarded, and nothing after it.
    RestOfMessage,
    /// Nothing.
    Nothing,
}

/// Close frame received from one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// No close frame yet.
    Open,
    /// A close frame, or the end of the connection without one.
    Closed(Option<CloseFrame>),
    /// Violated RFC 6455: further data cannot be parsed.
    Garbled,
}

/// Close frame sent to one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// No close frame yet.
    Open,
    /// To be sent at the next frame boundary.
    Due(CloseFrame),
    /// Sent, with this code; or impossible to send.
    Told(Option<CloseCode>),
}

impl<S: Stream> CloseSide<S> {
    /// Creates the side of `role`; `forwards` selects its data that is still forwarded.
    pub(in crate::session) const fn new(
        role: Role,
        endpoint: EndpointIo<S>,
        scanner: FrameScanner,
        forwards: Forwards,
    ) -> Self {
        let (incoming, outgoing) = (Incoming::Open, Outgoing::Open);
        Self {
            endpoint,
            scanner,
            role,
            forwards,
            incoming,
            outgoing,
            messages: 0,
            own_pong: 0,
            was_silent: false,
            was_asked: false,
        }
    }

    /// Marks the close frames of both directions as done.
    pub(in crate::session) fn closed(mut self) -> Self {
        self.lose();
        self
    }

    /// Records its close frame, which the other side has yet to answer.
    pub(in crate::session) fn parted(mut self, frame: CloseFrame) -> Self {
        self.incoming = Incoming::Closed(Some(frame));
        self
    }

    /// Records its close frame and answers it at the next frame boundary.
    pub(in crate::session) fn answering(mut self, frame: CloseFrame) -> Self {
        self.incoming = Incoming::Closed(Some(frame.clone()));
        self.tell(frame);
        self
    }

    /// Sends a close frame at the next frame boundary, unless one was sent before.
    pub(super) fn tell(&mut self, frame: CloseFrame) {
        if self.outgoing == Outgoing::Open {
            self.outgoing = Outgoing::Due(frame);
            self.tell_at_boundary();
        }
    }

    pub(super) fn tell_at_boundary(&mut self) {
        if let Outgoing::Due(frame) = &self.outgoing
            && self.endpoint.write_buffer.is_at_boundary()
        {
            let mask = (self.role == Role::Server).then(rand::random);
            self.endpoint.write_buffer.push_close(control_frame(
                Opcode::Close,
                &frame.payload(),
                mask,
            ));
            self.outgoing = Outgoing::Told(frame.code);
        }
    }

    /// Records that its connection ended without a close frame, so that none can be sent.
    pub(super) fn lose(&mut self) {
        self.incoming = Incoming::Closed(None);
        self.outgoing = Outgoing::Told(None);
    }

    /// Closes it without a close frame, which would not be read.
    pub(super) fn cut_off(&mut self) {
        self.endpoint.break_off();
        self.lose();
    }

    /// Answers its close frame; without one to send, treats it as lost.
    pub(super) fn answer(&mut self, frame: Option<CloseFrame>) {
        match frame {
            Some(frame) => self.tell(frame),
            None => self.lose(),
        }
    }

    pub(super) const fn is_told(&self) -> bool {
        matches!(self.outgoing, Outgoing::Told(_))
    }

    /// Code of the close frame sent to it, if it had one.
    pub(super) const fn told(&self) -> Option<CloseCode> {
        match self.outgoing {
            Outgoing::Told(code) => code,
            _ => None,
        }
    }

    /// Returns whether data of the other side is still forwarded to it.
    pub(super) const fn takes_data(&self) -> bool {
        !self.is_told() && !self.endpoint.is_broken()
    }

    pub(super) fn is_open(&self) -> bool {
        self.incoming == Incoming::Open
    }

    /// Returns whether it was sent a close frame and has not sent one.
    pub(super) fn owes_close(&self) -> bool {
        self.is_told() && self.is_open()
    }

    pub(super) fn is_garbled(&self) -> bool {
        self.incoming == Incoming::Garbled
    }

    /// Returns whether nothing more is to be exchanged with it.
    pub(super) fn is_done(&self) -> bool {
        self.is_told() && !self.is_open() && self.endpoint.write_buffer.is_empty()
    }

    /// Records its pong to the proxy's ping with this `number`.
    pub(super) fn note_own_pong(&mut self, number: u32) {
        self.own_pong = self.own_pong.max(number);
    }

    /// Takes a snapshot of what it has sent so far.
    pub(super) fn heard(&self) -> Signs {
        Signs {
            messages: self.messages,
            own_pong: self.own_pong,
            is_open: self.is_open(),
        }
    }

    /// Confirms in `session` the messages that an upstream acknowledges by what it has sent since
    /// `heard`.
    pub(super) fn confirm_since(&self, heard: Signs, session: &SessionStats) {
        if self.messages > heard.messages {
            session.confirm();
        }
        if self.own_pong > heard.own_pong {
            session.confirm_by_pong(self.own_pong);
        }
        let Incoming::Closed(Some(frame)) = &self.incoming else {
            return;
        };
        if !heard.is_open {
            return;
        }
        // Whatever its code: an answer shows that everything in front of the proxy's close frame
        // was read.
        if self.is_answer(frame) {
            session.note_found_empty(&self.endpoint.write_buffer);
            session.confirm();
        } else if frame.code.is_some_and(CloseCode::confirms) {
            session.confirm();
        }
    }

    /// Returns whether its close frame answers the proxy's. It does when its socket was found
    /// empty after that was written and it has the same code, none, or one that means success; or
    /// when its socket was found empty before and it has the same code.
    fn is_answer(&self, frame: &CloseFrame) -> bool {
        // Libraries echo the code, send none, or 1000; a close frame with another code may have
        // crossed with the proxy's.
        let says_the_same = self.outgoing == Outgoing::Told(frame.code);
        let agrees = says_the_same || frame.code.is_none_or(CloseCode::confirms);
        self.was_asked && agrees
            || self.was_silent && says_the_same && self.endpoint.write_buffer.is_empty()
    }

    /// Its close frame, if one came.
    pub(super) fn said(&self) -> Option<CloseFrame> {
        match &self.incoming {
            Incoming::Closed(frame) => frame.clone(),
            Incoming::Open | Incoming::Garbled => None,
        }
    }

    /// Close frame that reports the loss of this side to the other.
    pub(super) fn loss(&self) -> CloseFrame {
        match self.role {
            Role::Client => CloseFrame::new(CloseCode::GOING_AWAY, "client_lost"),
            Role::Server => CloseFrame::new(CloseCode::BAD_GATEWAY, "upstream_lost"),
        }
    }
}
