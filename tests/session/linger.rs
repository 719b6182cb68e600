//! Clients that leave before their backend is ready: it gets their messages, and then the time to
//! work on them.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use readygate::session::{Report, Settings, ledger::Account};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{scene::*, support::*};

const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER: Duration = Duration::from_secs(10);

/// Way in which a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    WithClose,
    Silently,
}

/// A session whose client has sent three messages and left, and whose upstream has just got
/// them.
async fn left(leaves: Leaves, settings: Settings) -> (DuplexStream, JoinHandle<Report>) {
    let mut running = start(settings);
    let mut upstream = running.upstream.connect(b"");
    let held = client_frame(0x81, b"question").repeat(3);
    write(&mut running.client, &held, Segments::Whole).await;
    if leaves == Leaves::WithClose {
        let close = client_close(1000, "bye");
        write(&mut running.client, &close, Segments::Whole).await;
    }
    drop(running.client);
    sleep(TICK).await;
    let ready = server_frame(0x81, b"ready");
    upstream.write_all(&ready).await.unwrap();
    for _ in 0..3 {
        assert_eq!(read_frame(&mut upstream).await.payload, b"question");
    }
    (upstream, running.report)
}

/// Checks that the close frame comes after `expected`, and answers it.
async fn check_close(
    mut upstream: DuplexStream,
    report: JoinHandle<Report>,
    leaves: Leaves,
    expected: Duration,
) -> Report {
    let since = Instant::now();
    let close = read_frame(&mut upstream).await;
    assert_eq!(since.elapsed(), expected, "{leaves:?}");
    let (code, reason) = match leaves {
        Leaves::WithClose => (1000, "bye"),
        Leaves::Silently => (1001, "client_lost"),
    };
    assert_eq!(Told::close(&[close]), (code, reason.to_owned()));
    upstream.write_all(&server_close(code, "")).await.unwrap();
    drop(upstream);
    let report = report.await.unwrap();
    let name = match leaves {
        Leaves::WithClose => "client_closed",
        Leaves::Silently => "client_lost",
    };
    assert_eq!(report.cause.name(), name);
    assert_eq!(report.ledger.of(Account::Delivered), 3);
    report
}

const BOTH: [Leaves; 2] = [Leaves::WithClose, Leaves::Silently];

#[tokio::test(start_paused = true)]
async fn a_backend_answers_all_that_a_client_has_left_behind() {
    local(async {
        for leaves in BOTH {
            let (mut upstream, report) = left(leaves, gated()).await;
            for _ in 0..3 {
                sleep(LINGER / 2).await;
                let answer = server_frame(0x81, b"answer");
                upstream.write_all(&answer).await.unwrap();
            }

            check_close(upstream, report, leaves, LINGER).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_stop_talking_is_closed_in_the_end() {
    local(async {
        for leaves in BOTH {
            let (mut upstream, report) = left(leaves, gated()).await;
            let since = Instant::now();
            let mut close = Vec::new();
            while close.is_empty() {
                upstream
                    .write_all(&server_frame(0x81, b"news"))
                    .await
                    .unwrap();
                if let Ok(frame) = timeout(LINGER / 2, read_frame(&mut upstream)).await {
                    close.push(frame);
                }
            }

            assert_eq!(since.elapsed(), MAX_LINGER, "{leaves:?}");
            assert_eq!(close[0].first, 0x88);
            drop(upstream);
            report.await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_meanwhile_and_are_no_work() {
    local(async {
        let (mut upstream, report) = left(Leaves::WithClose, gated()).await;
        for _ in 0..3 {
            sleep(LINGER / 4).await;
            upstream.write_all(&server_frame(0x89, b"?")).await.unwrap();
            assert_eq!(read_frame(&mut upstream).await.content(), (0x8a, &b"?"[..]));
        }

        check_close(upstream, report, Leaves::WithClose, LINGER / 4).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_closes_meanwhile_is_answered_at_once() {
    local(async {
        for (code, delivered) in [(1000, 3), (1011, 0)] {
            let (mut upstream, report) = left(Leaves::WithClose, gated()).await;
            let since = Instant::now();
            upstream
                .write_all(&server_close(code, "done"))
                .await
                .unwrap();

            assert_eq!(read_frame(&mut upstream).await.first, 0x88);
            assert_eq!(since.elapsed(), Duration::ZERO);
            drop(upstream);
            let report = report.await.unwrap();
            assert_eq!(report.cause.name(), "client_closed");
            assert_eq!(report.ledger.of(Account::Delivered), delivered);
            assert_eq!(report.ledger.of(Account::Unknown), 3 - delivered);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_dies_meanwhile_leaves_it_unknown() {
    local(async {
        let (upstream, report) = left(Leaves::WithClose, gated()).await;
        drop(upstream);

        let report = report.await.unwrap();
        assert_eq!(report.ledger.of(Account::Unknown), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_wait_and_lets_none_begin() {
    local(async {
        for begins_before in [false, true] {
            let running = start(gated());
            let mut client = running.client;
            let mut upstream = running.upstream.connect(b"");
            let held = [client_frame(0x81, b"question"), client_close(1000, "bye")];
            write(&mut client, &held.concat(), Segments::Whole).await;
            if begins_before {
                running.drain.begin();
            }
            upstream
                .write_all(&server_frame(0x81, b"ready"))
                .await
                .unwrap();
            assert_eq!(read_frame(&mut upstream).await.payload, b"question");
            let since = Instant::now();
            running.drain.begin();

            assert_eq!(read_frame(&mut upstream).await.first, 0x88);
            assert_eq!(since.elapsed(), Duration::ZERO);
            drop(upstream);
            running.report.await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_route_may_close_its_backend_at_once() {
    local(async {
        for leaves in BOTH {
            let mut settings = gated();
            settings.hold.linger = Duration::ZERO;
            let (upstream, report) = left(leaves, settings).await;

            check_close(upstream, report, leaves, Duration::ZERO).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_nothing_behind_is_not_waited_for() {
    local(async {
        let mut scene = Scene::set(Phase::Held).await;
        let close = client_close(1000, "bye");
        scene.client.write_all(&close).await.unwrap();
        let since = Instant::now();

        assert_eq!(read_frame(&mut scene.upstream).await.first, 0x88);
        assert_eq!(since.elapsed(), Duration::ZERO);
    })
    .await;
}
