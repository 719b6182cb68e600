//! The WebSocket opening handshake, and the session that it becomes (RFC 6455 §4).
//!
//! ```text
//!                        ┌── early ─────────► 101 of our own ──────────────► session
//!  request ──► checked ──┤                                                      ▲
//!                        └── after upstream ─► upstream's ──┬── 101 ────────────┘
//!                                              handshake    └── rejected ──► its response
//! ```
//!
//! [`answer`] checks every handshake and answers it early where the route allows that and no
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

use std::{rc::Rc, sync::Arc};

use hyper::{Response, http::request::Parts};

use self::accept::{Accepted, Early};
use crate::{
    client_addr::Client,
    local_reply::LocalReply,
    proxy::{
        binding::{Binding, OnOwn},
        bodies::Body,
    },
    route::{Accept, Route},
    state::worker::WorkerState,
};

/// Answers a handshake: at once, or as the upstream does where the route requires that or recent
/// handshakes make an early answer doubtful.
///
/// `is_client_gone` is polled at intervals; `None` where a client that leaves drops the future.
/// `binding` holds the upstream connections bound to the client's connection, where that belongs
/// to one client.
///
/// # Errors
///
/// The request is not a valid handshake, its origin is not allowed, the process drains or has no
/// room for the session or for what it would hold, the route's breaker is open, or an upstream
/// that was asked has given no valid answer in time.
pub async fn answer(
    request: &Parts,
    client: Client,
    route: &Arc<Route>,
    local: &WorkerState,
    is_client_gone: Option<&dyn Fn() -> bool>,
    binding: Option<&Rc<Binding>>,
) -> Result<(Response<Body>, Option<Accepted>), LocalReply> {
    let own = binding.map(|binding| OnOwn::new(binding, request, route, client.address));
    let is_bound = own.as_ref().is_some_and(|own| own.is_bound);
    // A client on a bound connection may still be logging in, which the upstream must answer.
    if route.accept == Accept::Early && !is_bound {
        let shared = &local.shared;
        let handshake = accept::check(request, route, shared)?;
        if let Some(early) = Early::of(request, client, route, shared)? {
            let (response, accepted) = early.accept(&handshake, request, client, route, shared)?;
            return Ok((response, Some(accepted)));
        }
        let client = client.address;
        tracing::debug!(%client, "an early answer may be wrong: the upstream is asked");
    }
    Box::pin(after_upstream::ask(
        request,
        client,
        route,
        local,
        is_client_gone,
        own,
    ))
    .await
}
