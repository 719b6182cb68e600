//! Certificates that change while they are in use.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use tokio::time::{self, MissedTickBehavior};

use crate::{
    config::Config,
    tls::{FileError, Warnings},
};

/// How often the files are looked at; a change is taken over at the second look.
const INTERVAL: Duration = Duration::from_secs(2);

/// Takes over certificates, keys and authorities whose files change, and warns of
/// certificates that are not valid or soon will not be.
///
/// Connections that are there go on with what they have.
///
/// # Cancel safety
///
/// Nothing is left half done: between two looks there is nothing to lose.
pub(super) async fn watch(config: &Config) -> Infallible {
    let mut warnings = Warnings::default();
    let mut looks = time::interval(INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
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
