//! Upstream connections bound to the connection of one client.
//!
//! NTLM authenticates a connection and not a request, and so does `Negotiate`, which may turn out
//! to be NTLM (RFC 4559): all later requests on that connection have the rights of the user who
//! logged in. From the pool, the connection would go to the next client.
//!
//! ```text
//!  request with such credentials ──┐
//!  401 that offers them ───────────┴──► the upstream connection is bound to the client's:
//!                                       it carries the client's next requests and WebSocket
//! ```
//!
//! # Invariants
//!
//! * From the first such request or response on, no connection on which the client's connection
//!   has sent anything to that route enters a pool, whether or not it may be kept there.
//! * It is closed with the client's connection. When the upstream closes it, the next request
//!   goes on a new one, which is not logged in.
//! * Where a trusted proxy names the client of each request, each client has its own.
//! * A WebSocket's handshake on it, or with such credentials, gets the upstream's own answer: an
//!   early one would precede the login.
//! * Over HTTP/2, where a connection carries many requests, and often many clients, nothing is
//!   bound: an upstream connection with such credentials carries one request and is closed.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use hyper::{
    HeaderMap, StatusCode,
    header::{self, HeaderName},
    http::request::Parts,
};

use crate::{
    client_addr::ClientAddr,
    http_client::{http1::Http1Connection, pool::Pool},
    route::Route,
    transport::Transport,
};

/// Maximum number of upstream connections bound to one client connection; the oldest one is closed for
/// another.
const MAX_BOUND: usize = 16;

/// Upstream connections bound to one client connection.
#[derive(Debug, Default)]
pub struct Binding(RefCell<Vec<BoundConnection>>);

#[derive(Debug)]
struct BoundConnection {
    route: Arc<Route>,
    client: ClientAddr,
    /// `None` while it carries a request, and after it has ended.
    connection: Option<Box<Http1Connection>>,
}

impl Binding {
    /// Returns whether a connection to the upstream of `route` is bound to `client`.
    #[must_use]
    pub fn includes(&self, route: &Arc<Route>, client: ClientAddr) -> bool {
        let all = self.0.borrow();
        all.iter().any(|bound| bound.is_for(route, client))
    }
}

impl BoundConnection {
    fn is_for(&self, route: &Arc<Route>, client: ClientAddr) -> bool {
        Arc::ptr_eq(&self.route, route) && self.client == client
    }
}

/// The bound connection of one client to the upstream of one route, or the slot for it.
#[derive(Clone, Debug)]
pub struct Own {
    binding: Rc<Binding>,
    route: Arc<Route>,
    client: ClientAddr,
}

impl Own {
    /// Names the connection of `client` to the upstream of `route`, which need not exist.
    #[must_use]
    pub fn new(binding: &Rc<Binding>, route: &Arc<Route>, client: ClientAddr) -> Self {
        Self {
            binding: Rc::clone(binding),
            route: Arc::clone(route),
            client,
        }
    }

    /// Returns whether a connection is or was bound.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.binding.includes(&self.route, self.client)
    }

    /// Binds the next connection that is put back.
    pub fn bind(&self) {
        if self.is_bound() {
            return;
        }
        let mut all = self.binding.0.borrow_mut();
        if all.len() == MAX_BOUND {
            all.remove(0);
        }
        all.push(BoundConnection {
            route: Arc::clone(&self.route),
            client: self.client,
            connection: None,
        });
    }

    /// Takes the connection, if it is open and carries nothing.
    #[must_use]
    pub fn take(&self) -> Option<Box<Http1Connection>> {
        let mut all = self.binding.0.borrow_mut();
        let mut bound = all
            .iter_mut()
            .filter(|bound| bound.is_for(&self.route, self.client));
        let mut connection = bound.next()?.connection.take()?;
        connection.is_open().then_some(connection)
    }

    /// Takes the connection's stream, without HTTP.
    #[must_use]
    pub fn take_stream(&self) -> Option<Transport> {
        self.take()?.into_stream()
    }

    fn put(&self, connection: Box<Http1Connection>) {
        if !connection.is_reusable() {
            return;
        }
        let mut all = self.binding.0.borrow_mut();
        if let Some(bound) = all
            .iter_mut()
            .find(|bound| bound.is_for(&self.route, self.client))
        {
            bound.connection = Some(connection);
        }
    }
}

/// The bound connection for a handshake, or the slot where its response may bind one.
#[derive(Debug)]
pub struct OnOwn {
    /// The connection or its slot.
    pub own: Own,
    /// Set when the connection is bound already, or the request itself carries credentials.
    pub is_bound: bool,
}

impl OnOwn {
    /// Describes the connection for `request` of `client` to the upstream of `route`.
    #[must_use]
    pub fn new(
        binding: &Rc<Binding>,
        request: &Parts,
        route: &Arc<Route>,
        client: ClientAddr,
    ) -> Self {
        Self {
            own: Own::new(binding, route, client),
            is_bound: is_carried(&request.headers) || binding.includes(route, client),
        }
    }
}

/// Destination of a connection after its request.
#[derive(Clone, Debug)]
pub enum Home {
    /// The pool, from which any client's request may take it.
    Pool(Rc<Pool>),
    /// The client to which it is bound.
    Own(Own),
    /// None: it is closed.
    Nowhere,
}

impl Home {
    /// Keeps a connection for another request, if it can carry one.
    pub fn put(&self, connection: Box<Http1Connection>) {
        match self {
            Self::Pool(pool) => pool.put(connection),
            Self::Own(own) => own.put(connection),
            Self::Nowhere => drop(connection),
        }
    }
}

/// Returns whether a request carries credentials that authenticate its connection.
#[must_use]
pub fn is_carried(headers: &HeaderMap) -> bool {
    has_scheme(headers, &header::AUTHORIZATION)
}

/// Returns whether a response asks for such credentials.
#[must_use]
pub fn is_offered(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::UNAUTHORIZED && has_scheme(headers, &header::WWW_AUTHENTICATE)
}

/// Returns whether a field names such a scheme, alone or in a list (RFC 9110 §11.6).
fn has_scheme(headers: &HeaderMap, name: &HeaderName) -> bool {
    let is_one = |element: &[u8]| {
        let mut words = element.trim_ascii().split(u8::is_ascii_whitespace);
        let scheme = words.next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    };
    let mut lines = headers.get_all(name).iter();
    lines.any(|line| line.as_bytes().split(|byte| *byte == b',').any(is_one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_connection_are_told_from_those_of_a_request() {
        for (value, expected) in [
            ("NTLM TlRMTVNTUAABAAAA", true),
            ("ntlm", true),
            ("Negotiate YII=", true),
            ("Basic realm=\"a\", Negotiate, NTLM", true),
            ("Basic realm=\"Z\u{fc}rich\",NTLM", true),
            ("Basic bnRsbQ==", false),
            ("Bearer ntlm", false),
            ("NTLMv3 x", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            headers.insert(header::WWW_AUTHENTICATE, value.parse().unwrap());
            assert_eq!(is_carried(&headers), expected, "{value}");
            assert_eq!(is_offered(StatusCode::UNAUTHORIZED, &headers), expected);
            assert!(!is_offered(StatusCode::OK, &headers));
        }
    }
}
