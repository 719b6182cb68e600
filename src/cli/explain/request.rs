//! A request that is explained but never sent.

use std::{fmt, sync::Arc};

use hyper::{
    HeaderMap, Uri,
    header::{self, HeaderValue},
    http::{request::Parts, uri::Authority},
};

use crate::{
    config_file::{Config, Mistake},
    downstream::find_route,
    handshake::accept,
    headers::{framing::Framing, host::origin_form},
    local_reply::LocalReply,
    route::{Route, Subprotocol},
    websocket::handshake::{VERSION, list},
};

/// Parses a URL with the scheme of a WebSocket or of HTTP, or a path alone.
///
/// # Errors
///
/// The mistake in `text`, and what to write instead.
pub(super) fn url(text: &str) -> Result<Uri, Mistake> {
    const EXPECTED: &str = "expected a URL such as wss://chat.example/room, or a path: /room";
    let mistake = || Mistake::new("nothing that has a route can be asked like this", EXPECTED);
    if text.starts_with('/') {
        return text.parse().map_err(|_| mistake());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        // Perhaps only the scheme is missing.
        let with_scheme = format!("wss://{text}");
        let is_host = with_scheme.parse::<Uri>().is_ok() && !text.contains('*');
        return Err(if is_host {
            mistake().help(format!("write {}", without_user(&with_scheme)))
        } else {
            mistake()
        });
    };
    let is_known = ["ws", "wss", "http", "https"].iter();
    if !{ is_known }.any(|known| known.eq_ignore_ascii_case(scheme)) {
        let what = "clients do not come with such a scheme";
        let help = format!("write {}", without_user(&format!("wss://{rest}")));
        return Err(Mistake::new(what, "expected ws, wss, http or https").help(help));
    }
    let url: Uri = text.parse().map_err(|_| mistake())?;
    match host(&url) {
        Some(host) if !host.is_empty() => Ok(url),
        _ => Err(mistake()),
    }
}

/// Returns `url` without user and password, which must not be shown.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("wss", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// Returns the head of a request as bytes.
fn head(request: &hyper::Request<()>) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
        head.extend(line.concat());
    }
    head.extend(b"\r\n");
    head
}

/// Returns `Host` for `url`: clients send neither user nor password in it.
fn host(url: &Uri) -> Option<&str> {
    let authority = url.authority().map(Authority::as_str)?;
    authority.rsplit('@').next()
}

/// A client's request.
pub(super) struct ExplainedRequest {
    url: Uri,
    /// `None` if neither URL nor header names one.
    host: Option<String>,
    headers: HeaderMap,
}

impl fmt::Display for ExplainedRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (self.may_be_websocket(), self.may_be_plain()) {
            (true, false) => "a WebSocket",
            (false, true) => "a plain request",
            _ => "a WebSocket or a plain request",
        };
        write!(formatter, "{kind} for {} on ", self.path())?;
        match self.host() {
            Some(host) => write!(formatter, "host {host}"),
            None => write!(formatter, "any host"),
        }
    }
}

impl ExplainedRequest {
    pub(super) fn new(url: Uri, headers: HeaderMap) -> Self {
        let named = headers.get(header::HOST).map(HeaderValue::as_bytes);
        let host = named.or_else(|| host(&url).map(str::as_bytes));
        let host = host.map(|host| String::from_utf8_lossy(host).into_owned());
        Self { url, host, headers }
    }

    /// Finds the request's route, if the proxy serves it at all.
    ///
    /// # Errors
    ///
    /// The response that the proxy makes instead.
    pub(super) fn route<'a>(&self, config: &'a Config) -> Result<&'a Arc<Route>, LocalReply> {
        let request = self.sent();
        let mut framing = Framing::new(usize::MAX, config.limits.max_uri_bytes);
        framing.watch(&mut head(&request));
        framing.next_verdict()?;
        find_route(&request, config)
    }

    /// Describes the early answer, if the request is a handshake and `route` accepts it.
    ///
    /// # Errors
    ///
    /// The response that the proxy makes instead.
    pub(super) fn early_answer(&self, route: &Route) -> Result<String, LocalReply> {
        let mut request = self.sent();
        // Fields that WebSocket clients add by themselves.
        for (name, value) in [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, VERSION),
            (header::SEC_WEBSOCKET_KEY, "AAAAAAAAAAAAAAAAAAAAAA=="),
        ] {
            let value = HeaderValue::from_static(value);
            request.headers_mut().entry(name).or_insert(value);
        }
        let (request, ()): (Parts, ()) = request.into_parts();
        Ok(match accept::judge(&request, route)? {
            Subprotocol::None => "101 at once, without a subprotocol".to_owned(),
            Subprotocol::Named(named) => format!("101 at once, with the subprotocol {named}"),
            Subprotocol::Upstreams => {
                "that of the upstream: which of its tokens it answers with is not known before"
                    .to_owned()
            }
        })
    }

    /// Builds the request in HTTP/1.1; a host that is not given is `any`.
    fn sent(&self) -> hyper::Request<()> {
        let mut request = hyper::Request::new(());
        *request.uri_mut() = origin_form(&self.url);
        *request.headers_mut() = self.headers.clone();
        let host = HeaderValue::from_str(self.host().unwrap_or("any"));
        if let (Ok(host), false) = (host, self.headers.contains_key(header::HOST)) {
            request.headers_mut().insert(header::HOST, host);
        }
        request
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    pub(super) fn path(&self) -> &str {
        self.url.path()
    }

    pub(super) fn may_be_websocket(&self) -> bool {
        self.has_scheme(&["ws", "wss"]) || self.asks_to_upgrade() || self.url.scheme().is_none()
    }

    pub(super) fn may_be_plain(&self) -> bool {
        !self.has_scheme(&["ws", "wss"]) && !self.asks_to_upgrade()
    }

    fn has_scheme(&self, schemes: &[&str]) -> bool {
        let scheme = self.url.scheme_str();
        scheme.is_some_and(|scheme| schemes.contains(&scheme.to_ascii_lowercase().as_str()))
    }

    fn asks_to_upgrade(&self) -> bool {
        let mut protocols = list(self.headers.get_all(header::UPGRADE));
        protocols.any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
    }
}
