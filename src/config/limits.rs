//! Limits of the process.

use std::{path::PathBuf, time::Duration};

/// Limits of the process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Concurrent client connections; default 10000.
    pub max_connections: usize,
    /// Concurrent client connections per public address; default 1000.
    pub max_connections_per_address: Option<usize>,
    /// New WebSocket sessions per second; default unlimited.
    pub session_rate: Option<u32>,
    /// New WebSocket sessions per second and public address; default 100.
    pub session_rate_per_address: Option<u32>,
    /// Accounted bytes that all sessions together may hold; default a quarter of the cgroup's
    /// memory.
    pub max_held_bytes: usize,
    /// Memory use above which new sessions, and requests that would be held, are rejected; default
    /// 85 % of the cgroup's limit, if it has one.
    pub max_memory: Option<Bound>,
    /// Longest header section of a request in bytes; default 32 KiB.
    pub max_header_bytes: usize,
    /// Most header lines of a request; default 100, which is also the upper bound.
    pub max_headers: usize,
    /// Longest path and query of a request in bytes; default 8 KiB.
    pub max_uri_bytes: usize,
    /// Time for a client to send a header section, and from `accept` to the end of its first one;
    /// default 10 s.
    pub header_timeout: Duration,
    /// Idle time of a connection between requests; default 75 s, longer than most load balancers
    /// keep theirs.
    pub keep_alive_timeout: Duration,
    /// Concurrent requests and sessions on one HTTP/2 connection; default 100.
    pub max_streams: u32,
    /// Time without progress while a response waits for the client to read: no byte over HTTP/1.1,
    /// less than 16 KiB over HTTP/2; default 60 s.
    pub write_timeout: Duration,
}

impl Limits {
    /// Returns the defaults; that of `max_held_bytes` depends on the machine.
    #[must_use]
    pub const fn new(max_held_bytes: usize) -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: Some(1000),
            session_rate: None,
            session_rate_per_address: Some(100),
            max_held_bytes,
            max_memory: None,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_uri_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            max_streams: 100,
            write_timeout: Duration::from_mins(1),
        }
    }
}

/// Bound on memory in use, beyond which new work is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Bound in bytes.
    pub max_bytes: u64,
    /// Source of the bytes in use.
    pub usage: Usage,
}

/// Source of the number of bytes in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A cgroup of version 1 or 2: everything that counts against its limit, except the pages of
    /// inactive files, which the kernel reclaims first. Kubernetes calls this the working set.
    Cgroup {
        /// File with the total.
        total: PathBuf,
        /// File with the breakdown of the total.
        details: PathBuf,
        /// Name of its line for inactive file pages.
        reclaimable: &'static str,
    },
    /// Resident memory of this process, for use where no cgroup has a limit: the memory of other
    /// processes is not attributable to this one.
    Process {
        /// `/proc/self/statm`.
        statm: PathBuf,
    },
}
