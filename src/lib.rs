//! readygate: a reverse proxy that accepts WebSocket clients at once, holds what they
//! send until the upstream application says that it is ready, flushes, and then gets out
//! of the way.
//!
//! *Downstream* is the client's side and *upstream* the application's, as Envoy and nginx
//! use the words (RFC 9110 §3.7 uses the pair for the direction of a message).
//!
//! # Life of a session
//!
//! ```text
//!  client                        readygate                          upstream
//!    │── GET, Upgrade: websocket ──►│ check, find the route              │
//!    │◄────────────── 101 at once ──│── connect, GET, Upgrade ──────────►│ (again and again)
//!    │── messages ─────────────────►│ hold queue                         │
//!    │                              │◄───────────────── 101, validated ──│
//!    │◄── messages ─────────────────│◄── messages, shown to the gate ────│
//!    │                              │◄── the ready message ──────────────│ the gate opens
//!    │                              │── flush, by priority ─────────────►│
//!    │◄═══════════════════════ tunnel, bytes verbatim ══════════════════►│
//!    │◄───────────── close frames, relayed or made by the proxy ────────►│
//! ```
//!
//! 1. [`server`] accepts a connection and hands it to the worker with the fewest; a
//!    session never leaves its worker's thread.
//! 2. [`downstream`] reads the request, finds the [`route`], and either forwards plain HTTP or
//!    answers the opening handshake with `101` before the upstream is even connected. Where the
//!    route or the state of the upstream calls for it, the client gets the upstream's own answer
//!    instead.
//! 3. [`session::run`] is the rest, in order: hold, flush, tunnel, close. It is generic over
//!    byte streams and takes the connection attempt as a function: it knows nothing of TCP and
//!    HTTP.
//! 4. [`upstream`] connects: resolve, dial, opening handshake, validate, retry. While the
//!    upstream does not listen, one session tries on behalf of all.
//! 5. The session's [`Report`](session::Report) becomes one log line in [`observability`].
//!
//! # Modules
//!
//! In the order of a connection's life; each imports only what its row names, which a test
//! holds against the code.
//!
//! | module | imports | contents |
//! |---|---|---|
//! | `cli` | `config`, `config_file`, `demo`, `downstream`, `handshake`, `headers`, `local_reply`, `observability`, `route`, `server`, `upstream`, `websocket` | arguments, exit status |
//! | `demo` | `config`, `config_file`, `observability`, `server`, `session` | backends that are not ready, with the proxy and without |
//! | `server` | `admin`, `client_addr`, `config`, `config_file`, `downstream`, `limits`, `local_reply`, `observability`, `route`, `state`, `tls`, `transport` | listeners, accepting, workers, reload, systemd, drain |
//! | `admin` | `client_addr`, `config_file`, `limits`, `observability`, `route`, `session`, `state`, `tls`, `transport`, `upstream`, `websocket` | operators' listener: health, metrics, sessions, dashboard |
//! | `downstream` | `client_addr`, `config_file`, `handshake`, `headers`, `limits`, `local_reply`, `observability`, `proxy`, `route`, `session`, `state`, `transport`, `websocket` | one client connection: HTTP/1.1 or HTTP/2, its requests and their log |
//! | `handshake` | `client_addr`, `headers`, `http_client`, `limits`, `local_reply`, `observability`, `proxy`, `route`, `session`, `state`, `transport`, `upstream`, `websocket` | the WebSocket opening handshake, accepted early or after the upstream, and the session from it |
//! | `proxy` | `client_addr`, `headers`, `http_client`, `local_reply`, `route`, `state`, `transport`, `upstream`, `websocket` | plain HTTP: forward, hold, respond |
//! | `state` | `client_addr`, `config_file`, `headers`, `http_client`, `limits`, `local_reply`, `observability`, `route`, `session`, `upstream`, `websocket` | state that connections share: of the process, of each worker |
//! | `config_file` | `client_addr`, `config`, `limits`, `matcher`, `observability`, `route`, `session`, `tls`, `upstream`, `websocket` | `proxy.toml`: one table of keys, every problem at once, only valid values |
//! | `http_client` | `config`, `headers`, `local_reply`, `observability`, `route`, `transport`, `upstream`, `websocket` | connections for plain HTTP to upstreams: HTTP/1.1, HTTP/2, pools |
//! | `local_reply` | `headers`, `route`, `websocket` | responses that the proxy makes itself, one row each: status, reason, headers; counts of them |
//! | `headers` | `client_addr`, `observability`, `route`, `websocket` | header sections: framing, host, forwarding, request id |
//! | `route` | `config`, `session`, `upstream`, `websocket` | host and path to upstream and settings |
//! | `observability` | `client_addr`, `session`, `upstream`, `websocket` | logs, counts |
//! | `session` | `limits`, `matcher`, `transport`, `upstream`, `websocket` | hold, gate, flush, tunnel, close |
//! | `limits` | `client_addr`, `config` | connections, addresses, held bytes, memory, drain |
//! | `client_addr` |  | addresses of clients, and proxies trusted to name them |
//! | `upstream` | `config`, `tls`, `transport`, `websocket` | one endpoint of each route for all workers: lookup, connect schedule, breaker; opening handshake, back-off |
//! | `config` | `tls` | settings, plain values with their defaults |
//! | `matcher` |  | comparisons with messages |
//! | `tls` |  | certificates and keys from files, and their reload |
//! | `transport` |  | byte streams, and deadlines on them |
//! | `websocket` |  | RFC 6455: frames, messages, close codes; no I/O, no clock |
//!
//! # Invariants
//!
//! * No byte of a client goes upstream before the upstream's validated `101`
//!   ([`upstream`]), and no message before the state that its rule names ([`session::hold`]).
//! * Every message that was accepted ends in exactly one account of the
//!   [`ledger`](session::ledger).
//! * Messages of equal priority keep their order, and fragments of two messages are never
//!   interleaved ([`session::queue`]).
//! * A close frame never goes into the middle of a frame ([`session::close`]), and only
//!   legal codes can be constructed ([`websocket::CloseCode`]).
//! * Memory that clients can occupy is bounded per session and for the process
//!   ([`limits::held_bytes`]).

pub mod admin;
pub mod cli;
pub mod client_addr;
pub mod config;
pub mod config_file;
pub mod demo;
pub mod downstream;
pub mod handshake;
pub mod headers;
pub mod http_client;
pub mod limits;
pub mod local_reply;
pub mod matcher;
pub mod observability;
pub mod proxy;
pub mod route;
pub mod server;
pub mod session;
pub mod state;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod websocket;
