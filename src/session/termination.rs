//! The end of a session, as data: its initiator, the state in which it ended, and the reason.
//!
//! A reason is a variant of [`EndReason`] and a row of facts ([`ENDINGS`]), from which the series
//! of the metrics and the tables of the documentation come as well.

mod close_codes;
mod close_reason;
mod facts;

use std::{
    ops::{Add, AddAssign},
    time::Duration,
};

pub use self::{
    close_codes::CloseCodes,
    facts::{ENDINGS, Facts},
};
use super::{
    ledger::Ledger,
    state::{SessionState, Trail},
};
use crate::{
    upstream::ConnectError,
    websocket::{CloseCode, CloseFrame, ProtocolError},
};

/// Initiator of a session's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// The proxy.
    Proxy,
}

impl Initiator {
    /// Name in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Proxy => "proxy",
        }
    }
}

/// Reason of a session's end.
///
/// The client has received its `101`, so each reason maps to a close code; a failure before the
/// `101` maps to an HTTP status instead.
#[derive(Debug, thiserror::Error)]
pub enum EndReason {
    /// The client sent a close frame.
    #[error("client closed")]
    ClientClosed(CloseFrame),
    /// The client's connection ended without a close frame.
    #[error("client lost")]
    ClientLost,
    /// The client violated RFC 6455.
    #[error("client broke the protocol: {0}")]
    ClientError(ProtocolError),
    /// The client sent a message that can never fit into the hold queue.
    #[error("message larger than the {max_bytes} bytes that may be held")]
    MessageTooBig {
        /// The limit on the wire bytes of one message.
        max_bytes: usize,
    },
    /// The hold queue is full and the route closes the client in this case.
    #[error("hold queue full")]
    QueueFull,
    /// The upstream sent a close frame.
    #[error("upstream closed")]
    UpstreamClosed(CloseFrame),
    /// The upstream's connection ended without a close frame.
    #[error("upstream lost")]
    UpstreamLost,
    /// The upstream violated RFC 6455.
    #[error("upstream broke the protocol: {0}")]
    UpstreamError(ProtocolError),
    /// The upstream could not be connected.
    #[error(transparent)]
    ConnectFailed(#[from] ConnectError),
    /// The gate's timeout expired.
    #[error("upstream not ready after {} ms", waited.as_millis())]
    ReadyTimeout {
        /// Time since the client's `101`.
        waited: Duration,
        /// Whether the upstream was connected.
        connected: bool,
        /// Close frame of the upstream that last restarted; it is forwarded to the client.
        last_close: Option<Box<CloseFrame>>,
    },
    /// The upstream accepted nothing of the flush for as long as the gate's timeout.
    #[error("upstream does not read")]
    FlushStalled,
    /// Nothing was relayed in either direction for the tunnel's idle timeout.
    #[error("no traffic")]
    Idle,
    /// The session reached its maximum age.
    #[error("session is too old")]
    TooOld,
    /// The client did not answer the proxy's ping.
    #[error("client does not answer pings")]
    ClientVanished,
    /// The upstream did not answer the proxy's ping.
    #[error("upstream does not answer pings")]
    UpstreamVanished,
    /// The proxy is shutting down.
    #[error("proxy is shutting down")]
    Drained,
    /// The proxy was stopped before the session had ended.
    #[error("cut off when the proxy was stopped")]
    Aborted,
}

impl EndReason {
    /// Initiator of an end for this reason.
    #[must_use]
    pub const fn initiator(&self) -> Initiator {
        self.facts().initiator
    }

    /// Stable name, in logs and at the beginning of close reasons.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.facts().name
    }

    /// Final state of a session that ends for this reason.
    #[must_use]
    pub const fn final_state(&self) -> SessionState {
        self.facts().final_state
    }

    /// Returns whether the upstream is gone or given up, so that it confirms no more messages.
    #[must_use]
    pub const fn ends_upstream(&self) -> bool {
        self.facts().ends_upstream
    }

    /// Code of the close frame that the proxy generates for the client; `None` when the client
    /// receives a forwarded frame or the answer to its own, or is no longer connected.
    #[must_use]
    pub fn client_code(&self, close_codes: &CloseCodes) -> Option<CloseCode> {
        match self {
            Self::ClientError(error) => Some(error.close_code()),
            Self::ConnectFailed(ConnectError::Refused(status)) => Some(close_codes.of(*status)),
            // The upstream's last close frame is forwarded instead.
            Self::ReadyTimeout {
                last_close: Some(_),
                ..
            } => None,
            _ => self.facts().client_code,
        }
    }

    /// Code of the close frame that the proxy generates for the upstream; `None` when the
    /// upstream receives a forwarded frame or the answer to its own, or is not connected.
    #[must_use]
    pub const fn upstream_code(&self) -> Option<CloseCode> {
        match self {
            Self::UpstreamError(error) => Some(error.close_code()),
            _ => self.facts().upstream_code,
        }
    }

    /// Returns whether a session that ends for this reason before it is ready shows that the
    /// upstream is failing.
    ///
    /// It does not where another client might have succeeded: after a rejection with any status,
    /// a subprotocol other than the one the client was given, a close frame whose code is about
    /// the client's behaviour, or a readiness timeout although the upstream was connected. The
    /// session itself judges whether the client has contributed by what it sent or did not read.
    #[must_use]
    pub fn blames_upstream(&self) -> bool {
        match self {
            Self::UpstreamClosed(frame) => frame.code.is_some_and(CloseCode::blames_server),
            // The client's offer has a part in it.
            Self::ConnectFailed(ConnectError::Subprotocol(_)) => false,
            _ => self.facts().blames_upstream,
        }
    }
}

/// Bytes and messages that passed through a session in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read from the client, frame headers included.
    pub client_bytes: u64,
    /// Bytes read from the upstream, frame headers included.
    pub upstream_bytes: u64,
    /// Data messages from the upstream that were forwarded.
    pub upstream_messages: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        *self = *self + more;
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            client_bytes: self.client_bytes + more.client_bytes,
            upstream_bytes: self.upstream_bytes + more.upstream_bytes,
            upstream_messages: self.upstream_messages + more.upstream_messages,
        }
    }
}

/// Report of a finished session.
#[derive(Debug)]
pub struct Report {
    /// Reason of the end.
    pub cause: EndReason,
    /// State in which the session ended.
    pub state: SessionState,
    /// States before that, and the final one.
    pub trail: Trail,
    /// Accounts of the client's messages.
    pub ledger: Ledger,
    /// Bytes and messages relayed.
    pub traffic: Traffic,
    /// Number of attempts to connect to the upstream.
    pub attempts: u32,
    /// Error of the latest failed attempt, for the log only.
    pub last_connect_error: Option<String>,
    /// Time from the client's `101` to the first connection to the upstream.
    pub connected_after: Option<Duration>,
    /// Time from the client's `101` to the opening of the gate.
    pub ready_after: Option<Duration>,
    /// Duration of the flush.
    pub flush_time: Option<Duration>,
    /// Code of the close frame written to the client, if it had one; `None` for a client that was
    /// lost.
    pub client_code: Option<CloseCode>,
    /// Code of the close frame written to the upstream, if it had one.
    pub upstream_code: Option<CloseCode>,
    /// Duration of the session, from the client's `101`.
    pub duration: Duration,
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::upstream::{Mismatch, tls::TlsError};

    #[test]
    fn ends_that_another_client_may_avoid_do_not_blame_the_upstream() {
        let refused = |status| EndReason::ConnectFailed(ConnectError::Refused(status));
        let closed = |code| {
            let code = CloseCode::try_from(code).ok();
            let reason = String::new();
            EndReason::UpstreamClosed(CloseFrame { code, reason })
        };

        for status in [200, 301, 400, 401, 403, 404, 429, 500, 501, 503] {
            let status = http::StatusCode::from_u16(status).unwrap();
            assert!(!refused(status).blames_upstream(), "{status}");
        }
        for code in [1000, 1002, 1003, 1005, 1007, 1008, 1009, 3000, 4401] {
            assert!(!closed(code).blames_upstream(), "{code}");
        }
        for code in [1001, 1011, 1012, 1013, 1014] {
            assert!(closed(code).blames_upstream(), "{code}");
        }
    }

    #[test]
    fn every_cause_is_among_the_endings_and_every_ending_has_one() {
        let frame = || CloseFrame {
            code: None,
            reason: String::new(),
        };
        let timeout = |connected| EndReason::ReadyTimeout {
            waited: Duration::ZERO,
            connected,
            last_close: None,
        };
        let status = http::StatusCode::FORBIDDEN;
        let mismatch = Mismatch {
            told: None,
            chosen: "chat".to_owned(),
            is_offered: false,
        };
        let tls = io::Error::other(rustls::Error::DecryptError);
        let tls = TlsError::of(&tls).unwrap();
        let causes = [
            EndReason::ClientClosed(frame()),
            EndReason::ClientLost,
            EndReason::ClientError(ProtocolError::InvalidUtf8),
            EndReason::ClientError(ProtocolError::InvalidDeflate),
            EndReason::ClientError(ProtocolError::ReservedBits),
            EndReason::MessageTooBig { max_bytes: 1 },
            EndReason::QueueFull,
            EndReason::UpstreamClosed(frame()),
            EndReason::UpstreamLost,
            EndReason::UpstreamError(ProtocolError::InvalidUtf8),
            EndReason::ConnectFailed(ConnectError::Refused(status)),
            EndReason::ConnectFailed(ConnectError::Broken("broken")),
            EndReason::ConnectFailed(ConnectError::Subprotocol(Box::new(mismatch))),
            EndReason::ConnectFailed(ConnectError::Tls(tls)),
            EndReason::ConnectFailed(ConnectError::Shortage),
            timeout(false),
            timeout(true),
            EndReason::FlushStalled,
            EndReason::Idle,
            EndReason::TooOld,
            EndReason::ClientVanished,
            EndReason::UpstreamVanished,
            EndReason::Drained,
            EndReason::Aborted,
        ];

        for cause in &causes {
            let name = cause.name();
            let rows = ENDINGS.iter().filter(|row| row.name == name);
            assert_eq!(rows.count(), 1, "{name}");
        }
        for row in ENDINGS {
            let has_cause = causes.iter().any(|cause| cause.name() == row.name);
            assert!(has_cause, "{row:?}");
        }
    }
}
