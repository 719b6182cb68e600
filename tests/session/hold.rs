//! Holding, the gate, the flush.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{sync::Arc, time::Duration};

use futures_util::SinkExt;
use readygate::{
    limits::held_bytes::Budget,
    matcher::Matcher,
    session::{
        Agreed, EndReason, Settings,
        gate::{OnTimeout, Trigger},
        ledger::Account,
        rules::{Priority, Release, Rule, Rules},
        state::SessionState,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{scene::*, support::*};

fn rule(text: &str, priority: Priority, release: Release) -> Rule {
    Rule {
        matchers: vec![Matcher::Text(text.to_owned())],
        priority,
        release,
    }
}

#[tokio::test(start_paused = true)]
async fn messages_sent_before_readiness_arrive_once_and_in_order() {
    local(async {
        let running = start(gated());
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a", "b", "c"]).await;

        tokio::time::sleep(Duration::from_secs(5)).await;
        send_all(&mut upstream, &["hello", "ready"]).await;

        assert_eq!(receive(&mut upstream, 3).await, ["a", "b", "c"]);
        assert_eq!(receive(&mut client, 2).await, ["hello", "ready"]);
        send_all(&mut client, &["d"]).await;
        assert_eq!(receive(&mut upstream, 1).await, ["d"]);
        client.close(None).await.unwrap();
        assert_eq!(close_frame(&mut upstream).await.0, 1005);
        drop(upstream);
        let report = running.report.await.unwrap();
        assert_eq!(report.ledger.accepted(), 4);
        assert_eq!(report.ledger.of(Account::Delivered), 4);
        assert_eq!(report.state, SessionState::Processing);
        assert_eq!(report.trail.state(), SessionState::Closed);
        assert_eq!(running.budget.used_bytes(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_reaches_the_upstream_before_its_ready_message() {
    local(async {
        let mut running = start(gated());
        let mut upstream = running.upstream.connect(b"");
        running
            .client
            .write_all(&client_frame(0x81, b"early"))
            .await
            .unwrap();

        tokio::time::sleep(Duration::from_secs(29)).await;
        let mut buffer = [0; 64];
        let nothing = tokio::time::timeout(Duration::from_millis(1), upstream.read(&mut buffer));
        assert!(nothing.await.is_err());

        upstream
            .write_all(&server_frame(0x81, b"ready"))
            .await
            .unwrap();
        let read = upstream.read(&mut buffer).await.unwrap();
        assert_eq!(buffer[..read], client_frame(0x81, b"early"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn higher_priorities_are_flushed_first_and_released_early() {
    local(async {
        let mut settings = gated();
        settings.gate.services_ready = on_text("services");
        settings.rules = Rules::new(vec![
            rule("ack", Priority::Normal, Release::ServicesReady),
            rule("urgent", Priority::Critical, Release::Ready),
            rule("typing", Priority::Low, Release::Ready),
        ]);
        let running = start(settings);
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["typing", "one", "ack", "urgent", "two"]).await;

        send_all(&mut upstream, &["services"]).await;
        assert_eq!(receive(&mut upstream, 1).await, ["ack"]);
        send_all(&mut client, &["ack"]).await;
        assert_eq!(receive(&mut upstream, 1).await, ["ack"]);

        send_all(&mut upstream, &["ready"]).await;
        assert_eq!(
            receive(&mut upstream, 4).await,
            ["urgent", "one", "two", "typing"]
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_ready_message_in_the_segment_of_the_101_loses_nothing() {
    local(async {
        let running = start(gated());
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["held"]).await;
        let mut early = server_frame(0x81, b"before");
        early.extend(server_frame(0x01, b"rea"));
        early.extend(server_frame(0x80, b"dy"));
        early.extend(server_frame(0x81, b"behind"));
        early.extend(&server_frame(0x81, b"half")[..3]);

        let mut upstream = running.upstream.connect(&early);
        upstream
            .write_all(&server_frame(0x81, b"half")[3..])
            .await
            .unwrap();

        assert_eq!(
            receive(&mut client, 4).await,
            ["before", "ready", "behind", "half"]
        );
        let mut upstream = as_server(upstream).await;
        assert_eq!(receive(&mut upstream, 1).await, ["held"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_half_received_message_is_completed_exactly_once() {
    let frames = [
        client_frame(0x81, b"whole"),
        client_frame(0x01, b"half "),
        client_frame(0x80, b"done"),
    ];
    let stream = frames.concat();
    for cut in 0..=stream.len() {
        local(async {
            let mut running = start(gated());
            let mut upstream = running.upstream.connect(b"");
            running.client.write_all(&stream[..cut]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            upstream
                .write_all(&server_frame(0x81, b"ready"))
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            running.client.write_all(&stream[cut..]).await.unwrap();

            let mut received = vec![0; stream.len()];
            upstream.read_exact(&mut received).await.unwrap();
            assert_eq!(received, stream, "cut at {cut}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_gates_deadline_closes_and_names_undelivered_messages() {
    local(async {
        let running = start(gated());
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a", "b"]).await;

        let close = close_frame(&mut client).await;

        assert_eq!(
            close,
            (1013, "ready_timeout; 2 messages not delivered".to_owned())
        );
        assert_eq!(
            close_frame(&mut upstream).await,
            (1001, "ready_timeout".to_owned())
        );
        drop(upstream);
        let report = running.report.await.unwrap();
        assert_eq!(report.ledger.of(Account::Discarded), 2);
        let deadline = Some(Duration::from_secs(30));
        assert_eq!(report.trail.entered(SessionState::Closing), deadline);
        assert_eq!(report.trail.state(), SessionState::Failed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_route_may_open_the_gate_at_the_deadline() {
    local(async {
        let mut settings = gated();
        settings.gate.on_timeout = OnTimeout::Open;
        let running = start(settings);
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        client.close(None).await.unwrap();
        drop(upstream);
        let report = running.report.await.unwrap();
        assert_eq!(
            report.trail.entered(SessionState::Degraded),
            Some(Duration::from_secs(30))
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_gate_settles_before_it_opens() {
    local(async {
        let mut settings = gated();
        settings.gate.settle = Duration::from_millis(500);
        let running = start(settings);
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;
        send_all(&mut upstream, &["ready"]).await;
        let announced = Instant::now();

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        assert_eq!(announced.elapsed().as_millis(), 500);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_ready_message_is_withheld_once_and_then_data() {
    local(async {
        let mut settings = gated();
        settings.gate.forward_ready = false;
        let running = start(settings);
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;

        send_all(&mut upstream, &["banner", "ready", "ready", "data"]).await;

        assert_eq!(receive(&mut client, 3).await, ["banner", "ready", "data"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_long_message_passes_where_the_ready_one_is_withheld() {
    local(async {
        let mut settings = gated();
        settings.gate.forward_ready = false;
        settings.gate.inspect_bytes = 100;
        settings.gate.ready = vec![Trigger::Message(Matcher::Prefix("ready".to_owned()))];
        let running = start(settings);
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        let (long, ready) = ("x".repeat(30_000), format!("ready {}", "x".repeat(30_000)));

        send_all(&mut upstream, &[&long, &ready, "data"]).await;

        assert_eq!(receive(&mut client, 2).await, [long, "data".to_owned()]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_to_the_gates_ping_opens_it_and_is_not_forwarded() {
    local(async {
        let mut settings = gated();
        settings.gate.ready = vec![Trigger::Pong];
        let running = start(settings);
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;
        let mut upstream = as_server(running.upstream.connect(b"")).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        send_all(&mut upstream, &["b"]).await;
        assert_eq!(
            futures_util::StreamExt::next(&mut client)
                .await
                .unwrap()
                .unwrap(),
            text("b")
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_while_held_even_between_fragments() {
    local(async {
        let mut running = start(gated());
        let stream = [
            client_frame(0x01, b"he"),
            client_frame(0x89, b"ping"),
            client_frame(0x80, b"llo"),
        ];
        running.client.write_all(&stream.concat()).await.unwrap();

        let mut pong = [0; 6];
        running.client.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, *b"\x8a\x04ping");

        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;
        assert_eq!(receive(&mut upstream, 1).await, ["hello"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_lost_before_any_message_is_replaced() {
    local(async {
        let running = start(gated());
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;
        let first = running.upstream.connect(b"");
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(first);
        tokio::time::sleep(Duration::from_secs(1)).await;

        let second = running.upstream.connect(b"");
        let mut upstream = as_server(second).await;
        send_all(&mut upstream, &["ready"]).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        client.close(None).await.unwrap();
        drop(upstream);
        let report = running.report.await.unwrap();
        assert_eq!(report.attempts, 2);
        assert_eq!(
            report.trail.entered(SessionState::Reconnecting),
            Some(Duration::from_secs(1))
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_lost_during_the_flush_closes_with_1014() {
    local(async {
        let mut running = start(gated());
        let held = client_frame(0x82, &vec![7; 50_000]);
        running.client.write_all(&held).await.unwrap();
        running.client.write_all(&held).await.unwrap();
        let hello = [server_frame(0x81, b"hello"), server_frame(0x81, b"ready")];
        let upstream = running.upstream.connect(&hello.concat());
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(upstream);

        let (payloads, code, _) = read_to_close(&mut running.client).await;

        assert_eq!(payloads, [&b"hello"[..], b"ready"]);
        assert_eq!(code, 1014);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_s_close_before_readiness_is_relayed() {
    local(async {
        let running = start(gated());
        let mut client = as_client(running.client).await;
        let mut early = server_frame(0x88, b"\x0f\xa1no seat");
        early.extend(b"garbage");
        let _upstream = running.upstream.connect(&early);

        assert_eq!(close_frame(&mut client).await, (4001, "no seat".to_owned()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sent_before_it_left_is_still_delivered() {
    local(async {
        let running = start(gated());
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a", "b"]).await;
        client.send(Message::Close(None)).await.unwrap();
        assert_eq!(close_frame(&mut client).await.0, 1005);
        drop(client);

        send_all(&mut upstream, &["hello", "ready"]).await;

        assert_eq!(receive(&mut upstream, 2).await, ["a", "b"]);
        assert_eq!(close_frame(&mut upstream).await.0, 1005);
        drop(upstream);
        let report = running.report.await.unwrap();
        assert_eq!(report.ledger.of(Account::Delivered), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_lost_client_are_delivered_and_then_closed() {
    local(async {
        let running = start(gated());
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;
        drop(client);
        tokio::time::sleep(Duration::from_secs(1)).await;
        send_all(&mut upstream, &["ready"]).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        assert_eq!(
            close_frame(&mut upstream).await,
            (1001, "client_lost".to_owned())
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_upstream_lost_while_the_gate_settles_is_replaced() {
    local(async {
        let mut settings = Settings::default();
        settings.gate.settle = Duration::from_millis(500);
        let running = start(settings);
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;
        for _ in 0..3 {
            let upstream = running.upstream.connect(b"");
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(upstream);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        let mut upstream = as_server(running.upstream.connect(b"")).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_upstream_lost_before_authentication_is_replaced() {
    local(async {
        let mut settings = gated();
        settings.gate.authenticated = on_text("welcome");
        let running = start(settings);
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;
        for _ in 0..3 {
            let upstream = running.upstream.connect(b"");
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(upstream);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        let mut upstream = as_server(running.upstream.connect(b"")).await;
        send_all(&mut upstream, &["ready"]).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_lost_after_an_early_release_is_not_replaced() {
    local(async {
        let mut settings = gated();
        settings.rules = Rules::new(vec![rule("ack", Priority::Normal, Release::Authenticated)]);
        let mut running = start(settings);
        let mut upstream = running.upstream.connect(b"");
        let ack = client_frame(0x81, b"ack");
        write(&mut running.client, &ack, Segments::Whole).await;
        let mut got = vec![0; ack.len()];
        upstream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, ack);

        drop(upstream);
        let _unused = running.upstream.connect(b"");
        let (_, code, reason) = read_to_close(&mut running.client).await;

        assert_eq!(
            (code, reason.as_str()),
            (1014, "upstream_lost; 1 message may be lost")
        );
        drop(running.client);
        assert_eq!(running.report.await.unwrap().attempts, 1);
    })
    .await;
}

/// Checks that the client gets the beginning of a message that may still be the ready one
/// as soon as the gate opens for another reason, and that the flush is then over.
async fn check_that_a_withheld_message_passes(settings: Settings, opening: Vec<u8>) {
    let mut running = start(settings);
    let mut upstream = running.upstream.connect(b"");
    let held = client_frame(0x81, b"held");
    write(&mut running.client, &held, Segments::Whole).await;
    let beginning = server_frame(0x01, b"rea");
    write(&mut upstream, &beginning, Segments::Whole).await;
    let mut got = vec![0; beginning.len()];
    let nothing = tokio::time::timeout(TICK, running.client.read_exact(&mut got));
    assert!(nothing.await.is_err(), "it is withheld");

    upstream.write_all(&opening).await.unwrap();
    running.client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, beginning);
    let mut flushed = vec![0; held.len()];
    upstream.read_exact(&mut flushed).await.unwrap();
    assert_eq!(flushed, held);

    let later = client_frame(0x81, b"from the tunnel");
    write(&mut running.client, &later, Segments::Whole).await;
    let mut tunnelled = vec![0; later.len()];
    let arrives = tokio::time::timeout(TICK, upstream.read_exact(&mut tunnelled));
    arrives.await.expect("the flush is over").unwrap();
    let rest = server_frame(0x80, b"lity");
    write(&mut upstream, &rest, Segments::Whole).await;
    let mut got = vec![0; rest.len()];
    running.client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, rest);
}

#[tokio::test(start_paused = true)]
async fn a_withheld_message_passes_when_the_deadline_opens_the_gate() {
    local(async {
        let mut settings = gated();
        settings.gate.forward_ready = false;
        settings.gate.on_timeout = OnTimeout::Open;

        check_that_a_withheld_message_passes(settings, Vec::new()).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_withheld_when_a_pong_opens_the_gate_passes() {
    local(async {
        let mut settings = gated();
        settings.gate.forward_ready = false;
        settings.gate.ready.push(Trigger::Pong);
        let mut running = start(settings);
        let mut upstream = running.upstream.connect(b"");
        let beginning = server_frame(0x01, b"rea");
        write(&mut upstream, &beginning, Segments::Whole).await;
        let ping = read_frame(&mut upstream).await;

        let answer = server_frame(0x8a, &ping.payload);
        write(&mut upstream, &answer, Segments::Whole).await;

        let mut got = vec![0; beginning.len()];
        let passes = tokio::time::timeout(TICK, running.client.read_exact(&mut got));
        passes.await.expect("the gate is open").unwrap();
        assert_eq!(got, beginning);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_gates_ping_is_repeated_with_growing_intervals() {
    local(async {
        let mut settings = gated();
        settings.gate.ready = vec![Trigger::Pong];
        let mut running = start(settings);
        let held = client_frame(0x81, b"held");
        write(&mut running.client, &held, Segments::Whole).await;
        let mut upstream = running.upstream.connect(b"");
        let connected = Instant::now();
        let mut pings = Vec::new();
        for milliseconds in [0, 100, 300, 700, 1500, 3100, 5100, 7100] {
            pings.push(read_frame(&mut upstream).await);
            assert_eq!(connected.elapsed().as_millis(), milliseconds);
        }
        assert!(pings.iter().all(|ping| ping.first == 0x89));
        let mark = &pings[0].payload[..8];
        assert!(pings.iter().all(|ping| ping.payload.starts_with(mark)));

        let pong = server_frame(0x8a, &pings[0].payload);
        upstream.write_all(&pong).await.unwrap();

        assert_eq!(
            read_frame(&mut upstream).await.content(),
            (0x81, &b"held"[..])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_lost_while_settling_leaves_the_gate_shut() {
    local(async {
        let mut settings = gated();
        settings.gate.ready = vec![Trigger::Pong];
        settings.gate.settle = Duration::from_millis(500);
        let mut running = start(settings);
        let held = client_frame(0x81, b"held");
        write(&mut running.client, &held, Segments::Whole).await;
        let mut first = running.upstream.connect(b"");
        let ping = read_frame(&mut first).await;
        let answer = server_frame(0x8a, &ping.payload);
        write(&mut first, &answer, Segments::Whole).await;
        drop(first);

        let mut second = running.upstream.connect(b"");
        for _ in 0..5 {
            assert_eq!(read_frame(&mut second).await.first, 0x89);
        }
        let ping = read_frame(&mut second).await;
        let answer = server_frame(0x8a, &ping.payload);
        second.write_all(&answer).await.unwrap();

        assert_eq!(read_frame(&mut second).await.payload, b"held");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_is_ready_in_time_may_settle_beyond_the_deadline() {
    local(async {
        let mut settings = gated();
        settings.gate.timeout = Duration::from_secs(1);
        settings.gate.settle = Duration::from_secs(2);
        let running = start(settings);
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a"]).await;

        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_earlier_state_goes_while_the_gate_settles() {
    local(async {
        let mut settings = gated();
        settings.gate.settle = Duration::from_millis(500);
        settings.rules = Rules::new(vec![rule("ack", Priority::Normal, Release::ServicesReady)]);
        let running = start(settings);
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["a", "ack"]).await;
        tokio::time::sleep(TICK).await;
        let connected = Instant::now();

        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;

        assert_eq!(receive(&mut upstream, 1).await, ["ack"]);
        assert_eq!(connected.elapsed(), Duration::ZERO);
        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        assert_eq!(connected.elapsed(), Duration::from_millis(500));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn waiting_before_the_session_counts_for_the_gates_timeout() {
    local(async {
        let mut settings = gated();
        settings.gate.timeout = Duration::from_secs(30);
        let agreed = Agreed {
            waited: Duration::from_secs(29),
            ..Agreed::default()
        };
        let budget = Arc::new(Budget::new(1024));
        let running = start_agreed(settings, budget, Vec::new(), agreed);
        let _upstream = running.upstream.connect(b"");
        let started = Instant::now();

        let report = running.report.await.unwrap();

        assert!(matches!(report.cause, EndReason::ReadyTimeout { .. }));
        // The second that was left, and at most the time that closing may take.
        assert!(started.elapsed() <= Duration::from_secs(1 + 5));
    })
    .await;
}
