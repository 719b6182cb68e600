//! The addresses of names: one lookup for each name at a time, whoever waits for it.
//!
//! A name is looked up as the machine does it (`getaddrinfo`), on a thread of its own for as long as
//! that takes: only so are `/etc/hosts`, search domains, systemd-resolved, mDNS and what a container
//! brings along all obeyed. The machine tells no time to live, so that a result is kept for a moment
//! only.
//!
//! # Invariants
//!
//! * Each name has at most one lookup under way, and one thread for it, however many wait and
//!   however many of them give up meanwhile.
//! * Whoever waits for a lookup gets its result, however old that is when it is taken.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How long addresses are used without another lookup.
const KEPT: Duration = Duration::from_secs(2);

/// How long it is believed that there is none.
const FAILURE_KEPT: Duration = Duration::from_millis(500);

/// A lookup by the machine, which may block.
type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The names that are in use in a process.
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

    /// The one that all who mean `host` share.
    #[must_use]
    pub fn of(&self, host: &str) -> Arc<Name> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(host).and_then(Weak::upgrade) {
            return name;
        }
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

/// A name, or an IP address, which is its own.
pub struct Name {
    host: Box<str>,
    look_up: Arc<LookUp>,
    state: Mutex<State>,
    finished: Notify,
}

#[derive(Default)]
struct State {
    /// Whether a lookup is under way, the one behind the last that has `finished`.
    is_running: bool,
    /// How many have finished.
    finished: u64,
    result: Option<Found>,
}

/// What a lookup has found, until when it is used by those who did not wait for it.
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
            // A shortage of descriptors is still known as one.
            Err(error) => Err(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
        }
    }
}

impl Name {
    /// Its addresses, with `port`.
    ///
    /// `localhost` is both loopback addresses, whatever the machine says (RFC 6761 §6.3), for an
    /// application that listens on it often listens on one of them only.
    ///
    /// # Errors
    ///
    /// There is none, or nobody can tell.
    ///
    /// # Cancel safety
    ///
    /// The lookup goes on without whoever drops the future, for the others and the next one.
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
            if let Some(found) = self.result_of(awaited).await {
                return found.addresses(port);
            }
        }
    }

    /// What the lookup with this number has found; `None`: it is forgotten already.
    async fn result_of(&self, number: u64) -> Option<Found> {
        loop {
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

    /// How many lookups have finished: the number of the one whose result there is.
    pub fn lookups(&self) -> u64 {
        self.state().finished
    }

    /// Has the next one who asks look the name up again, unless that was done since the lookup with
    /// this number: nobody answers at the addresses that it has found. That there is none is
    /// believed for as long as ever.
    pub fn forget(&self, lookup: u64) {
        let mut state = self.state();
        if state.finished == lookup {
            state.result.take_if(|found| found.addresses.is_ok());
        }
    }

    /// What is known, or the number of the lookup that will tell.
    fn kept_or_awaited(self: &Arc<Self>) -> io::Result<Result<Found, u64>> {
        let mut state = self.state();
        let kept = state.result.as_ref();
        if let Some(found) = kept.filter(|found| Instant::now() < found.until) {
            return Ok(Ok(found.clone()));
        }
        if !state.is_running {
            let name = Arc::clone(self);
            // The thread ends by itself; that it cannot be started is this lookup's result.
            thread::Builder::new()
                .name("lookup".to_owned())
                .spawn(move || Running(&name).run())?;
            state.is_running = true;
        }
        Ok(Err(state.finished + 1))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Name").field(&self.host).finish()
    }
}

/// A lookup under way.
struct Running<'a>(&'a Name);

impl Running<'_> {
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

impl Drop for Running<'_> {
    /// Lets those who wait go on, also when the lookup has panicked.
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
