//! Timeouts of a session: idle, unanswered pings, maximum age.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use readygate::{
    limits::held_bytes::Budget,
    session::{Agreed, EndReason, Settings, ledger::Account, state::SessionState},
    transport::Transport,
    websocket::extension::Agreement,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{scene::*, support::*};

const SECOND: Duration = Duration::from_secs(1);

/// Idle time before a ping in these tests.
pub(crate) const QUIET: Duration = Duration::from_secs(10);

pub(crate) fn idle() -> Settings {
    let mut settings = Settings::default();
    settings.tunnel.idle_timeout = Some(QUIET);
    settings
}

pub(crate) fn pinging() -> Settings {
    let mut settings = Settings::default();
    settings.tunnel.ping_interval = Some(QUIET);
    settings
}

/// The payload of the proxy's ping, which is the next to come.
pub(crate) async fn read_ping(from: &mut DuplexStream) -> Vec<u8> {
    let ping = read_frame(from).await;
    assert_eq!(ping.first, 0x89, "{ping:?}");
    ping.payload
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_without_traffic_is_closed_with_1001_on_both_sides() {
    local(async {
        let scene = Scene::run(idle()).await;

        let told = scene.end_answering().await;

        assert_eq!(told.client_close(), (1001, "idle_timeout".to_owned()));
        assert_eq!(told.upstream_close(), (1001, "idle_timeout".to_owned()));
        assert!(matches!(told.report.cause, EndReason::Idle));
        assert_eq!(told.report.trail.state(), SessionState::Closed);
        let closed_after = told.report.trail.entered(SessionState::Closing).unwrap();
        assert!((QUIET..QUIET + SECOND).contains(&closed_after));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_trail_says_when_a_tunnel_became_idle() {
    local(async {
        let mut settings = idle();
        settings.tunnel.idle_after = QUIET / 2;
        let scene = Scene::run(settings).await;

        let told = scene.end_answering().await;

        let idle_after = told.report.trail.entered(SessionState::Idle).unwrap();
        let expected = QUIET / 2;
        assert!((expected..expected + SECOND).contains(&idle_after));
        assert_eq!(told.report.state, SessionState::Idle);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn traffic_of_either_side_restarts_the_idle_timeout() {
    local(async {
        let frames: [(bool, Vec<u8>); 4] = [
            (true, client_frame(0x81, b"up")),
            (false, server_frame(0x81, b"down")),
            (true, client_frame(0x89, b"ping")),
            (false, server_frame(0x8a, b"pong")),
        ];
        for (is_client, frame) in frames {
            let mut scene = Scene::run(idle()).await;
            sleep(QUIET * 7 / 10).await;
            let from = if is_client {
                &mut scene.client
            } else {
                &mut scene.upstream
            };
            from.write_all(&frame).await.unwrap();

            let told = scene.end_answering().await;

            assert!(matches!(told.report.cause, EndReason::Idle));
            let closed_after = told.report.trail.entered(SessionState::Closing).unwrap();
            let expected = QUIET * 17 / 10;
            assert!(
                (expected..expected + SECOND).contains(&closed_after),
                "{frame:?}"
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_readiness_does_not_count_as_idle() {
    local(async {
        let mut settings = idle();
        settings.gate = gated().gate;
        let mut scene = Scene::run(settings).await;
        sleep(2 * QUIET).await;
        scene.upstream_says(0x81, b"ready").await;
        sleep(QUIET * 9 / 10).await;
        assert!(!scene.report.is_finished());

        let told = scene.end_answering().await;

        assert_eq!(told.client_close().1, "idle_timeout");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_sides_are_pinged_and_their_pongs_not_relayed() {
    local(async {
        let mut scene = Scene::run(pinging()).await;
        for _ in 0..5 {
            let quiet_since = Instant::now();
            let to_client = read_ping(&mut scene.client).await;
            assert!((QUIET * 9 / 10..=QUIET).contains(&quiet_since.elapsed()));
            let to_upstream = read_ping(&mut scene.upstream).await;
            let pong = client_frame(0x8a, &to_client);
            let (head, tail) = pong.split_at(5);
            scene.client.write_all(head).await.unwrap();
            sleep(TICK).await;
            scene.client.write_all(tail).await.unwrap();
            let pong = server_frame(0x8a, &to_upstream);
            scene.upstream.write_all(&pong).await.unwrap();
        }
        scene.client_says(0x81, b"up").await;
        scene.upstream_says(0x81, b"down").await;

        assert_eq!(
            read_frame(&mut scene.upstream).await.content(),
            (0x81, &b"up"[..])
        );
        assert_eq!(
            read_frame(&mut scene.client).await.content(),
            (0x81, &b"down"[..])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_and_pongs_of_the_peers_pass_at_any_offset() {
    local(async {
        for segments in SEGMENTS {
            let mut scene = Scene::run(pinging()).await;
            let own = read_ping(&mut scene.client).await;
            read_ping(&mut scene.upstream).await;
            let frames = [
                client_frame(0x01, b"he"),
                client_frame(0x8a, &own),
                client_frame(0x8a, b"other"),
                client_frame(0x8a, b""),
                client_frame(0x89, &own),
                client_frame(0x8a, &own),
                client_frame(0x8a, &own[1..]),
                client_frame(0x80, b"llo"),
                client_frame(0x8a, &own),
                client_close(1000, ""),
            ];

            write(&mut scene.client, &frames.concat(), segments).await;
            let told = scene.end_answering().await;

            let expected: Vec<(u8, &[u8])> = vec![
                (0x01, b"he"),
                (0x8a, b"other"),
                (0x8a, b""),
                (0x89, &own),
                (0x8a, &own[1..]),
                (0x80, b"llo"),
            ];
            assert_eq!(told.before_upstream_close(), expected, "{segments:?}");
            assert_eq!(told.report.ledger.of(Account::Delivered), 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_is_gone_at_the_next_interval() {
    local(async {
        let mut scene = Scene::run(pinging()).await;
        let mut answered = Instant::now();
        for _ in 0..2 {
            let ping = read_ping(&mut scene.upstream).await;
            // Anything will do as an answer.
            scene.client_says(0x81, b"x").await;
            scene.upstream_says(0x8a, &ping).await;
            read_frame(&mut scene.upstream).await;
            answered = Instant::now();
        }

        let mut upstream = scene.upstream;
        let close = async {
            let ping = read_ping(&mut upstream).await;
            upstream
                .write_all(&server_frame(0x8a, &ping))
                .await
                .unwrap();
            let close = read_frame(&mut upstream).await;
            upstream.write_all(&server_close(1001, "")).await.unwrap();
            close
        };
        let close = close.await;

        assert_eq!(Told::close(&[close]), (1001, "client_vanished".to_owned()));
        let waited = answered.elapsed();
        assert!(
            (2 * QUIET..2 * QUIET + SECOND).contains(&waited),
            "{waited:?}"
        );
        let report = scene.report.await.unwrap();
        assert!(matches!(report.cause, EndReason::ClientVanished));
        assert_eq!(report.client_code, None);
        let to_client = Frame::all(&read_to_end(&mut scene.client).await);
        assert!(
            to_client.iter().all(|frame| frame.first == 0x89),
            "{to_client:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_owes_a_pong_is_1014_for_its_client() {
    local(async {
        let mut scene = Scene::run(pinging()).await;
        let ping = read_ping(&mut scene.client).await;
        scene.client_says(0x8a, &ping).await;
        let (mut client, report) = (scene.client, scene.report);
        let (payloads, code, reason) = read_to_close(&mut client).await;
        client.write_all(&client_close(1014, "")).await.unwrap();

        assert_eq!((code, &*reason), (1014, "upstream_vanished"));
        assert!(payloads.is_empty(), "{payloads:?}");
        let report = report.await.unwrap();
        assert!(matches!(report.cause, EndReason::UpstreamVanished));
        assert_eq!(report.trail.state(), SessionState::Failed);
        drop(scene.upstream);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_waits_for_the_end_of_the_frame_that_is_under_way() {
    local(async {
        let mut scene = Scene::run(pinging()).await;
        let frame = server_frame(0x82, b"0123456789");
        let (head, tail) = frame.split_at(7);
        let mut part = vec![0; head.len()];
        for _ in 0..3 {
            scene.upstream.write_all(head).await.unwrap();
            scene.client.read_exact(&mut part).await.unwrap();
            assert_eq!(part, head);
            let nothing = timeout(QUIET * 9 / 10, scene.client.read_u8()).await;
            assert!(nothing.is_err(), "{nothing:?}");
            let nothing = timeout(QUIET / 2, scene.client.read_u8()).await;
            assert!(nothing.is_err(), "{nothing:?}");
            // That the upstream is quiet, too, is another matter.
            let ping = read_ping(&mut scene.upstream).await;
            scene.upstream.write_all(tail).await.unwrap();
            scene.upstream_says(0x8a, &ping).await;

            let mut rest = vec![0; tail.len()];
            scene.client.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest, tail);
            let ping = read_ping(&mut scene.client).await;
            scene.client_says(0x8a, &ping).await;
        }
        assert!(!scene.report.is_finished());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_side_that_cannot_be_heard_is_not_gone() {
    local(async {
        let scene = Scene::run(pinging()).await;
        // The upstream takes a little now and then, so that the client is hardly read.
        let upload = client_frame(0x82, &[7; 1000]).repeat(4 * PIPE_BYTES / 1000);
        let (client, mut upstream) = (scene.client, scene.upstream);
        let (_client_reads, mut client_writes) = tokio::io::split(client);
        let uploads = tokio::task::spawn_local(async move {
            client_writes.write_all(&upload).await.unwrap();
            client_writes
        });
        for _ in 0..20 {
            sleep(QUIET * 8 / 10).await;
            let mut bite = vec![0; 1000];
            upstream.read_exact(&mut bite).await.unwrap();
            let busy = server_frame(0x81, b"busy");
            upstream.write_all(&busy).await.unwrap();
        }

        assert!(!scene.report.is_finished());
        uploads.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_client_is_pinged_and_its_pongs_not_sent_upstream() {
    local(async {
        let mut settings = pinging();
        settings.gate = gated().gate;
        settings.gate.timeout = 100 * QUIET;
        let mut running = start(settings);
        for _ in 0..3 {
            let ping = read_ping(&mut running.client).await;
            running
                .client
                .write_all(&client_frame(0x8a, &ping))
                .await
                .unwrap();
        }
        let mut upstream = running.upstream.connect(b"");
        let ping = read_ping(&mut running.client).await;
        let pongs = [client_frame(0x8a, b"other"), client_frame(0x8a, &ping)];
        running.client.write_all(&pongs.concat()).await.unwrap();
        running
            .client
            .write_all(&client_frame(0x81, b"held"))
            .await
            .unwrap();
        assert_eq!(
            read_frame(&mut upstream).await.content(),
            (0x8a, &b"other"[..])
        );
        upstream
            .write_all(&server_frame(0x81, b"ready"))
            .await
            .unwrap();
        assert_eq!(
            read_frame(&mut upstream).await.content(),
            (0x81, &b"held"[..])
        );
        assert_eq!(read_frame(&mut running.client).await.payload, b"ready");

        // And on in the tunnel, with a pong that is late.
        running
            .client
            .write_all(&client_frame(0x8a, &ping))
            .await
            .unwrap();
        running
            .client
            .write_all(&client_frame(0x81, b"more"))
            .await
            .unwrap();
        assert_eq!(
            read_frame(&mut upstream).await.content(),
            (0x81, &b"more"[..])
        );
        read_ping(&mut running.client).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_client_that_owes_a_pong_loses_its_messages() {
    local(async {
        let mut settings = pinging();
        settings.gate = gated().gate;
        settings.gate.timeout = 100 * QUIET;
        let mut running = start(settings);
        running
            .client
            .write_all(&client_frame(0x81, b"held"))
            .await
            .unwrap();
        let heard = Instant::now();

        let report = running.report.await.unwrap();

        assert!(matches!(report.cause, EndReason::ClientVanished));
        assert_eq!(report.ledger.of(Account::Discarded), 1);
        assert!((2 * QUIET..2 * QUIET + SECOND).contains(&heard.elapsed()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_client_that_is_not_read_is_not_expected_to_answer() {
    local(async {
        let mut settings = pinging();
        settings.gate = gated().gate;
        settings.gate.timeout = 10 * QUIET;
        settings.hold.max_messages = 1;
        let mut running = start(settings);
        let messages = client_frame(0x81, b"held").repeat(2);
        running.client.write_all(&messages).await.unwrap();

        let report = running.report.await.unwrap();

        assert!(
            matches!(report.cause, EndReason::ReadyTimeout { .. }),
            "{:?}",
            report.cause
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_split_pong_is_no_traffic_but_a_message_behind_it_is() {
    local(async {
        for has_message in [true, false] {
            let mut settings = pinging();
            settings.tunnel.idle_timeout = Some(QUIET * 25 / 10);
            let mut scene = Scene::run(settings).await;
            for round in 0..10 {
                let ping = read_frame(&mut scene.client).await;
                if ping.first == 0x88 {
                    assert!(!has_message, "{round}");
                    break;
                }
                let answer = client_frame(0x8a, &ping.payload);
                let (head, tail) = answer.split_at(answer.len() - 3);
                scene.client.write_all(head).await.unwrap();
                sleep(TICK).await;
                let mut rest = tail.to_vec();
                if has_message {
                    rest.extend(client_frame(0x81, b"x"));
                }
                scene.client.write_all(&rest).await.unwrap();
                let frames = if has_message { 2 } else { 1 };
                for _ in 0..frames {
                    let frame = read_frame(&mut scene.upstream).await;
                    if frame.first == 0x89 {
                        scene.upstream_says(0x8a, &frame.payload).await;
                    }
                }
            }
            if has_message {
                assert!(!scene.report.is_finished());
            } else {
                let told = scene.end_answering().await;
                assert!(matches!(told.report.cause, EndReason::Idle));
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_keep_a_session_from_being_idle() {
    local(async {
        let mut settings = pinging();
        settings.tunnel.idle_timeout = Some(5 * QUIET);
        let started = Instant::now();
        let mut scene = Scene::run(settings).await;
        let client = async {
            loop {
                let frame = read_frame(&mut scene.client).await;
                if frame.first == 0x88 {
                    let answer = client_close(1001, "");
                    scene.client.write_all(&answer).await.unwrap();
                    return frame;
                }
                let pong = client_frame(0x8a, &frame.payload);
                scene.client.write_all(&pong).await.unwrap();
            }
        };
        let upstream = async {
            loop {
                let frame = read_frame(&mut scene.upstream).await;
                if frame.first == 0x88 {
                    let answer = server_close(1001, "");
                    scene.upstream.write_all(&answer).await.unwrap();
                    return frame;
                }
                let pong = server_frame(0x8a, &frame.payload);
                scene.upstream.write_all(&pong).await.unwrap();
            }
        };

        let (to_client, to_upstream) = tokio::join!(client, upstream);

        for close in [to_client, to_upstream] {
            assert_eq!(Told::close(&[close]), (1001, "idle_timeout".to_owned()));
        }
        assert!((5 * QUIET..5 * QUIET + SECOND).contains(&started.elapsed()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_go_between_compressed_messages_too() {
    local(async {
        let agreed = Agreed {
            compression: Some(Agreement::default()),
            ..Agreed::default()
        };
        let budget = Budget::new(1 << 20).into();
        let mut running = start_agreed(pinging(), budget, Vec::new(), agreed);
        let mut upstream = running.upstream.connect(b"");
        sleep(TICK).await;
        let compressed = server_frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        upstream.write_all(&compressed).await.unwrap();
        assert_eq!(read_frame(&mut running.client).await.first, 0xc1);

        let ping = read_ping(&mut running.client).await;
        let answer = client_frame(0x8a, &ping);
        let message = client_frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        running
            .client
            .write_all(&[answer, message].concat())
            .await
            .unwrap();

        assert_eq!(read_frame(&mut upstream).await.first, 0xc1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_too_old_gets_1012_and_its_upstream_1001() {
    local(async {
        let mut settings = Settings::default();
        settings.tunnel.max_session_age = Some(100 * SECOND);
        let started = Instant::now();
        let mut scene = Scene::run(settings).await;
        // Traffic does not keep it alive.
        let mut age = started.elapsed();
        while !scene.report.is_finished() && age < 80 * SECOND {
            scene.client_says(0x81, b"x").await;
            read_frame(&mut scene.upstream).await;
            sleep(SECOND).await;
            age = started.elapsed();
        }

        let told = scene.end_answering().await;

        // What the upstream says to its close frame comes too late for the client.
        let reason = "max_session_age; 80 messages may be lost".to_owned();
        assert_eq!(told.client_close(), (1012, reason));
        assert_eq!(told.report.ledger.of(Account::Delivered), 80);
        assert_eq!(told.upstream_close(), (1001, "max_session_age".to_owned()));
        assert!(matches!(told.report.cause, EndReason::TooOld));
        assert!((90 * SECOND..101 * SECOND).contains(&started.elapsed()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn great_age_waits_for_the_end_of_a_frame() {
    local(async {
        let mut settings = Settings::default();
        settings.tunnel.max_session_age = Some(10 * SECOND);
        let mut scene = Scene::run(settings).await;
        let frame = server_frame(0x82, b"0123456789");
        scene.upstream.write_all(&frame[..5]).await.unwrap();
        sleep(11 * SECOND).await;
        scene.upstream.write_all(&frame[5..]).await.unwrap();

        let told = scene.end_answering().await;

        assert_eq!(told.before_client_close(), [(0x82, &b"0123456789"[..])]);
        assert_eq!(told.client_close().0, 1012);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn max_age_closes_a_held_session_with_1012() {
    local(async {
        let mut settings = gated();
        settings.tunnel.max_session_age = Some(10 * SECOND);
        let mut scene = Scene::run(settings).await;
        let held = client_frame(0x81, b"held").repeat(2);
        scene.client.write_all(&held).await.unwrap();

        let told = scene.end_answering().await;

        let reason = "max_session_age; 2 messages not delivered".to_owned();
        assert_eq!(told.client_close(), (1012, reason));
        assert_eq!(told.report.ledger.of(Account::Discarded), 2);
        assert_eq!(told.report.ledger.held(), 0);
    })
    .await;
}

async fn socket_pair() -> (TcpStream, Transport) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), Transport::Tcp(far.unwrap().0))
}

#[tokio::test]
async fn a_ping_waits_for_the_end_of_a_spliced_frame() {
    local(async {
        let mut settings = Settings::default();
        settings.tunnel.ping_interval = Some(Duration::from_millis(400));
        let (mut client, client_far) = socket_pair().await;
        let (mut upstream, upstream_far) = socket_pair().await;
        let (report, _drain) = start_between(client_far, upstream_far, settings);
        let payload: Vec<u8> = (0..250_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut frame = vec![0x82, 0x7f];
        frame.extend((payload.len() as u64).to_be_bytes());
        frame.extend(&payload);

        // The upstream gets a ping in each of its breaks; the client must not.
        for piece in frame.chunks(100_000) {
            upstream.write_all(piece).await.unwrap();
            if piece.len() == 100_000 {
                let mut ping = [0; 18];
                upstream.read_exact(&mut ping).await.unwrap();
                assert_eq!(ping[..2], [0x89, 0x8c]);
            }
        }
        let mut at_client = vec![0; frame.len()];
        client.read_exact(&mut at_client).await.unwrap();

        assert!(at_client == frame, "the frame arrives in one piece");
        let mut ping = [0; 14];
        client.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping[..2], [0x89, 12]);
        drop((client, upstream));
        report.await.unwrap();
    })
    .await;
}
