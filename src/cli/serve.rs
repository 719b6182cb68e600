//! Running the proxy: what signals do to it.

use std::{cell::Cell, convert::Infallible, error::Error, future, io, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{Exit, check::Summary, runtime};
use crate::{
    config::{
        Config,
        reload::{Outcome, Source, Trigger},
    },
    server::{
        self, Ended, Listeners,
        service::{Inherited, Service},
    },
};

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
        config.log_cautions();
        server::raise_descriptor_limit(&config.limits);
        let mut hangups = signal(SignalKind::hangup())?;
        let trigger = source.0.clone();
        let reloading = async {
            while hangups.recv().await.is_some() {
                service.reloading();
                // What came of it is logged, in whole.
                service.ready(match trigger.reload().await {
                    Outcome::Applied(_) => "configuration reloaded",
                    Outcome::Refused(_) => "configuration not reloaded; the log says why",
                });
            }
            future::pending::<Infallible>().await
        };
        let (stop, stops) = mpsc::unbounded_channel();
        let last = Cell::new(Exit::Success);
        let told = async {
            loop {
                last.set(signals.next().await);
                if stop.send(()).is_err() {
                    break future::pending::<Infallible>().await;
                }
            }
        };
        let served = server::run_from(listeners, Arc::new(config), source, &service, stops);
        tokio::select! {
            ended = served => Ok(match ended? {
                Ended::Drained => Exit::Success,
                Ended::CutOff => last.get(),
            }),
            never = reloading => match never {},
            never = told => match never {},
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
