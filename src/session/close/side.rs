//! One side while the session closes: what it has said, and what it was told.

use crate::{
    session::{peer::Peer, stats::SessionStats},
    transport::Stream,
    websocket::{CloseCode, CloseFrame, FrameScanner, Opcode, Role, frame::control_frame},
};

/// One side while the session closes.
#[derive(Debug)]
pub(in crate::session) struct CloseSide<S> {
    pub(super) peer: Peer<S>,
    pub(super) scanner: FrameScanner,
    pub(super) role: Role,
    /// What of the data that it still sends goes on to the other side.
    pub(super) forwards: Forwards,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    /// Data messages that it has sent meanwhile.
    pub(super) messages: u64,
    /// The greatest number of a ping of the proxy's own that it has answered meanwhile, or 0.
    own_pong: u32,
    /// Whether nothing was to be read from it before it was told.
    pub(super) was_silent: bool,
    /// Whether nothing was to be read from it after it was told.
    pub(super) was_asked: bool,
}

/// What a side had said at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    messages: u64,
    own_pong: u32,
    is_open: bool,
}

/// What of a side's data goes on to the other one while the session closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Forwards {
    /// All of it.
    All,
    /// The rest of the message whose beginning has gone on, and none behind that.
    RestOfMessage,
    /// Nothing.
    Nothing,
}

/// What one side has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// No close frame yet.
    Open,
    /// A close frame; or its connection has ended without one.
    Closed(Option<CloseFrame>),
    /// It broke RFC 6455: what it sends can no longer be understood.
    Garbled,
}

/// What one side was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// No close frame yet.
    Open,
    /// It gets this one at the next frame boundary.
    Due(CloseFrame),
    /// It got one with this code; or it is beyond being told.
    Told(Option<CloseCode>),
}

impl<S: Stream> CloseSide<S> {
    /// The side of `role`; `forwards` says what of the data that it sends goes on.
    pub(in crate::session) const fn new(
        role: Role,
        peer: Peer<S>,
        scanner: FrameScanner,
        forwards: Forwards,
    ) -> Self {
        let (incoming, outgoing) = (Incoming::Open, Outgoing::Open);
        Self {
            peer,
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

    /// The same, after both close frames.
    pub(in crate::session) fn closed(mut self) -> Self {
        self.lose();
        self
    }

    /// The same, after its own close frame, to which the other side has something to say.
    pub(in crate::session) fn parted(mut self, frame: CloseFrame) -> Self {
        self.incoming = Incoming::Closed(Some(frame));
        self
    }

    /// The same, after its own close frame, which is answered at the next frame boundary.
    pub(in crate::session) fn answering(mut self, frame: CloseFrame) -> Self {
        self.incoming = Incoming::Closed(Some(frame.clone()));
        self.tell(frame);
        self
    }

    /// Sends a close frame at the next frame boundary, unless one was sent.
    pub(super) fn tell(&mut self, frame: CloseFrame) {
        if self.outgoing == Outgoing::Open {
            self.outgoing = Outgoing::Due(frame);
            self.tell_at_boundary();
        }
    }

    pub(super) fn tell_at_boundary(&mut self) {
        if let Outgoing::Due(frame) = &self.outgoing
            && self.peer.outbox.is_at_boundary()
        {
            let mask = (self.role == Role::Server).then(rand::random);
            self.peer
                .outbox
                .push_close(control_frame(Opcode::Close, &frame.payload(), mask));
            self.outgoing = Outgoing::Told(frame.code);
        }
    }

    /// Takes note that it ended without a close frame, so that nothing can be told to it.
    pub(super) fn lose(&mut self) {
        self.incoming = Incoming::Closed(None);
        self.outgoing = Outgoing::Told(None);
    }

    /// Gives it up without another word: nobody would read it.
    pub(super) fn cut_off(&mut self) {
        self.peer.break_off();
        self.lose();
    }

    /// Answers its own close frame, or gives it up.
    pub(super) fn answer(&mut self, frame: Option<CloseFrame>) {
        match frame {
            Some(frame) => self.tell(frame),
            None => self.lose(),
        }
    }

    pub(super) const fn is_told(&self) -> bool {
        matches!(self.outgoing, Outgoing::Told(_))
    }

    /// The code that it was told, if there was one.
    pub(super) const fn told(&self) -> Option<CloseCode> {
        match self.outgoing {
            Outgoing::Told(code) => code,
            _ => None,
        }
    }

    /// Whether what the other side sends goes on to it.
    pub(super) const fn takes_data(&self) -> bool {
        !self.is_told() && !self.peer.is_broken()
    }

    pub(super) fn is_open(&self) -> bool {
        self.incoming == Incoming::Open
    }

    /// Whether it was told to close and has not said anything to that.
    pub(super) fn owes_close(&self) -> bool {
        self.is_told() && self.is_open()
    }

    pub(super) fn is_garbled(&self) -> bool {
        self.incoming == Incoming::Garbled
    }

    /// Whether nothing more is to be exchanged with it.
    pub(super) fn is_done(&self) -> bool {
        self.is_told() && !self.is_open() && self.peer.outbox.is_empty()
    }

    /// Takes note of its pong to the proxy's ping with this `number`.
    pub(super) fn note_own_pong(&mut self, number: u32) {
        self.own_pong = self.own_pong.max(number);
    }

    /// What it has said so far.
    pub(super) fn heard(&self) -> Signs {
        Signs {
            messages: self.messages,
            own_pong: self.own_pong,
            is_open: self.is_open(),
        }
    }

    /// Has `session` know what an upstream confirms by what it has said since `heard`.
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
        if self.is_answer(frame) {
            session.note_found_empty(&self.peer.outbox);
            session.confirm();
        } else if frame.code.is_some_and(CloseCode::confirms) {
            session.confirm();
        }
    }

    /// Whether its close frame answers the one that it was sent: it says the same, and nothing
    /// came before; or nothing came between, and it says the same, nothing, or that all is well.
    fn is_answer(&self, frame: &CloseFrame) -> bool {
        let says_the_same = self.outgoing == Outgoing::Told(frame.code);
        let agrees = says_the_same || frame.code.is_none_or(CloseCode::confirms);
        self.was_asked && agrees || self.was_silent && says_the_same && self.peer.outbox.is_empty()
    }

    /// What its close frame said, if one came.
    pub(super) fn said(&self) -> Option<CloseFrame> {
        match &self.incoming {
            Incoming::Closed(frame) => frame.clone(),
            Incoming::Open | Incoming::Garbled => None,
        }
    }

    /// The frame that tells the other side that this one is lost.
    pub(super) fn loss(&self) -> CloseFrame {
        match self.role {
            Role::Client => CloseFrame::new(CloseCode::GOING_AWAY, "client_lost"),
            Role::Server => CloseFrame::new(CloseCode::BAD_GATEWAY, "upstream_lost"),
        }
    }
}
