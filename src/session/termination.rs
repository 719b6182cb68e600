//! The end of a session, as data: its initiator, the state in which it ended, and the reason.

mod close_codes;

use std::{
    ops::{Add, AddAssign},
    time::Duration,
};

pub use self::close_codes::CloseCodes;
use super::{
    ledger::{Account, Ledger},
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

/// Every way in which a session may end: its initiator, and the [name](EndReason::name) of the
/// reason.
pub const ENDINGS: &[(Initiator, &str)] = &[
    (Initiator::Client, "client_closed"),
    (Initiator::Client, "client_lost"),
    (Initiator::Client, "protocol_error"),
    (Initiator::Client, "invalid_utf8"),
    (Initiator::Client, "invalid_deflate"),
    (Initiator::Client, "message_too_big"),
    (Initiator::Proxy, "queue_full"),
    (Initiator::Upstream, "upstream_closed"),
    (Initiator::Upstream, "upstream_lost"),
    (Initiator::Upstream, "upstream_protocol_error"),
    (Initiator::Upstream, "upstream_refused"),
    (Initiator::Upstream, "bad_upstream_handshake"),
    (Initiator::Upstream, "upstream_tls_failed"),
    (Initiator::Proxy, "upstream_unreachable"),
    (Initiator::Proxy, "ready_timeout"),
    (Initiator::Proxy, "flush_stalled"),
    (Initiator::Proxy, "out_of_descriptors"),
    (Initiator::Proxy, "idle_timeout"),
    (Initiator::Proxy, "max_session_age"),
    (Initiator::Client, "client_vanished"),
    (Initiator::Upstream, "upstream_vanished"),
    (Initiator::Proxy, "shutting_down"),
    (Initiator::Proxy, "aborted"),
];

impl EndReason {
    /// Initiator of an end for this reason.
    #[must_use]
    pub const fn initiator(&self) -> Initiator {
        match self {
            Self::ClientClosed(_)
            | Self::ClientLost
            | Self::ClientError(_)
            | Self::MessageTooBig { .. }
            | Self::ClientVanished => Initiator::Client,
            Self::UpstreamClosed(_)
            | Self::UpstreamLost
            | Self::UpstreamError(_)
            | Self::ConnectFailed(
                ConnectError::Refused(_)
                | ConnectError::Broken(_)
                | ConnectError::Subprotocol(_)
                | ConnectError::Tls(_),
            )
            | Self::UpstreamVanished => Initiator::Upstream,
            Self::ConnectFailed(ConnectError::Shortage)
            | Self::QueueFull
            | Self::ReadyTimeout { .. }
            | Self::FlushStalled
            | Self::Idle
            | Self::TooOld
            | Self::Drained
            | Self::Aborted => Initiator::Proxy,
        }
    }

    /// Stable name, in logs and at the beginning of close reasons.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ClientClosed(_) => "client_closed",
            Self::ClientLost => "client_lost",
            Self::ClientError(ProtocolError::InvalidUtf8) => "invalid_utf8",
            Self::ClientError(ProtocolError::InvalidDeflate) => "invalid_deflate",
            Self::ClientError(_) => "protocol_error",
            Self::MessageTooBig { .. } => "message_too_big",
            Self::QueueFull => "queue_full",
            Self::UpstreamClosed(_) => "upstream_closed",
            Self::UpstreamLost => "upstream_lost",
            Self::UpstreamError(_) => "upstream_protocol_error",
            Self::ConnectFailed(ConnectError::Refused(_)) => "upstream_refused",
            Self::ConnectFailed(ConnectError::Broken(_) | ConnectError::Subprotocol(_)) => {
                "bad_upstream_handshake"
            }
            Self::ConnectFailed(ConnectError::Tls(_)) => "upstream_tls_failed",
            Self::ConnectFailed(ConnectError::Shortage) => "out_of_descriptors",
            Self::ReadyTimeout {
                connected: false, ..
            } => "upstream_unreachable",
            Self::ReadyTimeout {
                connected: true, ..
            } => "ready_timeout",
            Self::FlushStalled => "flush_stalled",
            Self::Idle => "idle_timeout",
            Self::TooOld => "max_session_age",
            Self::ClientVanished => "client_vanished",
            Self::UpstreamVanished => "upstream_vanished",
            Self::Drained => "shutting_down",
            Self::Aborted => "aborted",
        }
    }

    /// Code of the close frame that the proxy generates for the client; `None` when the client
    /// receives a forwarded frame or the answer to its own, or is no longer connected.
    #[must_use]
    pub fn client_code(&self, close_codes: &CloseCodes) -> Option<CloseCode> {
        Some(match self {
            Self::ClientClosed(_)
            | Self::UpstreamClosed(_)
            | Self::ClientLost
            | Self::ClientVanished
            | Self::ReadyTimeout {
                last_close: Some(_),
                ..
            }
            | Self::Aborted => return None,
            Self::ClientError(error) => error.close_code(),
            Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::QueueFull
            | Self::ReadyTimeout { .. }
            | Self::FlushStalled
            | Self::ConnectFailed(ConnectError::Shortage) => CloseCode::TRY_AGAIN_LATER,
            Self::ConnectFailed(ConnectError::Refused(status)) => close_codes.of(*status),
            Self::UpstreamLost
            | Self::UpstreamError(_)
            | Self::UpstreamVanished
            | Self::ConnectFailed(
                ConnectError::Broken(_) | ConnectError::Subprotocol(_) | ConnectError::Tls(_),
            ) => CloseCode::BAD_GATEWAY,
            // The only registered code that is about the connection rather than the messages on
            // it: 1000 would mean that the purpose is fulfilled, 1013 that the server is
            // overloaded.
            Self::Idle | Self::Drained => CloseCode::GOING_AWAY,
            Self::TooOld => CloseCode::SERVICE_RESTART,
        })
    }

    /// Code of the close frame that the proxy generates for the upstream; `None` when the
    /// upstream receives a forwarded frame or the answer to its own, or is not connected.
    #[must_use]
    pub const fn upstream_code(&self) -> Option<CloseCode> {
        match self {
            Self::ClientClosed(_)
            | Self::UpstreamClosed(_)
            | Self::UpstreamLost
            | Self::UpstreamVanished
            | Self::ConnectFailed(_)
            | Self::Aborted => None,
            Self::UpstreamError(error) => Some(error.close_code()),
            Self::ClientLost
            | Self::ClientError(_)
            | Self::MessageTooBig { .. }
            | Self::QueueFull
            | Self::ReadyTimeout { .. }
            | Self::FlushStalled
            | Self::Idle
            | Self::TooOld
            | Self::ClientVanished
            | Self::Drained => Some(CloseCode::GOING_AWAY),
        }
    }

    /// Returns whether the upstream is gone or given up, so that it confirms no more messages.
    #[must_use]
    pub const fn ends_upstream(&self) -> bool {
        match self {
            Self::UpstreamLost
            | Self::UpstreamClosed(_)
            | Self::UpstreamError(_)
            | Self::UpstreamVanished
            | Self::FlushStalled
            | Self::Aborted => true,
            Self::ClientClosed(_)
            | Self::ClientLost
            | Self::ClientError(_)
            | Self::MessageTooBig { .. }
            | Self::QueueFull
            | Self::ConnectFailed(_)
            | Self::ReadyTimeout { .. }
            | Self::Idle
            | Self::TooOld
            | Self::ClientVanished
            | Self::Drained => false,
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
            Self::UpstreamLost
            | Self::UpstreamError(_)
            | Self::ConnectFailed(ConnectError::Broken(_) | ConnectError::Tls(_)) => true,
            Self::ReadyTimeout { connected, .. } => !connected,
            Self::UpstreamClosed(frame) => frame.code.is_some_and(CloseCode::blames_server),
            Self::UpstreamVanished
            | Self::FlushStalled
            | Self::ClientClosed(_)
            | Self::ClientLost
            | Self::ClientError(_)
            | Self::ClientVanished
            | Self::MessageTooBig { .. }
            | Self::QueueFull
            | Self::ConnectFailed(
                ConnectError::Refused(_) | ConnectError::Subprotocol(_) | ConnectError::Shortage,
            )
            | Self::Idle
            | Self::TooOld
            | Self::Drained
            | Self::Aborted => false,
        }
    }

    /// Final state of a session that ends for this reason.
    #[must_use]
    pub const fn final_state(&self) -> SessionState {
        match self {
            Self::ClientClosed(_)
            | Self::UpstreamClosed(_)
            | Self::Idle
            | Self::TooOld
            | Self::Drained => SessionState::Closed,
            Self::ClientLost
            | Self::ClientError(_)
            | Self::MessageTooBig { .. }
            | Self::QueueFull
            | Self::UpstreamLost
            | Self::UpstreamError(_)
            | Self::ConnectFailed(_)
            | Self::ReadyTimeout { .. }
            | Self::FlushStalled
            | Self::ClientVanished
            | Self::UpstreamVanished
            | Self::Aborted => SessionState::Failed,
        }
    }

    /// Reason text of a close frame for the client: the name, the number of messages that were
    /// not delivered, and the number of those that may be lost.
    ///
    /// An upstream that has not ended may yet confirm messages. The client does not wait for
    /// that, since messages that it sends meanwhile would be lost; every open message counts as
    /// possibly lost.
    #[must_use]
    pub fn close_reason(&self, ledger: &Ledger) -> String {
        let name = self.name();
        let undelivered = ledger.undelivered() - ledger.of(Account::Unknown);
        let in_doubt = ledger.in_doubt();
        let messages = |count| match count {
            1 => "1 message".to_owned(),
            _ => format!("{count} messages"),
        };
        match (undelivered, in_doubt) {
            (0, 0) => name.to_owned(),
            (_, 0) => format!("{name}; {} not delivered", messages(undelivered)),
            (0, _) => format!("{name}; {} may be lost", messages(in_doubt)),
            _ => format!(
                "{name}; {} not delivered, {in_doubt} may be lost",
                messages(undelivered)
            ),
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
        let endings = causes.map(|cause| (cause.initiator(), cause.name()));

        for ending in endings {
            assert!(ENDINGS.contains(&ending), "{ending:?}");
        }
        for ending in ENDINGS {
            assert!(endings.contains(ending), "{ending:?}");
        }
    }
}
