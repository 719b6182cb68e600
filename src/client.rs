//! Clients: where they connect from.

use std::{fmt, net::SocketAddr};

/// Where a client connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddr {
    /// Over TCP; an IPv4 address is never in its IPv6 form.
    Tcp(SocketAddr),
    /// Over a Unix domain socket, where clients have no address.
    Unix,
}

impl From<SocketAddr> for ClientAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix => formatter.write_str("unix"),
        }
    }
}

/// Who is at the other end of a downstream connection, and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where it connects from.
    pub address: ClientAddr,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
}

impl Client {
    /// The scheme of the URLs that it asks for.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}
