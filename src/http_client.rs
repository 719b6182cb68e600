//! Upstream connections for plain HTTP: over HTTP/1.1 and HTTP/2, kept in pools.
//!
//! ```text
//!                   Pools, of one worker
//!                   └── Pool, of one route
//!  forward ──take──►    ├── idle Http1Connections: one request at a time, most recent first
//!          ◄──put───    ├── Multiplexed: HTTP/2 connections that share their streams
//!                       └── ConnectGate: the held requests that may dial
//! ```
//!
//! # Invariants
//!
//! * No connection, pool or gate is shared between threads; only the count of [held
//!   requests](pending::HeldRequests) is.
//! * A connection is used again only after a complete request and a complete response.
//! * Responses are framed strictly ([`responses`](crate::headers::framing::responses)): what two
//!   parsers could read differently ends the connection.
//! * A body that has not been read can be taken back and sent again ([`upload`]).

pub mod http1;
pub mod http2;
pub mod pending;
pub mod pool;
pub mod upload;
