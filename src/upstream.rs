//! Connecting to the upstream: resolve, connect, opening handshake, try again.
//!
//! ```text
//!      ┌───── backoff, each session's own ◄── reset, 502, 503, … ──┐
//!      ▼                                                           │
//!  endpoint: connected, once somebody listens ──► opening handshake ┴──► Opened
//!      ▲ │                                             └──► 401, not a 101 ──► ConnectError
//!      └─┘ refused, timed out: one tries for all
//! ```
//!
//! # Invariants
//!
//! * [`connect`] is given the request head and nothing else that a client sent, so no byte
//!   of a client can reach the upstream before its validated `101`.
//! * A connection whose opening handshake did not succeed is closed, never used again.
//! * No `Display` of an error here is shown to a client: it may name addresses.

mod attempts;
pub mod backoff;
pub mod breaker;
pub mod dial;
pub mod endpoint;
pub mod handshake;
pub mod lookup;
pub mod proxy_protocol;
pub mod tls;

use std::{fmt, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use tokio::time;

pub use self::{
    attempts::{Attempts, Failure, FailureCounts},
    backoff::Retry,
    endpoint::{Endpoint, Trial},
    handshake::{Mismatch, OpeningRequest, Terms},
};
use self::{
    backoff::Backoff,
    dial::{DialError, Protocol},
    endpoint::{Patience, Reason},
    handshake::{AnswerError, Broken},
    tls::TlsError,
};
pub use crate::websocket::handshake::ResponseLimits;
use crate::{transport::Transport, websocket::Opened};

/// A valid `101` of an upstream.
pub type Switched = handshake::Switched<Transport>;

/// Another answer than a `101`.
pub type Refused = handshake::Refused<Transport>;

/// Connects to the upstream and completes the opening handshake, trying again for as long
/// as that may help.
///
/// There is no limit to the attempts: the caller drops the future at its deadline. Where
/// `attempts` were answered before, the waits go on behind them.
///
/// # Errors
///
/// What a further attempt would not change: a status other than 500, 502, 503 and 504, an
/// answer that is not HTTP or whose `101` is not one, a certificate that is not trusted, or too
/// few file descriptors.
///
/// # Cancel safety
///
/// Dropping the future closes the connection that was being made.
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

/// What an upstream says to a client that waits for it.
#[derive(Debug)]
pub enum Answer {
    /// It accepts the WebSocket.
    Switched(Box<Switched>),
    /// It does not, and would not if it was asked again.
    Refused(Refused),
    /// It does not (500, 502, 503, 504), and might if it was asked again.
    Unavailable(Refused),
}

/// Asks the upstream as [`connect`] does, for a client that is to have its very answer; first on
/// `kept`, a connection on which nothing is under way.
///
/// # Errors
///
/// What is no answer, and would not be one if it was asked again.
///
/// # Cancel safety
///
/// Dropping the future closes the connection that was being made.
pub async fn ask(
    endpoint: &Endpoint,
    request: &OpeningRequest,
    attempts: &Attempts,
    kept: Option<Transport>,
) -> Result<Answer, ConnectError> {
    try_until(endpoint, request, attempts, kept, |outcome| {
        Some(match outcome {
            Ok(switched) => Ok(Answer::Switched(Box::new(switched))),
            Err(AttemptError::Refused(refused)) => Ok(Answer::Refused(refused)),
            Err(AttemptError::Final(error)) => Err(error),
            Err(AttemptError::Temporary(refused)) => Ok(Answer::Unavailable(refused)),
            Err(_) => return None,
        })
    })
    .await
}

/// Tries until `judge` finds that an outcome is one to stay with.
async fn try_until<T>(
    endpoint: &Endpoint,
    request: &OpeningRequest,
    attempts: &Attempts,
    mut kept: Option<Transport>,
    mut judge: impl FnMut(Result<Switched, AttemptError>) -> Option<T>,
) -> T {
    let _waiting = endpoint.wait();
    let mut patience = Patience::new(endpoint);
    let mut backoff = Backoff::new(&endpoint.settings().retry);
    if attempts.answers() > 0 {
        // An upstream that was lost is not hammered any more than one that is not there.
        backoff = backoff.after(attempts.answers());
        time::sleep(backoff.next(rand::random())).await;
    }
    loop {
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
    patience: &mut Patience,
    kept: Option<Transport>,
) -> Result<Switched, AttemptError> {
    let is_fresh = kept.is_none();
    let stream = if let Some(stream) = kept {
        attempts.count();
        stream
    } else {
        endpoint.connect_for(attempts).await?
    };
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
    match time::timeout(Patience::LENGTH, handshake.as_mut()).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            let silence = AttemptError::Silent(Patience::LENGTH);
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

/// What comes first on a new connection, and TLS where the upstream speaks it.
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

/// The opening handshake.
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
        // In TLS 1.3 a client learns only now that its certificate is refused.
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

/// What an application, or a proxy before it, answers while it is not there yet.
fn is_temporary(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Why one attempt failed; all but `Refused` and `Final` are tried again.
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
    /// What of the upstream has failed; `None`: the attempt has not come so far.
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

    /// Whether it is an answer to this very client, and says nothing of what others get.
    const fn is_about_client(&self) -> bool {
        matches!(
            self,
            Self::Refused(_) | Self::Final(ConnectError::Refused(_) | ConnectError::Subprotocol(_))
        )
    }

    /// Whether it says nothing of the upstream.
    fn is_of_no_meaning(&self) -> bool {
        matches!(self, Self::Unreachable(DialError::Unreachable(error)) if dial::is_of_no_meaning(error))
    }

    /// What kind of error of the system it is, if it is one.
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

/// Where the upstream is.
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
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// How a route's upstream is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// Present: TLS is spoken with it.
    pub tls: Option<Arc<tls::Tls>>,
    /// How long the connection attempt to one address may take, and how long resolving
    /// the name may take; default 1 s.
    pub timeout: Duration,
    /// How long the TLS handshake may take, and then how long the upstream may take to answer
    /// the opening handshake, until another attempt is made; default `None`: as long as somebody
    /// waits for it, for an application that works before it answers would begin anew each time.
    pub handshake_timeout: Option<Duration>,
    /// The waits between attempts.
    pub retry: Retry,
    /// Whether every connection begins with a header of the PROXY protocol; default no.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

impl Settings {
    /// The defaults for an upstream at `address`.
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

    /// Its own name and port, as they are in `Host` (RFC 9110 §7.2); `localhost` on a Unix
    /// socket.
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

    /// What a connection begins with for a client at `source` that connected to
    /// `destination`; mostly nothing.
    #[must_use]
    pub fn preamble(&self, source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Vec<u8> {
        self.proxy_protocol.map_or_else(Vec::new, |version| {
            proxy_protocol::header(version, source, destination)
        })
    }

    /// Whether a connection may carry requests of one client after those of another.
    #[must_use]
    pub const fn may_share_connections(&self) -> bool {
        self.proxy_protocol.is_none()
    }
}

/// Why the upstream cannot be had, and trying again would not help.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It answered the opening handshake with this status.
    #[error("upstream refused the WebSocket with status {0}")]
    Refused(http::StatusCode),
    /// Its `101` is not one (RFC 6455 §4.1).
    #[error("upstream's opening handshake is broken: {0}")]
    Broken(&'static str),
    /// Its `101` names a subprotocol that the client cannot be told. That tells nothing of the
    /// upstream: what a client offers has a part in it.
    #[error("{0}")]
    Subprotocol(Box<Mismatch>),
    /// It is not who it should be, or does not trust the proxy.
    #[error("TLS with the upstream failed: {0}")]
    Tls(TlsError),
    /// There are too few file descriptors to try. To wait for one would not help: those who
    /// wait have one each.
    #[error("too few file descriptors to connect to the upstream")]
    Shortage,
}
