//! Name resolution: one lookup per name at a time, shared by everything that waits for it.
//!
//! A name is resolved by the system (`getaddrinfo`), on a thread that lives for one lookup: only
//! this obeys `/etc/hosts`, search domains, systemd-resolved, mDNS and whatever a container sets
//! up. The system does not report a time to live, so a result is cached for a moment only.
//!
//! # Invariants
//!
//! * Each name has at most one lookup in progress, and one thread for it, however many callers wait
//!   and however many of them are cancelled meanwhile.
//! * A caller that waits for a lookup gets its result, even if that has expired meanwhile.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Time for which addresses are cached.
const KEPT: Duration = Duration::from_secs(2);

/// Time for which a failed lookup is cached.
const FAILURE_KEPT: Duration = Duration::from_millis(500);

/// Resolver function, which may block.
type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Names in use in a process.
pub struct Names {
    look_up: Arc<LookUp>,
    known: Mutex<HashMap<Box<str>, Weak<Name>>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::looked_up_by(ask_the_machine)
    }
}

fn ask_the_machine(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect())
}

impl Names {
    fn looked_up_by(
        look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            look_up: Arc::new(look_up),
            known: Mutex::default(),
        }
    }

    /// Returns the entry for `host`, which all its users share.
    #[must_use]
    pub fn of(&self, host: &str) -> Arc<Name> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(host).and_then(Weak::upgrade) {
            return name;
        }
        // Entries without users are removed when another is added: no timer is needed.
        known.retain(|_, name| name.strong_count() > 0);
        let name = Arc::new(Name {
            host: host.into(),
            look_up: Arc::clone(&self.look_up),
            state: Mutex::default(),
            finished: Notify::new(),
        });
        known.insert(host.into(), Arc::downgrade(&name));
        name
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Names").finish_non_exhaustive()
    }
}

/// A name and its cached addresses; an IP address is its own.
pub struct Name {
    host: Box<str>,
    look_up: Arc<LookUp>,
    state: Mutex<LookupState>,
    finished: Notify,
}

#[derive(Default)]
struct LookupState {
    /// True while the lookup after the last `finished` one is in progress.
    is_running: bool,
    /// Number of finished lookups.
    finished: u64,
    result: Option<Found>,
}

/// Result of a lookup, with its expiry for callers that did not wait for it.
#[derive(Clone)]
struct Found {
    until: Instant,
    addresses: Result<Arc<[IpAddr]>, Arc<io::Error>>,
}

impl Found {
    fn addresses(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        match &self.addresses {
            Ok(addresses) => {
                let addresses = addresses.iter();
                Ok(addresses.map(|ip| SocketAddr::new(*ip, port)).collect())
            }
            // Rebuilt from its number, so that a shortage of descriptors is still recognized.
            Err(error) => Err(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
        }
    }
}

impl Name {
    /// Resolves the name to socket addresses with `port`.
    ///
    /// `localhost` is both loopback addresses, whatever the system says (RFC 6761 §6.3), because an
    /// application that listens on it often uses only one of them.
    ///
    /// # Errors
    ///
    /// The name has no address, or the lookup failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the lookup: others may wait for it, and its result is
    /// cached.
    pub async fn addresses(self: &Arc<Self>, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if self.host.eq_ignore_ascii_case("localhost") {
            let ipv4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            return Ok(vec![ipv4, ipv6]);
        }
        loop {
            let awaited = match self.kept_or_awaited()? {
                Ok(found) => return found.addresses(port),
                Err(awaited) => awaited,
            };
            // `None` if `forget` dropped the result first: look the name up again.
            if let Some(found) = self.result_of(awaited).await {
                return found.addresses(port);
            }
        }
    }

    /// Returns the result of the lookup with this number; `None` if it was dropped already.
    async fn result_of(&self, number: u64) -> Option<Found> {
        loop {
            // Created before the check, so that a notification in between is not missed.
            let finished = self.finished.notified();
            {
                let state = self.state();
                if state.finished >= number {
                    return state.result.clone();
                }
            }
            finished.await;
        }
    }

    /// Number of finished lookups, which identifies the current result.
    pub fn lookups(&self) -> u64 {
        self.state().finished
    }

    /// Drops the addresses found by the lookup with this number, unless a later one has finished,
    /// so that the next caller resolves the name again: nothing answers at them. A failure stays
    /// cached for its time.
    pub fn forget(&self, lookup: u64) {
        let mut state = self.state();
        if state.finished == lookup {
            state.result.take_if(|found| found.addresses.is_ok());
        }
    }

    /// Returns the cached result, or the number of the lookup in progress.
    fn kept_or_awaited(self: &Arc<Self>) -> io::Result<Result<Found, u64>> {
        let mut state = self.state();
        let kept = state.result.as_ref();
        if let Some(found) = kept.filter(|found| Instant::now() < found.until) {
            return Ok(Ok(found.clone()));
        }
        if !state.is_running {
            let name = Arc::clone(self);
            // The thread ends by itself; failing to start it is this lookup's result.
            thread::Builder::new()
                .name("lookup".to_owned())
                .spawn(move || RunningLookup(&name).run())?;
            // Still under the lock, so the thread cannot have finished yet.
            state.is_running = true;
        }
        Ok(Err(state.finished + 1))
    }

    fn state(&self) -> MutexGuard<'_, LookupState> {
        // No operation under the lock leaves the state inconsistent if it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Name").field(&self.host).finish()
    }
}

/// A lookup in progress.
struct RunningLookup<'a>(&'a Name);

impl RunningLookup<'_> {
    fn run(self) {
        let Name { host, look_up, .. } = self.0;
        let looked_up = look_up(host);
        let (addresses, kept) = match looked_up {
            Ok(addresses) => (Ok(addresses.into()), KEPT),
            Err(error) => (Err(Arc::new(error)), FAILURE_KEPT),
        };
        let until = Instant::now() + kept;
        let mut state = self.0.state();
        state.result = Some(Found { until, addresses });
    }
}

impl Drop for RunningLookup<'_> {
    /// Wakes the waiting callers, even if the lookup panicked.
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_running = false;
        state.finished += 1;
        drop(state);
        self.0.finished.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
