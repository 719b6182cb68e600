//! Heads and bodies that can be read in one way, and those that cannot.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Returns the verdicts on all requests in `input`, which arrives in pieces of `piece` bytes.
fn verdicts(input: &str, piece: usize) -> Vec<Verdict> {
    let mut framing = Framing::new(1024, 100);
    for piece in input.to_owned().into_bytes().chunks_mut(piece) {
        framing.watch(piece);
    }
    framing
        .verdicts
        .into_iter()
        .map(|(verdict, _)| verdict)
        .collect()
}

fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn each_request_of_a_pipeline_gets_its_verdict_in_any_pieces() {
    let pipeline = [
        "\r\n",
        GET,
        &with("Content-Length: 5\r\n"),
        "G\n\r\n\n",
        &with("Transfer-Encoding: chunked\r\n"),
        "5;name=\"value\"\r\nGET /\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
        &with("Content-Length: 0\r\n"),
        GET,
        "GET / HTTP/1.1\nHost: a\n\n",
        GET,
    ]
    .concat();
    let expected = [
        Ok(()),
        Ok(()),
        Ok(()),
        Ok(()),
        Ok(()),
        Err(Flaw::Malformed("bare line feed")),
    ];

    for piece in 1..pipeline.len() {
        assert_eq!(verdicts(&pipeline, piece), expected, "pieces of {piece}");
    }
}

#[test]
fn a_head_that_can_be_read_in_two_ways_is_refused() {
    for lines in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ] {
        let verdicts = verdicts(&with(lines), 7);

        assert!(matches!(verdicts[..], [Err(_)]), "{lines:?}: {verdicts:?}");
    }
    for target in ["/a#b", "/\u{e9}"] {
        let verdicts = verdicts(&GET.replace('/', target), 7);
        assert!(matches!(verdicts[..], [Err(_)]), "{target}: {verdicts:?}");
    }
    assert!(verdicts(&with("A: \u{e9}\r\n"), 7)[0].is_ok());
    assert!(verdicts(&with("A: a\tb ~!\r\n"), 7)[0].is_ok());
}

#[test]
fn a_target_may_be_long_but_not_too_long() {
    let verdict = |bytes: usize| {
        let mut framing = Framing::new(1024 * 1024, 8192);
        let target = format!("/{}", "a".repeat(bytes - 1));
        framing.watch(&mut GET.replacen('/', &target, 1).into_bytes());
        framing.next_verdict()
    };

    assert_eq!(verdict(8192), Ok(()));
    assert_eq!(verdict(8192 + 1), Err(Flaw::TargetTooLong));
}

#[test]
fn nothing_after_a_broken_chunk_is_taken_for_a_request() {
    for body in [
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "\r\n",
    ] {
        let input = with("Transfer-Encoding: chunked\r\n") + body + GET;

        let mut framing = Framing::new(1024, 100);
        framing.watch(&mut input.into_bytes());

        assert_eq!(framing.verdicts.len(), 1, "{body:?}");
        assert_eq!(framing.next_verdict(), Ok(()), "{body:?}");
        assert!(framing.is_body_broken().get(), "{body:?}");
    }
}

#[test]
fn a_request_without_a_verdict_is_refused() {
    assert!(Framing::new(1024, 100).next_verdict().is_err());
}

#[test]
fn no_more_than_the_longest_head_is_kept() {
    let mut framing = Framing::new(1024, 100);
    for _ in 0..1025 {
        framing.watch(&mut [b'x']);
    }

    assert_eq!(framing.position, Position::Lost);
    assert_eq!(framing.partial.capacity(), 0);
}

#[test]
fn a_later_minor_version_becomes_1_1_however_it_is_split() {
    for (version, expected) in [
        ("1.1", "1.1"),
        ("1.0", "1.0"),
        ("1.2", "1.1"),
        ("1.9", "1.1"),
        ("2.0", "2.0"),
        ("1.a", "1.a"),
    ] {
        let post = with("A: b HTTP/1.2\r\nContent-Length: 9\r\n") + " HTTP/1.2";
        let pipeline = (post + GET).replace("/ HTTP/1.1", &format!("/ HTTP/{version}"));
        for piece in 1..=pipeline.len() {
            let mut framing = Framing::new(1024, 100);
            let mut bytes = pipeline.clone().into_bytes();
            for piece in bytes.chunks_mut(piece) {
                framing.watch(piece);
            }

            let read =
                pipeline.replace(&format!("/ HTTP/{version}"), &format!("/ HTTP/{expected}"));
            let is_legal = expected.starts_with("1.") && expected != "1.a";
            let read = if is_legal { read } else { pipeline.clone() };
            assert_eq!(String::from_utf8(bytes).unwrap(), read, "{piece}");
            assert_eq!(framing.verdicts.len(), if is_legal { 2 } else { 1 });
            assert_eq!(framing.verdicts[0].0.is_ok(), is_legal, "{version} {piece}");
        }
    }
}

#[test]
fn a_coding_is_unknown_only_where_the_body_has_an_end() {
    let verdict = |codings: &str| {
        let lines = format!("Transfer-Encoding: {codings}\r\n");
        verdicts(&with(&lines), 1000)[0]
    };

    for unknown in [
        "gzip, chunked",
        "gzip\r\nTransfer-Encoding:Chunked",
        "a;b=c ,\tchunked",
    ] {
        assert_eq!(verdict(unknown), Err(Flaw::UnknownCoding), "{unknown}");
    }
    for broken in [
        "gzip",
        "chunked, gzip",
        "chunked, chunked",
        ", chunked",
        "gzip, chunked,",
        "",
    ] {
        assert!(
            matches!(verdict(broken), Err(Flaw::Malformed(_))),
            "{broken}"
        );
    }
}

#[test]
fn the_spelling_of_a_head_that_asks_for_an_upgrade_is_kept() {
    let pipeline = with("x-B: 1\r\n") + &with("x-A: 1\r\nUPGRADE: websocket\r\n") + GET;
    for piece in [1, 7, pipeline.len()] {
        let mut framing = Framing::new(1024, 100);
        for piece in pipeline.clone().into_bytes().chunks_mut(piece) {
            framing.watch(piece);
        }

        for names in [&[][..], &["Host", "x-A"], &[]] {
            framing.next_verdict().unwrap();
            let names = names.iter().copied();
            assert_eq!(framing.take_spelling(), Spelling::of(&names));
        }
    }
}
