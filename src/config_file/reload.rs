//! Reading the configuration again while the program runs.
//!
//! ```text
//!  SIGHUP ───────┐
//!  POST /reload ─┼──► Trigger ──► Source, on a thread that may wait for files ──► Outcome
//!  polling ──────┘
//! ```
//!
//! # Invariants
//!
//! * Only a configuration without a single problem is applied, and only as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use tokio::{sync::oneshot, time};

use super::{Config, Effective, Setting, keys};

/// Time for reading the file and those it names, after which the request for a reload is answered
/// anyway.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Source of configurations for reloads, and of the requests for them.
pub struct Source {
    /// File to poll for changes.
    pub file: Option<PathBuf>,
    load: Box<dyn Fn() -> Result<Config, String> + Send>,
    orders: Receiver<Order>,
}

/// Order to the thread that reads.
#[derive(Debug)]
pub enum Order {
    /// Reload, and send the outcome.
    Reload(oneshot::Sender<Outcome>),
    /// End.
    End,
}

/// Handle that requests reloads.
#[derive(Clone, Debug)]
pub struct Trigger(Sender<Order>);

/// Outcome of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The configuration is in effect; one line per changed key.
    Applied(Vec<String>),
    /// Nothing was changed, for this reason.
    Refused(String),
}

/// Creates a source that `load` reads from `file`, and the handle that requests reloads.
pub fn source(
    file: Option<PathBuf>,
    load: impl Fn() -> Result<Config, String> + Send + 'static,
) -> (Trigger, Source) {
    let (orders, received) = mpsc::channel();
    let source = Source {
        file,
        load: Box::new(load),
        orders: received,
    };
    (Trigger(orders), source)
}

impl Source {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// Every problem of the file.
    pub fn load(&self) -> Result<Config, String> {
        (self.load)()
    }

    /// The next order within `timeout`; `None` if there was none.
    #[must_use]
    pub fn next(&self, timeout: Duration) -> Option<Order> {
        match self.orders.recv_timeout(timeout) {
            Ok(order) => Some(order),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(Order::End),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Source")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Trigger {
    /// Requests a reload.
    ///
    /// # Cancel safety
    ///
    /// The reload happens even if the future is dropped.
    pub async fn reload(&self) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let is_asked = self.0.send(Order::Reload(answer)).is_ok();
        match time::timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(outcome)) if is_asked => outcome,
            Ok(_) => Outcome::Refused("the program ends".to_owned()),
            Err(_elapsed) => Outcome::Refused(format!(
                "not read within {} s; it is taken over once it is, and the log says so",
                ANSWER_TIMEOUT.as_secs()
            )),
        }
    }

    /// Ends the thread that reads.
    pub fn end(&self) {
        // It may have ended.
        let _ = self.0.send(Order::End);
    }
}

/// Returns the keys that differ between the two and need a restart.
#[must_use]
pub fn fixed_differences(old: &Config, new: &Config) -> Vec<String> {
    let addresses = |config: &Config| {
        let listen = config
            .listen
            .iter()
            .map(|listen| listen.address.to_string());
        let mut addresses: Vec<_> = listen.collect();
        addresses.sort();
        addresses
    };
    let listen = (addresses(old) != addresses(new)).then(|| "listen (its addresses)".to_owned());
    listen
        .into_iter()
        .chain(keys::ADMIN.fixed_differences(old, new))
        .chain(keys::TOP.fixed_differences(old, new))
        .chain(keys::LOG.fixed_differences(&old.log, &new.log))
        .chain(keys::RELOAD.fixed_differences(old, new))
        .collect()
}

/// Returns the differences in `new`, one per line: added and removed routes, and changed keys.
///
/// A route is the same one as long as its host and path are, wherever in the file it stands.
#[must_use]
pub fn differences(old: &Effective, new: &Effective) -> Vec<String> {
    let (old, new) = (Named::new(old), Named::new(new));
    let mut all: Vec<_> = new.changes(&old).collect();
    let added = new.routes.difference(&old.routes);
    all.extend(added.map(|route| format!("route {route}: added")));
    let removed = old.routes.difference(&new.routes);
    all.extend(removed.map(|route| format!("route {route}: removed")));
    all
}

/// Settings by names that do not depend on the order of the routes.
struct Named {
    routes: BTreeSet<String>,
    /// In the order of the keys: the route that it is of, its key there, and its value.
    settings: Vec<(Option<String>, String, String)>,
}

impl Named {
    fn new(effective: &Effective) -> Self {
        let settings = effective.settings();
        let mut labels = BTreeMap::<String, String>::new();
        for part in ["host", "path"] {
            for setting in &settings {
                if let Some((route, key)) = of_route(&setting.key)
                    && key == part
                {
                    let label = labels.entry(route.to_owned()).or_default();
                    *label += setting.value.as_str().unwrap_or_default();
                }
            }
        }
        let named = |setting: Setting| {
            let value = setting.value.to_string();
            match of_route(&setting.key) {
                Some((route, key)) => (labels.get(route).cloned(), key.to_owned(), value),
                None => (None, setting.key, value),
            }
        };
        Self {
            settings: settings.into_iter().map(named).collect(),
            routes: labels.into_values().collect(),
        }
    }

    /// Returns the changed settings of the process, and of routes that both have.
    fn changes<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = String> + 'a {
        let of_both = |route: &Option<String>| {
            let is_there = |route| self.routes.contains(route) && old.routes.contains(route);
            route.as_ref().is_none_or(is_there)
        };
        let now = self.by_name();
        let before = old.by_name();
        let names = self.settings.iter().map(name);
        let gone = old.settings.iter().map(name);
        let gone: Vec<_> = gone.filter(|name| !now.contains_key(name)).collect();
        names.chain(gone).filter_map(move |name| {
            let (route, key) = name;
            if !of_both(route) {
                return None;
            }
            let key = match route {
                Some(route) => format!("route {route} {key}"),
                None => key.to_owned(),
            };
            match (before.get(&name), now.get(&name)) {
                (Some(before), Some(now)) if before == now => None,
                (Some(before), Some(now)) => Some(format!("{key}: {before} -> {now}")),
                (None, Some(now)) => Some(format!("{key}: {now} (new)")),
                (Some(before), None) => Some(format!("{key}: {before} (gone)")),
                (None, None) => None,
            }
        })
    }

    fn by_name(&self) -> BTreeMap<Name<'_>, &str> {
        let settings = self.settings.iter();
        settings.map(|it| (name(it), it.2.as_str())).collect()
    }
}

type Name<'a> = (&'a Option<String>, &'a str);

fn name((route, key, _): &(Option<String>, String, String)) -> Name<'_> {
    (route, key)
}

/// The table of a route and the key in it.
fn of_route(key: &str) -> Option<(&str, &str)> {
    key.split_once("].")
        .filter(|(table, _)| table.starts_with("route["))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let text = format!("{text}\n[[route]]\nupstream = \"http://a\"\n");
        Config::parse("proxy.toml", &text, &|_| None).unwrap()
    }

    #[test]
    fn what_is_different_is_said_key_by_key() {
        let old = config("limits.max_connections = 7\ndrain.grace = \"2s\"");
        let new = config("limits.max_connections = 8\nlisten = \"127.0.0.1:1\"");

        assert_eq!(
            differences(&old.effective, &new.effective),
            [
                "drain.grace: \"2s\" -> \"8s\"",
                "limits.max_connections: 7 -> 8",
                "listen: \"0.0.0.0:8080\" -> \"127.0.0.1:1\"",
            ]
        );
        assert!(differences(&old.effective, &old.effective).is_empty());
    }

    #[test]
    fn a_route_is_the_same_one_wherever_it_stands() {
        let more = |routes: &str| config(&routes.replace("; ", "\n"));
        let old = more("[[route]]; host = \"a\"; upstream = \"http://a\"; gate.timeout = \"1s\"");
        let new = more(
            "[[route]]; path = \"/new\"; upstream = \"http://n\"; \
             [[route]]; host = \"a\"; upstream = \"http://a\"; gate.timeout = \"2s\"",
        );

        let changed = |before, now| format!("route a/ gate.timeout: \"{before}\" -> \"{now}\"");
        assert_eq!(
            differences(&old.effective, &new.effective),
            [changed("1s", "2s"), "route /new: added".to_owned()]
        );
        assert_eq!(
            differences(&new.effective, &old.effective),
            [changed("2s", "1s"), "route /new: removed".to_owned()]
        );
    }

    #[test]
    fn what_cannot_change_while_the_program_runs_is_named() {
        let old = config("workers = 1");
        let new = config("workers = 2\nlisten = \"127.0.0.1:1\"\nadmin.listen = \"\"");

        assert_eq!(
            fixed_differences(&old, &new),
            ["listen (its addresses)", "admin.listen", "workers"]
        );
        let tuned = config("workers = 1\nlimits.max_connections = 8\nlog.level = \"debug\"");
        assert!(fixed_differences(&old, &tuned).is_empty());
    }
}
