//! The closing handshake: its frames to either side, and its end.

use std::time::Duration;

use readygate::{
    session::{Settings, gate::OnTimeout, ledger::Account},
    upstream::ConnectError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use crate::{scene::*, support::*};

const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

fn relayed_codes() -> impl Iterator<Item = u16> {
    (1000..=1003)
        .chain(1007..=1014)
        .chain([3000, 3999, 4000, 4999])
}

/// A reason of 123 bytes, the most that fits.
fn longest_reason() -> String {
    "é".repeat(61) + "."
}

#[tokio::test(start_paused = true)]
async fn a_client_s_close_is_relayed_and_the_upstream_s_answer_too() {
    local(async {
        for code in relayed_codes() {
            for (phase, segments) in each_way() {
                let mut scene = Scene::set(phase).await;
                let said = longest_reason();

                write(&mut scene.client, &client_close(code, &said), segments).await;
                write(
                    &mut scene.upstream,
                    &server_close(code, "and you"),
                    segments,
                )
                .await;
                let told = scene.end().await;

                assert_eq!(told.upstream_close(), (code, said), "{phase:?}");
                assert_eq!(told.client_close(), (code, "and you".to_owned()));
                assert_eq!((told.client.len(), told.upstream.len()), (1, 1));
                assert_eq!(told.report.cause.name(), "client_closed");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_s_close_is_relayed_and_the_client_s_answer_too() {
    local(async {
        // Before it is ready it says with these that it starts again.
        let restarts = [1001, 1012, 1013];
        for code in relayed_codes() {
            for (phase, segments) in each_way() {
                if phase == Phase::Held && restarts.contains(&code) {
                    continue;
                }
                let mut scene = Scene::set(phase).await;
                let said = longest_reason();

                write(&mut scene.upstream, &server_close(code, &said), segments).await;
                write(&mut scene.client, &client_close(code, "and you"), segments).await;
                let told = scene.end().await;

                assert_eq!(told.client_close(), (code, said), "{phase:?}");
                assert_eq!(told.upstream_close(), (code, "and you".to_owned()));
                assert_eq!((told.client.len(), told.upstream.len()), (1, 1));
                assert_eq!(told.report.cause.name(), "upstream_closed");
                assert_eq!(told.report.client_code.unwrap().get(), code);
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_without_a_reason_or_a_code_is_relayed_as_it_is() {
    local(async {
        for phase in PHASES {
            for payload in [&b""[..], b"\x03\xe8"] {
                let mut scene = Scene::set(phase).await;
                let close = client_frame(0x88, payload);
                write(&mut scene.client, &close, Segments::Whole).await;
                let close = server_frame(0x88, payload);
                write(&mut scene.upstream, &close, Segments::Whole).await;

                let told = scene.end().await;

                assert_eq!(told.upstream[0].content(), (0x88, payload));
                assert_eq!(told.client[0].content(), (0x88, payload));
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_either_side_sends_behind_its_close_is_ignored() {
    local(async {
        for phase in PHASES {
            let mut scene = Scene::set(phase).await;
            let behind = [client_close(1000, ""), client_frame(0x81, b"late")].concat();
            write(&mut scene.client, &behind, Segments::Whole).await;
            let more = client_frame(0x81, b"later");
            write(&mut scene.client, &more, Segments::Whole).await;
            let behind = [server_close(1000, ""), server_frame(0x81, b"late")].concat();
            write(&mut scene.upstream, &behind, Segments::Whole).await;

            let told = scene.end().await;

            assert_eq!((told.client.len(), told.upstream.len()), (1, 1));
            assert_eq!(told.report.ledger.accepted(), 0);
            assert_eq!(told.report.traffic.upstream_messages, 0);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_before_the_upstreams_close_reach_the_client() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        let close = client_close(1000, "");
        write(&mut scene.client, &close, Segments::Whole).await;
        let rest = [server_frame(0x81, b"last words"), server_close(1000, "")].concat();
        write(&mut scene.upstream, &rest, Segments::Bytes).await;

        let told = scene.end().await;

        assert_eq!(told.before_client_close(), [(0x81, &b"last words"[..])]);
        assert_eq!(told.report.traffic.upstream_messages, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_under_way_still_goes_to_a_closing_upstream() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        write(
            &mut scene.client,
            &client_frame(0x01, b"be"),
            Segments::Whole,
        )
        .await;
        write(
            &mut scene.upstream,
            &server_close(1000, ""),
            Segments::Whole,
        )
        .await;
        let rest = [client_frame(0x80, b"gun"), client_close(1000, "")].concat();
        write(&mut scene.client, &rest, Segments::Bytes).await;

        let told = scene.end().await;

        assert_eq!(
            told.before_upstream_close(),
            [(0x01, &b"be"[..]), (0x80, b"gun")]
        );
        // Whoever has closed need not read it.
        assert_eq!(told.report.ledger.of(Account::Unknown), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_close_of_the_client_is_echoed_at_the_timeout() {
    local(async {
        for phase in PHASES {
            let mut scene = Scene::set(phase).await;
            let started = Instant::now();
            let close = client_close(4000, "bye");
            write(&mut scene.client, &close, Segments::Whole).await;

            let told = scene.end().await;

            assert_eq!(started.elapsed(), CLOSE_TIMEOUT, "{phase:?}");
            assert_eq!(told.upstream_close(), (4000, "bye".to_owned()));
            assert_eq!(told.client_close(), (4000, "bye".to_owned()));
            assert_eq!(told.report.client_code.unwrap().get(), 4000);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_close_of_the_upstream_is_echoed_in_time() {
    local(async {
        for phase in PHASES {
            let mut scene = Scene::set(phase).await;
            let started = Instant::now();
            let close = server_close(4000, "bye");
            write(&mut scene.upstream, &close, Segments::Whole).await;

            let told = scene.end().await;

            assert_eq!(started.elapsed(), CLOSE_TIMEOUT, "{phase:?}");
            assert_eq!(told.client_close(), (4000, "bye".to_owned()));
            assert_eq!(told.upstream_close(), (4000, "bye".to_owned()));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn simultaneous_closes_are_exchanged_and_end_the_session() {
    local(async {
        for phase in PHASES {
            let mut scene = Scene::set(phase).await;
            let started = Instant::now();
            let close = client_close(4001, "client");
            scene.client.write_all(&close).await.unwrap();
            let close = server_close(4002, "upstream");
            scene.upstream.write_all(&close).await.unwrap();

            let told = scene.end().await;

            assert_eq!(
                told.client_close(),
                (4002, "upstream".to_owned()),
                "{phase:?}"
            );
            assert_eq!(
                told.upstream_close(),
                (4001, "client".to_owned()),
                "{phase:?}"
            );
            assert_eq!((told.client.len(), told.upstream.len()), (1, 1));
            assert!(started.elapsed() <= Duration::from_secs(1), "{phase:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_becomes_a_close_for_the_upstream() {
    local(async {
        for phase in PHASES {
            let Scene {
                client,
                mut upstream,
                report,
            } = Scene::set(phase).await;
            drop(client);

            let frames = Frame::all(&read_to_end(&mut upstream).await);

            assert_eq!(Told::close(&frames), (1001, "client_lost".to_owned()));
            assert_eq!(frames.len(), 1);
            assert_eq!(report.await.unwrap().cause.name(), "client_lost");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_without_a_close_is_not_waited_for() {
    local(async {
        for phase in PHASES {
            let mut scene = Scene::set(phase).await;
            let started = Instant::now();
            scene.client.shutdown().await.unwrap();
            sleep(TICK).await;
            write(
                &mut scene.upstream,
                &server_close(1001, ""),
                Segments::Whole,
            )
            .await;

            let told = scene.end().await;

            assert_eq!(told.upstream_close(), (1001, "client_lost".to_owned()));
            assert!(started.elapsed() <= Duration::from_secs(2));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_lost_inside_a_frame_ends_the_clients_stream() {
    local(async {
        let message = server_frame(0x81, b"a whole message");
        let half = &server_frame(0x82, b"cut off here, not there")[..10];
        let sent = [&message[..], half].concat();
        for (phase, segments) in each_way() {
            let mut scene = Scene::set(phase).await;
            write(&mut scene.upstream, &sent, segments).await;
            drop(scene.upstream);

            let got = read_to_end(&mut scene.client).await;

            assert_eq!(got, sent, "{phase:?}");
            let report = scene.report.await.unwrap();
            assert_eq!(report.cause.name(), "upstream_lost");
            assert_eq!(report.client_code, None);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_all_data_before_a_cut_inside_a_frame() {
    local(async {
        for phase in PHASES {
            let mut scene = Scene::set(phase).await;
            let message = server_frame(0x82, &[7; 125]);
            let mut sent = message.repeat(2 * PIPE_BYTES / message.len());
            sent.extend(&message[..50]);
            write(&mut scene.upstream, &sent, Segments::Whole).await;
            drop(scene.upstream);
            sleep(TICK).await;

            let got = read_to_end(&mut scene.client).await;

            assert!(got == sent, "{phase:?}: {} of {}", got.len(), sent.len());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_lost_inside_a_frame_ends_the_upstreams_stream() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        let message = client_frame(0x81, b"a whole message");
        let half = &client_frame(0x82, b"cut off here, not there")[..10];
        let sent = [&message[..], half].concat();
        write(&mut scene.client, &sent, Segments::Whole).await;
        drop(scene.client);

        assert_eq!(read_to_end(&mut scene.upstream).await, sent);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_inside_a_frame_waits_for_its_end_on_both_sides() {
    local(async {
        let running = start(Settings::default());
        let (mut client, mut upstream) = (running.client, running.upstream.connect(b""));
        sleep(TICK).await;
        let to_upstream = client_frame(0x01, b"to the upstream");
        let to_client = server_frame(0x81, b"to the client");
        write(&mut client, &to_upstream[..9], Segments::Whole).await;
        write(&mut upstream, &to_client[..9], Segments::Whole).await;

        running.drain.begin();
        sleep(Duration::from_secs(1)).await;
        write(&mut client, &to_upstream[9..], Segments::Bytes).await;
        write(&mut upstream, &to_client[9..], Segments::Bytes).await;
        let late = client_frame(0x80, b"too late");
        write(&mut client, &late, Segments::Whole).await;

        let (got, heard) = tokio::join!(read_to_end(&mut client), read_to_end(&mut upstream));
        let (got, heard) = (Frame::all(&got), Frame::all(&heard));
        assert_eq!(got[0].content(), (0x81, &b"to the client"[..]));
        assert_eq!(heard[0].content(), (0x01, &b"to the upstream"[..]));
        assert_eq!(Told::close(&got), (1001, "shutting_down".to_owned()));
        assert_eq!(Told::close(&heard), (1001, "shutting_down".to_owned()));
        assert_eq!((got.len(), heard.len()), (2, 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_inside_an_endless_frame_closes_in_time() {
    local(async {
        let running = start(Settings::default());
        let (mut client, mut upstream) = (running.client, running.upstream.connect(b""));
        sleep(TICK).await;
        let half = &client_frame(0x81, b"to the upstream")[..9];
        write(&mut client, half, Segments::Whole).await;
        let started = Instant::now();

        running.drain.begin();
        let (got, heard) = tokio::join!(read_to_end(&mut client), read_to_end(&mut upstream));

        assert_eq!(Told::close(&Frame::all(&got)).0, 1001);
        assert_eq!(heard, half);
        assert_eq!(started.elapsed(), CLOSE_TIMEOUT);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pending_pongs_precede_the_echo_of_a_close() {
    local(async {
        let mut scene = Scene::set(Phase::Held).await;
        let stream = [
            client_frame(0x81, b"held"),
            client_frame(0x89, b"1"),
            client_frame(0x89, b"2"),
            client_frame(0x89, b"3"),
            client_close(1000, ""),
        ]
        .concat();
        write(&mut scene.client, &stream, Segments::Whole).await;

        let frames = Frame::all(&read_to_end(&mut scene.client).await);

        let contents: Vec<_> = frames.iter().map(Frame::content).collect();
        assert_eq!(
            contents,
            [
                (0x8a, &b"1"[..]),
                (0x8a, b"2"),
                (0x8a, b"3"),
                (0x88, b"\x03\xe8")
            ]
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pongs_that_are_owed_go_before_the_close_of_a_violation() {
    local(async {
        let mut scene = Scene::set(Phase::Held).await;
        let stream = [
            client_frame(0x89, b"1"),
            client_frame(0x89, b"2"),
            b"\xff".to_vec(),
        ]
        .concat();
        write(&mut scene.client, &stream, Segments::Whole).await;

        let told = scene.end().await;

        assert_eq!(told.client_close().0, 1002);
        assert_eq!(
            told.before_client_close(),
            [(0x8a, &b"1"[..]), (0x8a, b"2")]
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pending_pong_survives_the_opening_inside_a_frame() {
    local(async {
        let mut settings = gated();
        settings.gate.on_timeout = OnTimeout::Open;
        settings.gate.timeout = Duration::from_secs(1);
        let running = start(settings);
        let mut client = running.client;
        let frame = server_frame(0x81, b"cut by the opening");
        let mut upstream = running.upstream.connect(&frame[..9]);
        sleep(TICK).await;
        write(&mut client, &client_frame(0x89, b"?"), Segments::Whole).await;
        sleep(Duration::from_secs(2)).await;

        write(&mut upstream, &frame[9..], Segments::Whole).await;

        let mut got = vec![0; frame.len() + 3];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [&frame[..], b"\x8a\x01?"].concat());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_is_relayed_from_an_upstream_that_cannot_be_written() {
    local(async {
        for phase in PHASES {
            let mut scene = Scene::set(phase).await;
            let last = [server_frame(0x81, b"last"), server_close(4001, "no seat")].concat();
            scene.upstream.write_all(&last).await.unwrap();
            drop(scene.upstream);
            let message = client_frame(0x81, b"too late");
            scene.client.write_all(&message).await.unwrap();

            let frames = Frame::all(&read_to_end(&mut scene.client).await);

            assert_eq!(
                Told::close(&frames),
                (4001, "no seat".to_owned()),
                "{phase:?}"
            );
            assert_eq!(frames[0].content(), (0x81, &b"last"[..]));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_received_during_a_failed_flush_is_relayed() {
    local(async {
        let mut running = start(gated());
        let message = client_frame(0x82, &[7; 1000]).repeat(100);
        write(&mut running.client, &message, Segments::Whole).await;
        let mut upstream = running.upstream.connect(&server_frame(0x81, b"ready"));
        sleep(TICK).await;
        // The flush fills the pipe and waits.
        let close = server_close(4001, "no seat");
        upstream.write_all(&close).await.unwrap();
        drop(upstream);

        let frames = Frame::all(&read_to_end(&mut running.client).await);

        assert_eq!(Told::close(&frames).0, 4001);
        assert_eq!(frames[0].content(), (0x81, &b"ready"[..]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unread_data_of_a_lost_upstream_reaches_a_closing_client() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        let last = [server_frame(0x81, b"last"), server_close(4001, "no seat")].concat();
        scene
            .client
            .write_all(&client_close(1000, ""))
            .await
            .unwrap();
        scene.upstream.write_all(&last).await.unwrap();
        drop(scene.upstream);

        let frames = Frame::all(&read_to_end(&mut scene.client).await);

        assert_eq!(Told::close(&frames), (4001, "no seat".to_owned()));
        assert_eq!(frames[0].content(), (0x81, &b"last"[..]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unread_data_of_a_lost_client_reaches_the_upstream() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        // The upstream does not read until the client has gone.
        let message = client_frame(0x82, &[7; 1000]);
        let count = 3 * PIPE_BYTES / message.len() / 2;
        let mut sent = message.repeat(count);
        sent.extend(client_close(4001, "bye"));
        scene.client.write_all(&sent).await.unwrap();
        drop(scene.client);
        let unwelcome = server_frame(0x81, b"news");
        write(&mut scene.upstream, &unwelcome, Segments::Whole).await;

        let frames = Frame::all(&read_to_end(&mut scene.upstream).await);

        assert_eq!(frames.len(), count + 1);
        assert_eq!(Told::close(&frames), (4001, "bye".to_owned()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_handshake_is_a_close_code_and_ends_in_time() {
    local(async {
        for (status, code) in [(401, 1008), (403, 1008), (404, 1014), (500, 1014)] {
            let mut running = start(gated());
            let started = Instant::now();
            let status = http::StatusCode::from_u16(status).unwrap();
            running.upstream.refuse(ConnectError::Refused(status));

            let frames = Frame::all(&read_to_end(&mut running.client).await);

            assert_eq!(Told::close(&frames), (code, "upstream_refused".to_owned()));
            assert_eq!(started.elapsed(), CLOSE_TIMEOUT);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_client_that_closes_gets_the_frame_and_the_echo() {
    local(async {
        let frame = server_frame(0x81, b"in several pieces");
        let message = client_frame(0x81, b"held");
        for is_ready in [true, false] {
            let mut scene = Scene::set(Phase::Held).await;
            write(&mut scene.upstream, &frame[..9], Segments::Whole).await;
            let stream = [message.clone(), client_close(4000, "bye")].concat();
            write(&mut scene.client, &stream, Segments::Whole).await;
            if !is_ready {
                // Until just before the gate's deadline.
                sleep(Duration::from_millis(29_995)).await;
            }
            let mut rest = frame[9..].to_vec();
            rest.extend(server_frame(0x81, b"not for a client that has left"));
            if is_ready {
                rest.extend(server_frame(0x81, b"ready"));
            }
            write(&mut scene.upstream, &rest, Segments::Bytes).await;

            let told = scene.end_answering().await;

            assert_eq!(told.client_close(), (4000, "bye".to_owned()));
            assert_eq!(
                told.before_client_close(),
                [(0x81, &b"in several pieces"[..])]
            );
            assert_eq!(told.report.client_code.unwrap().get(), 4000);
            let delivered = told.report.ledger.of(Account::Delivered);
            assert_eq!(delivered, u64::from(is_ready));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_inside_an_upstream_frame_does_not_block_the_gate() {
    local(async {
        let mut scene = Scene::set(Phase::Held).await;
        let mut long = vec![0x82, 0x7f];
        long.extend(1_000_000_u64.to_be_bytes());
        write(&mut scene.upstream, &long, Segments::Whole).await;
        let stream = [client_frame(0x81, b"held"), client_close(4000, "bye")].concat();
        write(&mut scene.client, &stream, Segments::Whole).await;

        // Nobody reads the client's end.
        let payload = vec![7; 1_000_000];
        scene.upstream.write_all(&payload).await.unwrap();
        let ready = server_frame(0x81, b"ready");
        write(&mut scene.upstream, &ready, Segments::Whole).await;

        let message = client_frame(0x81, b"held");
        let mut got = vec![0; message.len()];
        scene.upstream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, message);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_lost_is_not_said_to_have_got_a_close_code() {
    local(async {
        for phase in PHASES {
            for is_half_closed in [false, true] {
                let mut scene = Scene::set(phase).await;
                let mut client = Some(scene.client);
                if is_half_closed {
                    client.as_mut().unwrap().shutdown().await.unwrap();
                } else {
                    client = None;
                }
                sleep(TICK).await;
                let close = server_close(1001, "");
                write(&mut scene.upstream, &close, Segments::Whole).await;
                drop(scene.upstream);

                let report = scene.report.await.unwrap();

                assert_eq!(report.cause.name(), "client_lost", "{phase:?}");
                assert_eq!(report.client_code, None, "{phase:?}, {is_half_closed}");
                assert_eq!(report.upstream_code.unwrap().get(), 1001);
                drop(client);
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unwritten_close_code_is_not_reported_as_sent() {
    local(async {
        let running = start(Settings::default());
        let (client, mut upstream) = (running.client, running.upstream.connect(b""));
        sleep(TICK).await;
        let flood = server_frame(0x82, &[7; 100]).repeat(PIPE_BYTES / 100 + 100);
        upstream.write_all(&flood).await.unwrap();
        sleep(TICK).await;

        running.drain.begin();
        let report = running.report.await.unwrap();

        assert_eq!(report.client_code, None);
        assert_eq!(report.upstream_code.unwrap().get(), 1001);
        drop((client, upstream));
    })
    .await;
}
