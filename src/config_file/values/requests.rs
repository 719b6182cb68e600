//! Hosts, paths and subprotocols of routes.

use std::net::Ipv6Addr;

use http::Uri;
use toml::de::DeValue;

use super::{Kind, Notation, Other, Texts};
use crate::{
    config_file::{cautions, reader::Value, report::Mistake},
    route::{self, path::Passes},
};

pub(in crate::config_file) const HOST: Other<String> =
    Other(Notation::Text, |value| one_each(value)?.parse(host));
pub(in crate::config_file) const PATH: Other<String> = Other(Notation::Text, |value| {
    cautions::of_path(value);
    one_each(value)?.parse(path)
});
pub(in crate::config_file) const PATH_CHECKS: Other<Passes> =
    Other(Notation::Passes(&["%5C", "%5c", "\\"]), path_checks);
pub(in crate::config_file) const SUBPROTOCOLS: Texts<String> = Texts(subprotocol);

/// Returns a value that is not a list, for a route has only one.
fn one_each(value: Value<'_>) -> Option<Value<'_>> {
    value.alone("expected one", "write one [[route]] for each")
}

/// The host in lower case, without a port; or `*.` and a name.
fn host(text: &str) -> Result<String, Mistake> {
    let host = text.to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        // `*.` needs a name behind it; a route without a host has an empty one.
        None if name.is_empty() => host.is_empty(),
        None => name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if is_host {
        return Ok(host);
    }
    let mistake = Mistake::new(
        format!("`{text}` is not the name of a host"),
        "expected a name or an IP address, without scheme, port and path",
    );
    Err(if host.contains('*') {
        mistake.help("\"*.example.com\" is every host below example.com, \"\" is every host")
    } else {
        mistake
    })
}

/// A prefix without a slash at its end, since it ends on a segment boundary anyway; or `=`
/// and an exact path, as it is. Both normalized.
fn path(text: &str) -> Result<String, Mistake> {
    let (sign, path) = match text.strip_prefix('=') {
        Some(exact) => ("=", exact.trim_start()),
        None => ("", text),
    };
    let mistake = || {
        let what = format!("`{text}` is not the path of a request");
        let expected = "expected a path such as \"/\" or \"/chat\", or exactly one: \"=/chat\"";
        Mistake::new(what, expected)
    };
    let is_path = path.starts_with('/')
        && !path.contains('?')
        && path.parse::<Uri>().is_ok_and(|uri| uri.path() == path);
    if !is_path {
        return Err(mistake());
    }
    let path = route::path::of_route(path).map_err(|problem| mistake().help(problem))?;
    Ok(match path.trim_end_matches('/') {
        _ if sign == "=" => format!("={path}"),
        "" => "/".to_owned(),
        prefix => prefix.to_owned(),
    })
}

/// Reads the strictness of path checks: a word, or a list of exceptions.
fn path_checks(value: Value<'_>) -> Option<Passes> {
    if !matches!(value.content(), DeValue::Array(_)) {
        return value.choice(&[("strict", Passes::default())]);
    }
    let passes = Texts(|text| match text {
        "\\" => Ok((true, false)),
        _ if text.eq_ignore_ascii_case("%5C") => Ok((false, true)),
        _ => {
            let what = format!("`{text}` is nothing that could pass");
            Err(Mistake::new(what, "expected `%5C` or `\\`"))
        }
    });
    let passes = passes.read(value)?.into_iter();
    Some(
        passes.fold(Passes::default(), |all, (backslash, encoded)| Passes {
            backslash: all.backslash || backslash,
            encoded_backslash: all.encoded_backslash || encoded,
        }),
    )
}

fn subprotocol(text: &str) -> Result<String, Mistake> {
    // RFC 6455 §4.1 point 10: a token of RFC 9110 §5.6.2, as the name of a header is.
    let is_token = http::HeaderName::from_bytes(text.as_bytes()).is_ok();
    if !is_token {
        let what = format!("`{text}` is not the name of a subprotocol");
        return Err(Mistake::new(
            what,
            "expected a name without spaces and separators",
        ));
    }
    Ok(text.to_owned())
}
