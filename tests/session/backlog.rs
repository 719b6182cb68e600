//! Timeouts while data waits for a side to read it: in the tunnel, held, during the flush, and when
//! the client has left.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use readygate::session::{EndReason, Settings, ledger::Account};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{sleep, timeout},
};

use crate::{scene::*, support::*, watch::*};

/// Messages that fit neither into the pipes nor into what the proxy reads ahead.
fn messages(is_from_client: bool) -> Vec<u8> {
    let message = if is_from_client {
        client_frame(0x82, &[7; 1000])
    } else {
        server_frame(0x82, &[7; 125])
    };
    message.repeat(5 * PIPE_BYTES / message.len())
}

/// Takes a little now and then, of what the proxy has read at the beginning, and says nothing.
async fn take_slowly(from: &mut (impl AsyncRead + Unpin)) {
    for _ in 0..8 {
        let mut bite = vec![0; 1000];
        from.read_exact(&mut bite).await.unwrap();
        sleep(QUIET * 9 / 10).await;
    }
}

/// Sends more than the buffers hold, while the other side reads slowly.
async fn download(from: &mut DuplexStream, to: &mut DuplexStream, is_from_client: bool) {
    let messages = messages(is_from_client);
    tokio::select! {
        sent = from.write_all(&messages) => panic!("{sent:?} before it was read"),
        () = take_slowly(to) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_reads_slowly_times_out_neither_side() {
    local(async {
        for settings in [idle(), pinging()] {
            for is_from_client in [true, false] {
                let Scene {
                    mut client,
                    mut upstream,
                    report,
                } = Scene::run(settings.clone()).await;
                let (from, to) = if is_from_client {
                    (&mut client, &mut upstream)
                } else {
                    (&mut upstream, &mut client)
                };
                download(from, to, is_from_client).await;

                assert!(!report.is_finished(), "{is_from_client} {settings:?}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_side_that_takes_nothing_of_what_waits_for_it_is_gone() {
    local(async {
        for is_from_client in [true, false] {
            let Scene {
                mut client,
                mut upstream,
                report,
            } = Scene::run(pinging()).await;
            let from = if is_from_client {
                &mut client
            } else {
                &mut upstream
            };
            // What nobody takes is read and thrown away in the end.
            let messages = messages(is_from_client);
            let sent = timeout(3 * QUIET, from.write_all(&messages));
            sent.await.unwrap().unwrap();
            drop(if is_from_client { client } else { upstream });

            let cause = report.await.unwrap().cause;

            let is_right = match cause {
                EndReason::UpstreamVanished => is_from_client,
                EndReason::ClientVanished => !is_from_client,
                _ => false,
            };
            assert!(is_right, "{cause:?}");
        }
    })
    .await;
}

/// Settings with a gate that nobody's patience shuts.
fn gated_for_long(settings: Settings) -> Settings {
    let mut settings = settings;
    settings.gate = gated().gate;
    settings.gate.timeout = 100 * QUIET;
    settings
}

#[tokio::test(start_paused = true)]
async fn a_held_client_that_reads_slowly_does_not_time_out() {
    local(async {
        let Scene {
            mut client,
            mut upstream,
            report,
        } = Scene::run(gated_for_long(pinging())).await;

        download(&mut upstream, &mut client, false).await;

        assert!(!report.is_finished());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_client_that_reads_nothing_times_out() {
    local(async {
        let mut scene = Scene::run(gated_for_long(pinging())).await;
        let messages = messages(false);
        let sent = timeout(3 * QUIET, scene.upstream.write_all(&messages));
        sent.await.unwrap().unwrap();

        drop(scene.upstream);
        let report = scene.report.await.unwrap();

        assert!(matches!(report.cause, EndReason::ClientVanished));
        assert_eq!(report.ready_after, None);
        drop(scene.client);
    })
    .await;
}

/// A session whose gate has opened, and whose upstream takes nothing of what was held.
async fn flushing(settings: Settings) -> Scene {
    let mut scene = Scene::run(gated_for_long(settings)).await;
    scene.client.write_all(&messages(true)).await.unwrap();
    scene.upstream_says(0x81, b"ready").await;
    assert_eq!(read_frame(&mut scene.client).await.payload, b"ready");
    scene
}

#[tokio::test(start_paused = true)]
async fn max_age_during_the_flush_closes_with_1012() {
    local(async {
        let mut settings = Settings::default();
        settings.tunnel.max_session_age = Some(QUIET);
        let mut scene = flushing(settings).await;

        let (_, code, reason) = read_to_close(&mut scene.client).await;

        drop((scene.client, scene.upstream));
        let report = scene.report.await.unwrap();
        let accepted = report.ledger.accepted();
        let in_doubt = format!("max_session_age; {accepted} messages may be lost");
        assert_eq!((code, reason), (1012, in_doubt));
        assert!(matches!(report.cause, EndReason::TooOld));
        assert!(report.ready_after.is_some() && report.flush_time.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_is_pinged_during_the_flush_and_times_out() {
    local(async {
        let mut scene = flushing(pinging()).await;
        for _ in 0..3 {
            let ping = read_ping(&mut scene.client).await;
            scene.client_says(0x8a, &ping).await;
        }
        assert!(!scene.report.is_finished());

        sleep(2 * QUIET).await;
        drop(scene.upstream);

        let report = scene.report.await.unwrap();
        assert!(matches!(report.cause, EndReason::ClientVanished));
        assert!(report.ready_after.is_some() && report.flush_time.is_none());
        drop(scene.client);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_left_is_not_pinged_while_its_upstream_closes() {
    local(async {
        let mut scene = Scene::run(gated_for_long(pinging())).await;
        scene.client_says(0x81, b"held").await;
        scene
            .client
            .write_all(&client_close(1000, ""))
            .await
            .unwrap();
        let told = read_to_end(&mut scene.client).await;
        assert_eq!(Told::close(&Frame::all(&told)).0, 1000);

        sleep(5 * QUIET).await;
        scene.upstream_says(0x81, b"ready").await;
        let message = read_frame(&mut scene.upstream).await;
        assert_eq!(message.content(), (0x81, &b"held"[..]));
        scene
            .upstream
            .write_all(&server_close(1000, ""))
            .await
            .unwrap();

        let report = scene.report.await.unwrap();
        assert!(matches!(report.cause, EndReason::ClientClosed(_)));
        assert_eq!(report.ledger.of(Account::Delivered), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn max_age_applies_also_while_only_the_upstream_closes() {
    local(async {
        let mut settings = gated_for_long(Settings::default());
        settings.tunnel.max_session_age = Some(5 * QUIET);
        let mut scene = Scene::run(settings).await;
        scene.client_says(0x81, b"held").await;
        scene
            .client
            .write_all(&client_close(1000, ""))
            .await
            .unwrap();

        let told = scene.end_answering().await;

        assert_eq!(told.client_close().0, 1000);
        assert_eq!(told.upstream_close(), (1001, "max_session_age".to_owned()));
        assert!(matches!(told.report.cause, EndReason::TooOld));
        assert_eq!(told.report.ledger.of(Account::Discarded), 1);
    })
    .await;
}
