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
//! 2. [`http`] reads the request, finds the [`route`], and either forwards plain HTTP or
//!    answers the opening handshake with `101` before the upstream is even connected. Where the
//!    route or the state of the upstream calls for it, the client gets the upstream's own answer
//!    instead.
//! 3. [`session::run`] is the rest, in order: hold, flush, tunnel, close. It is generic over
//!    byte streams and takes the connection attempt as a function: it knows nothing of TCP and
//!    HTTP.
//! 4. [`upstream`] connects: resolve, dial, opening handshake, validate, retry. While the
//!    upstream does not listen, one session tries on behalf of all.
//! 5. The session's [`Report`](session::Report) becomes one log line in [`telemetry`].
//!
//! # Modules
//!
//! In the order of a connection's life; each imports only what its row names, which a test
//! holds against the code.
//!
//! | module | imports | purpose |
//! |---|---|---|
//! | `cli` | `config`, `demo`, `http`, `route`, `server`, `telemetry`, `upstream`, `websocket` | arguments, exit status |
//! | `demo` | `config`, `matcher`, `server`, `session`, `telemetry` | backends that are not ready, with the proxy and without |
//! | `config` | `client`, `matcher`, `memory`, `route`, `server`, `session`, `telemetry`, `tls`, `upstream`, `websocket` | `proxy.toml`: only valid values, every problem at once |
//! | `server` | `admin`, `client`, `config`, `http`, `memory`, `route`, `telemetry`, `tls`, `transport` | listeners, workers, limits, drain |
//! | `admin` | `client`, `config`, `http`, `route`, `session`, `telemetry`, `tls`, `transport`, `upstream`, `websocket` | health, sessions and metrics, on a listener of its own |
//! | `http` | `client`, `config`, `memory`, `route`, `session`, `telemetry`, `transport`, `upstream`, `websocket` | one downstream connection: upgrade or forward |
//! | `route` | `session`, `upstream`, `websocket` | host and path to upstream and settings |
//! | `client` |  | client addresses, and the proxies trusted to report them |
//! | `telemetry` | `client`, `session`, `upstream`, `websocket` | logs and counters |
//! | `session` | `matcher`, `transport`, `upstream`, `websocket` | hold, gate, flush, tunnel, close |
//! | `upstream` | `tls`, `transport`, `websocket` | one endpoint of each route for all workers: lookup, connect schedule, breaker; opening handshake, back-off |
//! | `matcher` |  | conditions on messages |
//! | `memory` |  | memory limit and usage of the process |
//! | `transport` |  | byte streams: TCP, Unix, TLS, HTTP/2 |
//! | `tls` |  | certificates and keys from files, and their reload |
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
//!   ([`session::budget`]).

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod http;
pub mod matcher;
pub mod memory;
pub mod route;
pub mod server;
pub mod session;
pub mod telemetry;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod websocket;
