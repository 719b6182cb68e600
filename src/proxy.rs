//! Plain HTTP: requests forwarded to the upstream, and their responses back.
//!
//! ```text
//!  request ──► forward ──┬── connection of the pool, or bound to the client ──► upstream
//!                 ▲      └── connector: dial, or hold until the upstream listens ──►
//!                 │                                                            │
//!  response ◄── bodies, streamed, with the upstream connection in them ◄───────┘
//! ```
//!
//! [`forward`] decides when a request may be sent again; [`connector`] gets it a connection and
//! holds it meanwhile; [`bodies`] streams the response and returns the connection to the pool at
//! its end. [`binding`] keeps a connection to one client where credentials belong to the
//! connection.
//!
//! # Invariants
//!
//! * Bodies are streamed with backpressure in both directions; neither is buffered whole.
//! * Hop-by-hop fields stop here in both directions ([`hop_by_hop`](crate::headers::hop_by_hop)).
//! * An upstream connection serves another client's request only after a complete response and
//!   only if nobody has logged in on it.

pub mod binding;
pub mod bodies;
pub mod client_side;
pub mod connector;
pub mod forward;
