//! One WebSocket session, from the client's `101 Switching Protocols` to the last close
//! frame.

pub mod close;
pub mod gate;
pub mod hold;
pub mod rules;
pub mod state;
pub mod termination;
pub mod tunnel;

use std::sync::Arc;

use crate::{
    transport::Stream,
    upstream::{Attempts, ConnectError},
    websocket::Opened,
};

pub use hold::Budget;
pub use termination::Report;
use tokio_util::sync::CancellationToken;

/// How the sessions of a route behave.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When the gate opens.
    pub gate: gate::Settings,
    /// How client messages are classified.
    pub rules: rules::Rules,
    /// The hold queue.
    pub hold: hold::Settings,
    /// The tunnel and the closing handshake.
    pub tunnel: tunnel::Settings,
    /// Which close code an upstream's HTTP status becomes.
    pub close_codes: close::CloseCodes,
}

/// What a session shares with the process it runs in.
#[derive(Clone, Debug)]
pub struct Context {
    /// What all sessions together may hold.
    pub budget: Arc<Budget>,
    /// Cancelled when the process drains.
    pub drain: CancellationToken,
}

/// Runs one session to its end.
///
/// `client` has its `101`. `connect` makes one connection to the upstream, retrying what
/// may be retried until it is dropped; it is called again when the upstream is lost before
/// any message has gone either way.
pub async fn run<C, U>(
    client: Opened<C>,
    connect: impl AsyncFn(&Attempts) -> Result<Opened<U>, ConnectError>,
    settings: &Settings,
    context: &Context,
) -> Report
where
    C: Stream,
    U: Stream,
{
    let _ = (client, connect, settings, context);
    unimplemented!()
}
