//! The dashboard at `/`: one HTML document that requests only the JSON of this listener. Its data
//! are the events of `/events`, and from `/sessions` the list and the selected session.
//!
//! ```text
//! page.html   the structure, before there are numbers
//! style.css
//! format.js   numbers, times and bytes as text
//! dom.js      elements that are changed in place
//! charts.js   lines of the last minutes, bars of a histogram
//! overview.js everything in an event
//! sessions.js the list, and one session with its trail
//! live.js     the connection and its loss
//! ```
//!
//! `build.rs` packs them: the scripts into one module, and all without indentation and comments.
//!
//! # Invariants
//!
//! * A browser runs only the script of this document, and lets it connect only to this listener:
//!   the policy names both by a nonce that is new in each response.
//! * Text from clients (addresses, paths) enters the document as text, never as HTML: the policy
//!   makes the browser reject anything else (trusted types).
//! * No other page can show this one in a frame.

use http_body_util::Full;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{ACCEPT, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, VARY},
};

use super::response::{self, Body};

const STYLE: &str = include_str!(concat!(env!("OUT_DIR"), "/page.css"));

const SCRIPT: &str = include_str!(concat!(env!("OUT_DIR"), "/page.js"));

/// Header by which pages that open this one get no handle of it.
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Responds to `/`: the dashboard for browsers, a list of the endpoints for others.
pub(super) fn answer(headers: &HeaderMap) -> Response<Body> {
    let mut response = if accepts_html(headers) {
        page()
    } else {
        let version = env!("CARGO_PKG_VERSION");
        let text = format!(
            "readygate {version}: open this in a browser, or ask for\n{}",
            super::list()
        );
        response::text(StatusCode::OK, text)
    };
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().insert(VARY, vary);
    response
}

fn accepts_html(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter();
    // No weights are compared: browsers name it, and programs do not.
    accepted.any(|value| value.to_str().unwrap_or_default().contains("text/html"))
}

fn page() -> Response<Body> {
    // Unpredictable and used once, as CSP requires of a nonce.
    let nonce = format!("{:032x}", rand::random::<u128>());
    let body = Box::pin(Full::from(document(&nonce)));
    let mut response = response::with(StatusCode::OK, "text/html; charset=utf-8", body);
    let policy = policy(&nonce).try_into().expect("it is ASCII");
    response.headers_mut().extend([
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (OPENER_POLICY, HeaderValue::from_static("same-origin")),
    ]);
    response
}

fn document(nonce: &str) -> String {
    format!(
        include_str!(concat!(env!("OUT_DIR"), "/page.html")),
        nonce = nonce,
        style = STYLE,
        script = SCRIPT
    )
}

fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_stands_by_itself_and_is_small() {
        let document = document("0123");

        assert!(document.starts_with("<!doctype html>"));
        assert_eq!(document.matches("nonce=\"0123\"").count(), 2);
        for outside in ["src=", "@import", "url(", "http://", "https://"] {
            let found = document.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(outside), "{outside}");
        }
        assert!(document.len() < 55 * 1024, "{}", document.len());
    }

    #[test]
    fn the_script_makes_no_html_of_texts() {
        for unsafe_name in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
        ] {
            assert!(!SCRIPT.contains(unsafe_name), "{unsafe_name}");
        }
        assert!(!STYLE.contains("</style") && !SCRIPT.contains("</script"));
    }

    #[test]
    fn each_answer_has_a_nonce_of_its_own() {
        let policy = || page().headers()[CONTENT_SECURITY_POLICY].clone();

        assert_ne!(policy(), policy());
    }
}
