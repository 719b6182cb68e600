//! Clients: the address they connect from, and the proxies trusted to report it.
//!
//! A client that connects through other proxies is known only by what they report:
//! `X-Forwarded-For`, to which each of them appends the address of its own client, or a PROXY
//! protocol header. Anyone can send those, so they count only from [`TrustedProxies`], and of a
//! list only the part that such proxies have appended.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddr {
    /// A TCP connection; an IPv4 address is never in its IPv6 form.
    Tcp(SocketAddr),
    /// A trusted proxy's report, which has an address but no port; never in IPv6 form either.
    Forwarded(IpAddr),
    /// A Unix domain socket, whose clients have no address.
    Unix,
}

impl ClientAddr {
    /// Returns the address without a port, if there is one.
    #[must_use]
    pub const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Forwarded(address) => Some(address),
            Self::Unix => None,
        }
    }
}

impl From<SocketAddr> for ClientAddr {
    fn from(address: SocketAddr) -> Self {
        // A dual-stack socket reports IPv4 clients as `::ffff:a.b.c.d`.
        Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Forwarded(address) => address.fmt(formatter),
            Self::Unix => formatter.write_str("unix"),
        }
    }
}

/// Both ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Address of the client's end.
    pub client: ClientAddr,
    /// Address that the client connected to, where it is known and needed.
    pub server: Option<SocketAddr>,
    /// False if the proxy at the other end does not know its client (`UNKNOWN`, `LOCAL`). The
    /// address is then the proxy's own, so the client's forwarding headers must not be trusted.
    pub is_known: bool,
}

/// The sender of a request and the connection it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Address of the client, as far as trusted proxies report it.
    pub address: ClientAddr,
    /// Address of the connection's end: the client itself, or the nearest proxy.
    pub peer: ClientAddr,
    /// Address that the peer connected to, where it is known and needed.
    pub server: Option<SocketAddr>,
    /// True if the peer is a trusted proxy.
    pub is_trusted: bool,
    /// True if the connection is encrypted.
    pub is_tls: bool,
}

impl Client {
    /// Scheme of the URLs that the client requests.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// Returns the client's address, with port 0 where the port is unknown; `None` on a Unix
    /// socket.
    #[must_use]
    pub fn source(self) -> Option<SocketAddr> {
        match self.address {
            ClientAddr::Tcp(address) => Some(address),
            ClientAddr::Forwarded(address) => Some(SocketAddr::new(address, 0)),
            ClientAddr::Unix => None,
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}

/// Proxies that are trusted to report their clients; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Networks that they connect from.
    pub networks: Vec<Network>,
    /// Trusts every peer on a Unix domain socket.
    pub unix: bool,
}

impl TrustedProxies {
    /// Returns whether no proxy is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Returns whether `peer` is a trusted proxy.
    #[must_use]
    pub fn trusts(&self, peer: ClientAddr) -> bool {
        match peer.ip() {
            Some(address) => self.networks.iter().any(|it| it.contains(address)),
            None => self.unix,
        }
    }

    /// Finds the client behind `peer` from the elements of its `X-Forwarded-For`, in their order.
    ///
    /// The list is read from its end for as long as trusted proxies have appended to it; the first
    /// address that is not trusted is the client's. Anything before that may be made up by the
    /// client.
    #[must_use]
    pub fn client_behind<'a>(
        &self,
        peer: ClientAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
    ) -> ClientAddr {
        let mut client = peer;
        for element in forwarded_for.rev() {
            if !self.trusts(client) {
                break;
            }
            // `unknown` or a name ends the chain: nothing shows that a trusted proxy wrote the rest.
            let Some(address) = address(element) else {
                break;
            };
            client = ClientAddr::Forwarded(address);
        }
        client
    }
}

/// Parses an element of `X-Forwarded-For`; some proxies append a port.
fn address(element: &str) -> Option<IpAddr> {
    let element = element.trim();
    // Some proxies write IPv6 addresses in brackets, as in URLs.
    let bracketed = element
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'));
    let address = bracketed.unwrap_or(element).parse();
    let address = address.or_else(|_| element.parse().map(|it: SocketAddr| it.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Returns the network of `prefix_bits` that contains `address`; `None` when an address of that
    /// family has fewer bits.
    #[must_use]
    pub fn of(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let first = match address {
            IpAddr::V4(address) => {
                let host_bits = 32_u32.checked_sub(prefix_bits.into())?;
                // A shift by all bits, for a prefix of 0, is an overflow and not a zero.
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let host_bits = 128_u32.checked_sub(prefix_bits.into())?;
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Some(Self { first, prefix_bits })
    }

    /// First address of the network.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// Returns whether the network contains `address`, which is not an IPv4 address in IPv6 form.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4()
            && Self::of(address, self.prefix_bits) == Some(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.first, self.prefix_bits)
    }
}

/// Networks that are not reachable from the Internet: loopback, link-local (Cloud Run), private
/// (RFC 1918), shared (RFC 6598) and unique local (RFC 4193) addresses.
pub const PRIVATE_NETWORKS: [Network; 9] = [
    ipv4(Ipv4Addr::new(10, 0, 0, 0), 8),
    ipv4(Ipv4Addr::new(100, 64, 0, 0), 10),
    ipv4(Ipv4Addr::new(127, 0, 0, 0), 8),
    ipv4(Ipv4Addr::new(169, 254, 0, 0), 16),
    ipv4(Ipv4Addr::new(172, 16, 0, 0), 12),
    ipv4(Ipv4Addr::new(192, 168, 0, 0), 16),
    ipv6(Ipv6Addr::LOCALHOST, 128),
    ipv6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    ipv6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
];

const fn ipv4(first: Ipv4Addr, prefix_bits: u8) -> Network {
    let first = IpAddr::V4(first);
    Network { first, prefix_bits }
}

const fn ipv6(first: Ipv6Addr, prefix_bits: u8) -> Network {
    let first = IpAddr::V6(first);
    Network { first, prefix_bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str, prefix_bits: u8) -> Network {
        Network::of(address.parse().unwrap(), prefix_bits).unwrap()
    }

    fn tcp(address: &str) -> ClientAddr {
        ClientAddr::from(SocketAddr::new(address.parse().unwrap(), 1234))
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        let cases = [
            ("10.0.0.0", 8, "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", 32, "192.0.2.7", "192.0.2.6"),
            ("192.0.2.128", 25, "192.0.2.255", "192.0.2.127"),
            ("2001:db8::", 32, "2001:db8:ffff::1", "2001:db9::"),
            ("::1", 128, "::1", "::2"),
            ("0.0.0.0", 0, "255.255.255.255", "::"),
            ("::", 0, "ffff::", "1.2.3.4"),
        ];
        for (first, bits, inside, outside) in cases {
            let network = network(first, bits);
            assert!(network.contains(inside.parse().unwrap()), "{network}");
            assert!(!network.contains(outside.parse().unwrap()), "{network}");
        }
        assert_eq!(Network::of("10.0.0.0".parse().unwrap(), 33), None);
        assert_eq!(Network::of("::".parse().unwrap(), 129), None);
        assert_eq!(network("10.1.2.3", 8), network("10.0.0.0", 8));
        for private in PRIVATE_NETWORKS {
            assert_eq!(
                Some(private),
                Network::of(private.first, private.prefix_bits)
            );
        }
    }

    #[test]
    fn nobody_is_trusted_by_default() {
        let trusted = TrustedProxies::default();

        assert!(trusted.is_empty());
        assert!(!trusted.trusts(tcp("127.0.0.1")));
        assert!(!trusted.trusts(ClientAddr::Unix));
    }

    #[test]
    fn the_client_is_the_last_one_that_is_no_trusted_proxy() {
        let trusted = TrustedProxies {
            networks: vec![network("10.0.0.0", 8), network("2001:db8::", 32)],
            unix: true,
        };
        let behind = |peer: ClientAddr, list: &str| {
            let client = trusted.client_behind(peer, list.split(',').filter(|it| !it.is_empty()));
            client.to_string()
        };

        let proxy = tcp("10.0.0.1");
        for (list, client) in [
            ("192.0.2.7", "192.0.2.7"),
            ("6.6.6.6, 192.0.2.7", "192.0.2.7"),
            ("6.6.6.6, 192.0.2.7, 10.0.0.2,10.3.0.1", "192.0.2.7"),
            ("6.6.6.6, 192.0.2.7:4711, [2001:db8::1]:443", "192.0.2.7"),
            ("192.0.2.7, [2001:db8::1]", "192.0.2.7"),
            ("::ffff:192.0.2.7, ::ffff:10.0.0.3", "192.0.2.7"),
            ("2001:db9::1", "2001:db9::1"),
            // All of them are trusted: it is the first.
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            // What is no address is nobody's.
            ("192.0.2.7, unknown, 10.0.0.2", "10.0.0.2"),
            ("unknown", "10.0.0.1:1234"),
            ("", "10.0.0.1:1234"),
        ] {
            assert_eq!(behind(proxy, list), client, "{list}");
        }
        assert_eq!(behind(ClientAddr::Unix, "192.0.2.7"), "192.0.2.7");
        assert_eq!(behind(tcp("192.0.2.1"), "6.6.6.6"), "192.0.2.1:1234");
    }
}
