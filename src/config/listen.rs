//! Settings of listeners.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::Arc,
};

use crate::tls::ServerTls;

/// Default address of the admin listener; the port is also Envoy's.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9901));

/// Settings of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// Address to bind.
    pub address: ListenAddress,
    /// Requires every connection to begin with a PROXY protocol header from a trusted proxy; others
    /// are closed. Default false.
    pub proxy_protocol: bool,
    /// TLS with its certificates; `None`: plain text.
    pub tls: Option<Arc<ServerTls>>,
    /// Accepts HTTP/2 without TLS by prior knowledge (RFC 9113 §3.3); default false.
    pub h2c: bool,
}

impl fmt::Display for ListenSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.tls) {
            (ListenAddress::Tcp(address), Some(_)) => write!(formatter, "https://{address}"),
            (address @ ListenAddress::Unix(_), Some(_)) => write!(formatter, "{address} (TLS)"),
            (address, None) => address.fmt(formatter),
        }
    }
}

impl From<ListenAddress> for ListenSettings {
    /// The defaults for a listener at `address`.
    fn from(address: ListenAddress) -> Self {
        Self {
            address,
            proxy_protocol: false,
            tls: None,
            h2c: false,
        }
    }
}

/// Address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "http://{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}
