//! Running the proxy: what signals do to it.

use std::{convert::Infallible, error::Error, future, io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{Exit, check::Summary, runtime};
use crate::{
    config::{
        Config,
        reload::{Outcome, Source, Trigger},
    },
    server::{
        self, Listeners,
        service::{Inherited, Service},
    },
};

/// How long it may take to write the last lines once nothing is waited for any more.
const CUT_OFF_TIME: Duration = Duration::from_secs(1);

/// Runs the proxy until it is told to stop, and everything has ended or it is told again.
pub(super) fn serve(
    config: Config,
    source: (Trigger, Source),
    inherited: Inherited,
) -> Result<Exit, Box<dyn Error>> {
    let listeners = Listeners::bind_beside(&config, inherited)?;
    let service = Service::of_environment()?;
    runtime()?.block_on(async {
        let mut signals = StopSignals::listen()?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "{}", Summary(&config));
        server::raise_descriptor_limit(&config.limits);
        let stop = CancellationToken::new();
        let mut hangups = signal(SignalKind::hangup())?;
        let trigger = source.0.clone();
        let reloading = async {
            while hangups.recv().await.is_some() {
                if stop.is_cancelled() {
                    // A service that stops is not ready again.
                    trigger.reload().await;
                    continue;
                }
                service.reloading();
                // What came of it is logged, in whole.
                service.ready(match trigger.reload().await {
                    Outcome::Applied(_) => "configuration reloaded",
                    Outcome::Refused(_) => "configuration not reloaded; the log says why",
                });
            }
            future::pending::<Infallible>().await
        };
        let cut_off = CancellationToken::new();
        let served = server::run_from(
            listeners,
            Arc::new(config),
            source,
            &service,
            (stop.cancelled(), cut_off.cancelled()),
        );
        let mut served = pin!(served);
        let told_twice = async {
            signals.next().await;
            stop.cancel();
            signals.next().await
        };
        tokio::select! {
            ended = &mut served => Ok(ended.map(|()| Exit::Success)?),
            never = reloading => match never {},
            exit = told_twice => {
                tracing::warn!("cut off by a second signal");
                cut_off.cancel();
                // A worker that is stuck is not waited for.
                let _ = time::timeout(CUT_OFF_TIME, served).await;
                Ok(exit)
            }
        }
    })
}

/// SIGTERM and SIGINT, either of which asks for the end.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// They are caught once this has returned.
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; the exit status is for one that does not let the drain end.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses no signal.
    async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.interrupt.recv() => Exit::Interrupted,
        }
    }
}
