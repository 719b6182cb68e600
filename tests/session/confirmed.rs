//! Evidence by which the ledger counts a message as read by the upstream.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use readygate::{
    matcher::Matcher,
    session::{
        Report, Settings,
        ledger::Account,
        rules::{Priority, Release, Rule, Rules},
    },
};
use tokio::{io::AsyncWriteExt, io::DuplexStream, time::sleep};

use crate::{scene::*, support::*};

/// A session in its tunnel, whose upstream has got a message.
async fn tunnel(settings: Settings) -> (Running, DuplexStream) {
    let mut running = start(settings);
    let mut upstream = running.upstream.connect(b"");
    sleep(TICK).await;
    tell(&mut running, &mut upstream).await;
    (running, upstream)
}

/// The client says something, and the upstream reads it.
async fn tell(running: &mut Running, upstream: &mut DuplexStream) {
    let message = client_frame(0x81, b"message");
    write(&mut running.client, &message, Segments::Whole).await;
    assert_eq!(read_frame(upstream).await.payload, b"message");
}

/// Returns the delivered and the unconfirmed messages.
fn known(running: &Running) -> (u64, u64) {
    let ledger = running.record.ledger();
    assert_eq!(ledger.held(), 0);
    (ledger.of(Account::Delivered), ledger.unconfirmed())
}

/// Returns the delivered and the unknown messages at the end.
fn known_at_end(report: &Report) -> (u64, u64) {
    let ledger = report.ledger;
    assert_eq!((ledger.held(), ledger.unconfirmed()), (0, 0));
    assert_eq!(ledger.of(Account::Discarded), 0);
    (ledger.of(Account::Delivered), ledger.of(Account::Unknown))
}

#[tokio::test(start_paused = true)]
async fn data_confirms_what_was_written_before_it_came() {
    local(async {
        let (mut running, mut upstream) = tunnel(Settings::default()).await;
        assert_eq!(known(&running), (0, 1));

        let first_half = server_frame(0x01, b"ans");
        write(&mut upstream, &first_half, Segments::Whole).await;
        assert_eq!(known(&running), (0, 1), "not before its end");
        write(&mut upstream, &server_frame(0x80, b"wer"), Segments::Whole).await;
        assert_eq!(known(&running), (1, 0));

        // What had come before a message was written says nothing of it.
        let news = server_frame(0x81, b"news");
        upstream.write_all(&news).await.unwrap();
        tell(&mut running, &mut upstream).await;
        assert_eq!(known(&running), (1, 1));
        write(&mut upstream, &news, Segments::Bytes).await;
        assert_eq!(known(&running), (2, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_and_pongs_of_the_upstream_s_own_confirm_nothing() {
    local(async {
        let mut settings = Settings::default();
        settings.tunnel.ping_interval = Some(Duration::from_secs(20));
        let (running, mut upstream) = tunnel(settings).await;

        let own = [server_frame(0x89, b"ping"), server_frame(0x8a, b"pong")];
        write(&mut upstream, &own.concat(), Segments::Whole).await;
        assert_eq!(known(&running), (0, 1));

        let ping = read_frame(&mut upstream).await;
        let answer = server_frame(0x8a, &ping.payload);
        write(&mut upstream, &answer, Segments::Bytes).await;
        assert_eq!(known(&running), (1, 0), "it answers the proxy's ping");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_of_the_upstream_s_own_confirms_only_if_all_is_well() {
    local(async {
        let codes = (1000..=1003).chain(1007..=1014).chain([3000, 4001, 4999]);
        for code in codes {
            let (mut running, mut upstream) = tunnel(Settings::default()).await;
            let close = server_close(code, "done");
            upstream.write_all(&close).await.unwrap();
            write(
                &mut running.client,
                &client_close(code, ""),
                Segments::Whole,
            )
            .await;
            drop(upstream);
            drop(running.client);

            let is_well = code == 1000 || code >= 3000;
            let expected = if is_well { (1, 0) } else { (0, 1) };
            let report = running.report.await.unwrap();
            assert_eq!(known_at_end(&report), expected, "{code}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_received_before_a_message_does_not_confirm_it() {
    local(async {
        let (mut running, mut upstream) = tunnel(Settings::default()).await;
        let message = client_frame(0x81, b"too late");
        running.client.write_all(&message).await.unwrap();
        write(&mut upstream, &server_close(1000, ""), Segments::Whole).await;
        write(
            &mut running.client,
            &client_close(1000, ""),
            Segments::Whole,
        )
        .await;
        drop(upstream);
        drop(running.client);

        assert_eq!(known_at_end(&running.report.await.unwrap()), (1, 1));
    })
    .await;
}

/// Returns the delivered and unknown messages of a client that sends two and closes with `code`, to
/// which the upstream sends `answer`.
async fn answered(code: u16, answer: &[u8]) -> (u64, u64) {
    let (mut running, mut upstream) = tunnel(Settings::default()).await;
    let last = [client_frame(0x81, b"last"), client_close(code, "")].concat();
    write(&mut running.client, &last, Segments::Whole).await;
    write(&mut upstream, answer, Segments::Whole).await;
    drop(upstream);
    drop(running.client);
    known_at_end(&running.report.await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_echo_of_a_close_confirms_everything_whatever_its_code() {
    local(async {
        for code in [1000, 1001, 1011, 1012, 4001] {
            for echo in [server_close(code, ""), server_frame(0x88, b"")] {
                assert_eq!(answered(code, &echo).await, (2, 0), "{code}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_close_than_the_echo_confirms_only_if_all_is_well() {
    local(async {
        for code in [1000, 1001, 4001] {
            for well in [1000, 3000, 4999] {
                let answer = server_close(well, "");
                assert_eq!(answered(code, &answer).await, (2, 0), "{code}, {well}");
            }
            // Its own end, that is, which had nothing to do with the client's.
            for ill in [1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014] {
                let answer = server_close(ill, "");
                assert_eq!(answered(code, &answer).await, (0, 2), "{code}, {ill}");
            }
        }
        let going = server_close(1001, "");
        assert_eq!(answered(1000, &going).await, (0, 2));
    })
    .await;
}

/// Settings that pass on what the client says before the upstream is ready.
fn releasing() -> Settings {
    let mut settings = gated();
    settings.rules = Rules::new(vec![Rule {
        matchers: vec![Matcher::Text("message".to_owned())],
        priority: Priority::Normal,
        release: Release::Authenticated,
    }]);
    settings
}

/// Messages of an upstream, each cut where it has begun.
fn cut_messages() -> [(Vec<u8>, Vec<u8>); 4] {
    let whole = server_frame(0x81, &[b'x'; 120]);
    let cut = |at: usize| (whole[..at].to_vec(), whole[at..].to_vec());
    let fragments = (server_frame(0x01, b"x"), server_frame(0x80, b"y"));
    [fragments, cut(1), cut(4), cut(60)]
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_message_confirms_nothing_written_after_it_began() {
    local(async {
        for settings in [releasing(), Settings::default()] {
            for (begun, rest) in cut_messages() {
                let mut running = start(settings.clone());
                let mut upstream = running.upstream.connect(b"");
                sleep(TICK).await;
                write(&mut upstream, &begun, Segments::Whole).await;
                tell(&mut running, &mut upstream).await;
                sleep(TICK).await;
                write(&mut upstream, &rest, Segments::Bytes).await;
                assert_eq!(known(&running), (0, 1), "{}", begun.len());

                // The next message has begun when that was written.
                write(&mut upstream, &begun, Segments::Whole).await;
                write(&mut upstream, &rest, Segments::Whole).await;
                assert_eq!(known(&running), (1, 0), "{}", begun.len());

                write(&mut upstream, &begun, Segments::Whole).await;
                tell(&mut running, &mut upstream).await;
                drop(upstream);
                drop(running.client);
                assert_eq!(known_at_end(&running.report.await.unwrap()), (1, 1));
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_while_closing_confirms_nothing_newer() {
    local(async {
        for (begun, rest) in cut_messages() {
            let mut running = start(Settings::default());
            let mut upstream = running.upstream.connect(b"");
            sleep(TICK).await;
            write(&mut upstream, &begun, Segments::Whole).await;
            tell(&mut running, &mut upstream).await;
            let close = client_close(1001, "");
            write(&mut running.client, &close, Segments::Whole).await;
            write(&mut upstream, &rest, Segments::Whole).await;
            drop(upstream);
            drop(running.client);

            let report = running.report.await.unwrap();
            assert_eq!(known_at_end(&report), (0, 1), "{}", begun.len());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_the_close_of_a_drain_confirms_everything() {
    local(async {
        for is_crossing in [false, true] {
            let (mut running, mut upstream) = tunnel(Settings::default()).await;
            let close = server_close(1001, "");
            if is_crossing {
                // It goes away at the same time: this is no answer.
                upstream.write_all(&close).await.unwrap();
            }
            running.drain.begin();
            assert_eq!(read_frame(&mut upstream).await.first, 0x88);
            write(&mut upstream, &close, Segments::Whole).await;
            write(
                &mut running.client,
                &client_close(1001, ""),
                Segments::Whole,
            )
            .await;
            drop(upstream);
            drop(running.client);

            let expected = if is_crossing { (0, 1) } else { (1, 0) };
            assert_eq!(known_at_end(&running.report.await.unwrap()), expected);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_goes_without_an_answer_leaves_it_unknown() {
    local(async {
        for is_cut_off in [false, true] {
            let (mut running, upstream) = tunnel(Settings::default()).await;
            write(
                &mut running.client,
                &client_close(1000, ""),
                Segments::Whole,
            )
            .await;
            let kept = is_cut_off.then_some(upstream);

            let report = running.report.await.unwrap();
            assert_eq!(known_at_end(&report), (0, 1));
            drop(kept);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_says_for_nobody_still_confirms() {
    local(async {
        let (running, mut upstream) = tunnel(Settings::default()).await;
        drop(running.client);
        sleep(TICK).await;
        let answer = server_frame(0x81, b"answer");
        write(&mut upstream, &answer, Segments::Whole).await;
        drop(upstream);

        assert_eq!(known_at_end(&running.report.await.unwrap()), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_client_is_told_what_is_lost_and_what_may_be() {
    local(async {
        let mut running = start(gated());
        let messages = client_frame(0x82, &vec![7; 50_000]).repeat(3);
        running.client.write_all(&messages[..60_000]).await.unwrap();
        running.client.write_all(&messages[60_000..]).await.unwrap();
        let upstream = running.upstream.connect(&server_frame(0x81, b"ready"));
        sleep(TICK).await;
        // One message is in the pipe, and a part of the second.
        drop(upstream);

        let frames = Frame::all(&read_to_end(&mut running.client).await);

        let reason = "upstream_lost; 1 message not delivered, 2 may be lost";
        assert_eq!(Told::close(&frames), (1014, reason.to_owned()));
        drop(running.client);
        let ledger = running.report.await.unwrap().ledger;
        assert_eq!(ledger.of(Account::Discarded), 1);
        assert_eq!(ledger.of(Account::Unknown), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_the_proxy_closes_is_told_what_is_open() {
    local(async {
        for is_answered in [false, true] {
            let (mut running, mut upstream) = tunnel(Settings::default()).await;
            tell(&mut running, &mut upstream).await;
            if is_answered {
                let answer = server_frame(0x81, b"answer");
                write(&mut upstream, &answer, Segments::Whole).await;
                assert_eq!(read_frame(&mut running.client).await.payload, b"answer");
            }
            running.drain.begin();
            let close = read_frame(&mut running.client).await;
            write(&mut upstream, &server_close(1001, ""), Segments::Whole).await;
            write(
                &mut running.client,
                &client_close(1001, ""),
                Segments::Whole,
            )
            .await;
            drop((running.client, upstream));

            let reason = if is_answered {
                "shutting_down"
            } else {
                "shutting_down; 2 messages may be lost"
            };
            assert_eq!(Told::close(&[close]), (1001, reason.to_owned()));
            assert_eq!(known_at_end(&running.report.await.unwrap()), (2, 0));
        }
    })
    .await;
}
