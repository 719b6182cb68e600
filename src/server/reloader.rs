//! Reload of the configuration, on request or when its file changes, and of certificates, whose
//! files are always watched.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::raise_descriptor_limit;
use crate::{
    config_file::{
        Config,
        reload::{Order, Outcome, Source, Trigger, differences, fixed_differences},
    },
    observability,
    state::process::ProcessState,
    tls::{FileError, Warnings, fingerprint},
};

/// Interval between reads of the certificate files; a change is adopted at the second read that
/// sees it.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reloads the configuration as `source` demands, adopts changed certificates, keys and CAs, and
/// warns of certificates that are not valid or soon will not be, until the returned guard is
/// dropped.
///
/// Existing connections keep what they have. Files are read on a thread of their own, which no
/// other waits for: their file system may hang.
///
/// # Errors
///
/// The thread cannot be started.
pub(super) fn watch(
    shared: &Arc<ProcessState>,
    trigger: Trigger,
    source: Source,
) -> io::Result<EndOnDrop> {
    let mut watching = Watching {
        shared: Arc::clone(shared),
        poll: Poll::new(&source, &shared.config()),
        source,
        warnings: Warnings::default(),
    };
    thread::Builder::new()
        .name("renewal".to_owned())
        .spawn(move || watching.run())?;
    Ok(EndOnDrop(trigger))
}

/// Guard that ends the thread when it is dropped.
pub(super) struct EndOnDrop(Trigger);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Watching {
    shared: Arc<ProcessState>,
    source: Source,
    poll: Option<Poll>,
    warnings: Warnings,
}

impl Watching {
    fn run(&mut self) {
        let mut next_look = Instant::now();
        loop {
            let now = Instant::now();
            if next_look <= now {
                look(&self.shared.config(), &mut self.warnings);
                next_look = now + INTERVAL;
            }
            let next_poll = self.poll.as_ref().map(|poll| poll.next);
            // The earlier of the two intervals; an order on the channel wakes it sooner.
            let wake_at = next_poll.map_or(next_look, |poll| poll.min(next_look));
            match self.source.next(wake_at.saturating_duration_since(now)) {
                Some(Order::End) => return,
                Some(Order::Reload(answer)) => {
                    let outcome = self.reload();
                    // The caller may be gone.
                    let _ = answer.send(outcome);
                }
                None => {
                    if self.poll.as_mut().is_some_and(Poll::has_changed) {
                        self.reload();
                    }
                }
            }
        }
    }

    /// Reads the configuration, and adopts it if it is valid.
    fn reload(&mut self) -> Outcome {
        // Marked as read before it is, so that a change meanwhile is seen at the next poll.
        if let Some(poll) = &mut self.poll {
            poll.read();
        }
        let outcome = match self.source.load() {
            Ok(config) => apply(&self.shared, config),
            Err(problems) => Outcome::Refused(problems),
        };
        match &outcome {
            Outcome::Applied(changes) => {
                self.shared.reloads().count_applied();
                // Keys only: values may be secret to readers of the log, and `/config` shows them.
                let keys = changes.iter().filter_map(|line| line.split(": ").next());
                let keys = keys.collect::<Vec<_>>().join(", ");
                tracing::info!(changes = changes.len(), keys, "configuration reloaded");
                self.shared.config().log_cautions();
            }
            Outcome::Refused(problems) => {
                self.shared.reloads().count_rejected();
                tracing::error!(problems, "configuration not reloaded; the one before stays");
            }
        }
        outcome
    }
}

fn apply(shared: &ProcessState, config: Config) -> Outcome {
    let current = shared.config();
    // Refused whole: a configuration of which only some keys apply would be in no file.
    let fixed = fixed_differences(&current, &config);
    if !fixed.is_empty() {
        return Outcome::Refused(format!(
            "{} cannot change while the program runs; restart it, or take that back. Nothing \
             else was taken over",
            fixed.join(", ")
        ));
    }
    let changes = differences(&current.effective, &config.effective);
    if current.log.level != config.log.level {
        // A process that does not log has no level to set.
        let _ = observability::set_level(config.log.level);
    }
    raise_descriptor_limit(&config.limits);
    shared.reconfigure(Arc::new(config));
    Outcome::Applied(changes)
}

/// Polls the configuration's file.
struct Poll {
    file: std::path::PathBuf,
    interval: Duration,
    next: Instant,
    /// Fingerprints of the content: at the last reload, and at the last poll.
    read: u64,
    seen: u64,
}

impl Poll {
    fn new(source: &Source, config: &Config) -> Option<Self> {
        let (file, interval) = (source.file.clone()?, config.reload_poll?);
        let now = fingerprint(std::slice::from_ref(&file));
        Some(Self {
            file,
            interval,
            next: Instant::now() + interval,
            read: now,
            seen: now,
        })
    }

    fn fingerprint(&self) -> u64 {
        fingerprint(std::slice::from_ref(&self.file))
    }

    /// Returns whether the content differs from the last reload and has not changed since the
    /// previous poll: a writer may not have finished.
    fn has_changed(&mut self) -> bool {
        let now = Instant::now();
        if self.next > now {
            return false;
        }
        self.next = now + self.interval;
        let content = self.fingerprint();
        let is_settled = self.seen == content;
        self.seen = content;
        is_settled && self.read != content
    }

    /// Marks the present content as read.
    fn read(&mut self) {
        self.seen = self.fingerprint();
        self.read = self.seen;
    }
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
