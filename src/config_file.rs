//! The configuration: only valid values.
//!
//! [`Config`] is what the rest of the program works with. Reading it goes through
//! `reader`, which is the file as it is written, and collects every problem on the way;
//! `report` shows each of them under its line.
//!
//! # Invariants
//!
//! * A [`Config`] was read without a single problem.
//! * Defaults are those of the settings types; the file only overrides them.
//! * A key that is looked up stands in `proxy.toml`, with its default, and in [`schema()`].

mod cautions;
pub mod effective;
mod keys;
mod process;
mod reader;
mod reference;
pub mod reload;
mod report;
mod routes;
mod schema;
mod section;
mod tls;
mod values;

use std::{
    fs, io,
    num::NonZeroUsize,
    path::Path,
    time::{Duration, SystemTime},
};

use toml::de::DeTable;

pub use self::effective::{Effective, Setting};
pub use self::keys::{concerns, default_file};
pub use self::reference::reference;
pub use self::report::{Cautions, Mistake, Problems, userinfo};
pub use self::schema::schema;
pub use self::section::Concerns;
pub use self::values::{address, units};

use self::{
    reader::{File, Table},
    report::Problem,
};
use crate::{
    client_addr::TrustedProxies,
    config::{DEFAULT_ADMIN, DrainSettings, Limits, ListenAddress, ListenSettings},
    observability,
    route::{Route, Routes},
    tls::{self as tls_files, CertifiedKeyFiles, Warnings},
};

/// Looks up an environment variable; [`process_environment`] is the real one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of the process; a variable that is not Unicode counts as not set.
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Listeners.
    pub listen: Vec<ListenSettings>,
    /// Proxies that are trusted to name clients; default none.
    pub trusted_proxies: TrustedProxies,
    /// Worker threads; default one per core.
    pub workers: NonZeroUsize,
    /// Address of the admin listener; default 127.0.0.1:9901, `None`: no admin listener.
    pub admin: Option<ListenAddress>,
    /// The log.
    pub log: observability::Settings,
    /// Bounds of the process.
    pub limits: Limits,
    /// Drain after SIGTERM.
    pub drain: DrainSettings,
    /// Interval for polling the file; default never.
    pub reload_poll: Option<Duration>,
    /// The SHA-256 of the file in hexadecimal, where there is one.
    pub sha256: Option<String>,
    /// The routes.
    pub routes: Routes,
    /// Values that were set, and their origins.
    pub effective: Effective,
    /// Valid values that are most likely not intended.
    pub cautions: Cautions,
}

/// Error of loading a configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The file is not valid.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

impl Config {
    /// Reads the file at `path`, with variables from the environment of the process.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| LoadError::Unreadable {
            path: name.clone(),
            source,
        })?;
        let mut config = Self::parse(&name, &text, &process_environment)?;
        config.sha256 = Some(tls_files::sha256(text.as_bytes()));
        Ok(config)
    }

    /// Reads `text`, which reports call `name`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: &str, environment: Environment<'_>) -> Result<Self, Problems> {
        read(name, text, environment, |top| {
            let routes = routes::read(top);
            Self::with_routes(top, routes)
        })
    }

    /// The defaults, with one route for everything to `upstream`.
    ///
    /// # Errors
    ///
    /// The variable `PORT` is not a port, or the upstream speaks TLS and the machine does
    /// not say whom to trust.
    pub fn for_upstream(
        upstream: address::Upstream,
        environment: Environment<'_>,
    ) -> Result<Self, Problems> {
        let written = upstream.to_string();
        let mut config = read("the environment", "", environment, |top| {
            let routes = routes::to_everything(top, upstream);
            Self::with_routes(top, routes.into_iter().collect())
        })?;
        let key = "route[0].upstream";
        config.effective.override_with(key, written);
        Ok(config)
    }

    /// Returns all certificates of the process, towards clients and upstreams.
    #[must_use]
    pub fn identities(&self) -> Vec<CertifiedKeyFiles> {
        let listeners = self.listen.iter().filter_map(|listen| listen.tls.as_ref());
        let upstreams = self
            .routes
            .iter()
            .filter_map(|route| route.upstream.tls.as_ref());
        listeners
            .flat_map(|tls| tls.identities())
            .chain(upstreams.filter_map(|tls| tls.identity()))
            .collect()
    }

    /// Returns warnings about certificates that have expired or soon will.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        Warnings::default().about(&self.identities(), SystemTime::now())
    }

    /// Logs the cautions.
    pub fn log_cautions(&self) {
        for caution in self.cautions.lines() {
            tracing::warn!("{caution}");
        }
    }

    fn with_routes(top: &mut Table<'_>, routes: Vec<Route>) -> Self {
        // What the machine decides is read in any case.
        let mut config = Self {
            listen: Vec::new(),
            trusted_proxies: TrustedProxies::default(),
            workers: units::all_cores(),
            admin: Some(ListenAddress::Tcp(DEFAULT_ADMIN)),
            log: observability::Settings::default(),
            limits: Limits::new(0),
            drain: DrainSettings::default(),
            reload_poll: None,
            sha256: None,
            routes: Routes::new(routes),
            effective: Effective::default(),
            cautions: Cautions::default(),
        };
        process::read(top, &mut config);
        config.effective = Effective(top.file().noted());
        config
    }
}

/// Parses `text` and reads its top level, or reports its problems.
fn read(
    name: &str,
    text: &str,
    environment: Environment<'_>,
    read: impl FnOnce(&mut Table<'_>) -> Config,
) -> Result<Config, Problems> {
    let (root, errors) = DeTable::parse_recoverable(text);
    // What is quoted in part does not look like a URL any more.
    let named = userinfo::named(root.get_ref());
    let shown = userinfo::hide_named(text, &named);
    let syntax = errors.iter().map(|error| syntax_problem(&shown, error));
    let file = File::new(text, environment);
    file.conceal(named.iter().filter_map(userinfo::Named::concealed));
    let mut config = file.read(root.get_ref(), read);
    config.cautions = Cautions::new(name, &shown, file.take_cautions());
    let problems = Problems::new(name, shown.clone(), syntax.collect(), file.take_problems());
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let (what, expected) = match error.message().split_once(", expected ") {
        Some((what, expected)) => (what, format!("expected {expected}")),
        None => (error.message(), String::new()),
    };
    let span = error.span().unwrap_or(text.len()..text.len());
    let mistake = if what == "string values must be quoted" {
        Mistake::new(what.to_owned(), "expected quotes")
            .help(format!("write \"{}\"", &text[span.clone()]))
    } else {
        Mistake::new(what.to_owned(), expected)
    };
    Problem::at(span, mistake)
}

#[cfg(test)]
mod tests;
