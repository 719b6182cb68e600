//! Requests and responses that are rejected, repaired or passed on: bytes in, a verdict out.

use readygate::{
    route::{Accept, NonAscii, Route},
    upstream::ResponseLimits,
};

use crate::support::{Exchange, Proxy, Reserved, SWITCHING_PROTOCOLS, Upstream, config, handshake};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request with a chunked body of three bytes, and these lines in its head.
fn post(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
}

/// A request without a body, and these lines in its head.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
}

/// A request to this target.
fn to(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

/// Requests with the reason and the status of their rejection.
fn refused_requests() -> Vec<(&'static str, String, &'static str)> {
    vec![
        (
            "length and coding",
            post("Content-Length: 3\r\nTransfer-Encoding: chunked"),
            "400",
        ),
        (
            "length and coding",
            post("Transfer-Encoding: chunked\r\nContent-Length: 3"),
            "400",
        ),
        (
            "invalid length",
            post("Content-Length: 3\r\nContent-Length: 3"),
            "400",
        ),
        (
            "invalid length",
            post("Content-Length: 3\r\nContent-Length: 4"),
            "400",
        ),
        ("invalid length", post("Content-Length: 3, 3"), "400"),
        ("invalid length", post("Content-Length: +3"), "400"),
        ("invalid length", post("Content-Length: 0x3"), "400"),
        ("invalid length", post("Content-Length:"), "400"),
        (
            "invalid length",
            post("Content-Length: 99999999999999999999"),
            "400",
        ),
        (
            "disguised coding",
            post("Transfer-Encoding: \x0bchunked"),
            "400",
        ),
        (
            "disguised coding",
            post("Transfer-Encoding : chunked"),
            "400",
        ),
        (
            "disguised coding",
            post("Transfer-Encoding: xchunked"),
            "400",
        ),
        (
            "disguised coding",
            post("Transfer-Encoding: chunked, identity"),
            "400",
        ),
        (
            "unsupported coding",
            post("Transfer-Encoding: chunked, chunked"),
            "400",
        ),
        (
            "unsupported coding",
            post("Transfer-Encoding: gzip, chunked"),
            "501",
        ),
        (
            "unsupported coding",
            post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
            "501",
        ),
        (
            "unsupported coding",
            post("Transfer-Encoding: identity, chunked"),
            "501",
        ),
        (
            "unsupported coding",
            post("Transfer-Encoding: gzip, chunked, chunked"),
            "400",
        ),
        (
            "unsupported coding",
            post("Transfer-Encoding: gzip, \"chunked"),
            "400",
        ),
        (
            "unsupported coding",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            "400",
        ),
        (
            "coding in HTTP/1.0",
            post("Transfer-Encoding: chunked").replace("/1.1", "/1.0"),
            "400",
        ),
        ("malformed field", get("A: b\r\n c: d"), "400"),
        ("malformed field", get("A: b\rC: d"), "400"),
        ("malformed field", get("A: b\0c"), "400"),
        ("malformed field", get("A b: c"), "400"),
        ("malformed field", get(": b"), "400"),
        ("malformed field", get(" A: b"), "400"),
        ("bare LF", GET.replace("\r\n", "\n"), "400"),
        ("bare LF", get("A: b\nC: d"), "400"),
    ]
}

/// Requests that are rejected for another reason than the length of their body.
fn refused_targets() -> Vec<(&'static str, String, &'static str)> {
    let many = |lines: usize| "X: y\r\n".repeat(lines) + "Z: z";
    vec![
        ("host", "GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("host", get("Host: a"), "400"),
        ("host", GET.replace(": a", ": a b"), "400"),
        ("host", GET.replace(": a", ": a, b"), "400"),
        ("host", GET.replace(": a", ": u@a"), "400"),
        ("host", GET.replace(": a", ": *"), "400"),
        ("host", GET.replace(": a", ": a:b"), "400"),
        ("host", GET.replace(": a", ": a:99999999"), "400"),
        ("host", GET.replace(": a", ": [zz]"), "400"),
        ("host", to("http://u@a/"), "400"),
        ("host", to("http://a:99999/"), "400"),
        ("host", to("http://a/").replace("Host: a\r\n", ""), "400"),
        ("host", to("http://a/").replace(": a", ": u@a"), "400"),
        (
            "host",
            GET.replace("1.1", "1.0").replace(": a", ": a b"),
            "400",
        ),
        ("host", get("Host: a").replace("/1.1", "/1.0"), "400"),
        ("host", "GET / HTTP/1.2\r\n\r\n".to_owned(), "400"),
        ("target or version", GET.replace("1.1", "2.0"), "400"),
        ("target or version", GET.replace("1.1", "1.12"), "400"),
        ("target or version", GET.replace("1.1", "1.a"), "400"),
        ("target or version", to("*"), "400"),
        ("target or version", to("a"), "400"),
        (
            "target or version",
            to("a:80").replace(": a", ": a:80"),
            "400",
        ),
        ("target or version", to("ftp://a/"), "400"),
        ("target or version", to("http:/a"), "400"),
        (
            "target or version",
            to("http://a").replace("GET", "OPTIONS"),
            "400",
        ),
        (
            "target or version",
            to("http://a?b").replace("GET", "OPTIONS"),
            "400",
        ),
        ("target or version", to("/\u{e9}"), "400"),
        ("target or version", to("/?\u{e9}"), "400"),
        ("target or version", to("/#a"), "400"),
        ("method", GET.replace("GET", "TRACE"), "405"),
        (
            "method",
            to("a:80")
                .replace("GET", "CONNECT")
                .replace(": a", ": a:80"),
            "405",
        ),
        ("expectation", get("Expect: miracles"), "417"),
        ("expectation", get("Expect: 100-continue, miracles"), "417"),
        ("too long", get(&many(100)), "431"),
        (
            "too long",
            to(&format!("/{}", "a".repeat(16 * 1024))),
            "414",
        ),
        (
            "too long",
            get(&format!("A: {}", "a".repeat(500_000))),
            "431",
        ),
        (
            "handshake with a body",
            handshake(&["Content-Length: 3"]) + "abc",
            "400",
        ),
        (
            "several upgrades",
            handshake(&["Upgrade: websocket, h2c"]),
            "400",
        ),
    ]
}

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_reaches_nobody() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for (reason, request, status) in refused_requests().into_iter().chain(refused_targets()) {
        let answer = proxy.exchange(&(request.clone() + &to("/smuggled"))).await;

        let start: String = request.chars().take(200).collect();
        let (version, rest) = answer.split_at_checked(8).unwrap_or_default();
        let is_expected = rest.starts_with(&format!(" {status} "));
        assert!(is_expected, "{reason} {start:?}: {answer}");
        assert_eq!(
            answer.matches(&format!("{version} ")).count(),
            1,
            "{reason} {start:?}: {answer}"
        );
    }

    let mut client = proxy.connect().await;
    client.send(to("/last")).await;
    let first = upstream.accept().await;
    assert!(first.head.starts_with("GET /last "), "{}", first.head);
}

#[tokio::test]
async fn what_is_only_unusual_passes() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let long = format!("/{}", "a".repeat(8 * 1024 - 1));
    for request in [
        to(&long),
        to("*").replace("GET", "OPTIONS"),
        to("http://a/b?c").replace("GET", "PURGE"),
        to("http://a/").replace("GET", "OPTIONS"),
        to("WSS://a"),
        get(&("X: y\r\n".repeat(98) + "Connection: close")),
        get("Connection: close\r\nContent-Length: 0"),
    ] {
        let mut client = proxy.connect().await;
        client.send(&request).await;

        let mut exchange = upstream.accept().await;
        exchange.answer(&format!("{OK}x")).await;

        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

// RFC 9112 §3.2.2.
#[tokio::test]
async fn a_target_with_an_authority_says_for_which_host_it_is() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(vec![Route {
        host: "a".to_owned(),
        ..upstream.route()
    }]));
    for (target, host, expected) in [
        ("http://a/", "a", "a"),
        ("http://A/", "a", "a"),
        ("http://a:80/", "a", "a"),
        ("http://a/", "a:80", "a:80"),
        ("wss://a:443/", "a", "a"),
        ("ws://a:9000/", "a", "a:9000"),
        ("https://a:80/", "a", "a:80"),
        ("http://a/", "b", "a"),
    ] {
        let plain = to(target).replace("Host: a", &format!("Host: {host}"));
        let line = format!("GET {target} HTTP/1.1");
        let websocket = handshake(&[&line, &format!("Host: {host}")]);
        for request in [plain.replace("1.1", "1.0"), plain, websocket] {
            let mut client = proxy.connect().await;
            client.send(&request).await;

            let mut exchange = upstream.accept().await;

            assert!(exchange.head.starts_with("GET / HTTP/1.1\r\n"));
            assert_eq!(exchange.header("host"), Some(expected), "{request}");
            assert_eq!(exchange.header("x-forwarded-host"), Some(expected));
            exchange.answer(OK).await;
        }
    }

    let answer = proxy.exchange(&to("http://b/")).await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

// RFC 9110 §2.5.
#[tokio::test]
async fn a_later_minor_version_is_treated_as_1_1_both_ways() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for version in ["1.2", "1.9"] {
        for request in [
            post("Connection: close\r\nTransfer-Encoding: chunked"),
            handshake(&[]),
        ] {
            let request = request.replace("HTTP/1.1", &format!("HTTP/{version}"));
            for piece in [1, 7, request.len()] {
                let mut client = proxy.connect().await;
                for piece in request.as_bytes().chunks(piece) {
                    client.send(piece).await;
                    tokio::task::yield_now().await;
                }

                let mut exchange = upstream.accept().await;
                assert!(exchange.head.contains(" HTTP/1.1\r\n"));
                let is_websocket = exchange.header("upgrade").is_some();
                let answer = if is_websocket {
                    SWITCHING_PROTOCOLS
                } else {
                    OK
                };
                let answer = answer.replace("1.1", version) + "\u{1}\u{0}";
                exchange.answer(&answer).await;

                let head = client.read_head().await.unwrap();
                let expected = if is_websocket { "101" } else { "200" };
                assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{head}");
            }
        }
    }
}

// RFC 9112 §7.1.
#[tokio::test]
async fn a_broken_chunk_is_400_and_never_a_whole_body_upstream() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for body in [
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\r\nabcdef\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\n",
        "3\r\nabc\r\n0\r\nA: b\n\n",
    ] {
        let mut client = proxy.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client
            .send(format!("{head}{body}{}", to("/smuggled")))
            .await;

        // Nothing, or the beginning of it.
        let rest = upstream.accept_raw().await.read_to_end().await;
        let answer = client.read_to_end().await;

        assert!(!rest.contains("0\r\n\r\n"), "{body:?}: {rest:?}");
        assert!(!rest.contains("smuggled"), "{body:?}: {rest:?}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
    }
}

// RFC 9112 §7.1.1.
#[tokio::test]
async fn chunk_extensions_do_not_go_on() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for extension in [";a", ";a=b", ";a=\"b;c\""] {
        let mut client = proxy.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client
            .send(format!("{head}3{extension}\r\nabc\r\n0{extension}\r\n\r\n"))
            .await;

        let mut exchange = upstream.accept().await;

        assert_eq!(exchange.stream.read(13).await, b"3\r\nabc\r\n0\r\n\r\n");
    }
}

// RFC 9110 §6.5.1.
#[tokio::test]
async fn forbidden_trailers_are_dropped_in_both_directions() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let names =
        "X-Sum, Host, Content-Length, X-Forwarded-For, Authorization, Set-Cookie, Connection";
    let trailers = "X-Sum: 7\r\nHost: b\r\nContent-Length: 9\r\nX-Forwarded-For: 1.1.1.1\r\n\
        Authorization: x\r\nSet-Cookie: x\r\nConnection: close\r\n";
    let mut client = proxy.connect().await;
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
             Trailer: {names}\r\n\r\n1\r\na\r\n0\r\n{trailers}\r\n"
        ))
        .await;

    let mut exchange = upstream.accept().await;
    let expected = "1\r\na\r\n0\r\nx-sum: 7\r\n\r\n";
    let got = exchange.stream.read(expected.len()).await;
    assert_eq!(String::from_utf8(got).unwrap(), expected);
    assert_eq!(exchange.header("te"), Some("trailers"));
    exchange
        .answer(&format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: {names}\r\n\r\n\
             1\r\na\r\n0\r\n{trailers}\r\n"
        ))
        .await;

    client.read_head().await.unwrap();
    let got = client.read(expected.len()).await;
    assert_eq!(String::from_utf8(got).unwrap(), expected);
}

// RFC 9112 §9.3.2.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send(
            ["/1", "/2", "/3"]
                .map(|target| to(target).replace("close", "x"))
                .concat(),
        )
        .await;

    let mut exchange = upstream.accept().await;
    for number in ["1", "2", "3"] {
        let target = format!("GET /{number} ");
        assert!(exchange.head.starts_with(&target), "{}", exchange.head);
        let answer = OK.replace("ok", &format!("o{number}"));
        exchange.answer(&answer).await;
        client.read_head().await.unwrap();
        assert_eq!(client.read(2).await, format!("o{number}").into_bytes());
        if number != "3" {
            exchange = exchange.stream.read_request().await.unwrap();
        }
    }
}

/// Responses of the upstream, with the reason and the status that the client gets.
fn answers() -> Vec<(&'static str, String, &'static str)> {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
    let chunks = "3\r\nxyz\r\n0\r\n\r\n";
    let interims = |count: usize| "HTTP/1.1 102 Processing\r\n\r\n".repeat(count) + OK;
    vec![
        (
            "length and coding",
            head("Content-Length: 3\r\nTransfer-Encoding: chunked") + chunks,
            "502",
        ),
        (
            "length and coding",
            head("Transfer-Encoding: chunked\r\nContent-Length: 3") + chunks,
            "502",
        ),
        (
            "invalid length",
            head("Content-Length: 3\r\nContent-Length: 4") + "wxyz",
            "502",
        ),
        (
            "invalid length",
            head("Content-Length: 3, 4") + "wxyz",
            "502",
        ),
        ("invalid length", head("Content-Length: -3") + "wxyz", "502"),
        (
            "unsupported coding",
            head("Transfer-Encoding: gzip, chunked") + chunks,
            "502",
        ),
        (
            "unsupported coding",
            head("Transfer-Encoding: gzip") + "xyz",
            "502",
        ),
        (
            "coding in HTTP/1.0",
            head("Transfer-Encoding: chunked").replace("1.1", "1.0") + chunks,
            "502",
        ),
        ("malformed field", head("X: a\0b"), "502"),
        ("malformed field", head("X: a\rb"), "502"),
        ("malformed field", head("X: a\nSet-Cookie: b=c"), "502"),
        ("malformed field", head("X: a\r\n folded"), "502"),
        ("interim responses", interims(11), "502"),
        (
            "upgrade that was not requested",
            head("Upgrade: x\r\nConnection: upgrade").replace("200", "101"),
            "502",
        ),
        (
            "too long",
            head(&format!("X: {}", "x".repeat(500_000))),
            "502",
        ),
        ("too long", head(&"X: x\r\n".repeat(101)), "502"),
        ("not HTTP/1", "SSH-2.0-OpenSSH_9.6\r\n".to_owned(), "502"),
        ("not HTTP/1", "HTTP/2.0 200 OK\r\n\r\n".to_owned(), "502"),
    ]
}

#[tokio::test]
async fn an_ambiguous_answer_is_502_and_its_connection_is_closed() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for (reason, answer, status) in answers() {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let mut exchange = upstream.accept().await;
        exchange.answer(&answer).await;

        let got = client.read_to_end().await;
        let got = got.replace("HTTP/1.1 102 Processing\r\n\r\n", "");
        let start: String = answer.chars().take(100).collect();
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{reason} {start:?}: {got}"
        );
        assert!(!got.contains("xyz"), "{reason} {start:?}: {got}");
        exchange.stream.read_to_end().await;
    }
}

#[tokio::test]
async fn an_answer_may_have_as_long_a_head_as_its_route_says() {
    let upstream = Upstream::listen().await;
    let with = |max_header_bytes, max_headers| {
        let mut route = upstream.route();
        route.http.response_limits = ResponseLimits {
            max_header_bytes,
            max_headers,
        };
        Proxy::start(config(vec![route]))
    };
    let usual = with(64 * 1024, 100);
    let large = with(256 * 1024, 1000);
    let small = with(8 * 1024, 10);
    let long = |kib: usize| "X: ".to_owned() + &"x".repeat(kib * 1024);
    let lines = |count: usize| vec!["X: y"; count].join("\r\n");
    for (name, proxy, lines, expected) in [
        ("usual", &usual, long(60), "200"),
        ("usual", &usual, long(70), "502"),
        ("large", &large, long(250), "200"),
        ("large", &large, long(260), "502"),
        ("small", &small, long(7), "200"),
        ("small", &small, long(9), "502"),
        ("usual", &usual, lines(99), "200"),
        ("usual", &usual, lines(100), "502"),
        ("large", &large, lines(999), "200"),
        ("large", &large, lines(1000), "502"),
        ("small", &small, lines(9), "200"),
        ("small", &small, lines(10), "502"),
    ] {
        let (got, ()) = tokio::join!(proxy.exchange(GET), async {
            let mut exchange = upstream.accept().await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}\r\n\r\nok");
            exchange.answer(&head).await;
        });
        assert_eq!(&got[9..12], expected, "{name} {}", &lines[..9]);
    }
}

// RFC 9110 §15.2.
#[tokio::test]
async fn interim_answers_are_passed_on_before_the_final_one() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.send(GET).await;

    let mut exchange = upstream.accept().await;
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nX: 1\r\n\r\n",
        // It has no body whatever it says (RFC 9112 §6.3), and must not say so (RFC 9110 §8.6).
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    ] {
        exchange.answer(interim).await;
        let got = client.read_head().await.unwrap();
        assert_eq!(got.lines().next(), interim.lines().next());
        assert_eq!(got.contains("Link: </a.css>\r\n"), interim.contains("Link"));
        let got = got.to_lowercase();
        assert!(
            !got.contains("x: 1") && !got.contains("connection") && !got.contains("content-length"),
            "{got}"
        );
    }
    let rest = "HTTP/1.1 102 Processing\r\n\r\n".repeat(6);
    exchange.answer(&(rest + OK)).await;
    for _ in 0..6 {
        let interim = client.read_head().await.unwrap();
        assert!(interim.starts_with("HTTP/1.1 102 "), "{interim}");
    }
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
}

// RFC 9110 §15.2.
#[tokio::test]
async fn a_client_of_http_1_0_gets_no_interim_answer() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.send(GET.replace("/1.1", "/1.0")).await;

    let mut exchange = upstream.accept().await;
    exchange
        .answer(&format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}"
        ))
        .await;

    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
}

// RFC 9112 §6.3, item 8.
#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_relayed_whole() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for (version, expected) in [("/1.1", "3\r\nabc\r\n0\r\n\r\n"), ("/1.0", "abc")] {
        let mut client = proxy.connect().await;
        client.send(GET.replace("/1.1", version)).await;
        let mut exchange = upstream.accept().await;
        exchange.answer("HTTP/1.1 200 OK\r\n\r\nabc").await;
        drop(exchange);

        let answer = client.read_to_end().await;

        assert!(
            answer.ends_with(&format!("\r\n\r\n{expected}")),
            "{answer:?}"
        );
    }
}

// RFC 9110 §7.8.
#[tokio::test]
async fn an_upgrade_to_other_than_websocket_is_stripped() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for lines in [
        "Upgrade: websocket\r\nConnection: close\r\nContent-Length: 3",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AA\r\n\
         Content-Length: 3",
        "Upgrade: TLS/1.0\r\nConnection: Upgrade, close\r\nContent-Length: 3",
    ] {
        let mut client = proxy.connect().await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\nabc"))
            .await;

        let mut exchange = upstream.accept().await;
        assert_eq!(exchange.stream.read(3).await, b"abc");
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(exchange.header(name), None, "{}", exchange.head);
        }
        exchange.answer(&format!("{OK}x")).await;
        assert!(client.read_to_end().await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn nothing_is_served_behind_a_websocket() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.open().await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;
    exchange.stream.send([0x81, 0x00]).await;
    assert_eq!(client.read(2).await, [0x81, 0x00]);
    // A close frame, and a request behind it.
    client.send([0x88, 0x80, 1, 2, 3, 4]).await;
    client.send(to("/smuggled")).await;

    assert_eq!(exchange.stream.read(6).await[..2], [0x88, 0x80]);
    exchange.stream.send([0x88, 0x00]).await;

    assert_eq!(client.read(2).await, [0x88, 0x00]);
    assert_eq!(client.read_to_end().await, "");
    assert_eq!(exchange.stream.read_to_end().await, "");
}

// RFC 9110 §7.6.1; many applications read `a_b` as `a-b`.
#[tokio::test]
async fn hop_by_hop_fields_and_underscores_are_not_forwarded() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: 5\r\nTE: gzip\r\nProxy-Authorization: x\r\n\
             Proxy-Connection: x\r\nUpgrade: x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
             api_key: 1\r\nX_Forwarded_For: 2\r\nB: 1\r\nA: 2\r\nB: 3\r\n\r\n",
        )
        .await;

    let mut exchange = upstream.accept().await;
    let names: Vec<_> = exchange
        .head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| !name.contains("forwarded") && *name != "x-request-id")
        .collect();
    assert_eq!(names, [("host", "a"), ("b", "1"), ("b", "3"), ("a", "2")]);
    let cookies = "Set-Cookie: a=1\r\nX_Y: z\r\nSet-Cookie: b=2\r\n";
    exchange
        .answer(&OK.replace("Content", &format!("{cookies}Content")))
        .await;

    let answer = client.read_to_end().await;
    assert!(
        answer.contains("\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx_y: z\r\n"),
        "{answer}"
    );
}

/// Header values with obs-text (RFC 9110 §5.5): in UTF-8, and in ISO 8859-1.
const OBS_TEXT: [&[u8]; 2] = [b"name=Jos\xc3\xa9; b=\x80\xff", b"name=Jos\xe9"];

/// A head in which `*` stands for this text.
fn with_text(head: &str, text: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = head.split('*').map(str::as_bytes).collect();
    parts.join(text)
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.to_ascii_lowercase()
        .windows(part.len())
        .any(|window| window == part.to_ascii_lowercase())
}

// RFC 9110 §5.5.
#[tokio::test]
async fn values_outside_ascii_pass_byte_for_byte_both_ways() {
    let upstream = Upstream::listen().await;
    for accept in [Accept::Early, Accept::AfterUpstream] {
        let proxy = Proxy::start(config(vec![Route {
            accept,
            ..upstream.route()
        }]));
        for text in OBS_TEXT {
            for request in [
                get("Connection: close\r\nCookie: *"),
                handshake(&["Cookie: *"]),
            ] {
                let mut client = proxy.connect().await;
                client.send(with_text(&request, text)).await;

                let mut connection = upstream.accept_raw().await;
                let head = connection.read_head_bytes().await.unwrap();
                assert!(contains(&head, &with_text("cookie: *\r\n", text)));

                let mut exchange = Exchange {
                    head: String::from_utf8_lossy(&head).into_owned(),
                    stream: connection,
                };
                let is_plain = exchange.header("upgrade").is_none();
                let answer = if is_plain { OK } else { SWITCHING_PROTOCOLS };
                let answer = answer.replacen("\r\n", "\r\nSet-Cookie: *\r\n", 1);
                exchange.answer_bytes(&with_text(&answer, text)).await;
                let head = client.read_head_bytes().await.unwrap();
                let has_cookie = contains(&head, &with_text("set-cookie: *\r\n", text));
                let is_early = !is_plain && accept == Accept::Early;
                assert_eq!(has_cookie, !is_early);
                assert!(!contains(&head, b" 400 "));
            }
        }
    }
}

#[tokio::test]
async fn a_route_may_refuse_values_outside_ascii() {
    let upstream = Reserved::port();
    let mut route = upstream.route();
    route.http.non_ascii = NonAscii::Refuse;
    let proxy = Proxy::start(config(vec![route]));
    for request in [get("X: a\r\nCookie: *"), handshake(&["Cookie: *"])] {
        for text in OBS_TEXT {
            let mut client = proxy.connect().await;
            client.send(with_text(&request, text)).await;

            let answer = client.read_to_end().await;

            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(answer.contains("header value is not ASCII"), "{answer}");
        }
        let mut client = proxy.connect().await;
        client.send(handshake(&["Cookie: a\tb~"])).await;
        let head = client.read_head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
}

#[tokio::test]
async fn a_route_may_let_backslashes_pass() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.passes.encoded_backslash = true;
    let proxy = Proxy::start(config(vec![route.clone()]));
    let target = "/users/DOMAIN%5cname?a=%5C";
    let line = format!("GET {target} HTTP/1.1");
    for request in [to(target), handshake(&[&line])] {
        let mut client = proxy.connect().await;
        client.send(request).await;

        let exchange = upstream.accept().await;
        assert_eq!(exchange.head.lines().next(), Some(&*line));
    }
    for target in ["/a\\b", "/a%5C..%5Cb"] {
        let answer = proxy.exchange(&to(target)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
    }

    route.passes.backslash = true;
    let proxy = Proxy::start(config(vec![route]));
    let mut client = proxy.connect().await;
    client.send(to("/a\\b")).await;
    let exchange = upstream.accept().await;
    assert!(exchange.head.starts_with("GET /a\\b HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_route_may_let_underscores_pass() {
    let upstream = Upstream::listen().await;
    let mut route = upstream.route();
    route.http.underscores = readygate::route::Underscores::Pass;
    let proxy = Proxy::start(config(vec![route]));
    for request in [
        get("api_key: 1\r\nX_Real_IP: 2"),
        handshake(&["api_key: 1", "X_Real_IP: 2"]),
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;

        let exchange = upstream.accept().await;
        assert_eq!(exchange.header("api_key"), Some("1"), "{}", exchange.head);
        assert_eq!(exchange.header("x_real_ip"), None, "{}", exchange.head);
    }
}
