//! The opening handshake against scripted answers; `{accept}` stands for the right key.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const LINES: [&str; 3] = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Accept: {accept}",
];

/// A `101` with the three lines it needs, of which those that start like one of `lines` are
/// replaced, and the rest of `lines` added. An empty replacement removes: `"Upgrade:"`.
fn answer_with(lines: &[&str]) -> String {
    let name = |line: &str| line.split(':').next().map(str::to_owned);
    let kept = LINES
        .iter()
        .filter(|kept| !lines.iter().any(|line| name(line) == name(kept)));
    let added = lines.iter().filter(|line| !line.ends_with(':'));
    let all: Vec<_> = kept.chain(added).copied().collect();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\n{}\r\n\r\n",
        all.join("\r\n")
    )
}

fn request(subprotocol: Option<&str>) -> OpeningRequest {
    let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("example"))]);
    OpeningRequest::new("/chat?room=1", &headers, subprotocol.map(str::to_owned))
}

/// Reads one request head and returns it with its key.
async fn read_request(upstream: &mut DuplexStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(upstream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap()
        .to_owned();
    (head, key)
}

/// Performs a handshake with an upstream that answers `answer` and closes.
async fn perform_with(
    request: &OpeningRequest,
    answer: &str,
) -> Result<Opened<DuplexStream>, AnswerError<DuplexStream>> {
    let switched = switch_with(request, answer).await?;
    Ok(switched.opened)
}

/// The same, with everything that the answer says.
async fn switch_with(
    request: &OpeningRequest,
    answer: &str,
) -> Result<Switched<DuplexStream>, AnswerError<DuplexStream>> {
    let (ours, mut upstream) = duplex(64 * 1024);
    let script = async move {
        let (_, key) = read_request(&mut upstream).await;
        let accept = derive_accept_key(key.as_bytes());
        let answer = answer.replace("{accept}", &accept);
        // Who has read enough of an endless answer closes before all of it is written.
        let _ = upstream.write_all(answer.as_bytes()).await;
    };
    tokio::join!(perform(ours, request), script).0
}

async fn why_broken(request: &OpeningRequest, answer: &str) -> &'static str {
    match perform_with(request, answer).await {
        Err(AnswerError::Broken(Broken(reason))) => reason,
        other => panic!("{answer:?} gave {other:?}"),
    }
}

#[tokio::test]
async fn a_valid_101_opens_and_what_follows_it_is_kept() {
    let answer = answer_with(&[]) + "\u{1}frames";

    let opened = perform_with(&request(None), &answer).await.unwrap();

    assert_eq!(&opened.read_buf[..], b"\x01frames");
}

#[tokio::test]
async fn connection_may_be_a_list_and_case_does_not_matter() {
    let answer = answer_with(&["Upgrade: WebSocket", "Connection: keep-alive, UPGRADE"]);

    perform_with(&request(None), &answer).await.unwrap();
}

#[tokio::test]
async fn a_101_that_arrives_byte_by_byte_opens() {
    let (ours, mut upstream) = duplex(1);
    let script = async move {
        let (_, key) = read_request(&mut upstream).await;
        let accept = derive_accept_key(key.as_bytes());
        let answer = answer_with(&[]).replace("{accept}", &accept);
        upstream.write_all(answer.as_bytes()).await.unwrap();
    };

    let request = request(None);
    let (opened, ()) = tokio::join!(perform(ours, &request), script);

    assert!(opened.unwrap().opened.read_buf.is_empty());
}

#[tokio::test]
async fn nothing_is_written_beyond_the_request() {
    let (ours, mut upstream) = duplex(1024);
    let script = async {
        let (head, key) = read_request(&mut upstream).await;
        let accept = derive_accept_key(key.as_bytes());
        let answer = answer_with(&[]).replace("{accept}", &accept);
        upstream.write_all(answer.as_bytes()).await.unwrap();
        head
    };

    let request = request(None);
    let (opened, head) = tokio::join!(perform(ours, &request), script);

    assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\nhost: example\r\n"));
    drop(opened.unwrap());
    let mut rest = Vec::new();
    upstream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn each_attempt_has_a_fresh_key() {
    let request = request(None);
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (ours, mut upstream) = duplex(1024);
        let (_, (_, key)) = tokio::join!(
            async {
                // Ends when the upstream closes after it has read the request.
                perform(ours, &request).await.unwrap_err()
            },
            async move { read_request(&mut upstream).await }
        );
        assert!(crate::websocket::handshake::is_key(key.as_bytes()));
        keys.push(key);
    }

    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_101_that_is_not_one_is_broken() {
    let cases: &[(&[&str], &str)] = &[
        (&["Sec-WebSocket-Accept:"], "wrong Sec-WebSocket-Accept"),
        (
            &["Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
            "wrong Sec-WebSocket-Accept",
        ),
        (
            &[
                "Sec-WebSocket-Accept: {accept}",
                "Sec-WebSocket-Accept: {accept}",
            ],
            "header twice",
        ),
        (&["Upgrade:"], "Upgrade is not websocket"),
        (&["Upgrade: h2c"], "Upgrade is not websocket"),
        (&["Upgrade: websocket, h2c"], "Upgrade is not websocket"),
        (
            &["Upgrade: websocket", "Upgrade: websocket"],
            "header twice",
        ),
        (&["Connection:"], "Connection does not say upgrade"),
        (&["Connection: close"], "Connection does not say upgrade"),
        (&["Content-Length: 5"], "has a body"),
        (&["Content-Length: 0", "Content-Length: 5"], "has a body"),
        (&["Content-Length: 00x"], "has a body"),
        (
            &["Sec-WebSocket-Extensions: permessage-deflate"],
            "extension that was not offered",
        ),
    ];

    for (lines, reason) in cases {
        let answer = answer_with(lines);
        assert_eq!(
            why_broken(&request(None), &answer).await,
            *reason,
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn a_101_ends_at_its_empty_line_whatever_its_headers_say() {
    let cases: [&[&str]; 5] = [
        &["Content-Length: 0"],
        &["Content-Length: 0", "Content-Length: 000"],
        &["Transfer-Encoding: chunked"],
        &["Transfer-Encoding: gzip, chunked"],
        &["Transfer-Encoding: chunked", "Content-Length: 0"],
    ];
    for lines in cases {
        for request in [request(None), asking()] {
            let answer = answer_with(lines) + "0\r\n\r\nframes";

            let opened = perform_with(&request, &answer).await.unwrap();

            assert_eq!(&opened.read_buf[..], b"0\r\n\r\nframes", "{lines:?}");
        }
    }
}

async fn why_mismatched(request: &OpeningRequest, answer: &str) -> Mismatch {
    match perform_with(request, answer).await {
        Err(AnswerError::Subprotocol(mismatch)) => mismatch,
        other => panic!("{answer:?} gave {other:?}"),
    }
}

/// A request for a client that was told the first of its offers.
fn offering(offers: &[&str]) -> OpeningRequest {
    let line = HeaderValue::from_str(&offers.join(" ,\t")).unwrap();
    let headers = HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, line)]);
    let told = offers.first().map(ToString::to_string);
    OpeningRequest::new("/chat?room=1", &headers, told)
}

#[tokio::test]
async fn the_upstream_must_choose_what_the_client_was_told_or_none() {
    let request = offering(&["chat", "other"]);
    let named = |name: &str| answer_with(&[&format!("Sec-WebSocket-Protocol: {name}")]);
    let terms = async |answer: &str| switch_with(&request, answer).await.unwrap().terms;

    assert_eq!(
        terms(&named("chat")).await.subprotocol.as_deref(),
        Some("chat")
    );
    assert_eq!(terms(&answer_with(&[])).await, Terms::default());
    assert_eq!(terms(&named(" ")).await, Terms::default());

    for (chosen, is_offered) in [("other", true), ("Chat", false), ("chat, other", false)] {
        let mismatch = why_mismatched(&request, &named(chosen)).await;
        let expected = Mismatch {
            told: Some("chat".to_owned()),
            chosen: chosen.to_owned(),
            is_offered,
        };
        assert_eq!(mismatch, expected);
    }
    let twice = answer_with(&[
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Protocol: chat",
    ]);
    assert_eq!(why_broken(&request, &twice).await, "header twice");
    assert!(
        !why_mismatched(&offering(&[]), &named("chat"))
            .await
            .is_offered
    );
}

#[tokio::test]
async fn a_mismatch_names_both_but_no_token() {
    let answer = answer_with(&["Sec-WebSocket-Protocol: b"]);
    let told = why_mismatched(&offering(&["a", "b"]), &answer).await;
    assert_eq!(
        told.to_string(),
        "upstream chose the subprotocol \"b\", and the client was told \"a\""
    );
    let not_offered = why_mismatched(&offering(&["a"]), &answer).await;
    assert_eq!(
        not_offered.to_string(),
        "upstream chose the subprotocol \"b\", which the client did not offer"
    );
    let token = "jwt.eyJhbGciOiJIUzI1NiJ9";
    let answer = answer_with(&[&format!("Sec-WebSocket-Protocol: {token}")]);
    let told_none = why_mismatched(&offering(&["a", token]).told(Terms::default()), &answer).await;
    assert_eq!(
        told_none.to_string(),
        "upstream chose the subprotocol a token of 24 characters, and the client was told none"
    );
}

#[test]
fn what_was_asked_for_can_be_read_from_the_request() {
    let request = offering(&["a", "b"]).behind(b"PROXY TCP4\r\nCookie: no\r\n");

    assert_eq!(request.target(), "/chat?room=1");
    assert!(request.offers().eq(["a", "b"]));
    let upgrade: Vec<_> = request.values_of(&header::UPGRADE).collect();
    assert_eq!(upgrade, [b"websocket"]);
    assert_eq!(request.values_of(&header::COOKIE).count(), 0);
}

#[tokio::test]
async fn http_1_0_and_bare_line_feeds_are_broken() {
    let http_1_0 = answer_with(&[]).replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(why_broken(&request(None), &http_1_0).await, "not HTTP/1.1");

    let bare_everywhere = answer_with(&[]).replace("\r\n", "\n");
    assert_eq!(
        why_broken(&request(None), &bare_everywhere).await,
        "bare line feed"
    );

    let bare_once = answer_with(&[]).replacen("\r\n", "\n", 1);
    assert_eq!(
        why_broken(&request(None), &bare_once).await,
        "bare line feed"
    );
}

#[tokio::test]
async fn interim_answers_are_skipped_up_to_a_number() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";

    perform_with(&request(None), &(interim.repeat(5) + &answer_with(&[])))
        .await
        .unwrap();

    let answer = interim.repeat(6) + &answer_with(&[]);
    assert_eq!(
        why_broken(&request(None), &answer).await,
        "too many interim responses"
    );
}

#[tokio::test]
async fn any_other_status_is_a_refusal() {
    for status in [200, 302, 400, 401, 403, 404, 426, 500, 503] {
        let answer = format!(
            "HTTP/1.1 {status} x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Content-Length: 4\r\n\r\nbody"
        );

        let refusal = perform_with(&request(None), &answer).await;

        assert!(
            matches!(&refusal, Err(AnswerError::Refused(got)) if got.status == status),
            "{status} gave {refusal:?}"
        );
    }
}

#[tokio::test]
async fn what_is_not_http_is_broken_at_its_first_bytes() {
    for gibberish in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}\u{28}",
        "220 mail ready\r\n",
        "HTTP/2 101\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
    ] {
        assert_eq!(why_broken(&request(None), gibberish).await, "not HTTP");
    }
}

#[tokio::test]
async fn an_endless_head_is_broken_at_the_limit() {
    let endless = "HTTP/1.1 101 x\r\nx: ".to_owned() + &"x".repeat(128 * 1024);

    assert_eq!(
        why_broken(&request(None), &endless).await,
        "header section too large"
    );
}

#[tokio::test]
async fn an_answer_may_be_as_long_as_the_route_says() {
    let limits = |max_header_bytes, max_headers| ResponseLimits {
        max_header_bytes,
        max_headers,
    };
    let usual = ResponseLimits::default();
    let long = "X: ".to_owned() + &"x".repeat(60 * 1024);
    let longer = "X: ".to_owned() + &"x".repeat(70 * 1024);
    let lines = |count: usize| vec!["X: y"; count].join("\r\n");
    for (lines, limits, broken) in [
        (&long, usual, None),
        (&longer, usual, Some("header section too large")),
        (&longer, limits(128 * 1024, 100), None),
        (
            &long,
            limits(8 * 1024, 100),
            Some("header section too large"),
        ),
        (&lines(97), usual, None),
        (&lines(98), usual, Some("too many headers")),
        (&lines(497), limits(64 * 1024, 500), None),
        (
            &lines(498),
            limits(64 * 1024, 500),
            Some("too many headers"),
        ),
        (&lines(7), limits(64 * 1024, 10), None),
        (&lines(8), limits(64 * 1024, 10), Some("too many headers")),
    ] {
        let request = request(None).within(limits);
        let answer = answer_with(&[lines]);
        match broken {
            None => assert!(perform_with(&request, &answer).await.is_ok(), "{limits:?}"),
            Some(reason) => assert_eq!(why_broken(&request, &answer).await, reason, "{limits:?}"),
        }
    }
}

#[tokio::test]
async fn an_end_before_the_answer_is_complete_is_a_lost_connection() {
    for partial in [
        "",
        "HTTP/1.1 1",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: w",
    ] {
        let lost = perform_with(&request(None), partial).await;

        assert!(matches!(lost, Err(AnswerError::Lost(_))), "{lost:?}");
    }
}

/// A request for a client that offers subprotocols and one way to compress.
fn asking() -> OpeningRequest {
    let offers = HeaderValue::from_static("a, b");
    let headers = HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, offers)]);
    let compression = Offer {
        client_max_window_bits: Some(None),
        ..Offer::default()
    };
    OpeningRequest::asking("/", &headers, vec![compression])
}

#[tokio::test]
async fn offers_are_passed_on_and_the_choice_is_returned() {
    let (ours, mut upstream) = duplex(1024);
    let request = asking();
    let performing = perform(ours, &request);
    let head = tokio::select! {
        _ = performing => unreachable!("nobody answers"),
        (head, _) = read_request(&mut upstream) => head,
    };
    let offer = "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    assert!(head.contains(offer), "{head}");

    let answer = answer_with(&[
        "Sec-WebSocket-Protocol: b",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10",
        "Set-Cookie: a=b",
    ]);
    let switched = switch_with(&asking(), &answer).await.unwrap();
    let compression = Agreement {
        client_max_window_bits: Some(10),
        ..Agreement::default()
    };
    let terms = Terms {
        subprotocol: Some("b".to_owned()),
        compression: Some(compression),
    };
    assert_eq!(switched.terms, terms);
    assert_eq!(switched.headers[header::SET_COOKIE], "a=b");

    let switched = switch_with(&asking(), &answer_with(&[])).await.unwrap();
    assert_eq!(switched.terms, Terms::default());

    // Once the client has been told, every other choice is broken, but for no subprotocol.
    let told = asking().told(terms);
    switch_with(&told, &answer).await.unwrap();
    let other_extension = answer_with(&[
        "Sec-WebSocket-Protocol: b",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ]);
    for answer in [
        answer_with(&[]),
        answer_with(&["Sec-WebSocket-Protocol: b"]),
        other_extension,
    ] {
        why_broken(&told, &answer).await;
    }
    why_mismatched(&told, &answer.replace("Protocol: b", "Protocol: a")).await;
    let without = answer.replace("Sec-WebSocket-Protocol: b\r\n", "");
    let terms = switch_with(&told, &without).await.unwrap().terms;
    assert_eq!(
        (terms.subprotocol, terms.compression),
        (None, Some(compression))
    );
}

#[tokio::test]
async fn a_choice_that_was_not_offered_is_broken() {
    for (line, reason) in [
        (
            "Sec-WebSocket-Extensions: x-other",
            "extension that was not offered",
        ),
        (
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99",
            "illegal permessage-deflate parameter",
        ),
        (
            "Sec-WebSocket-Extensions: permessage-deflate;",
            "malformed extensions",
        ),
    ] {
        assert_eq!(why_broken(&asking(), &answer_with(&[line])).await, reason);
    }
    let answer = answer_with(&["Sec-WebSocket-Protocol: c"]);
    assert!(!why_mismatched(&asking(), &answer).await.is_offered);
}

#[tokio::test]
async fn a_refusal_is_kept_from_its_first_byte_on() {
    let refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\nwho";
    let answer = format!("HTTP/1.1 103 Early Hints\r\n\r\n{refusal} are");

    let Err(AnswerError::Refused(mut refused)) = switch_with(&asking(), &answer).await else {
        panic!("a 401 is a refusal");
    };

    let mut whole = refused.answer.read_buf.to_vec();
    refused.answer.stream.read_to_end(&mut whole).await.unwrap();
    assert_eq!(String::from_utf8(whole).unwrap(), format!("{refusal} are"));
}
