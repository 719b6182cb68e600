//! Ready messages that are withheld from the client, and the cost of withholding.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::Arc;

use readygate::{
    limits::held_bytes::Budget,
    matcher::{Json, Matcher, Scalar},
    session::{Settings, gate::Trigger, hold::OnClientGone},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::sleep,
};

use crate::{scene::*, support::*};

/// Most bytes of an upstream's message in memory by default: twice what matchers inspect, and what
/// they have seen of it.
const MAX_KEPT_BYTES: usize = 4 * 64 * 1024;

/// Settings whose ready message starts with `ready`, and is kept from the client.
fn withholding() -> Settings {
    let mut settings = gated();
    settings.gate.ready = vec![Trigger::Message(Matcher::Prefix("ready".to_owned()))];
    settings.gate.forward_ready = false;
    settings
}

/// Writes `bytes` again and again, `count` times, and looks at what the session holds.
async fn flood(upstream: &mut DuplexStream, bytes: &[u8], count: usize, budget: &Budget) -> usize {
    let chunk = bytes.repeat(4096 / bytes.len());
    let mut most = 0;
    for _ in 0..count.div_ceil(4096 / bytes.len()) {
        upstream.write_all(&chunk).await.unwrap();
        sleep(TICK).await;
        most = most.max(budget.used_bytes());
    }
    most
}

/// Reads and forgets what comes for the client.
fn read_all(mut client: DuplexStream) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::task::spawn_local(async move { read_to_end(&mut client).await })
}

#[tokio::test(start_paused = true)]
async fn endless_empty_fragments_of_a_withheld_message_are_bounded() {
    local(async {
        let budget = Arc::new(Budget::new(64 * 1024 * 1024));
        let running = start_with(withholding(), budget.clone(), Vec::new());
        let client = read_all(running.client);
        let mut upstream = running.upstream.connect(&server_frame(0x01, b""));
        sleep(TICK).await;

        let most = flood(&mut upstream, b"\x00\x00", 1 << 20, &budget).await;

        assert!(most <= MAX_KEPT_BYTES, "{most} bytes");
        drop(upstream);
        // It cannot be the ready message any more, and passes.
        assert!(client.await.unwrap().len() >= 2 << 20);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_in_single_bytes_is_withheld_while_it_may_match() {
    local(async {
        let budget = Arc::new(Budget::new(64 * 1024 * 1024));
        let mut running = start_with(withholding(), budget.clone(), Vec::new());
        let mut upstream = running.upstream.connect(&server_frame(0x01, b"ready"));
        sleep(TICK).await;

        let most = flood(&mut upstream, b"\x00\x01x", 1 << 20, &budget).await;
        let end = [server_frame(0x80, b""), server_frame(0x81, b"data")].concat();
        upstream.write_all(&end).await.unwrap();

        assert!(most <= MAX_KEPT_BYTES, "{most} bytes");
        let data = server_frame(0x81, b"data");
        let mut got = vec![0; data.len()];
        running.client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, data, "the ready message does not pass");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_used_up_budget_leaves_a_withheld_message_little() {
    local(async {
        let budget = Arc::new(Budget::new(0));
        let running = start_with(withholding(), budget.clone(), Vec::new());
        let client = read_all(running.client);
        let mut upstream = running.upstream.connect(&server_frame(0x01, b"xx"));
        sleep(TICK).await;

        let most = flood(&mut upstream, b"\x00\x02xx", 1 << 16, &budget).await;

        assert!(most <= 3 * 4096, "{most} bytes");
        drop(upstream);
        assert!(client.await.unwrap().len() >= 4 << 16);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_used_up_budget_leaves_room_for_a_ready_message() {
    local(async {
        let budget = Arc::new(Budget::new(0));
        let running = start_with(withholding(), budget, Vec::new());
        let mut upstream = running.upstream.connect(&server_frame(0x01, b"ready"));
        let mut client = running.client;
        let held = client_frame(0x81, b"held");
        write(&mut client, &held, Segments::Whole).await;

        let rest = server_frame(0x80, &[b'x'; 100]);
        write(&mut upstream, &rest, Segments::Bytes).await;

        assert_eq!(read_frame(&mut upstream).await.payload, b"held");
    })
    .await;
}

/// A text message in one frame.
fn long_text(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x81, 126], &length[..], payload].concat()
}

#[tokio::test(start_paused = true)]
async fn a_whole_ready_message_is_seen_though_the_budget_is_used_up() {
    local(async {
        let json = |bytes| format!(r#"{{"a": "{}", "type": "ready"}}"#, "x".repeat(bytes));
        let is_ready = vec![Scalar::String("ready".to_owned())];
        let json_matcher = Json::new([("/type", is_ready)]).unwrap();
        let pointer = || Matcher::Json(json_matcher.clone());
        let exactly = "x".repeat(3000);
        let cases = [
            (Matcher::Text(exactly.clone()), exactly, Segments::Whole),
            (pointer(), json(3000), Segments::Whole),
            (pointer(), json(3000), Segments::Bytes),
            (pointer(), json(3900), Segments::Bytes),
            // More than a session has by right, but there is no more to come.
            (pointer(), json(6000), Segments::Whole),
        ];
        for (matcher, text, segments) in cases {
            for forward_ready in [true, false] {
                let mut settings = withholding();
                settings.gate.ready = vec![Trigger::Message(matcher.clone())];
                settings.gate.forward_ready = forward_ready;
                let running = start_with(settings, Arc::new(Budget::new(0)), Vec::new());
                let mut upstream = running.upstream.connect(b"");
                let mut client = running.client;
                let held = client_frame(0x81, b"held");
                write(&mut client, &held, Segments::Whole).await;

                write(&mut upstream, &long_text(text.as_bytes()), segments).await;

                let case = format!("{} bytes, {segments:?}, {forward_ready}", text.len());
                let mut got = vec![0; held.len()];
                let read = tokio::time::timeout(TICK, upstream.read_exact(&mut got)).await;
                read.expect(&case).unwrap();
                assert!(got.starts_with(&held[..2]), "{case}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_used_up_by_others_bounds_what_matchers_see_too() {
    local(async {
        let budget = Arc::new(Budget::new(0));
        let mut settings = withholding();
        settings.gate.forward_ready = true;
        let running = start_with(settings, budget.clone(), Vec::new());
        let client = read_all(running.client);
        let mut upstream = running.upstream.connect(&server_frame(0x01, b"xx"));
        sleep(TICK).await;

        let most = flood(&mut upstream, b"\x00\x02xx", 1 << 16, &budget).await;

        assert!(most <= 3 * 4096, "{most} bytes");
        drop(upstream);
        client.await.unwrap();
    })
    .await;
}

/// A session of which the client has closed first, before its upstream is ready, and nothing
/// is to be delivered.
async fn close_first() -> Scene {
    let mut settings = withholding();
    settings.hold.on_client_gone = OnClientGone::Discard;
    let mut scene = Scene::run(settings).await;
    let close = client_close(1000, "bye");
    write(&mut scene.client, &close, Segments::Whole).await;
    scene
}

#[tokio::test(start_paused = true)]
async fn a_withheld_ready_message_does_not_pass_while_closing() {
    local(async {
        for segments in SEGMENTS {
            let mut scene = close_first().await;
            let words = [
                server_frame(0x81, b"ready"),
                server_frame(0x81, b"ready again"),
                server_close(1000, "bye"),
            ];
            write(&mut scene.upstream, &words.concat(), segments).await;

            let told = scene.end().await;

            assert_eq!(told.client_close(), (1000, "bye".to_owned()));
            assert_eq!(told.client.len(), 1, "{:?}", told.client);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_to_pass_is_completed_while_closing() {
    local(async {
        for segments in SEGMENTS {
            // It cannot be the ready message.
            let begun = [&b"\x01\x7f"[..], &70_000_u64.to_be_bytes()].concat();
            let begun = [&begun[..], &vec![b'x'; 69_990]].concat();
            let running = start({
                let mut settings = withholding();
                settings.hold.on_client_gone = OnClientGone::Discard;
                settings
            });
            let mut upstream = running.upstream.connect(b"");
            let (mut from, mut to) = tokio::io::split(running.client);
            let client = tokio::task::spawn_local(async move { read_to_end(&mut from).await });
            upstream.write_all(&begun).await.unwrap();
            sleep(TICK).await;
            to.write_all(&client_close(1000, "bye")).await.unwrap();
            sleep(TICK).await;

            let rest = [
                vec![b'x'; 10],
                server_frame(0x8a, b"pong"),
                server_frame(0x80, b"end"),
                server_frame(0x81, b"ready"),
                server_close(1000, "bye"),
            ];
            write(&mut upstream, &rest.concat(), segments).await;

            let got = client.await.unwrap();
            let frames = Frame::all(&got);
            let firsts: Vec<_> = frames.iter().map(|frame| frame.first).collect();
            assert_eq!(firsts, [0x01, 0x8a, 0x80, 0x88], "{segments:?}");
            assert_eq!(Told::close(&frames), (1000, "bye".to_owned()));
        }
    })
    .await;
}
