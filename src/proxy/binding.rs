//! Connections to upstreams that belong to the connection of one client.
//!
//! NTLM logs in a connection and not a request, and so does `Negotiate`, which may turn out to
//! be NTLM (RFC 4559): whatever comes on that connection afterwards comes from who has logged in.
//! A connection of the pool would be that of the next client.
//!
//! ```text
//!  request with such credentials ──┐
//!  401 that offers them ───────────┴──► the upstream's connection is the client's connection's:
//!                                       its next requests go on it, its WebSocket, too
//! ```
//!
//! # Invariants
//!
//! * From the first such request or answer on, no connection on which the client's connection has
//!   sent anything to that route gets to a pool, whether or not one may be kept there.
//! * It is closed with the client's connection. When the upstream closes it, the next request
//!   goes on a new one, on which nobody has logged in.
//! * Where a trusted proxy says who sends each request, each of them has its own.
//! * A WebSocket's handshake on it, or with such credentials, has the upstream's own answer: an
//!   early one would be given before anybody has logged in.
//! * Over HTTP/2, where a connection is that of many requests, and often of many clients, there is
//!   none: such a connection to an upstream carries one request and is closed.

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

/// How many there may be for one connection of a client; the one that has been there for longest
/// is closed for another.
const MAX_BOUND: usize = 16;

/// The connections to upstreams that belong to one connection of a client.
#[derive(Debug, Default)]
pub struct Binding(RefCell<Vec<BoundConnection>>);

#[derive(Debug)]
struct BoundConnection {
    route: Arc<Route>,
    client: ClientAddr,
    /// `None` while it carries a request, and when it has ended.
    connection: Option<Box<Http1Connection>>,
}

impl Binding {
    /// Whether a connection to the upstream of `route` belongs to `client`.
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

/// The one of them that is to the upstream of one route, for one client.
#[derive(Clone, Debug)]
pub struct Own {
    binding: Rc<Binding>,
    route: Arc<Route>,
    client: ClientAddr,
}

impl Own {
    /// That of `client` to the upstream of `route`.
    #[must_use]
    pub fn new(binding: &Rc<Binding>, route: &Arc<Route>, client: ClientAddr) -> Self {
        Self {
            binding: Rc::clone(binding),
            route: Arc::clone(route),
            client,
        }
    }

    /// Whether there is one, or was.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.binding.includes(&self.route, self.client)
    }

    /// From now on there is one.
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

    /// The connection, if it is open and carries nothing.
    #[must_use]
    pub fn take(&self) -> Option<Box<Http1Connection>> {
        let mut all = self.binding.0.borrow_mut();
        let mut bound = all
            .iter_mut()
            .filter(|bound| bound.is_for(&self.route, self.client));
        let mut connection = bound.next()?.connection.take()?;
        connection.is_open().then_some(connection)
    }

    /// What [`take`](Self::take) returns, without HTTP.
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

/// That connection for a handshake, which may come to belong to the client only with the answer.
#[derive(Debug)]
pub struct OnOwn {
    /// The connection.
    pub own: Own,
    /// Whether it belongs to the client already, or the client is logging in on it.
    pub is_bound: bool,
}

impl OnOwn {
    /// That of `client` for `request` to the upstream of `route`.
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

/// Where a connection goes that has carried a request.
#[derive(Clone, Debug)]
pub enum Home {
    /// To those that anybody's request may go on.
    Pool(Rc<Pool>),
    /// To the client whose it is.
    Own(Own),
    /// It is closed.
    Nowhere,
}

impl Home {
    /// Keeps a connection there, if it can carry another request.
    pub fn put(&self, connection: Box<Http1Connection>) {
        match self {
            Self::Pool(pool) => pool.put(connection),
            Self::Own(own) => own.put(connection),
            Self::Nowhere => drop(connection),
        }
    }
}

/// Whether a request carries credentials that log in its connection.
#[must_use]
pub fn is_carried(headers: &HeaderMap) -> bool {
    has_scheme(headers, &header::AUTHORIZATION)
}

/// Whether an answer asks for such credentials.
#[must_use]
pub fn is_offered(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::UNAUTHORIZED && has_scheme(headers, &header::WWW_AUTHENTICATE)
}

/// Whether a field names such a scheme, as one of several or alone (RFC 9110 §11.6).
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
