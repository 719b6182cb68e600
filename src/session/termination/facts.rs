//! The facts about each reason of an end, one row per name.

use super::{
    EndReason,
    Initiator::{self, Client, Proxy, Upstream},
};
use crate::{
    session::state::SessionState::{self, Closed, Failed},
    upstream::ConnectError,
    websocket::{
        CloseCode,
        ProtocolError::{InvalidDeflate, InvalidUtf8},
    },
};

/// Facts that all ends with one name share.
#[derive(Debug)]
pub struct Facts {
    /// Stable name, in logs, metrics and close reasons.
    pub name: &'static str,
    /// Initiator of the end.
    pub initiator: Initiator,
    /// Final state of the session.
    pub final_state: SessionState,
    /// Code of the close frame that the proxy generates for the client, unless the payload of
    /// the reason [decides](EndReason::client_code).
    pub client_code: Option<CloseCode>,
    /// Code of the close frame that the proxy generates for the upstream, unless the payload of
    /// the reason [decides](EndReason::upstream_code).
    pub upstream_code: Option<CloseCode>,
    /// True if an end before readiness shows that the upstream is failing, unless the payload of
    /// the reason [decides](EndReason::blames_upstream).
    pub blames_upstream: bool,
    /// True if the upstream is gone or given up, so that it confirms no more messages.
    pub ends_upstream: bool,
    /// Cause in the words of the documentation; Markdown.
    pub cause: &'static str,
}

/// Makes the exhaustive match from a reason to its facts, and the list of all of them.
macro_rules! endings {
    ($($reason:pat => { $($facts:tt)+ })+) => {
        /// Every way in which a session may end.
        pub static ENDINGS: &[Facts] = &[$(Facts { $($facts)+ }),+];

        impl EndReason {
            /// Facts about an end for this reason.
            #[must_use]
            pub const fn facts(&self) -> &'static Facts {
                match self {
                    $($reason => const { &Facts { $($facts)+ } },)+
                }
            }
        }
    };
}

endings! {
    Self::ClientClosed(_) => {
        name: "client_closed", initiator: Client, final_state: Closed,
        client_code: None, upstream_code: None,
        blames_upstream: false, ends_upstream: false,
        cause: "the client sent a close frame, which the backend gets unchanged",
    }
    Self::ClientLost => {
        name: "client_lost", initiator: Client, final_state: Failed,
        client_code: None, upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "the client's connection ended without a close frame",
    }
    Self::ClientError(InvalidUtf8) => {
        name: "invalid_utf8", initiator: Client, final_state: Failed,
        client_code: Some(CloseCode::INVALID_PAYLOAD), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "held text or a close reason of the client is not UTF-8",
    }
    Self::ClientError(InvalidDeflate) => {
        name: "invalid_deflate", initiator: Client, final_state: Failed,
        client_code: Some(CloseCode::INVALID_PAYLOAD), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "a compressed message of the client cannot be inflated (RFC 7692)",
    }
    Self::ClientError(_) => {
        name: "protocol_error", initiator: Client, final_state: Failed,
        client_code: Some(CloseCode::PROTOCOL_ERROR), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "the client broke RFC 6455",
    }
    Self::MessageTooBig { .. } => {
        name: "message_too_big", initiator: Client, final_state: Failed,
        client_code: Some(CloseCode::MESSAGE_TOO_BIG), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "a message that can never be held, where `overflow` is not `\"backpressure\"`",
    }
    Self::QueueFull => {
        name: "queue_full", initiator: Proxy, final_state: Failed,
        client_code: Some(CloseCode::TRY_AGAIN_LATER), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "the queue is full and `overflow` is `\"close\"`",
    }
    Self::UpstreamClosed(_) => {
        name: "upstream_closed", initiator: Upstream, final_state: Closed,
        client_code: None, upstream_code: None,
        // By the code of its close frame.
        blames_upstream: false, ends_upstream: true,
        cause: "the backend sent a close frame, which the client gets unchanged",
    }
    Self::UpstreamLost => {
        name: "upstream_lost", initiator: Upstream, final_state: Failed,
        client_code: Some(CloseCode::BAD_GATEWAY), upstream_code: None,
        blames_upstream: true, ends_upstream: true,
        cause: "the backend's connection ended without a close frame",
    }
    Self::UpstreamError(_) => {
        name: "upstream_protocol_error", initiator: Upstream, final_state: Failed,
        client_code: Some(CloseCode::BAD_GATEWAY), upstream_code: Some(CloseCode::PROTOCOL_ERROR),
        blames_upstream: true, ends_upstream: true,
        cause: "the backend broke RFC 6455",
    }
    Self::ConnectFailed(ConnectError::Refused(_)) => {
        name: "upstream_refused", initiator: Upstream, final_state: Failed,
        // By the status, which the route may map to other codes.
        client_code: Some(CloseCode::BAD_GATEWAY), upstream_code: None,
        blames_upstream: false, ends_upstream: false,
        cause: "the backend refused, such as with 400 or 404; 1008 if it was with 401 or 403; \
                `[route.close_codes]` can set 4401 or others",
    }
    Self::ConnectFailed(ConnectError::Broken(_) | ConnectError::Subprotocol(_)) => {
        name: "bad_upstream_handshake", initiator: Upstream, final_state: Failed,
        client_code: Some(CloseCode::BAD_GATEWAY), upstream_code: None,
        blames_upstream: true, ends_upstream: false,
        cause: "the backend's 101 broke RFC 6455, or named another subprotocol than the client was told",
    }
    Self::ConnectFailed(ConnectError::Tls(_)) => {
        name: "upstream_tls_failed", initiator: Upstream, final_state: Failed,
        client_code: Some(CloseCode::BAD_GATEWAY), upstream_code: None,
        blames_upstream: true, ends_upstream: false,
        cause: "an untrusted certificate on either side, or a backend without TLS",
    }
    Self::ReadyTimeout { connected: false, .. } => {
        name: "upstream_unreachable", initiator: Proxy, final_state: Failed,
        client_code: Some(CloseCode::TRY_AGAIN_LATER), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: true, ends_upstream: false,
        cause: "not connected within the gate's `timeout`",
    }
    Self::ReadyTimeout { connected: true, .. } => {
        name: "ready_timeout", initiator: Proxy, final_state: Failed,
        client_code: Some(CloseCode::TRY_AGAIN_LATER), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "not ready within the gate's `timeout`",
    }
    Self::FlushStalled => {
        name: "flush_stalled", initiator: Proxy, final_state: Failed,
        client_code: Some(CloseCode::TRY_AGAIN_LATER), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: true,
        cause: "the backend does not read",
    }
    Self::ConnectFailed(ConnectError::Shortage) => {
        name: "out_of_descriptors", initiator: Proxy, final_state: Failed,
        client_code: Some(CloseCode::TRY_AGAIN_LATER), upstream_code: None,
        blames_upstream: false, ends_upstream: false,
        cause: "the process has too few file descriptors to connect to the backend",
    }
    Self::Idle => {
        name: "idle_timeout", initiator: Proxy, final_state: Closed,
        // The only registered code that is about the connection rather than the messages on it:
        // 1000 would mean that the purpose is fulfilled, 1013 that the server is overloaded.
        client_code: Some(CloseCode::GOING_AWAY), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "no traffic for `tunnel.idle_timeout`",
    }
    Self::TooOld => {
        name: "max_session_age", initiator: Proxy, final_state: Closed,
        client_code: Some(CloseCode::SERVICE_RESTART), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "the session has reached `tunnel.max_session_age`",
    }
    Self::ClientVanished => {
        name: "client_vanished", initiator: Client, final_state: Failed,
        client_code: None, upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "the client has not answered readygate's ping",
    }
    Self::UpstreamVanished => {
        name: "upstream_vanished", initiator: Upstream, final_state: Failed,
        client_code: Some(CloseCode::BAD_GATEWAY), upstream_code: None,
        blames_upstream: false, ends_upstream: true,
        cause: "the backend has not answered readygate's ping",
    }
    Self::Drained => {
        name: "shutting_down", initiator: Proxy, final_state: Closed,
        client_code: Some(CloseCode::GOING_AWAY), upstream_code: Some(CloseCode::GOING_AWAY),
        blames_upstream: false, ends_upstream: false,
        cause: "readygate is stopping",
    }
    Self::Aborted => {
        name: "aborted", initiator: Proxy, final_state: Failed,
        client_code: None, upstream_code: None,
        blames_upstream: false, ends_upstream: true,
        cause: "forcibly closed: `drain.grace` is over, or readygate was told to stop a second time",
    }
}
