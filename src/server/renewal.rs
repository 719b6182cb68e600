//! Certificates that change while they are in use.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, SystemTime},
};

use crate::{
    config::Config,
    tls::{FileError, Warnings},
};

/// How often the files are looked at; a change is taken over at the second look.
const INTERVAL: Duration = Duration::from_secs(2);

/// Takes over certificates, keys and authorities whose files change, and warns of
/// certificates that are not valid or soon will not be, until what it returns is dropped.
///
/// Connections that are there go on with what they have. Files are read on a thread of their
/// own, for which nobody waits: they may be on a file system that does not answer.
///
/// # Errors
///
/// The thread cannot be started.
pub(super) fn watch(config: &Arc<Config>) -> io::Result<Sender<Infallible>> {
    let config = Arc::clone(config);
    let (alive, ended) = mpsc::channel::<Infallible>();
    thread::Builder::new()
        .name("renewal".to_owned())
        .spawn(move || {
            let mut warnings = Warnings::default();
            loop {
                look(&config, &mut warnings);
                match ended.recv_timeout(INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Ok(never) => match never {},
                }
            }
        })?;
    Ok(alive)
}

fn look(config: &Config, warnings: &mut Warnings) {
    let listeners = config
        .listen
        .iter()
        .filter_map(|listen| listen.tls.as_ref());
    let upstreams = config
        .routes
        .iter()
        .filter_map(|route| route.upstream.tls.as_ref());
    for tls in listeners {
        report(tls.refresh());
    }
    for tls in upstreams {
        report(tls.refresh());
    }
    for warning in warnings.about(&config.identities(), SystemTime::now()) {
        tracing::warn!("{warning}");
    }
}

fn report(refreshed: Option<Result<(), FileError>>) {
    match refreshed {
        None => {}
        Some(Ok(())) => tracing::info!("changed certificates are in use"),
        Some(Err(error)) => {
            tracing::error!(%error, "changed certificates cannot be used; those before stay");
        }
    }
}
