//! Keys of the process.

use crate::{
    config::{DrainSettings, Limits},
    config_file::{
        Config,
        section::section,
        values::{
            ADMIN_ADDRESS, OPTIONAL_COUNT, OPTIONAL_RATE, OPTIONAL_TIME, POSITIVE, POSITIVE_TIME,
            SIZE, TIME, TRUSTED_PROXIES, WORKERS,
            bounds::{HEADER_BYTES, HEADERS, HELD_MEMORY, MEMORY_BOUND, STREAMS},
            words::{FORMAT, LEVEL, REQUESTS},
        },
    },
    observability,
};

section! {
    pub(in crate::config_file) TOP: Config = "";

    /// Proxies in front of this one whose headers about clients are trusted: networks, IP addresses,
    /// "private" for all addresses that are not reachable from the Internet, and "unix" for every peer
    /// on a Unix socket. X-Forwarded-*, Forwarded, X-Real-IP, Via and the like are replaced or removed
    /// when they come from other peers; those of a trusted proxy pass, with its own address appended.
    /// The client is then the last address in X-Forwarded-For that is not a trusted proxy's. On Cloud
    /// Run write ["private"].
    trusted_proxies: TRUSTED_PROXIES = [];
    /// Worker threads: a number, or "auto" for one per core. A session stays on its thread.
    workers: WORKERS = "auto", restart;
}

section! {
    /// Listener for operators and monitoring: /livez, /readyz, /metrics, /sessions and so on. Every
    /// peer that can connect may read; only peers on this machine may change something.
    pub(in crate::config_file) ADMIN: Config = "admin";

    /// An IP address and a port, or "unix:/path.sock"; "" disables it. If the address is in use,
    /// readygate does not start; only for this default it warns and runs without the listener.
    listen: ADMIN_ADDRESS = "127.0.0.1:9901" => admin, restart;
}

section! {
    pub(in crate::config_file) LOG: observability::Settings = "log";

    /// Minimum level that is logged: "error", "warn", "info", "debug" or "trace".
    level: LEVEL = "info";
    /// "text"; "json", one object per line; "gcp", JSON with the names of Google's Cloud Logging, for
    /// Cloud Run and GKE; or "auto": text on a terminal and JSON otherwise.
    format: FORMAT = "auto", restart;
    /// Plain requests that have a line; a session always has one, at its end. "errors": those to which
    /// the proxy responds itself, refused handshakes included, since such a response has an id to look
    /// up, and those whose response the backend breaks off. "all": every request, when its response has
    /// ended, as in a server's access log. "none": no request.
    requests: REQUESTS = "errors";
}

section! {
    /// Limits of the whole process.
    pub(in crate::config_file) LIMITS: Limits = "limits";

    /// Concurrent client connections, and WebSockets over HTTP/2, which count in addition to the
    /// connection that they are on. More get 503 with Retry-After. Each takes up to two file
    /// descriptors: the limit of the process is raised as far as possible, and a warning at the start
    /// says if that is not enough.
    max_connections: POSITIVE = 10000;
    /// Concurrent client connections from one address (IPv6: one /64 network), WebSockets over HTTP/2
    /// as above, or sessions where a trusted proxy names the address. More get 429 with Retry-After.
    /// Only addresses on the Internet count: a private one may be a load balancer. "" is no limit.
    max_connections_per_address: OPTIONAL_COUNT = 1000;
    /// New WebSocket sessions per second, of all clients and of one address as above. Bursts may have
    /// ten times as many; more get 503 and 429 with Retry-After. "" is no limit.
    session_rate: OPTIONAL_RATE = "";
    session_rate_per_address: OPTIONAL_RATE = 100;
    /// Bytes that all sessions together may hold, as accounted: a size, or a share of the memory that
    /// the process may use (its cgroup's limit, else the machine's memory). When it is used up, new
    /// sessions get 503, and each session that holds more than 4 KiB does what its `overflow` says.
    max_held_bytes: HELD_MEMORY = "25%";
    /// Memory that may be in use, checked once a second. Beyond it new sessions, and requests that would
    /// be held, get 503 with Retry-After, until 5 % of it is free again. Existing sessions and requests
    /// continue, but HTTP/2 connections with unread streams are not read.
    /// A share is one of the cgroup's limit; without such a limit there is no bound. All memory of that
    /// cgroup counts, except pages of files that were not used recently. A size bounds the resident
    /// memory of the process where no cgroup has a limit. "" is no bound.
    max_memory_bytes: MEMORY_BOUND = "85%" => max_memory;
    /// Longest header section of a request, at least 8 KiB. A longer one gets 431. For HTTP/2 it is
    /// always 16 KiB, where each field counts 32 bytes beside its own.
    max_header_bytes: HEADER_BYTES = "32KiB";
    /// Most header lines of a request, up to 100. More get 431.
    max_headers: HEADERS = 100;
    /// Longest path with its query. A longer one gets 414.
    max_uri_bytes: SIZE = "8KiB";
    /// Time in which a client has to send its header section; then it gets 408. A TLS handshake may
    /// take as long before that. A connection on which no request has come is closed after this time
    /// as well.
    header_timeout: POSITIVE_TIME = "10s";
    /// Time that a client's connection may wait for another request; then it is closed. More than the
    /// keep-alive of the proxy in front, or a request may meet a connection that was just closed.
    keep_alive_timeout: POSITIVE_TIME = "75s";
    /// Concurrent requests and WebSockets on one HTTP/2 connection, at most 10000; more wait for these.
    /// A WebSocket whose stream was reset may continue, since held messages are delivered; WebSockets
    /// beyond the limit together with such ones get 503. A client may send 64 KiB ahead on each of them.
    max_streams: STREAMS = 100;
    /// Time in which a client may take nothing of a response to a plain request; then its connection is
    /// closed. Over HTTP/2 only that response is aborted, if the client takes less than 16 KiB of it in
    /// this time. WebSockets are not affected.
    write_timeout: POSITIVE_TIME = "60s";
}

section! {
    pub(in crate::config_file) DRAIN: DrainSettings = "drain";

    /// Time after SIGTERM, SIGINT or POST /drain in which clients are still accepted. /readyz is 503 at
    /// once, so that a load balancer that checks it sends them elsewhere meanwhile; responses to plain
    /// requests say "Connection: close". A second signal ends the delay.
    delay: TIME = "0s";
    /// Time for everything after that. Listeners close at once. A session that holds messages may still
    /// become ready for three quarters of this time and is then closed with 1001. Plain requests are
    /// finished; held ones get 503 at once. Whatever has not closed at the end, or at a second signal in
    /// this time, is forcibly closed.
    grace: TIME = "8s";
    /// Part of that time over which tunnels are closed: each gets its 1001 at a random moment, so that
    /// not all clients reconnect at once. At most three quarters of the grace period.
    spread: TIME = "5s";
}

section! {
    pub(in crate::config_file) RELOAD: Config = "reload";

    /// Interval at which this file is checked, by its content; a change that is still the same at the
    /// next check takes effect. "": never. SIGHUP and POST /reload read it in any case, and certificates
    /// are reloaded without it.
    /// New connections, sessions and requests get the new configuration, existing ones keep theirs. A
    /// file with a mistake changes nothing. Neither does one that changes the addresses of listeners and
    /// of the admin listener, workers, the form of the log, or this key: those need a restart.
    poll: OPTIONAL_TIME = "" => reload_poll, restart;
}
