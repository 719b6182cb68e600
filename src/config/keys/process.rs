//! Keys of the process.

use crate::{
    config::{
        Config,
        section::section,
        values::{
            ADMIN_ADDRESS, OPTIONAL_COUNT, OPTIONAL_RATE, OPTIONAL_TIME, POSITIVE, POSITIVE_TIME,
            SIZE, TIME, TRUSTED_PROXIES, WORKERS,
            bounds::{HEADER_BYTES, HEADERS, HELD_MEMORY, MEMORY_BOUND, STREAMS},
            words::{FORMAT, LEVEL, REQUESTS},
        },
    },
    limits::drain,
    observability,
    server::Limits,
};

section! {
    pub(in crate::config) TOP: Config = "";

    /// The proxies before this one whose word about clients counts: networks, IP addresses,
    /// "private" for all addresses that are not reached from the Internet, and "unix" for whoever
    /// connects to a Unix socket. What anybody else says in X-Forwarded-*, Forwarded, X-Real-IP, Via
    /// and the like is replaced or removed; what these say passes, with their own address behind it.
    /// The client is then the last address in X-Forwarded-For that is none of theirs. On Cloud Run
    /// write ["private"].
    trusted_proxies: TRUSTED_PROXIES = [];
    /// Threads that serve: a number, or "auto" for one per core. A session stays on its thread.
    workers: WORKERS = "auto", restart;
}

section! {
    /// Where operators and monitoring ask: /livez, /readyz, /metrics, /sessions and so on. Whoever
    /// can connect may look; only who connects from this machine may change something.
    pub(in crate::config) ADMIN: Config = "admin";

    /// An IP address and a port, or "unix:/path.sock"; "": nowhere. If it is in use, readygate does
    /// not start, but for this one: then it warns and goes without.
    listen: ADMIN_ADDRESS = "127.0.0.1:9901" => admin, restart;
}

section! {
    pub(in crate::config) LOG: observability::Settings = "log";

    /// The least severe level that is logged: "error", "warn", "info", "debug" or "trace".
    level: LEVEL = "info";
    /// "auto" is text on a terminal and JSON otherwise; or "text", "json", one object a line, or
    /// "gcp": JSON with the names of Google's Cloud Logging, for Cloud Run and GKE.
    format: FORMAT = "auto", restart;
    /// Which plain requests have a line; a session always has one, when it ends. "errors": those that
    /// the proxy answers itself, handshakes included, for such an answer has an id to look up, and those
    /// whose answer the backend breaks off; "all": each when its answer has ended, as in the access log
    /// of a server; or "none".
    requests: REQUESTS = "errors";
}

section! {
    /// Bounds of the whole process.
    pub(in crate::config) LIMITS: Limits = "limits";

    /// Client connections at once, and WebSockets over HTTP/2, which count beside the connection that
    /// they are on. More are answered 503 with Retry-After. Each takes up to two file descriptors: the
    /// limit of the process is raised as far as it may be, and if that is not enough, a warning at the
    /// start says so.
    max_connections: POSITIVE = 10000;
    /// Client connections from one address at once (IPv6: one /64 network), WebSockets over HTTP/2
    /// as above, or sessions, where a trusted proxy names it. More are answered 429 with Retry-After. Only addresses on the
    /// Internet count: behind a private one there may be a load balancer. "" is no limit.
    max_connections_per_address: OPTIONAL_COUNT = 1000;
    /// New WebSocket sessions in a second, of all clients and of one address as above. Ten times as
    /// many may come at once; more are answered 503 and 429 with Retry-After. "" is no limit.
    session_rate: OPTIONAL_RATE = "";
    session_rate_per_address: OPTIONAL_RATE = 100;
    /// What all sessions together may hold, in accounted bytes: a size, or a share of the memory
    /// that the process may have (its cgroup's limit, else the machine's memory). When it is used
    /// up, new sessions are answered 503, and each session that holds more than 4 KiB does what its
    /// `overflow` says.
    max_held_bytes: HELD_MEMORY = "25%";
    /// How much memory may be in use, looked at once a second. Beyond it new sessions, and requests
    /// that would be held, are answered 503 with Retry-After, until a twentieth of it is free again;
    /// what is under way goes on, but HTTP/2 connections with streams that wait to be read are not read.
    /// A share is one of the cgroup's limit: where it has none, there is
    /// no bound. What counts is all that is in use in that cgroup but for pages of files that
    /// nobody used lately. Or a size; where no cgroup has a limit, what of the process is resident
    /// counts then. "" is no bound.
    max_memory_bytes: MEMORY_BOUND = "85%" => max_memory;
    /// The longest header section of a request, at least 8 KiB. A longer one is answered 431. In
    /// HTTP/2 it is always 16 KiB, of which each field counts 32 bytes beside its own.
    max_header_bytes: HEADER_BYTES = "32KiB";
    /// The most header lines of a request, up to 100. With more it is answered 431.
    max_headers: HEADERS = 100;
    /// The longest path with its query. A longer one is answered 414.
    max_uri_bytes: SIZE = "8KiB";
    /// How long a client may take to send its header section; then it is answered 408. With TLS
    /// its handshake may take as long before that. A connection on which no request has come is
    /// closed after this time, too.
    header_timeout: POSITIVE_TIME = "10s";
    /// How long a client's connection may wait for another request; then it is closed. More than what
    /// stands before the proxy keeps its connections for, or a request may meet one that is just
    /// closed.
    keep_alive_timeout: POSITIVE_TIME = "75s";
    /// Requests and WebSockets at once on one HTTP/2 connection, at most 10000; more wait for these.
    /// A WebSocket whose stream was reset may go on, for what is held is delivered; more WebSockets
    /// together with such ones are answered 503.
    /// A client may have 64 KiB on the way for each of them.
    max_streams: STREAMS = 100;
    /// How long a client may take nothing of an answer to a plain request that is there for it; then
    /// its connection is closed. Over HTTP/2 only that answer is given up, if the client takes less than
    /// 16 KiB of it in this time. WebSockets are not affected.
    write_timeout: POSITIVE_TIME = "60s";
}

section! {
    pub(in crate::config) DRAIN: drain::Settings = "drain";

    /// How long after SIGTERM, SIGINT or POST /drain clients are still let in. /readyz is 503 at once, so
    /// that a load balancer that asks for it sends them elsewhere by then; answers to plain requests say
    /// "Connection: close". A second signal ends the delay.
    delay: TIME = "0s";
    /// How long everything may take after that. Listeners close at once. A session that
    /// holds messages may still become ready for three quarters of this time and is then closed with
    /// 1001. Plain requests are finished; those that are held are answered 503 at once. What has not
    /// closed at the end, or at a second signal in this time, is cut off.
    grace: TIME = "8s";
    /// Over how much of it the ends of tunnels are spread: each gets its 1001 at a random moment, so
    /// that not all clients come back at the same. At most three quarters of the grace period.
    spread: TIME = "5s";
}

section! {
    pub(in crate::config) RELOAD: Config = "reload";

    /// How often this file is looked at, by its content; when that is another one and has stayed so
    /// until the next look, it takes effect. "": never. On SIGHUP and POST /reload it is read in any
    /// case, and certificates that change are taken over without it.
    /// New connections, sessions and requests have the new configuration, what has begun goes on with
    /// its own. A file with a mistake changes nothing. Neither may the addresses of listeners and of the
    /// admin listener, workers, the log's form, and this: for those the process has to be restarted.
    poll: OPTIONAL_TIME = "" => reload_poll, restart;
}
