//! Backends that send messages and close before they are ready, as many do while they boot.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use readygate::session::{
    Report, Settings,
    ledger::Account,
    rules::{Release, Rule, Rules},
    state::SessionState,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::sleep,
};

use crate::{scene::*, support::*};

/// Close codes by which a backend requests a reconnect.
const RESTARTS: [u16; 3] = [1001, 1012, 1013];

/// A session whose client has sent `held`, and whose first backend has sent `words`.
async fn greet(settings: Settings, words: &[u8]) -> (Running, DuplexStream) {
    let mut running = start(settings);
    let held = client_frame(0x81, b"held");
    write(&mut running.client, &held, Segments::Whole).await;
    let first = running.upstream.connect(words);
    sleep(TICK).await;
    (running, first)
}

/// Checks that the next backend gets what is held, and the client its ready message.
async fn check_next(mut running: Running, client_has: &[u8]) -> Report {
    let mut next = running.upstream.connect(&server_frame(0x81, b"ready"));
    assert_eq!(read_frame(&mut next).await.payload, b"held");
    let expected = [client_has, &server_frame(0x81, b"ready")].concat();
    let mut got = vec![0; expected.len()];
    running.client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected);

    let close = client_close(1000, "");
    write(&mut running.client, &close, Segments::Whole).await;
    let close = server_close(1000, "");
    write(&mut next, &close, Segments::Whole).await;
    drop(next);
    drop(running.client);
    let report = running.report.await.unwrap();
    assert_eq!(report.attempts, 2);
    assert_eq!(report.ledger.of(Account::Delivered), 1);
    assert!(report.trail.entered(SessionState::Reconnecting).is_some());
    report
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_greets_and_dies_is_replaced_by_the_next() {
    local(async {
        let hello = server_frame(0x81, b"hello");
        let (running, first) = greet(gated(), &hello).await;
        drop(first);

        check_next(running, &hello).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_restarts_is_answered_and_replaced() {
    local(async {
        for code in RESTARTS {
            for segments in SEGMENTS {
                let hello = server_frame(0x81, b"hello");
                let (running, mut first) = greet(gated(), &hello).await;
                write(&mut first, &server_close(code, "again"), segments).await;
                let heard = Frame::all(&read_to_end(&mut first).await);
                assert_eq!((heard.len(), Told::close(&heard).0), (1, code));

                check_next(running, &hello).await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_restarts_while_the_gate_settles_is_replaced() {
    local(async {
        let mut settings = gated();
        settings.gate.settle = Duration::from_millis(500);
        let ready = server_frame(0x81, b"ready");
        let (running, mut first) = greet(settings, &ready).await;
        let close = server_close(1012, "not yet");
        write(&mut first, &close, Segments::Whole).await;

        check_next(running, &ready).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_client_gets_the_last_restart_s_words() {
    local(async {
        for is_connected in [false, true] {
            let (mut running, mut first) = greet(gated(), b"").await;
            for (code, reason) in [(1013, "busy"), (1012, "restarting")] {
                let close = server_close(code, reason);
                write(&mut first, &close, Segments::Whole).await;
                first = running.upstream.connect(b"");
                sleep(TICK).await;
            }
            if !is_connected {
                // Lost without another word.
                drop(first);
            }

            let got = Frame::all(&read_to_end(&mut running.client).await);

            assert_eq!(Told::close(&got), (1012, "restarting".to_owned()));
            drop(running.client);
            let report = running.report.await.unwrap();
            let name = ["upstream_unreachable", "ready_timeout"][usize::from(is_connected)];
            assert_eq!(report.cause.name(), name);
            assert_eq!(report.client_code.unwrap().get(), 1012);
            assert_eq!(report.ledger.of(Account::Discarded), 1);
            let deadline = Some(Duration::from_secs(30));
            assert_eq!(report.trail.entered(SessionState::Closing), deadline);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_a_backend_that_only_died_is_1013() {
    local(async {
        let hello = server_frame(0x81, b"hello");
        let (mut running, first) = greet(gated(), &hello).await;
        drop(first);

        let got = Frame::all(&read_to_end(&mut running.client).await);

        let reason = "upstream_unreachable; 1 message not delivered";
        assert_eq!(Told::close(&got), (1013, reason.to_owned()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_an_answer_is_relayed_at_once() {
    local(async {
        for code in [1000, 1002, 1003, 1007, 1008, 1011, 1014, 3000, 4001] {
            let (mut running, mut first) = greet(gated(), b"").await;
            let _next = running.upstream.connect(b"");
            let close = server_close(code, "answer");
            write(&mut first, &close, Segments::Whole).await;

            let got = Frame::all(&read_to_end(&mut running.client).await);

            assert_eq!(Told::close(&got), (code, "answer".to_owned()));
            drop(running.client);
            assert_eq!(running.report.await.unwrap().attempts, 1, "{code}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_client_has_half_of_is_not_begun_again() {
    local(async {
        let fragment = server_frame(0x01, b"ha");
        for close in [None, Some(server_close(1012, "again"))] {
            let (mut running, mut first) = greet(gated(), &fragment).await;
            let _next = running.upstream.connect(b"");
            if let Some(close) = &close {
                first.write_all(close).await.unwrap();
            }
            drop(first);

            let got = read_to_end(&mut running.client).await;

            let frames = Frame::all(&got);
            assert_eq!(frames[0].content(), (0x01, &b"ha"[..]));
            let code = if close.is_some() { 1012 } else { 1014 };
            assert_eq!(Told::close(&frames).0, code);
            drop(running.client);
            assert_eq!(running.report.await.unwrap().attempts, 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn half_of_a_withheld_message_is_forgotten_with_its_backend() {
    local(async {
        let mut settings = gated();
        settings.gate.forward_ready = false;
        let (mut running, first) = greet(settings, &server_frame(0x01, b"rea")).await;
        drop(first);

        let mut next = running.upstream.connect(&server_frame(0x81, b"ready"));
        assert_eq!(read_frame(&mut next).await.payload, b"held");
        let data = server_frame(0x81, b"data");
        write(&mut next, &data, Segments::Whole).await;

        let mut got = vec![0; data.len()];
        running.client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, data);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn half_a_message_does_not_matter_once_the_client_has_left() {
    local(async {
        for half in [&server_frame(0x01, b"ha")[..], b"\x81\x05ha"] {
            let (mut running, first) = greet(gated(), half).await;
            let close = client_close(1000, "");
            write(&mut running.client, &close, Segments::Whole).await;
            drop(first);

            let mut next = running.upstream.connect(&server_frame(0x81, b"ready"));

            assert_eq!(read_frame(&mut next).await.payload, b"held");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_has_gone_to_a_backend_is_not_said_again_to_the_next() {
    local(async {
        for code in RESTARTS {
            let mut settings = gated();
            settings.rules = Rules::new(vec![Rule {
                matchers: vec![readygate::matcher::Matcher::Text("ack".to_owned())],
                priority: <_>::default(),
                release: Release::Authenticated,
            }]);
            let (mut running, mut first) = greet(settings, b"").await;
            let ack = client_frame(0x81, b"ack");
            write(&mut running.client, &ack, Segments::Whole).await;
            assert_eq!(read_frame(&mut first).await.payload, b"ack");
            let _next = running.upstream.connect(b"");

            let close = server_close(code, "again");
            write(&mut first, &close, Segments::Whole).await;

            let got = Frame::all(&read_to_end(&mut running.client).await);
            assert_eq!(Told::close(&got), (code, "again".to_owned()));
            drop(running.client);
            assert_eq!(running.report.await.unwrap().attempts, 1);
        }
    })
    .await;
}
