//! Origins: the site of the page that opens a WebSocket, as reported by its browser (RFC 6454).
//!
//! # Invariants
//!
//! * Listed origins and those that clients send are parsed in the same way, so that nothing that is
//!   not an origin ever matches.

use std::{net::Ipv6Addr, str::FromStr};

use super::host_rank;

/// Origin of pages that browsers isolate from all others: sandboxed pages, `data:` URLs, and in
/// most browsers files. Anyone can make such a page.
const OPAQUE: &str = "null";

/// Schemes whose origins have a host, and their default ports.
const OF_THE_WEB: [(&str, u16); 4] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];

/// An origin whose pages may connect, or all origins below a name: `https://*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `null`.
    Opaque,
    /// A scheme, a host and a port.
    Of {
        /// Scheme in lower case.
        scheme: String,
        /// Host in lower case; `*.` and a name for every host below that name; empty only for a
        /// scheme outside the web, as in `file://`.
        host: String,
        /// Port, unless it is missing or the scheme's default.
        port: Option<u16>,
    },
}

/// A text that is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an origin")]
pub struct NoOrigin;

impl FromStr for OriginPattern {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        if text.eq_ignore_ascii_case(OPAQUE) {
            return Ok(Self::Opaque);
        }
        let (scheme, host, port) = split(text).ok_or(NoOrigin)?;
        let name = host.strip_prefix("*.");
        // A wildcard needs a name below it, whatever the scheme is.
        let is_host = name.map_or_else(|| is_host(scheme, host), |name| is_host("http", name));
        if !is_host {
            return Err(NoOrigin);
        }
        Ok(Self::Of {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl OriginPattern {
    /// Returns whether this includes `origin`, as a client sent it. Case does not matter, nor
    /// whether the scheme's default port is written (RFC 6454 §6.2).
    #[must_use]
    pub fn allows(&self, origin: &[u8]) -> bool {
        let Ok(origin) = str::from_utf8(origin) else {
            return false;
        };
        match self {
            Self::Opaque => origin.eq_ignore_ascii_case(OPAQUE),
            Self::Of { scheme, host, port } => split(origin).is_some_and(|origin| {
                origin.0.eq_ignore_ascii_case(scheme)
                    && origin.2 == *port
                    // `split` leaves the host unchecked; junk must not match a wildcard.
                    && is_host(origin.0, origin.1)
                    && is_same_or_below(host, origin.1)
            }),
        }
    }
}

fn is_same_or_below(listed: &str, host: &str) -> bool {
    if listed.starts_with('*') {
        host_rank(listed, host).is_some()
    } else {
        listed.eq_ignore_ascii_case(host)
    }
}

/// Splits an origin into scheme, host and port; the host is not validated.
fn split(text: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, authority) = text.split_once("://")?;
    let is_of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        || !scheme.bytes().all(is_of_scheme)
    {
        return None;
    }
    // The colons of an IPv6 address are within brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        None => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
    };
    Some((scheme, host, port.filter(|port| !is_default(scheme, *port))))
}

fn is_default(scheme: &str, port: u16) -> bool {
    let mut defaults = OF_THE_WEB.iter();
    defaults.any(|(known, default)| known.eq_ignore_ascii_case(scheme) && *default == port)
}

/// Returns whether `host` may be the host of an origin with this scheme.
fn is_host(scheme: &str, host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None if host.is_empty() => {
            let mut of_the_web = OF_THE_WEB.iter();
            !of_the_web.any(|(known, _)| known.eq_ignore_ascii_case(scheme))
        }
        None => {
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            host.bytes().all(is_of_name)
        }
    }
}
