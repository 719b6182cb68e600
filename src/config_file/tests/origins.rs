//! Origins that may be listed, the pages that each lets in, and what is said about the others.

use super::{parse, report_on_route, route_with};

/// The setting that lists this origin.
fn listing(origin: &str) -> String {
    format!("origins = ['{origin}']")
}

fn is_allowed(listed: &str, origin: &str) -> bool {
    route_with(&listing(listed)).allows_origin(Some(origin.as_bytes()))
}

#[test]
fn an_origin_without_a_host_can_be_listed() {
    for (listed, origin, expected) in [
        ("file://", "file://", true),
        ("file://", "FILE://", true),
        ("file://", "file://host", false),
        ("file://", "null", false),
        ("null", "null", true),
        ("null", "file://", false),
        ("app://", "app://", true),
        ("app://obsidian.md", "app://obsidian.md", true),
        ("app://obsidian.md", "app://", false),
        ("vscode-webview://0a1b", "vscode-webview://0a1b", true),
    ] {
        assert_eq!(is_allowed(listed, origin), expected, "{listed} {origin}");
    }
}

// RFC 6454 §6.2
#[test]
fn a_default_port_says_the_same_as_none() {
    for (listed, origin, expected) in [
        ("https://a.example:443", "https://a.example", true),
        ("https://a.example", "https://a.example:443", true),
        ("http://a.example:80", "http://a.example", true),
        ("wss://a.example:443", "wss://a.example", true),
        ("https://[::1]:443", "https://[::1]", true),
        ("https://a.example:8443", "https://a.example:8443", true),
        ("https://a.example:80", "https://a.example", false),
        ("http://a.example:443", "http://a.example", false),
        ("https://a.example:8443", "https://a.example", false),
        ("https://a.example", "https://a.example:", false),
        ("https://a.example", "https://a.example:65979", false),
        ("app://a:443", "app://a", false),
    ] {
        assert_eq!(is_allowed(listed, origin), expected, "{listed} {origin}");
    }
}

#[test]
fn a_wildcard_is_every_host_below_a_name() {
    let below = "https://*.Example.com";
    for (listed, origin, expected) in [
        (below, "https://a.example.com", true),
        (below, "https://A.b.EXAMPLE.com:443", true),
        (below, "https://example.com", false),
        (below, "https://.example.com", false),
        (below, "https://aexample.com", false),
        (below, "https://a.example.com.evil.com", false),
        (below, "https://evil.com/.example.com", false),
        (below, "https://evil.com#.example.com", false),
        (below, "https://evil.com@a.example.com", false),
        (below, "http://a.example.com", false),
        (below, "https://a.example.com:8443", false),
        (
            "https://*.example.com:8443",
            "https://a.example.com:8443",
            true,
        ),
        ("https://*.example.com:8443", "https://a.example.com", false),
    ] {
        assert_eq!(is_allowed(listed, origin), expected, "{listed} {origin}");
    }
}

#[test]
fn what_is_no_origin_is_refused_with_one_that_is() {
    for (text, help) in [
        ("https://a.example/", "write \"https://a.example\""),
        ("https://a.example/path/?q", "write \"https://a.example\""),
        ("https://a.example:443#x", "write \"https://a.example:443\""),
        ("file:///", "write \"file://\""),
        ("file:/", "write \"file://\""),
        ("file:", "write \"file://\""),
        ("file:///home/me/index.html", "write \"file://\""),
        ("a.example", "write \"https://a.example\""),
        ("a.example:8443/", "write \"https://a.example:8443\""),
        ("//a.example", "write \"https://a.example\""),
        ("http:a.example", "such as \"https://example.com\""),
        ("https://", "such as \"https://example.com\""),
        ("https://:443", "such as \"https://example.com\""),
        ("https://a.example:0x50", "such as \"https://example.com\""),
        ("https://a.example:65536", "such as \"https://example.com\""),
        ("1http://a.example", "such as \"https://example.com\""),
        ("https://b\u{fc}cher.example", "xn--"),
        ("*", "\"https://*.example.com\""),
        ("https://*", "\"https://*.example.com\""),
        ("https://*.", "\"https://*.example.com\""),
        ("*://a.example", "\"https://*.example.com\""),
        ("https://a.*.example", "\"https://*.example.com\""),
        ("https://a.*", "\"https://*.example.com\""),
        ("https://*a.example", "\"https://*.example.com\""),
        ("https://*.*.example", "\"https://*.example.com\""),
        ("", "such as \"https://example.com\""),
    ] {
        let report = report_on_route(&listing(text));
        assert!(report.contains(help), "{text}\n{report}");

        // Whatever is to be written instead is an origin.
        for line in report.lines() {
            let Some((_, written)) = line.split_once("= help: write ") else {
                continue;
            };
            let listed = format!("origins = [{written}]");
            let route = format!("[[route]]\nupstream = \"http://b\"\n{listed}");
            assert!(parse(&route).is_ok(), "{text}\n{report}");
        }
    }
}
