//! The gate's own pings, of which a backend that boots answers several at once.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{sync::Arc, time::Duration};

use readygate::{
    limits::held_bytes::Budget,
    session::{Settings, gate::Trigger},
};
use tokio::{io::AsyncReadExt, time::sleep};

use crate::{scene::*, support::*};

/// A session whose gate has pinged `count` times without an answer; what it said.
async fn unanswered(settings: Settings, count: usize) -> (Scene, Vec<u8>) {
    let mut scene = Scene::run(settings).await;
    let mut pongs = Vec::new();
    for _ in 0..count {
        let ping = read_frame(&mut scene.upstream).await;
        assert_eq!(ping.first, 0x89);
        pongs.extend(server_frame(0x8a, &ping.payload));
    }
    (scene, pongs)
}

/// Settings whose gate opens on a pong.
fn on_pong() -> Settings {
    let mut settings = Settings::default();
    settings.gate.ready = vec![Trigger::Pong];
    settings
}

/// Checks that the client gets `expected` next.
async fn check_got(scene: &mut Scene, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    scene.client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected);
}

#[tokio::test(start_paused = true)]
async fn late_pongs_to_the_gate_s_pings_do_not_reach_the_client() {
    local(async {
        for segments in SEGMENTS {
            let (mut scene, pongs) = unanswered(on_pong(), 4).await;
            // Its own pongs, and those that answer the client, pass.
            let own = [
                server_frame(0x8a, b"own"),
                server_frame(0x81, b"data"),
                server_frame(0x8a, b""),
            ];
            let said = [&pongs[..], &own.concat(), &pongs].concat();
            write(&mut scene.upstream, &said, segments).await;
            write(&mut scene.upstream, &server_frame(0x81, b"end"), segments).await;

            let expected = [&own.concat()[..], &server_frame(0x81, b"end")].concat();
            check_got(&mut scene, &expected).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pongs_to_the_gate_s_pings_do_not_pass_while_it_is_shut() {
    local(async {
        let mut settings = gated();
        settings.gate.authenticated = vec![Trigger::Pong];
        let (mut scene, pongs) = unanswered(settings, 3).await;
        let said = [&pongs[..], &server_frame(0x81, b"hello")].concat();
        write(&mut scene.upstream, &said, Segments::Whole).await;

        check_got(&mut scene, &server_frame(0x81, b"hello")).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn late_pongs_to_the_gates_pings_are_not_forwarded() {
    local(async {
        let mut settings = gated();
        settings.gate.ready.push(Trigger::Pong);
        let (mut scene, pongs) = unanswered(settings, 2).await;
        let ready = server_frame(0x81, b"ready");
        write(&mut scene.upstream, &ready, Segments::Whole).await;
        let said = [&pongs[..], &server_frame(0x81, b"data")].concat();
        write(&mut scene.upstream, &said, Segments::Bytes).await;

        let expected = [ready, server_frame(0x81, b"data")].concat();
        check_got(&mut scene, &expected).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pongs_to_the_gate_s_pings_do_not_pass_while_closing() {
    local(async {
        for is_open in [false, true] {
            let (mut scene, pongs) = unanswered(on_pong(), 3).await;
            if is_open {
                let first = &pongs[..pongs.len() / 3];
                write(&mut scene.upstream, first, Segments::Whole).await;
            }
            let close = client_close(1000, "bye");
            write(&mut scene.client, &close, Segments::Whole).await;
            let said = [&pongs[..], &server_close(1000, "bye")].concat();
            write(&mut scene.upstream, &said, Segments::Whole).await;

            let told = scene.end().await;

            assert_eq!(told.client.len(), 1, "{:?}", told.client);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_read_is_owed_one_ping() {
    local(async {
        let budget = Arc::new(Budget::new(1024 * 1024));
        let mut settings = on_pong();
        settings.gate.timeout = Duration::from_hours(24);
        let running = start_with(settings, budget.clone(), Vec::new());
        let _upstream = running.upstream.connect(b"");
        sleep(TICK).await;
        let before = budget.used_bytes();

        sleep(Duration::from_hours(23)).await;

        assert!(budget.used_bytes() <= before + 1024);
    })
    .await;
}
