//! What the clients of each address have open, and how fast they open sessions.
//!
//! Only addresses that are reached from the Internet are counted, an IPv6 address by its /64
//! network, which is what one customer has. Behind a private address there may be a load
//! balancer with everybody behind it, as there is behind trusted proxies, which whoever asks
//! here leaves out; their clients are counted by their own addresses, as far as sessions go.
//!
//! # Invariants
//!
//! * A connection or session counts for as long as its [`AddressPlace`] lives.
//! * An address without a connection is forgotten once it may open as many sessions as one
//!   that was never seen.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::client_addr::{ClientAddr, PRIVATE_NETWORKS};

/// How many connections over the limit of an address are still told so; further ones are
/// just closed.
const MAX_OVER_LIMIT: usize = 16;

/// What stands for no limit of connections.
const UNLIMITED: usize = usize::MAX - MAX_OVER_LIMIT;

/// How much of a rate may be used up at once.
const BURST: Duration = Duration::from_secs(10);

/// How many addresses there may be before forgotten ones are looked for.
const MIN_SWEEP: usize = 1024;

/// A rate of events, of which as many as its burst allows may come at once.
#[derive(Clone, Copy, Debug)]
pub struct Gcra {
    interval: Duration,
}

impl Gcra {
    /// So many events in a second.
    #[must_use]
    pub fn per_second(events: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / events.max(1),
        }
    }

    /// Whether an event may come at `now`; then `next`, when all of what came before is paid
    /// for, moves on.
    pub fn admit(self, next: &mut Option<Instant>, now: Instant) -> bool {
        let paid = next.map_or(now, |next| next.max(now));
        let is_admitted = paid < now + BURST;
        if is_admitted {
            *next = Some(paid + self.interval);
        }
        is_admitted
    }

    /// How much of what may come at once has been used up by `now`, from 0 to 1, where what came
    /// is paid for at `next`.
    #[must_use]
    pub fn used(next: Option<Instant>, now: Instant) -> f64 {
        let unpaid = next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        unpaid.div_duration_f64(BURST).min(1.0)
    }
}

/// What the addresses have of their limits that have the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busiest {
    /// Connections, and how many there may be; `None`: there is no limit.
    pub connections: Option<(usize, usize)>,
    /// How much of its rate of sessions, from 0 to 1; `None`: there is no limit.
    pub session_rate: Option<f64>,
}

/// All addresses that have something open, or had lately.
#[derive(Debug)]
pub struct Addresses {
    max_connections: AtomicUsize,
    /// Sessions in a second; 0: no limit.
    session_rate: AtomicU32,
    known: Mutex<KnownAddress>,
}

#[derive(Debug)]
struct KnownAddress {
    addresses: HashMap<AddressKey, AddressUsage>,
    /// With how many addresses forgotten ones are looked for.
    sweep_at: usize,
}

/// What clients share that count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AddressKey {
    V4([u8; 4]),
    V6Network([u16; 4]),
}

#[derive(Debug, Default)]
struct AddressUsage {
    connections: usize,
    next_session: Option<Instant>,
}

impl Addresses {
    /// With no limit where it is `None`.
    #[must_use]
    pub fn new(max_connections: Option<usize>, session_rate: Option<u32>) -> Arc<Self> {
        let addresses = Self {
            max_connections: AtomicUsize::default(),
            session_rate: AtomicU32::default(),
            known: Mutex::new(KnownAddress {
                addresses: HashMap::new(),
                sweep_at: MIN_SWEEP,
            }),
        };
        addresses.set_limits(max_connections, session_rate);
        Arc::new(addresses)
    }

    /// Sets the limits, connections and sessions in a second. What is open beyond lower ones
    /// stays open.
    pub fn set_limits(&self, max_connections: Option<usize>, session_rate: Option<u32>) {
        let max_connections = max_connections.unwrap_or(UNLIMITED);
        self.max_connections
            .store(max_connections, Ordering::Relaxed);
        self.session_rate
            .store(session_rate.unwrap_or(0), Ordering::Relaxed);
    }

    /// A place for one more connection of `client`, and whether that is within the limit;
    /// `None` when there is not even room to say that it is not.
    #[must_use]
    pub fn enter(self: &Arc<Self>, client: ClientAddr) -> Option<(AddressPlace, bool)> {
        let Some(key) = AddressKey::of(client) else {
            return Some((AddressPlace(None), true));
        };
        let max_connections = self.max_connections.load(Ordering::Relaxed);
        let mut known = self.known();
        let address = known.address(key, Instant::now());
        if address.connections >= max_connections + MAX_OVER_LIMIT {
            return None;
        }
        address.connections += 1;
        let is_within = address.connections <= max_connections;
        Some((AddressPlace(Some((Arc::clone(self), key))), is_within))
    }

    /// Whether `client` may open one more session; then that counts.
    #[must_use]
    pub fn admit_session(&self, client: ClientAddr) -> bool {
        let rate = self.session_rate.load(Ordering::Relaxed);
        let (1.., Some(key)) = (rate, AddressKey::of(client)) else {
            return true;
        };
        let rate = Gcra::per_second(rate);
        let now = Instant::now();
        rate.admit(&mut self.known().address(key, now).next_session, now)
    }

    /// How close to its limits the address is that is the closest; looks at every address.
    #[must_use]
    pub fn busiest(&self) -> Busiest {
        let max_connections = self.max_connections.load(Ordering::Relaxed);
        let is_rated = self.session_rate.load(Ordering::Relaxed) > 0;
        let now = Instant::now();
        let known = self.known();
        let (mut connections, mut session_rate) = (0, 0.0_f64);
        for address in known.addresses.values() {
            connections = connections.max(address.connections);
            session_rate = session_rate.max(Gcra::used(address.next_session, now));
        }
        Busiest {
            connections: (max_connections < UNLIMITED).then_some((connections, max_connections)),
            session_rate: is_rated.then_some(session_rate),
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownAddress> {
        // Nothing that is done under the lock can leave it half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownAddress {
    fn address(&mut self, key: AddressKey, now: Instant) -> &mut AddressUsage {
        if self.addresses.len() >= self.sweep_at {
            self.addresses.retain(|_, address| !address.is_over(now));
            self.addresses.shrink_to(MIN_SWEEP);
            // Whoever comes pays for looking at two addresses, whatever there is to forget.
            self.sweep_at = MIN_SWEEP.max(2 * self.addresses.len());
        }
        self.addresses.entry(key).or_default()
    }
}

impl AddressUsage {
    /// Whether it is like one that was never seen.
    fn is_over(&self, now: Instant) -> bool {
        self.connections == 0 && self.next_session.is_none_or(|next| next <= now)
    }
}

impl AddressKey {
    /// `None`: it is not counted.
    fn of(client: ClientAddr) -> Option<Self> {
        let address = client.ip()?;
        if PRIVATE_NETWORKS.iter().any(|it| it.contains(address)) {
            return None;
        }
        Some(match address {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6Network([a, b, c, d])
            }
        })
    }
}

/// A connection or session that counts for an address, until it is dropped.
#[derive(Debug)]
pub struct AddressPlace(Option<(Arc<Addresses>, AddressKey)>);

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let Some((addresses, key)) = self.0.take() else {
            return;
        };
        let mut known = addresses.known();
        if let Some(address) = known.addresses.get_mut(&key) {
            address.connections -= 1;
            if address.is_over(Instant::now()) {
                known.addresses.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn client(address: &str) -> ClientAddr {
        ClientAddr::from(SocketAddr::new(address.parse().unwrap(), 1))
    }

    fn limited_to(max_connections: usize) -> Arc<Addresses> {
        Addresses::new(Some(max_connections), None)
    }

    #[test]
    fn connections_of_an_address_are_limited_and_some_more_are_told_so() {
        let addresses = limited_to(2);
        let enter = |address: &str| addresses.enter(client(address));

        let mut places: Vec<_> = (0..2).map(|_| enter("192.0.2.7").unwrap()).collect();
        assert!(places.iter().all(|(_, is_within)| *is_within));
        places.extend((0..MAX_OVER_LIMIT).map(|_| enter("192.0.2.7").unwrap()));
        assert!(places[2..].iter().all(|(_, is_within)| !is_within));
        assert!(enter("192.0.2.7").is_none());
        assert!(enter("192.0.2.8").unwrap().1);

        places.truncate(1);
        assert!(enter("192.0.2.7").unwrap().1);
        drop(places);
        assert!(addresses.known().addresses.is_empty());
    }

    #[test]
    fn ipv6_counts_by_its_network_and_private_addresses_do_not_count() {
        let addresses = limited_to(1);
        let mut places = Vec::new();
        let mut is_within = |address: ClientAddr| {
            let (place, is_within) = addresses.enter(address).unwrap();
            places.push(place);
            is_within
        };

        assert!(is_within(client("2001:db8::1")));
        assert!(!is_within(client("2001:db8::ffff:1")));
        assert!(is_within(client("2001:db8:0:1::1")));
        for private in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
        ] {
            assert!(is_within(client(private)) && is_within(client(private)));
        }
        assert!(is_within(ClientAddr::Unix) && is_within(ClientAddr::Unix));
        assert!(is_within(ClientAddr::Forwarded(
            "192.0.2.7".parse().unwrap()
        )));
        assert!(!is_within(client("192.0.2.7")));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_come_at_a_rate_and_in_bursts() {
        let addresses = Addresses::new(None, Some(2));
        let admitted = |address: &str| {
            let address = client(address);
            (0..100)
                .filter(|_| addresses.admit_session(address))
                .count()
        };

        assert_eq!(admitted("192.0.2.7"), 20);
        assert_eq!(admitted("192.0.2.7"), 0);
        assert_eq!(admitted("192.0.2.8"), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted("192.0.2.7"), 2);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(admitted("192.0.2.7"), 20);
        assert_eq!(admitted("127.0.0.1"), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn the_busiest_address_is_the_one_that_has_used_the_most() {
        let addresses = Addresses::new(Some(3), Some(2));
        let idle = Busiest {
            connections: Some((0, 3)),
            session_rate: Some(0.0),
        };
        assert_eq!(addresses.busiest(), idle);
        let places = ["192.0.2.7", "192.0.2.7", "192.0.2.8"]
            .map(|address| addresses.enter(client(address)).unwrap());
        for _ in 0..100 {
            let _ = addresses.admit_session(client("192.0.2.8"));
        }

        let busiest = addresses.busiest();
        assert_eq!(busiest.connections, Some((2, 3)));
        assert_eq!(busiest.session_rate, Some(1.0));

        tokio::time::advance(BURST / 4).await;
        assert_eq!(addresses.busiest().session_rate, Some(0.75));
        drop(places);
        tokio::time::advance(BURST).await;
        assert_eq!(addresses.busiest(), idle);

        addresses.set_limits(None, None);
        let unlimited = Busiest {
            connections: None,
            session_rate: None,
        };
        assert_eq!(addresses.busiest(), unlimited);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_forgotten() {
        let addresses = Addresses::new(None, Some(1));
        let open = |index: u32| {
            addresses.admit_session(client(&format!(
                "2001:db8:{:x}:{:x}::1",
                index >> 16,
                index & 0xffff
            )))
        };
        let known = || addresses.known().addresses.len();

        for index in 0..10_000 {
            assert!(open(index));
        }
        assert_eq!(known(), 10_000);

        tokio::time::advance(BURST).await;
        for index in 10_000..20_000 {
            assert!(open(index));
        }
        assert!(known() < 11_000, "{}", known());
    }
}
