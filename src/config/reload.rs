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
//! * What is taken over was read without a single problem, and is taken over as a whole.

use std::{
    fmt,
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use tokio::{sync::oneshot, time};

use super::{Config, Effective};

/// How long the file and what it names may take to be read before whoever asks is told so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How the configuration is read again, and where that is asked for.
pub struct Source {
    /// What may be looked at for changes.
    pub file: Option<PathBuf>,
    load: Box<dyn Fn() -> Result<Config, String> + Send>,
    orders: Receiver<Order>,
}

/// What the thread that reads is told.
#[derive(Debug)]
pub enum Order {
    /// To read again, and to say what came of it.
    Reload(oneshot::Sender<Outcome>),
    /// To end.
    End,
}

/// Asks for the configuration to be read again.
#[derive(Clone, Debug)]
pub struct Trigger(Sender<Order>);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in effect; what is different, a key in a line.
    Applied(Vec<String>),
    /// Nothing of it is in effect, and why.
    Refused(String),
}

/// A source that `load` reads from `file`, and what asks for that.
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
    /// All that is wrong with it.
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
    /// Has the configuration read again.
    ///
    /// # Cancel safety
    ///
    /// It is read in any case.
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

/// What cannot change while the program runs and differs between the two, by its keys.
#[must_use]
pub fn fixed_differences(old: &Config, new: &Config) -> Vec<&'static str> {
    let addresses = |config: &Config| {
        let listen = config
            .listen
            .iter()
            .map(|listen| listen.address.to_string());
        let mut addresses: Vec<_> = listen.collect();
        addresses.sort();
        addresses
    };
    let all = [
        ("listen (its addresses)", addresses(old) != addresses(new)),
        ("admin.listen", old.admin != new.admin),
        ("workers", old.workers != new.workers),
        ("log.format", old.log.format != new.log.format),
        ("reload.poll", old.reload_poll != new.reload_poll),
    ];
    let differences = all.into_iter().filter(|(_, differs)| *differs);
    differences.map(|(key, _)| key).collect()
}

/// What is different in `new`, a key in a line.
#[must_use]
pub fn differences(old: &Effective, new: &Effective) -> Vec<String> {
    let (old, new) = (old.settings(), new.settings());
    let find = |settings: &[super::Setting], key: &str| {
        let found = settings.iter().find(|setting| setting.key == key);
        found.map(|setting| setting.value.to_string())
    };
    let added = new.iter().filter_map(|setting| {
        let (key, now) = (&setting.key, setting.value.to_string());
        match find(&old, key) {
            Some(before) if before == now => None,
            Some(before) => Some(format!("{key}: {before} -> {now}")),
            None => Some(format!("{key}: {now} (new)")),
        }
    });
    let gone = old
        .iter()
        .filter(|setting| find(&new, &setting.key).is_none());
    let gone = gone.map(|setting| format!("{}: {} (gone)", setting.key, setting.value));
    added.chain(gone).collect()
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
