//! `readygate run`: the server and the signals that control it.

use std::{cell::Cell, convert::Infallible, error::Error, future, io, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{Exit, check::CheckSummary, runtime};
use crate::{
    config_file::{
        Config,
        reload::{Outcome, Source, Trigger},
    },
    server::{
        self, Listeners, WorkerEnded,
        systemd::{Inherited, Service},
    },
};

/// Runs the proxy until a signal has drained it, or further ones cut the drain short.
pub(super) fn serve(
    config: Config,
    source: (Trigger, Source),
    inherited: Inherited,
) -> Result<Exit, Box<dyn Error>> {
    let listeners = Listeners::bind_beside(&config, inherited)?;
    let service = Service::of_environment()?;
    runtime()?.block_on(async {
        // From here on SIGTERM drains; before, it ends the process at once, which has no client
        // yet.
        let mut signals = StopSignals::listen()?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            "{}",
            CheckSummary(&config)
        );
        config.log_cautions();
        server::raise_descriptor_limit(&config.limits);
        // Without a handler SIGHUP would end the process.
        let mut hangups = signal(SignalKind::hangup())?;
        let trigger = source.0.clone();
        let reloading = async {
            while hangups.recv().await.is_some() {
                service.reloading();
                // The log has the details; the manager's status is one line.
                service.ready(match trigger.reload().await {
                    Outcome::Applied(_) => "configuration reloaded",
                    Outcome::Refused(_) => "configuration not reloaded; the log says why",
                });
            }
            future::pending::<Infallible>().await
        };
        // Unbounded, because a signal is never worth waiting for; people send few.
        let (stop, stops) = mpsc::unbounded_channel();
        // The last signal is the one that cut the drain short, and gives the exit status.
        let last = Cell::new(Exit::Success);
        let told = async {
            loop {
                last.set(signals.next().await);
                if stop.send(()).is_err() {
                    // The server has ended, and is what the `select!` below returns with.
                    break future::pending::<Infallible>().await;
                }
            }
        };
        let served = server::run_from(listeners, Arc::new(config), source, &service, stops);
        tokio::select! {
            ended = served => Ok(match ended? {
                WorkerEnded::Drained => Exit::Success,
                WorkerEnded::CutOff => last.get(),
            }),
            never = reloading => match never {},
            never = told => match never {},
        }
    })
}

/// SIGTERM and SIGINT, both of which request the drain.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Installs the handlers; from here on neither signal ends the process by itself.
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal; returns the exit status in case it cuts the drain short.
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
