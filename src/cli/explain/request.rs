//! A request that nobody has sent.

use std::fmt;

use hyper::{HeaderMap, Uri, header, http::uri::Authority};

use crate::{config::Mistake, websocket::handshake::list};

/// A URL with the scheme of a WebSocket or of HTTP, or a path alone.
///
/// # Errors
///
/// What is wrong with `text`, and what to write instead.
pub(super) fn url(text: &str) -> Result<Uri, Mistake> {
    const EXPECTED: &str = "expected a URL such as wss://chat.example/room, or a path: /room";
    let mistake = || Mistake::new("nothing that has a route can be asked like this", EXPECTED);
    if text.starts_with('/') {
        return text.parse().map_err(|_| mistake());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        // With a scheme, would it be a URL?
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

/// `url` without a name and password, which are for nobody to see.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("wss", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// What `Host` is for `url`: clients do not send a name and a password in it.
fn host(url: &Uri) -> Option<&str> {
    let authority = url.authority().map(Authority::as_str)?;
    authority.rsplit('@').next()
}

/// What a client asks for.
pub(super) struct Request {
    url: Uri,
    /// `None`: nobody says.
    host: Option<String>,
    pub(super) headers: HeaderMap,
}

impl fmt::Display for Request {
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

impl Request {
    pub(super) fn new(url: Uri, headers: HeaderMap) -> Self {
        let named = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = named.or_else(|| host(&url)).map(str::to_owned);
        Self { url, host, headers }
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
