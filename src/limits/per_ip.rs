//! Open connections and session rate of each client address.
//!
//! Only public addresses are counted; IPv6 addresses by their /64 network, the usual assignment
//! to one customer. A private address may be a load balancer that stands for every client behind
//! it. So may a trusted proxy, which the caller excludes; its clients are counted by their own
//! addresses, as far as sessions are concerned.
//!
//! # Invariants
//!
//! * A connection or session counts for as long as its [`AddressPlace`] lives.
//! * An address without connections is forgotten once its session rate has recovered as if it had
//!   never been seen.

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

/// Connections over the limit of an address that still get a `429`; further ones are closed
/// without a response.
const MAX_OVER_LIMIT: usize = 16;

/// Value that stands for no limit on connections.
const UNLIMITED: usize = usize::MAX - MAX_OVER_LIMIT;

/// Share of a rate that may be used up at once, as the time in which it recovers.
const BURST: Duration = Duration::from_secs(10);

/// Number of addresses from which on forgotten ones are removed.
const MIN_SWEEP: usize = 1024;

/// Rate limit with a burst: the generic cell rate algorithm (GCRA), which needs one instant as
/// its state.
#[derive(Clone, Copy, Debug)]
pub struct Gcra {
    interval: Duration,
}

impl Gcra {
    /// Creates a limit of `events` per second.
    #[must_use]
    pub fn per_second(events: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / events.max(1),
        }
    }

    /// Returns whether an event is admitted at `now`. If so, `next`, the time at which all events
    /// so far are paid for, advances by one interval.
    pub fn admit(self, next: &mut Option<Instant>, now: Instant) -> bool {
        let paid = next.map_or(now, |next| next.max(now));
        let is_admitted = paid < now + BURST;
        if is_admitted {
            *next = Some(paid + self.interval);
        }
        is_admitted
    }

    /// Fraction of the burst that is used up at `now`, from 0 to 1, if the events so far are paid
    /// for at `next`.
    #[must_use]
    pub fn used(next: Option<Instant>, now: Instant) -> f64 {
        let unpaid = next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        unpaid.div_duration_f64(BURST).min(1.0)
    }
}

/// Highest use of each limit among all addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busiest {
    /// Connections, and their limit; `None` without a limit.
    pub connections: Option<(usize, usize)>,
    /// Fraction of the session rate that is used up, from 0 to 1; `None` without a limit.
    pub session_rate: Option<f64>,
}

/// Addresses with open connections or recent sessions.
#[derive(Debug)]
pub struct Addresses {
    max_connections: AtomicUsize,
    /// Sessions per second; 0 for no limit.
    session_rate: AtomicU32,
    known: Mutex<KnownAddress>,
}

#[derive(Debug)]
struct KnownAddress {
    addresses: HashMap<AddressKey, AddressUsage>,
    /// Number of addresses at which forgotten ones are removed next.
    sweep_at: usize,
}

/// Unit that is limited: an IPv4 address or an IPv6 network.
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
    /// Creates the table; `None` stands for no limit.
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

    /// Sets the limits on connections and on sessions per second. Connections open beyond a lower
    /// limit stay open.
    pub fn set_limits(&self, max_connections: Option<usize>, session_rate: Option<u32>) {
        let max_connections = max_connections.unwrap_or(UNLIMITED);
        self.max_connections
            .store(max_connections, Ordering::Relaxed);
        self.session_rate
            .store(session_rate.unwrap_or(0), Ordering::Relaxed);
    }

    /// Acquires a slot for one more connection of `client`; returns whether that is within the
    /// limit, and `None` when there is not even room for a response that refuses it.
    #[must_use]
    pub fn enter(self: &Arc<Self>, client: ClientAddr) -> Option<(AddressPlace, bool)> {
        let Some(key) = AddressKey::of(client) else {
            return Some((AddressPlace(None), true));
        };
        let max_connections = self.max_connections.load(Ordering::Relaxed);
        let mut known = self.known();
        let address = known.address(key, Instant::now());
        // A few more slots, since even the response that refuses a connection needs one.
        if address.connections >= max_connections + MAX_OVER_LIMIT {
            return None;
        }
        address.connections += 1;
        let is_within = address.connections <= max_connections;
        Some((AddressPlace(Some((Arc::clone(self), key))), is_within))
    }

    /// Admits one more session of `client`, if its rate allows.
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

    /// Returns the highest use of each limit; scans every address.
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
        // No operation under the lock can be left half done by a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownAddress {
    fn address(&mut self, key: AddressKey, now: Instant) -> &mut AddressUsage {
        if self.addresses.len() >= self.sweep_at {
            self.addresses.retain(|_, address| !address.is_over(now));
            self.addresses.shrink_to(MIN_SWEEP);
            // Doubling makes the scan cost each new address no more than two entries.
            self.sweep_at = MIN_SWEEP.max(2 * self.addresses.len());
        }
        self.addresses.entry(key).or_default()
    }
}

impl AddressUsage {
    /// Returns whether it can be forgotten: it is like one that was never seen.
    fn is_over(&self, now: Instant) -> bool {
        self.connections == 0 && self.next_session.is_none_or(|next| next <= now)
    }
}

impl AddressKey {
    /// Returns the key of an address; `None` if it is not counted.
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

/// Slot of a connection or session, counted for its address until it is dropped.
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
    fn connections_over_an_address_limit_get_a_few_refusals() {
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
    fn ipv6_counts_by_network_and_private_addresses_do_not_count() {
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
