//! The dashboard, as far as it can be checked without a browser.

use crate::support::{Proxy, config, gated};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";

#[tokio::test]
async fn browsers_get_a_page_that_runs_and_asks_for_nothing_of_others() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    let (head, body) = proxy.exchange("GET", "/", &[BROWSER]).await;

    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for line in [
        "content-type: text/html; charset=utf-8",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "vary: accept",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let policy = head
        .lines()
        .find_map(|line| line.strip_prefix("content-security-policy: "))
        .unwrap();
    for directive in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(directive), "{directive}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let (_, rest) = policy.split_once("script-src 'nonce-").unwrap();
    let (nonce, _) = rest.split_once('\'').unwrap();
    assert_eq!(nonce.len(), 32);
    assert_eq!(body.matches(&format!(" nonce=\"{nonce}\"")).count(), 2);
}

#[tokio::test]
async fn others_get_the_list_of_what_there_is() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    let (head, body) = proxy.exchange("GET", "/", &["Accept: */*"]).await;

    assert!(head.contains("content-type: text/plain"), "{head}");
    assert!(head.contains("vary: accept"), "{head}");
    assert!(body.contains("\n  GET  /sessions/{id}\n"), "{body}");
    let (head, body) = proxy.exchange("HEAD", "/", &[BROWSER]).await;
    assert!(head.contains("content-security-policy: "), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn it_is_not_for_names_of_others_and_takes_no_parameters() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    let rebound = proxy
        .ask("GET", "/", &[BROWSER, "Host: rebound.example:9901"])
        .await;
    let with_query = proxy.ask("GET", "/?session=1", &[BROWSER]).await;

    assert_eq!((rebound.0, with_query.0), (403, 400));
}
