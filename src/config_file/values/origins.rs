//! Origins, and suggestions for those that are none.

use crate::config_file::report::Mistake;
use crate::route::origin::OriginPattern;

/// An origin as browsers send it (RFC 6454 §6.2), or all below a name.
pub(in crate::config_file) fn origin(text: &str) -> Result<OriginPattern, Mistake> {
    text.parse().map_err(|_no_origin| {
        let mistake = Mistake::new(
            format!("`{text}` is not an origin"),
            "expected a scheme, a host and perhaps a port, such as \"https://example.com\"",
        );
        match help(text) {
            Some(help) => mistake.help(help),
            None => mistake,
        }
    })
}

/// Help for `text`, which is no origin; a suggestion is a valid origin.
fn help(text: &str) -> Option<String> {
    if text.contains('*') {
        let wildcard = "\"https://*.example.com\" is every host below example.com";
        return Some(format!("{wildcard}; an empty list allows every origin"));
    }
    if !text.is_ascii() {
        let help = "browsers send a name in other letters than ASCII's as \"xn--…\"";
        return Some(help.to_owned());
    }
    let is_origin = |text: &String| text.parse::<OriginPattern>().is_ok();
    let instead = without_path(text)
        .filter(is_origin)
        .or_else(|| with_scheme(text).filter(is_origin))?;
    Some(format!("write \"{instead}\""))
}

/// Returns `url` up to its path.
fn without_path(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once(':')?;
    match rest.strip_prefix("//") {
        Some(rest) => Some(format!("{scheme}://{}", authority(rest))),
        None => (scheme == "file").then(|| "file://".to_owned()),
    }
}

/// Returns `text` with the scheme that it lacks.
fn with_scheme(text: &str) -> Option<String> {
    let rest = text.strip_prefix("//").unwrap_or(text);
    let is_bare = !text.contains("://") && !rest.is_empty();
    is_bare.then(|| format!("https://{}", authority(rest)))
}

fn authority(text: &str) -> &str {
    let end = text.find(['/', '?', '#']);
    &text[..end.unwrap_or(text.len())]
}
