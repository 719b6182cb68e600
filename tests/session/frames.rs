//! Frames, legal and illegal, from both sides: while messages are held, and in the tunnel.

use readygate::session::hold::Overflow;
use readygate::session::{Settings, ledger::Account};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{scene::*, support::*};

/// The short length that announces a 16-bit one.
const LENGTH_16: u8 = 126;

/// Protocol violations with the close code of the reply; `frame` makes frames of the endpoint in
/// question, whose second byte has `mask_bit`.
fn violations(frame: fn(u8, &[u8]) -> Vec<u8>, mask_bit: u8) -> Vec<(String, Vec<u8>, u16)> {
    let mut rows = Vec::new();
    let mut row = |name: String, bytes: Vec<u8>, code| rows.push((name, bytes, code));
    for (bit, name) in [(0x40, "RSV1"), (0x20, "RSV2"), (0x10, "RSV3")] {
        for opcode in [0x81, 0x82, 0x89] {
            let name = format!("{name} on {opcode:#x}");
            row(name, frame(opcode | bit, b"x"), 1002);
        }
    }
    for opcode in (3..8).chain(11..16) {
        row(format!("opcode {opcode}"), frame(0x80 | opcode, b"x"), 1002);
    }
    for opcode in [8, 9, 10] {
        let payload = if opcode == 8 { &b"\x03\xe8"[..] } else { b"" };
        row(format!("fragmented {opcode}"), frame(opcode, payload), 1002);
        let long = [
            &[0x80 | opcode, mask_bit | LENGTH_16, 0, 126][..],
            &[0; 130],
        ]
        .concat();
        row(format!("{opcode} of 126 bytes"), long, 1002);
    }
    let behind = [0; 200];
    let lengths: [(&str, &[u8]); 7] = [
        ("0 as 126", &[126, 0, 0]),
        ("125 as 126", &[126, 0, 125]),
        ("0 as 127", &[127, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("125 as 127", &[127, 0, 0, 0, 0, 0, 0, 0, 125]),
        ("65535 as 127", &[127, 0, 0, 0, 0, 0, 0, 255, 255]),
        ("2^63", &[127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ("2^64 - 1", &[127, 255, 255, 255, 255, 255, 255, 255, 255]),
    ];
    for (name, length) in lengths {
        let mut bytes = vec![0x82, mask_bit | length[0]];
        bytes.extend(&length[1..]);
        bytes.extend(behind);
        row(format!("length {name}"), bytes, 1002);
    }
    row("continuation first".into(), frame(0x80, b"x"), 1002);
    row("fragment first".into(), frame(0x00, b"x"), 1002);
    for opcode in [0x01, 0x02, 0x81, 0x82] {
        let bytes = [frame(0x01, b"a"), frame(opcode, b"b")].concat();
        row(format!("{opcode:#x} in a message"), bytes, 1002);
    }
    row("half a close code".into(), frame(0x88, b"\x03"), 1002);
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        let bytes = frame(0x88, &close_payload(code, "no"));
        row(format!("close code {code}"), bytes, 1002);
    }
    let bad_reason = frame(0x88, b"\x03\xe8\xc0\xaf");
    row("close reason not UTF-8".into(), bad_reason, 1007);
    rows
}

#[tokio::test(start_paused = true)]
async fn a_protocol_error_of_the_client_is_1002_and_1001_upstream() {
    local(async {
        let mut rows = violations(client_frame, 0x80);
        rows.push(("unmasked".into(), server_frame(0x81, b"x"), 1002));
        rows.push(("unmasked ping".into(), server_frame(0x89, b""), 1002));
        for (name, bytes, code) in rows {
            for (phase, segments) in each_way() {
                let case = format!("{name}, {phase:?}, {segments:?}");
                let mut scene = Scene::set(phase).await;
                let stream = [client_frame(0x81, b"before"), bytes.clone()].concat();

                write(&mut scene.client, &stream, segments).await;
                let told = scene.end().await;

                assert_eq!(told.client_close().0, code, "{case}");
                assert_eq!(told.client.len(), 1, "{case}");
                assert_eq!(told.upstream_close().0, 1001, "{case}");
                let passed = told.before_upstream_close();
                let undelivered = told.report.ledger.of(Account::Discarded);
                match phase {
                    Phase::Held => {
                        assert!(passed.is_empty(), "{case}");
                        assert_eq!(undelivered, 1, "{case}");
                    }
                    Phase::Tunnel => {
                        assert_eq!(passed[0], (0x81, &b"before"[..]), "{case}");
                        let begun = usize::from(name.ends_with("in a message"));
                        assert_eq!(passed.len(), 1 + begun, "{case}");
                        assert_eq!(undelivered, 0, "{case}");
                    }
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_protocol_error_of_the_upstream_is_1002_and_1014() {
    local(async {
        let mut rows = violations(server_frame, 0);
        rows.push(("masked".into(), client_frame(0x81, b"x"), 1002));
        rows.push(("masked pong".into(), client_frame(0x8a, b""), 1002));
        for (name, bytes, code) in rows {
            for (phase, segments) in each_way() {
                let case = format!("{name}, {phase:?}, {segments:?}");
                let mut scene = Scene::set(phase).await;
                let stream = [server_frame(0x81, b"before"), bytes.clone()].concat();

                write(&mut scene.upstream, &stream, segments).await;
                let told = scene.end().await;

                assert_eq!(told.upstream_close().0, code, "{case}");
                assert_eq!(told.upstream.len(), 1, "{case}");
                let (code, reason) = told.client_close();
                assert_eq!(
                    (code, reason.as_str()),
                    (1014, "upstream_protocol_error"),
                    "{case}"
                );
                let passed = told.before_client_close();
                assert_eq!(passed[0], (0x81, &b"before"[..]), "{case}");
                let begun = usize::from(name.ends_with("in a message"));
                assert_eq!(passed.len(), 1 + begun, "{case}");
            }
        }
    })
    .await;
}

/// Legal frames of a client; all of them go to the upstream except pings that the proxy answers
/// while it holds.
fn legal_frames() -> Vec<(u8, Vec<u8>)> {
    let mut frames: Vec<(u8, Vec<u8>)> = vec![
        (0x81, b"".into()),
        (0x82, b"".into()),
        (0x8a, b"unsolicited".into()),
        (0x8a, b"".into()),
        (0x89, b"".into()),
        (0x01, b"\xe2".into()),
        (0x89, b"between".into()),
        (0x00, b"\x82".into()),
        (0x00, b"".into()),
        (0x80, b"\xac".into()),
        (0x02, b"".into()),
        (0x80, b"".into()),
        (0x89, vec![b'p'; 125]),
        (0x81, "κόσμε 𝄞".into()),
    ];
    for length in [125, 126, 127, 128, 1000] {
        frames.push((0x82, vec![0xff; length]));
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn legal_frames_of_a_client_arrive_unchanged_at_any_split() {
    local(async {
        let frames = legal_frames();
        let mut stream: Vec<u8> = frames
            .iter()
            .flat_map(|(first, payload)| client_frame(*first, payload))
            .collect();
        stream.extend(client_close(1000, ""));
        for (phase, segments) in each_way() {
            let mut scene = Scene::set(phase).await;

            write(&mut scene.client, &stream, segments).await;
            if phase == Phase::Held {
                let ready = server_frame(0x81, b"ready");
                scene.upstream.write_all(&ready).await.unwrap();
            }
            let told = scene.end_answering().await;

            assert_eq!(told.upstream_close(), (1000, String::new()));
            let code = match phase {
                Phase::Held => 1000,
                // The upstream's.
                Phase::Tunnel => 3001,
            };
            assert_eq!(told.client_close(), (code, String::new()));
            let (asked, rest): (Vec<_>, Vec<_>) =
                frames.iter().partition(|(first, _)| *first == 0x89);
            let (pongs, messages): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(first, _)| *first == 0x8a);
            let content = |frames: Vec<&(u8, Vec<u8>)>| -> Vec<(u8, Vec<u8>)> {
                frames.into_iter().cloned().collect()
            };
            let got: Vec<(u8, Vec<u8>)> = told
                .before_upstream_close()
                .into_iter()
                .map(|(first, payload)| (first, payload.to_vec()))
                .collect();
            match phase {
                Phase::Tunnel => assert_eq!(got, frames),
                Phase::Held => {
                    // Control frames are not held, so the pongs come first.
                    assert_eq!(got, [content(pongs), content(messages)].concat());
                    let answers = told.before_client_close();
                    let last = asked.last().unwrap();
                    assert_eq!(answers.last(), Some(&(0x8a, &last.1[..])));
                    if segments == Segments::Bytes {
                        assert_eq!(answers.len(), asked.len());
                    }
                }
            }
            let data_messages = 5 + 5;
            assert_eq!(told.report.ledger.accepted(), data_messages);
            assert_eq!(told.report.ledger.of(Account::Delivered), data_messages);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn legal_frames_of_an_upstream_arrive_unchanged_at_any_split() {
    local(async {
        let frames: Vec<_> = legal_frames()
            .into_iter()
            .filter(|(_, payload)| payload.len() < 126)
            .collect();
        let mut stream: Vec<u8> = frames
            .iter()
            .flat_map(|(first, payload)| server_frame(*first, payload))
            .collect();
        stream.extend(server_close(1000, ""));
        for (phase, segments) in each_way() {
            let mut scene = Scene::set(phase).await;

            write(&mut scene.upstream, &stream, segments).await;
            write(&mut scene.client, &client_close(1000, ""), segments).await;
            let told = scene.end().await;

            let got: Vec<(u8, Vec<u8>)> = told
                .before_client_close()
                .into_iter()
                .map(|(first, payload)| (first, payload.to_vec()))
                .collect();
            assert_eq!(got, frames, "{phase:?}, {segments:?}");
            assert_eq!(told.client_close(), (1000, String::new()));
            assert_eq!(told.upstream_close(), (1000, String::new()));
            assert_eq!(told.report.traffic.upstream_messages, 6);
            assert_eq!(told.report.traffic.upstream_bytes, stream.len() as u64);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn frames_in_one_segment_arrive_like_frames_in_a_thousand() {
    local(async {
        let frames: Vec<Vec<u8>> = (0..1000)
            .map(|number: u32| client_frame(0x82, &number.to_be_bytes()))
            .collect();
        for phase in PHASES {
            for together in [true, false] {
                let mut scene = Scene::set(phase).await;
                if together {
                    write(&mut scene.client, &frames.concat(), Segments::Whole).await;
                } else {
                    for frame in &frames {
                        write(&mut scene.client, frame, Segments::Whole).await;
                    }
                }
                if phase == Phase::Held {
                    let ready = server_frame(0x81, b"ready");
                    scene.upstream.write_all(&ready).await.unwrap();
                }
                let close = client_close(1000, "");
                write(&mut scene.client, &close, Segments::Whole).await;

                let told = scene.end().await;

                let numbers: Vec<u32> = told
                    .before_upstream_close()
                    .into_iter()
                    .map(|(_, payload)| u32::from_be_bytes(payload.try_into().unwrap()))
                    .collect();
                assert_eq!(numbers, (0..1000).collect::<Vec<_>>(), "{phase:?}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn invalid_utf8_is_refused_while_held_and_passes_the_tunnel() {
    local(async {
        for bad in [
            &b"a\xc0\xaf"[..],
            b"\xe0\x80\xaf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"ok\xf0\x9d\x84",
            b"\x80",
        ] {
            for (phase, segments) in each_way() {
                let mut scene = Scene::set(phase).await;
                let stream = [client_frame(0x81, bad), client_close(1000, "")].concat();

                write(&mut scene.client, &stream, segments).await;
                let told = scene.end().await;

                match phase {
                    Phase::Held => {
                        assert_eq!(told.client_close(), (1007, "invalid_utf8".to_owned()));
                        assert_eq!(told.upstream_close().0, 1001);
                        assert!(told.before_upstream_close().is_empty());
                    }
                    Phase::Tunnel => {
                        assert_eq!(told.client_close().0, 1000);
                        assert_eq!(told.before_upstream_close(), [(0x81, bad)]);
                    }
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_s_text_is_not_looked_at_in_any_phase() {
    local(async {
        for (phase, segments) in each_way() {
            let mut scene = Scene::set(phase).await;
            let stream = [server_frame(0x81, b"\xff"), server_close(1000, "")].concat();

            write(&mut scene.upstream, &stream, segments).await;
            let told = scene.end().await;

            assert_eq!(told.before_client_close(), [(0x81, &b"\xff"[..])]);
            assert_eq!(told.client_close().0, 1000);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_between_fragments_discards_the_message_while_held() {
    local(async {
        for segments in SEGMENTS {
            let mut scene = Scene::set(Phase::Held).await;
            let stream = [
                client_frame(0x81, b"whole"),
                client_frame(0x01, b"half"),
                client_close(4000, "enough"),
                client_frame(0x80, b"late"),
            ]
            .concat();

            write(&mut scene.client, &stream, segments).await;
            let ready = server_frame(0x81, b"ready");
            scene.upstream.write_all(&ready).await.unwrap();
            let told = scene.end_answering().await;

            assert_eq!(told.client_close(), (4000, "enough".to_owned()));
            assert_eq!(told.before_upstream_close(), [(0x81, &b"whole"[..])]);
            assert_eq!(told.upstream_close(), (4000, "enough".to_owned()));
            assert_eq!(told.report.ledger.of(Account::Delivered), 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_between_fragments_is_relayed_in_the_tunnel() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        let stream = [client_frame(0x01, b"half"), client_close(4000, "enough")].concat();

        write(&mut scene.client, &stream, Segments::Whole).await;
        let told = scene.end().await;

        assert_eq!(told.before_upstream_close(), [(0x01, &b"half"[..])]);
        assert_eq!(told.upstream_close(), (4000, "enough".to_owned()));
        assert_eq!(told.client_close(), (4000, "enough".to_owned()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_declared_length_allocates_nothing_and_may_be_too_big() {
    local(async {
        for length in [1_u64 << 40, 1 << 62, i64::MAX as u64] {
            let mut settings = gated();
            settings.hold.overflow = Overflow::Close;
            let mut running = start(settings);
            let mut bytes = vec![0x82, 0xff];
            bytes.extend(length.to_be_bytes());
            bytes.extend(*b"keykten bytes!");
            running.client.write_all(&bytes).await.unwrap();

            let (_, code, reason) = read_to_close(&mut running.client).await;

            assert_eq!((code, reason.as_str()), (1009, "message_too_big"));
            assert!(running.budget.used_bytes() < 20 * 1024);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_s_declared_length_passes_and_costs_nothing() {
    local(async {
        for phase in PHASES {
            let running = start(match phase {
                Phase::Held => gated(),
                Phase::Tunnel => Settings::default(),
            });
            let mut client = running.client;
            let mut upstream = running.upstream.connect(b"");
            let mut bytes = vec![0x82, 0x7f];
            bytes.extend((i64::MAX as u64).to_be_bytes());
            bytes.extend(*b"ten bytes!");
            upstream.write_all(&bytes).await.unwrap();

            let mut got = vec![0; bytes.len()];
            client.read_exact(&mut got).await.unwrap();

            assert_eq!(got, bytes);
            assert!(running.budget.used_bytes() < 20 * 1024);
            drop(upstream);
            assert_eq!(read_to_end(&mut client).await, b"", "{phase:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_in_the_tunnel_is_the_other_end_s_to_answer() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        let ping = client_frame(0x89, b"there?");
        write(&mut scene.client, &ping, Segments::Whole).await;
        let mut got = vec![0; ping.len()];
        scene.upstream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, ping);

        let answer = server_frame(0x8a, b"there?");
        write(&mut scene.upstream, &answer, Segments::Whole).await;
        let mut got = vec![0; answer.len()];
        scene.client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, answer);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_s_ping_is_the_client_s_to_answer_even_while_held() {
    local(async {
        let mut scene = Scene::set(Phase::Held).await;
        write(
            &mut scene.upstream,
            &server_frame(0x89, b"there?"),
            Segments::Bytes,
        )
        .await;
        let mut got = [0; 8];
        scene.client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, *b"\x89\x06there?");

        let pong = client_frame(0x8a, b"there?");
        write(&mut scene.client, &pong, Segments::Bytes).await;
        let mut got = vec![0; pong.len()];
        scene.upstream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, pong);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_s_ping_is_answered_for_a_client_that_has_left() {
    local(async {
        let mut scene = Scene::set(Phase::Held).await;
        let held = client_frame(0x81, b"held");
        write(&mut scene.client, &held, Segments::Whole).await;
        drop(scene.client);
        sleep(TICK).await;

        let ping = server_frame(0x89, b"there?");
        write(&mut scene.upstream, &ping, Segments::Bytes).await;

        let answer = read_frame(&mut scene.upstream).await;
        assert_eq!(answer.content(), (0x8a, &b"there?"[..]));
        assert!(answer.key.is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_before_the_upstream_is_there_is_dropped() {
    local(async {
        let mut running = start(gated());
        let stream = [client_frame(0x8a, b"early"), client_frame(0x81, b"a")].concat();
        write(&mut running.client, &stream, Segments::Whole).await;

        let mut upstream = running.upstream.connect(&server_frame(0x81, b"ready"));
        let mut got = vec![0; client_frame(0x81, b"a").len()];
        upstream.read_exact(&mut got).await.unwrap();

        assert_eq!(got, client_frame(0x81, b"a"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pongs_for_a_stalled_client_do_not_pile_up() {
    local(async {
        let mut running = start(gated());
        let count = 100_000_u32;
        for number in 0..count {
            let ping = client_frame(0x89, &number.to_be_bytes());
            running.client.write_all(&ping).await.unwrap();
        }
        sleep(TICK).await;
        assert!(running.budget.used_bytes() < 20 * 1024);

        running.client.shutdown().await.unwrap();
        let bytes = read_to_end(&mut running.client).await;

        let pongs = Frame::all(&bytes);
        let pipe_full = PIPE_BYTES / 6;
        assert!(pongs.len() <= pipe_full + 34, "{} pongs", pongs.len());
        let last = pongs.last().unwrap();
        assert_eq!(last.content(), (0x8a, &(count - 1).to_be_bytes()[..]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn masks_of_the_proxy_s_own_frames_differ_and_none_is_zero() {
    local(async {
        let mut keys = Vec::new();

        // Pongs for a client that has left, and the close frame at the end.
        let mut scene = Scene::set(Phase::Held).await;
        let stream = [client_frame(0x81, b"held"), client_close(1000, "")].concat();
        write(&mut scene.client, &stream, Segments::Whole).await;
        for _ in 0..200 {
            let ping = server_frame(0x89, b"");
            write(&mut scene.upstream, &ping, Segments::Whole).await;
        }
        write(
            &mut scene.upstream,
            &server_frame(0x81, b"ready"),
            Segments::Whole,
        )
        .await;
        let told = scene.end().await;
        assert_eq!(told.upstream.len(), 202);
        let own = told.upstream.iter().filter(|frame| frame.first != 0x81);
        keys.extend(own.map(|frame| frame.key.unwrap()));

        // The gate's pings, until the gate's deadline.
        let mut settings = gated();
        settings.gate.ready = vec![readygate::session::gate::Trigger::Pong];
        let running = start(settings);
        let mut upstream = running.upstream.connect(b"");
        let frames = Frame::all(&read_to_end(&mut upstream).await);
        assert!(frames.len() > 15, "{frames:?}");
        assert!(frames[..15].iter().all(|frame| frame.first == 0x89));
        keys.extend(frames.iter().map(|frame| frame.key.unwrap()));

        // Close frames of many sessions.
        for _ in 0..50 {
            let mut scene = Scene::set(Phase::Tunnel).await;
            write(&mut scene.client, b"\xff", Segments::Whole).await;
            let told = scene.end().await;
            keys.extend(told.upstream.iter().map(|frame| frame.key.unwrap()));
        }

        let count = keys.len();
        assert!(count > 260);
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert!(!keys.contains(&[0; 4]));
    })
    .await;
}
