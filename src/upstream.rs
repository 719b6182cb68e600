//! Connecting to the upstream: resolve, connect, opening handshake, retry.
//!
//! ```text
//!      ┌───── backoff, per session ◄── reset, 502, 503, … ────┐
//!      ▼                                                      │
//!  endpoint: connected, once the upstream listens ──► opening handshake ──► Opened
//!      ▲ │                                                    └──► 401, not a 101 ──► ConnectError
//!      └─┘ refused, timed out: one session tries for all
//! ```
//!
//! # Invariants
//!
//! * [`connect`] is given the request head and nothing else that a client sent, so no byte of a
//!   client can reach the upstream before its validated `101`.
//! * A connection whose opening handshake failed is closed and never reused.
//! * No `Display` of an error here is shown to a client: it may contain addresses.

mod attempts;
pub mod backoff;
pub mod breaker;
pub mod dial;
pub mod dns;
pub mod endpoint;
pub mod handshake;
pub mod protocol;
pub mod proxy_protocol;
pub mod tls;

use std::{fmt, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use tokio::time;

pub use self::{
    attempts::{Attempts, Failure, FailureCounts},
    endpoint::{Endpoint, Permit, Waiting},
    handshake::{Mismatch, OpeningRequest, Terms},
};
use self::{
    backoff::Backoff,
    dial::DialError,
    endpoint::{Reason, Tolerance},
    handshake::{AnswerError, Broken},
    protocol::Protocol,
    tls::TlsError,
};
pub use crate::websocket::handshake::ResponseLimits;
use crate::{config::Retry, transport::Transport, websocket::Opened};

/// A valid `101` of an upstream.
pub type Switched = handshake::Switched<Transport>;

/// A response other than a `101`.
pub type Refused = handshake::RejectedHandshake<Transport>;

/// Connects to the upstream and completes the opening handshake, retrying for as long as that may
/// help.
///
/// The number of attempts is not limited: the caller drops the future at its deadline. If
/// `attempts` had responses before, the backoff continues behind them.
///
/// # Errors
///
/// Failures that a retry would not change: a status other than 500, 502, 503 and 504, a response
/// that is not HTTP or an invalid `101`, a certificate that is not trusted, or too few file
/// descriptors.
///
/// # Cancel safety
///
/// Dropping the future closes the connection in progress.
pub async fn connect(
    endpoint: &Endpoint,
    request: &OpeningRequest,
    attempts: &Attempts,
) -> Result<Opened<Transport>, ConnectError> {
    try_until(endpoint, request, attempts, None, |outcome| {
        Some(match outcome {
            Ok(switched) => Ok(switched.opened),
            Err(AttemptError::Refused(refused)) => Err(ConnectError::Refused(refused.status)),
            Err(AttemptError::Final(error)) => Err(error),
            Err(_) => return None,
        })
    })
    .await
}

/// Response of an upstream, for a client that waits for it.
#[derive(Debug)]
pub enum HandshakeOutcome {
    /// A valid `101`.
    Switched(Box<Switched>),
    /// A refusal that a retry would not change.
    Refused(Refused),
    /// A refusal (500, 502, 503, 504) that a retry may change.
    Unavailable(Refused),
}

/// Connects like [`connect`], for a client that is to get the upstream's own response; the first
/// attempt uses `kept`, an idle connection, if there is one.
///
/// # Errors
///
/// Failures without a response that a retry would not change.
///
/// # Cancel safety
///
/// Dropping the future closes the connection in progress.
pub async fn ask(
    endpoint: &Endpoint,
    request: &OpeningRequest,
    attempts: &Attempts,
    kept: Option<Transport>,
) -> Result<HandshakeOutcome, ConnectError> {
    try_until(endpoint, request, attempts, kept, |outcome| {
        Some(match outcome {
            Ok(switched) => Ok(HandshakeOutcome::Switched(Box::new(switched))),
            Err(AttemptError::Refused(refused)) => Ok(HandshakeOutcome::Refused(refused)),
            Err(AttemptError::Final(error)) => Err(error),
            Err(AttemptError::Temporary(refused)) => Ok(HandshakeOutcome::Unavailable(refused)),
            Err(_) => return None,
        })
    })
    .await
}

/// Retries until `judge` accepts an outcome as final.
async fn try_until<T>(
    endpoint: &Endpoint,
    request: &OpeningRequest,
    attempts: &Attempts,
    mut kept: Option<Transport>,
    mut judge: impl FnMut(Result<Switched, AttemptError>) -> Option<T>,
) -> T {
    // Counted as `waiting` in the log until the future is dropped.
    let _waiting = endpoint.wait();
    let mut patience = Tolerance::new(endpoint);
    let mut backoff = Backoff::new(&endpoint.settings().retry);
    if attempts.answers() > 0 {
        // An upstream that was lost is not retried faster than one that does not listen.
        backoff = backoff.after(attempts.answers());
        time::sleep(backoff.next(rand::random())).await;
    }
    loop {
        // `kept` serves the first attempt only; later ones connect anew.
        let outcome = attempt(endpoint, request, attempts, &mut patience, kept.take()).await;
        match &outcome {
            Ok(_) => {
                attempts.note_connection();
                endpoint.note_switched();
            }
            Err(error) => match error.failure() {
                Some(failure) => {
                    attempts.note_failure(failure, error);
                    if error.is_of_no_meaning() {
                        attempts.note_standing();
                    }
                    if !error.is_about_client() {
                        let kind = error.kind();
                        patience.fail(endpoint, Reason { failure, kind }, error);
                    }
                }
                None => attempts.take_back(),
            },
        }
        if let Ok(switched) = &outcome
            && let Some(address) = switched.opened.stream.peer_address()
        {
            attempts.note_address(address);
        }
        if let Some(judgement) = judge(outcome) {
            return judgement;
        }
        time::sleep(backoff.next(rand::random())).await;
    }
}

async fn attempt(
    endpoint: &Endpoint,
    request: &OpeningRequest,
    attempts: &Attempts,
    patience: &mut Tolerance,
    kept: Option<Transport>,
) -> Result<Switched, AttemptError> {
    let is_fresh = kept.is_none();
    let stream = if let Some(stream) = kept {
        attempts.count();
        stream
    } else {
        endpoint.connect_for(attempts).await?
    };
    // Connected: a response may come, so the upstream is not to blame yet.
    attempts.note_standing();
    let settings = endpoint.settings();
    let handshake = async {
        let stream = if is_fresh {
            begin(stream, settings, request).await?
        } else {
            stream
        };
        shake_hands(stream, settings, request).await
    };
    let mut handshake = pin!(handshake);
    // This timeout only reports the silence; the handshake itself continues.
    match time::timeout(Tolerance::LENGTH, handshake.as_mut()).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            let silence = AttemptError::Silent(Tolerance::LENGTH);
            let failure = Failure::Silent;
            patience.fail(
                endpoint,
                Reason {
                    failure,
                    kind: None,
                },
                &silence,
            );
            handshake.await
        }
    }
}

/// Sends the preamble on a new connection, and starts TLS where the upstream uses it.
async fn begin(
    stream: Transport,
    settings: &Settings,
    request: &OpeningRequest,
) -> Result<Transport, AttemptError> {
    let begun = dial::finish(settings, stream, Protocol::Http1, request.preamble()).await;
    begun.map_err(|error| match error {
        DialError::Unreachable(error) => AttemptError::Lost(error),
        error => error.into(),
    })
}

/// Performs the opening handshake.
async fn shake_hands(
    stream: Transport,
    settings: &Settings,
    request: &OpeningRequest,
) -> Result<Switched, AttemptError> {
    let answer = handshake::perform(stream, request);
    let answered = match settings.handshake_timeout {
        None => answer.await,
        Some(timeout) => time::timeout(timeout, answer)
            .await
            .map_err(|_elapsed| AttemptError::Silent(timeout))?,
    };
    answered.map_err(|error| match error {
        // In TLS 1.3 a client learns only now that its certificate was rejected.
        AnswerError::Lost(error) => match TlsError::of(&error) {
            Some(error) => DialError::Tls(error).into(),
            None => AttemptError::Lost(error),
        },
        AnswerError::Refused(refused) if is_temporary(refused.status) => {
            AttemptError::Temporary(refused)
        }
        AnswerError::Refused(refused) => AttemptError::Refused(refused),
        AnswerError::Broken(Broken(reason)) => AttemptError::Final(ConnectError::Broken(reason)),
        AnswerError::Subprotocol(mismatch) => {
            AttemptError::Final(ConnectError::Subprotocol(Box::new(mismatch)))
        }
    })
}

/// Returns whether an application, or a proxy in front of it, sends this status while it starts.
fn is_temporary(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Reason why one attempt failed; all but `Refused` and `Final` are retried.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Unreachable(DialError),
    #[error("connection lost during the opening handshake: {0}")]
    Lost(io::Error),
    #[error("no answer to the opening handshake within {0:?}")]
    Silent(Duration),
    #[error("answered the opening handshake with status {}", .0.status)]
    Temporary(Refused),
    #[error("{}", ConnectError::Refused(.0.status))]
    Refused(Refused),
    #[error(transparent)]
    Final(ConnectError),
}

impl AttemptError {
    /// Kind of the upstream's failure; `None`: the attempt never reached it.
    const fn failure(&self) -> Option<Failure> {
        Some(match self {
            Self::Unreachable(_) => Failure::Unreachable,
            Self::Lost(_) => Failure::Lost,
            Self::Silent(_) => Failure::Silent,
            Self::Temporary(_) => Failure::Unavailable,
            Self::Refused(_) | Self::Final(ConnectError::Refused(_)) => Failure::Refused,
            Self::Final(ConnectError::Broken(_) | ConnectError::Subprotocol(_)) => Failure::Broken,
            Self::Final(ConnectError::Tls(_)) => Failure::Tls,
            Self::Final(ConnectError::Shortage) => return None,
        })
    }

    /// Returns whether the upstream refused this particular client, so that others may fare better.
    const fn is_about_client(&self) -> bool {
        matches!(
            self,
            Self::Refused(_) | Self::Final(ConnectError::Refused(_) | ConnectError::Subprotocol(_))
        )
    }

    /// Returns whether the error says nothing about the upstream.
    fn is_of_no_meaning(&self) -> bool {
        matches!(self, Self::Unreachable(DialError::Unreachable(error)) if dial::is_of_no_meaning(error))
    }

    /// Kind of the underlying system error, if there is one.
    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Unreachable(DialError::Unreachable(error)) | Self::Lost(error) => {
                Some(error.kind())
            }
            _ => None,
        }
    }
}

impl From<DialError> for AttemptError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Tls(error) => Self::Final(ConnectError::Tls(error)),
            DialError::Shortage => Self::Final(ConnectError::Shortage),
            error @ DialError::Unreachable(_) => Self::Unreachable(error),
        }
    }
}

/// Address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address (without brackets) and a port.
    Tcp {
        /// The name or address.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Only an IPv6 address contains colons.
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Settings for connections to a route's upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Address of the upstream.
    pub address: Address,
    /// TLS settings; `None`: no TLS.
    pub tls: Option<Arc<tls::Tls>>,
    /// Timeout of a connection attempt to one address, and of resolving the name; default 1 s.
    pub timeout: Duration,
    /// Timeout of the TLS handshake, and then of the response to the opening handshake, after which
    /// another attempt is made; default `None`: unlimited, since an application that works before
    /// it responds would start over each time.
    pub handshake_timeout: Option<Duration>,
    /// Backoff between attempts.
    pub retry: Retry,
    /// Version of the PROXY protocol header that every connection begins with; default none.
    pub proxy_protocol: Option<proxy_protocol::ProxyProtocolVersion>,
}

impl Settings {
    /// Creates default settings for an upstream at `address`.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            tls: None,
            timeout: Duration::from_secs(1),
            handshake_timeout: None,
            retry: Retry::default(),
            proxy_protocol: None,
        }
    }

    /// Returns the upstream's own name and port as in `Host` (RFC 9110 §7.2); `localhost` for a
    /// Unix socket.
    #[must_use]
    pub fn authority(&self) -> String {
        let Address::Tcp { host, port } = &self.address else {
            return "localhost".to_owned();
        };
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        match (host.contains(':'), *port == default_port) {
            (true, true) => format!("[{host}]"),
            (true, false) => format!("[{host}]:{port}"),
            (false, true) => host.clone(),
            (false, false) => format!("{host}:{port}"),
        }
    }

    /// Returns the first bytes of a connection for a client at `source` that connected to
    /// `destination`; empty without the PROXY protocol.
    #[must_use]
    pub fn preamble(&self, source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Vec<u8> {
        self.proxy_protocol.map_or_else(Vec::new, |version| {
            proxy_protocol::header(version, source, destination)
        })
    }

    /// Returns whether a connection may carry requests of different clients.
    #[must_use]
    pub const fn may_share_connections(&self) -> bool {
        self.proxy_protocol.is_none()
    }
}

/// Reason why the upstream is unavailable although retrying would not help.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The upstream responded to the opening handshake with this status.
    #[error("upstream refused the WebSocket with status {0}")]
    Refused(http::StatusCode),
    /// The upstream's `101` is invalid (RFC 6455 §4.1).
    #[error("upstream's opening handshake is broken: {0}")]
    Broken(&'static str),
    /// The upstream's `101` selects a subprotocol that the client cannot be given. This says
    /// nothing about the upstream's health: the client's offer has a part in it.
    #[error("{0}")]
    Subprotocol(Box<Mismatch>),
    /// The upstream's certificate is not trusted, or it does not trust the proxy's.
    #[error("TLS with the upstream failed: {0}")]
    Tls(TlsError),
    /// There are too few file descriptors to try. Waiting for one would not help: every session
    /// that waits has one itself.
    #[error("too few file descriptors to connect to the upstream")]
    Shortage,
}
