//! The server, the HTTP front and the upstream connection, end to end: raw bytes in, raw bytes out,
//! over real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "the lint knows tests, but not the functions that they share"
)]

mod ask;
mod binding;
mod breaker;
mod forward;
mod half_closed;
mod handshake;
mod held;
mod http2;
mod identity;
mod keep_alive;
mod limits;
mod memory;
mod multiplexed;
mod pki;
mod pool;
mod proxy_protocol;
mod refusals;
mod routes;
mod server;
mod strictness;
mod subprotocols;
mod support;
mod tls;
mod tls_sessions;
mod trust;
mod upstream;
