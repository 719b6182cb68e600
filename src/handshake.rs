//! The WebSocket opening handshake, and the session that it becomes (RFC 6455 §4).
//!
//! ```text
//!                        ┌── early ─────────► 101 of our own ──────────────► session
//!  request ──► checked ──┤                                                      ▲
//!                        └── after upstream ─► upstream's ──┬── 101 ────────────┘
//!                                              handshake    └── rejected ──► its response
//! ```
//!
//! [`accept`] checks every handshake and answers it early where the route allows that and no
//! recent handshake like it makes the early answer doubtful. [`after_upstream`] gets the
//! upstream's own answer first, and [`rejected`] passes on a response other than `101`.
//!
//! # Invariants
//!
//! * No handshake is accepted that RFC 6455 §4.2.1 would have a server reject: hyper would answer
//!   `101` to anything.
//! * Limits and breaker are checked before the client gets its `101`, so that it is rejected with
//!   an HTTP status and not with a close code.
//! * A client's bytes behind its handshake do not go upstream before both sides have their `101`.

pub mod accept;
pub mod after_upstream;
pub mod rejected;
