//! The configuration: only valid values.

use std::{num::NonZeroUsize, time::Duration};

use crate::{route::Routes, server, telemetry};

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<server::ListenAddress>,
    /// Threads that serve; default one per core.
    pub workers: NonZeroUsize,
    /// The log.
    pub log: telemetry::Settings,
    /// Bounds of the process.
    pub limits: server::Limits,
    /// How long sessions have after SIGTERM; default 8 s.
    pub drain_grace: Duration,
    /// The routes.
    pub routes: Routes,
}
