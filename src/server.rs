//! The server: listeners, workers, limits, drain.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix domain socket.
    Unix(PathBuf),
}

/// Bounds of the process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at once; default 10000.
    pub max_connections: usize,
    /// Accounted bytes that all sessions may hold; default a quarter of the cgroup's memory.
    pub max_held_bytes: usize,
    /// The longest header section of a request in bytes; default 32 KiB.
    pub max_header_bytes: usize,
    /// How long a client may take to send its header section; default 10 s.
    pub header_timeout: Duration,
}
