//! Compressed messages: inspected while they are held, and passed on unchanged.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::sync::Arc;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use readygate::{
    limits::held_bytes::Budget,
    matcher::Matcher,
    session::{
        Agreed, Settings,
        ledger::Account,
        rules::{Priority, Release, Rule, Rules},
    },
    websocket::extension::Agreement,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

use crate::{scene::*, support::*};

/// The first byte of a whole text message that is compressed.
const TEXT: u8 = 0xc1;
const BINARY: u8 = 0xc2;

/// A sender that compresses, and with `takes_over` uses what it has sent before.
struct Compressor {
    stream: Compress,
    takes_over: bool,
}

impl Compressor {
    fn new(takes_over: bool) -> Self {
        let stream = Compress::new(Compression::default(), false);
        Self { stream, takes_over }
    }

    fn message(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 100);
        self.stream
            .compress_vec(plain, &mut out, FlushCompress::Sync)
            .unwrap();
        assert!(out.len() < out.capacity() && out.ends_with(b"\x00\x00\xff\xff"));
        if !self.takes_over {
            self.stream.reset();
        }
        out.truncate(out.len() - 4);
        out
    }
}

/// A receiver that keeps its window from message to message.
struct Receiver(Decompress);

impl Receiver {
    fn new() -> Self {
        Self(Decompress::new(false))
    }

    fn text(&mut self, compressed: &[u8]) -> String {
        let message = [compressed, b"\x00\x00\xff\xff"].concat();
        let mut plain = Vec::with_capacity(100_000);
        self.0
            .decompress_vec(&message, &mut plain, FlushDecompress::Sync)
            .unwrap();
        String::from_utf8(plain).unwrap()
    }
}

fn compressed(plain: &str) -> Vec<u8> {
    Compressor::new(false).message(plain.as_bytes())
}

fn agreed(agreement: Agreement) -> Agreed {
    Agreed {
        compression: Some(agreement),
        ..Agreed::default()
    }
}

fn start_compressed(settings: Settings) -> Running {
    let budget = Arc::new(Budget::new(64 * 1024 * 1024));
    start_agreed(settings, budget, Vec::new(), agreed(Agreement::default()))
}

async fn scene(phase: Phase, settings: impl FnOnce(&mut Settings)) -> Scene {
    let mut chosen = match phase {
        Phase::Held => gated(),
        Phase::Tunnel => Settings::default(),
    };
    settings(&mut chosen);
    let running = start_compressed(chosen);
    let upstream = running.upstream.connect(b"");
    sleep(TICK).await;
    Scene {
        client: running.client,
        upstream,
        report: running.report,
    }
}

/// `urgent` is critical and `early` does not wait for the gate.
fn with_rules(settings: &mut Settings) {
    let rule = |prefix: &str, priority, release| Rule {
        matchers: vec![Matcher::Prefix(prefix.to_owned())],
        priority,
        release,
    };
    settings.rules = Rules::new(vec![
        rule("urgent", Priority::Critical, Release::Ready),
        rule("early", Priority::Normal, Release::Authenticated),
    ]);
}

fn frame_of_server(first: u8, payload: &[u8]) -> Vec<u8> {
    let Ok(length) = u16::try_from(payload.len()) else {
        panic!("{} bytes", payload.len())
    };
    if length < 126 {
        return server_frame(first, payload);
    }
    [&[first, 126][..], &length.to_be_bytes(), payload].concat()
}

async fn read_frames(from: &mut DuplexStream, count: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    while frames.len() < count {
        frames.push(read_frame(from).await);
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn rules_and_gate_read_compressed_messages_and_pass_them_as_is() {
    for segments in SEGMENTS {
        local(async {
            let mut scene = scene(Phase::Held, with_rules).await;
            let texts = ["one", "urgent two", "early three", "four"];
            let frames = texts.map(|text| client_frame(TEXT, &compressed(text)));

            write(&mut scene.client, &frames.concat(), segments).await;
            assert_eq!(
                read_frame(&mut scene.upstream).await.payload,
                compressed("early three")
            );
            write(
                &mut scene.upstream,
                &server_frame(TEXT, &compressed("ready")),
                segments,
            )
            .await;

            let flushed = read_frames(&mut scene.upstream, 3).await;
            let expected = ["urgent two", "one", "four"].map(compressed);
            let content: Vec<_> = flushed.iter().map(Frame::content).collect();
            assert_eq!(content, expected.each_ref().map(|text| (TEXT, &text[..])));
            assert_eq!(
                read_frame(&mut scene.client).await.content(),
                (TEXT, &compressed("ready")[..])
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_ready_message_that_refers_to_an_earlier_one_is_read() {
    for segments in SEGMENTS {
        local(async {
            let mut scene = scene(Phase::Held, |settings| {
                settings.gate.inspect_bytes = 64;
                settings.gate.ready = on_text("the word that is only said at last: ready");
            })
            .await;
            let mut compressor = Compressor::new(true);
            let long = format!(
                "{}the word that is only said at last: ",
                "x1y2".repeat(5_000)
            );
            let first = compressor.message(long.as_bytes());
            let ready = compressor.message(b"the word that is only said at last: ready");
            assert!(ready.len() < 20, "{} bytes refer to nothing", ready.len());
            let wire = [frame_of_server(TEXT, &first), server_frame(TEXT, &ready)].concat();

            scene
                .client
                .write_all(&client_frame(0x81, b"held"))
                .await
                .unwrap();
            write(&mut scene.upstream, &wire, segments).await;

            assert_eq!(
                read_frame(&mut scene.upstream).await.content(),
                (0x81, &b"held"[..])
            );
            let mut passed = vec![0; wire.len()];
            scene.client.read_exact(&mut passed).await.unwrap();
            assert!(passed == wire);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn fragments_of_a_compressed_message_are_read_as_one() {
    local(async {
        let mut scene = scene(Phase::Held, with_rules).await;
        let urgent = compressed("urgent");
        let (front, back) = urgent.split_at(3);
        let wire = [
            client_frame(0x81, b"plain"),
            client_frame(0x41, front),
            client_frame(0x89, b""),
            client_frame(0x00, b""),
            client_frame(0x80, back),
        ];
        let ready = compressed("ready");
        let (start, end) = ready.split_at(1);

        write(&mut scene.client, &wire.concat(), Segments::Whole).await;
        assert_eq!(read_frame(&mut scene.client).await.first, 0x8a);
        let answer = [server_frame(0x41, start), server_frame(0x80, end)].concat();
        write(&mut scene.upstream, &answer, Segments::Bytes).await;

        let flushed = read_frames(&mut scene.upstream, 4).await;
        let content: Vec<_> = flushed.iter().map(Frame::content).collect();
        assert_eq!(
            content,
            [
                (0x41, front),
                (0x00, &b""[..]),
                (0x80, back),
                (0x81, &b"plain"[..])
            ]
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn compressed_messages_pass_the_tunnel_unchanged() {
    for segments in SEGMENTS {
        local(async {
            let mut scene = scene(Phase::Tunnel, |_| {}).await;
            let there = [
                client_frame(TEXT, b"not even deflate"),
                client_frame(0x42, b"a"),
                client_frame(0x80, b"b"),
            ]
            .concat();
            let back = [server_frame(BINARY, b"\xff\xff"), server_frame(TEXT, b"")].concat();

            write(&mut scene.client, &there, segments).await;
            write(&mut scene.upstream, &back, segments).await;

            let mut passed = vec![0; there.len()];
            scene.upstream.read_exact(&mut passed).await.unwrap();
            assert_eq!(passed, there);
            let mut passed = vec![0; back.len()];
            scene.client.read_exact(&mut passed).await.unwrap();
            assert_eq!(passed, back);
        })
        .await;
    }
}

// RFC 7692 §6.
#[tokio::test(start_paused = true)]
async fn rsv1_beyond_the_first_frame_is_a_protocol_error() {
    let start = compressed("a");
    for (phase, segments) in each_way() {
        for first in [0xc0, 0x40, 0xc8, 0xc9, 0xca, 0xa0, 0x90] {
            local(async {
                let case = format!("{first:#x}, {phase:?}, {segments:?}");
                let mut client = scene(phase, with_rules).await;
                let wire = [client_frame(0x41, &start), client_frame(first, b"")];
                write(&mut client.client, &wire.concat(), segments).await;
                let told = client.end().await;
                assert_eq!(told.client_close().0, 1002, "{case}");

                let mut upstream = scene(phase, with_rules).await;
                let wire = [server_frame(0x41, &start), server_frame(first, b"")];
                write(&mut upstream.upstream, &wire.concat(), segments).await;
                let told = upstream.end().await;
                assert_eq!(told.client_close().0, 1014, "{case}");
                assert_eq!(told.upstream_close().0, 1002, "{case}");
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_uninflatable_or_invalid_text_ends_an_inspected_session() {
    let cut = &compressed("a message without its end")[..9];
    let no_text = Compressor::new(false).message(b"a\xc0\xaf");
    let rows = [
        (&b"\xff\xff\xff\xff"[..], "invalid_deflate"),
        (cut, "invalid_deflate"),
        (&no_text, "invalid_utf8"),
    ];
    for (payload, name) in rows {
        for segments in SEGMENTS {
            local(async {
                let mut scene = scene(Phase::Held, with_rules).await;
                let wire = client_frame(TEXT, payload);
                write(&mut scene.client, &wire, segments).await;

                let told = scene.end().await;

                assert_eq!(told.client_close(), (1007, name.to_owned()));
                assert_eq!(told.upstream_close().0, 1001);
                assert_eq!(told.report.ledger.accepted(), 0);
            })
            .await;
        }
    }
    local(async {
        let mut scene = scene(Phase::Held, |_| {}).await;
        let wire = server_frame(TEXT, b"\xff\xff\xff\xff");
        write(&mut scene.upstream, &wire, Segments::Whole).await;

        let told = scene.end().await;

        assert_eq!(told.client_close().0, 1014);
        assert_eq!(told.upstream_close().0, 1007);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_rules_client_messages_are_not_inflated() {
    local(async {
        let mut scene = scene(Phase::Held, |_| {}).await;
        let mut compressor = Compressor::new(true);
        let texts = ["a long word is said", "a long word is said", "at last"];
        let frames = texts.map(|text| client_frame(TEXT, &compressor.message(text.as_bytes())));

        write(&mut scene.client, &frames.concat(), Segments::Whole).await;
        let ready = server_frame(0x81, b"ready");
        write(&mut scene.upstream, &ready, Segments::Whole).await;

        let mut receiver = Receiver::new();
        for text in texts {
            let frame = read_frame(&mut scene.upstream).await;
            assert_eq!(receiver.text(&frame.payload), text);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_clients_bomb_is_held_and_an_upstreams_bomb_refused() {
    let bomb = {
        let mut compressor = Compressor::new(false);
        let mut message = compressor.message(&vec![b'a'; 30 << 20]);
        message.truncate(60_000);
        message
    };
    local(async {
        let mut scene = scene(Phase::Held, with_rules).await;
        let wire = client_frame(TEXT, &bomb);
        write(&mut scene.client, &wire, Segments::Whole).await;
        let ready = server_frame(0x81, b"ready");
        write(&mut scene.upstream, &ready, Segments::Whole).await;
        assert_eq!(read_frame(&mut scene.upstream).await.payload, bomb);
    })
    .await;
    local(async {
        let mut scene = scene(Phase::Held, |_| {}).await;
        let wire = frame_of_server(TEXT, &bomb);
        write(&mut scene.upstream, &wire, Segments::Whole).await;

        let told = scene.end().await;

        assert_eq!(told.client_close().0, 1014);
        assert_eq!(told.upstream_close().0, 1009);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn inflating_stops_after_many_bombs_and_loses_nothing() {
    const BOMBS: usize = 400;
    let text = format!("early{}", "a".repeat(64 * 1024));
    let bomb = client_frame(TEXT, &compressed(&text));
    local(async {
        let mut scene = scene(Phase::Held, with_rules).await;
        let early = client_frame(0x81, b"early");
        let sent = [bomb.repeat(BOMBS), early].concat();
        let (client, upstream) = (&mut scene.client, &mut scene.upstream);
        let read = async {
            let mut bombs = 0;
            while read_frame(upstream).await.payload != b"early" {
                bombs += 1;
            }
            bombs
        };

        let ((), looked_at) = tokio::join!(write(client, &sent, Segments::Whole), read);

        // So many are 16 MiB, and somewhat more with what has arrived for them.
        assert!((256..BOMBS).contains(&looked_at), "{looked_at}");
        let ready = server_frame(0x81, b"ready");
        write(&mut scene.upstream, &ready, Segments::Whole).await;
        read_frames(&mut scene.upstream, BOMBS - looked_at).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn inflater_memory_is_charged_and_freed_when_the_gate_opens() {
    local(async {
        let running = start_compressed(gated());
        let mut upstream = running.upstream.connect(b"");
        let mut compressor = Compressor::new(true);
        sleep(TICK).await;
        assert_eq!(running.budget.used_bytes(), 0);

        let wire = server_frame(TEXT, &compressor.message(b"booting"));
        write(&mut upstream, &wire, Segments::Whole).await;
        assert!(running.budget.used_bytes() >= 43 * 1024);

        let wire = server_frame(TEXT, &compressor.message(b"ready"));
        write(&mut upstream, &wire, Segments::Whole).await;
        assert_eq!(running.budget.used_bytes(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn between_messages_that_stand_alone_nothing_is_kept() {
    local(async {
        let agreement = Agreement {
            server_no_context_takeover: true,
            ..Agreement::default()
        };
        let budget = Arc::new(Budget::new(1024 * 1024));
        let mut settings = gated();
        settings.gate.inspect_bytes = 100;
        let running = start_agreed(settings, budget, Vec::new(), agreed(agreement));
        let mut upstream = running.upstream.connect(b"");
        let long = "much more than is looked at ".repeat(2_000);

        for text in ["booting", &long, "ready?"] {
            let wire = frame_of_server(TEXT, &compressed(text));
            write(&mut upstream, &wire, Segments::Bytes).await;
            assert!(running.budget.used_bytes() <= 200);
        }
        let mut client = running.client;
        client
            .write_all(&client_frame(0x81, b"held"))
            .await
            .unwrap();
        let wire = server_frame(TEXT, &compressed("ready"));
        write(&mut upstream, &wire, Segments::Bytes).await;

        assert_eq!(read_frame(&mut upstream).await.payload, b"held");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_withheld_ready_message_breaks_no_independent_message() {
    for first in [TEXT, 0x81] {
        local(async {
            let mut settings = gated();
            settings.gate.forward_ready = false;
            let agreement = Agreement {
                server_no_context_takeover: true,
                ..Agreement::default()
            };
            let budget = Arc::new(Budget::new(1024 * 1024));
            let mut running = start_agreed(settings, budget, Vec::new(), agreed(agreement));
            let mut upstream = running.upstream.connect(b"");
            let ready = match first {
                TEXT => compressed("ready"),
                _ => b"ready".to_vec(),
            };
            let wire = [
                server_frame(TEXT, &compressed("said before")),
                server_frame(first, &ready),
                server_frame(TEXT, &compressed("said after")),
            ];

            write(&mut upstream, &wire.concat(), Segments::Bytes).await;

            let mut receiver = Receiver::new();
            for text in ["said before", "said after"] {
                let frame = read_frame(&mut running.client).await;
                assert_eq!(receiver.text(&frame.payload), text);
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn frames_of_the_proxy_s_own_are_not_compressed() {
    local(async {
        let mut settings = gated();
        settings.gate.ready = vec![readygate::session::gate::Trigger::Pong];
        settings.gate.timeout = std::time::Duration::from_millis(50);
        let running = start_compressed(settings);
        let mut upstream = running.upstream.connect(b"");
        let mut client = running.client;
        let held = client_frame(TEXT, &compressed("held"));
        client.write_all(&held).await.unwrap();

        assert_eq!(read_frame(&mut upstream).await.first, 0x89);
        assert_eq!(read_frame(&mut upstream).await.first, 0x88);
        assert_eq!(read_frame(&mut client).await.first, 0x88);
        drop((client, upstream));
        let report = running.report.await.unwrap();
        assert_eq!(report.ledger.of(Account::Discarded), 1);
    })
    .await;
}
