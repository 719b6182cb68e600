//! One downstream connection: find the route, then upgrade or forward.

pub mod framing;
pub mod headers;
pub mod response;
pub mod target;

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
