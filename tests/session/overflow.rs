//! Full queues, and clients that leave.

use std::{sync::Arc, time::Duration};

use futures_util::SinkExt;
use readygate::{
    config::DrainSettings,
    limits::held_bytes::Budget,
    matcher::Matcher,
    session::{
        EndReason, Settings,
        hold::{OnClientGone, Overflow},
        ledger::Account,
        queue::MESSAGE_OVERHEAD_BYTES,
        rules::{Priority, Release, Rule, Rules},
    },
};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

fn prefixed(prefix: &str, priority: Priority) -> Rule {
    let matchers = vec![Matcher::Prefix(prefix.to_owned())];
    Rule {
        matchers,
        priority,
        release: Release::Ready,
    }
}

/// A gated route of four priorities whose queue holds `max_messages`.
fn bounded(max_messages: usize, overflow: Overflow) -> Settings {
    let mut settings = gated();
    settings.hold.max_messages = max_messages;
    settings.hold.overflow = overflow;
    settings.rules = Rules::new(vec![
        prefixed("critical", Priority::Critical),
        prefixed("high", Priority::High),
        prefixed("low", Priority::Low),
    ]);
    settings
}

#[tokio::test(start_paused = true)]
async fn backpressure_stops_reading_and_loses_nothing() {
    local(async {
        let running = start(bounded(3, Overflow::Backpressure));
        let mut client = as_client(running.client).await;
        let texts: Vec<String> = (0..100).map(|number| format!("message {number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        send_all(&mut client, &texts).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let held = 3 * (MESSAGE_OVERHEAD_BYTES + "message 0".len() + 6);
        let in_hand = 97 * 20;
        assert!((held..held + in_hand).contains(&running.budget.used_bytes()));

        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;

        assert_eq!(receive(&mut upstream, 100).await, texts);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn backpressure_reaches_a_client_that_overfills_its_queue() {
    local(async {
        let mut settings = gated();
        settings.hold.max_bytes = 10_000;
        let running = start(settings);
        let budget = running.budget.clone();
        let client = as_client(running.client).await;
        let sender = tokio::task::spawn_local(async move {
            let mut client = client;
            for number in 0..1000_u32 {
                client
                    .send(text(&format!("{number:0>1000}")))
                    .await
                    .unwrap();
            }
            client
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!sender.is_finished());
        assert!(
            budget.used_bytes() < 10_000 + 16 * 1024 + 1024,
            "{}",
            budget.used_bytes()
        );

        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;

        for (number, received) in receive(&mut upstream, 1000).await.iter().enumerate() {
            assert_eq!(
                received.trim_start_matches('0').parse().unwrap_or(0),
                number
            );
        }
        sender.await.unwrap();
        assert_eq!(budget.used_bytes(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_of_the_lowest_priority_is_shed_never_critical() {
    local(async {
        let running = start(bounded(3, Overflow::Shed));
        let mut client = as_client(running.client).await;
        let texts = [
            "low 1",
            "normal 1",
            "low 2",
            "high 1",
            "critical 1",
            "low 3",
            "critical 2",
            "critical 3",
        ];
        send_all(&mut client, &texts).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;

        let kept = ["critical 1", "critical 2", "critical 3"];
        assert_eq!(receive(&mut upstream, 3).await, kept);
        client.close(None).await.unwrap();
        drop(upstream);
        let report = running.report.await.unwrap();
        assert_eq!(report.ledger.accepted(), 8);
        assert_eq!(report.ledger.of(Account::Shed), 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_only_critical_messages_shedding_is_backpressure() {
    local(async {
        let running = start(bounded(2, Overflow::Shed));
        let mut client = as_client(running.client).await;
        let texts: Vec<String> = (0..50).map(|number| format!("critical {number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        send_all(&mut client, &texts).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;

        assert_eq!(receive(&mut upstream, 50).await, texts);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_may_close_the_client() {
    local(async {
        let mut running = start(bounded(2, Overflow::Close));
        for text in [b"a", b"b", b"c"] {
            running
                .client
                .write_all(&client_frame(0x81, text))
                .await
                .unwrap();
        }

        let (_, code, reason) = read_to_close(&mut running.client).await;

        assert_eq!(
            (code, reason.as_str()),
            (1013, "queue_full; 3 messages not delivered")
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_never_fit_is_refused_at_its_header() {
    local(async {
        let mut settings = gated();
        settings.hold.max_bytes = 1000;
        settings.hold.overflow = Overflow::Shed;
        let mut running = start(settings);
        let header = b"\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00mask";
        running.client.write_all(header).await.unwrap();

        let (_, code, reason) = read_to_close(&mut running.client).await;

        assert_eq!((code, reason.as_str()), (1009, "message_too_big"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn expired_messages_are_dropped_at_the_flush_and_counted() {
    local(async {
        let mut settings = gated();
        settings.hold.max_age = Some(Duration::from_secs(2));
        let running = start(settings);
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["old"]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        send_all(&mut client, &["young"]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;

        assert_eq!(receive(&mut upstream, 1).await, ["young"]);
        client.close(None).await.unwrap();
        drop(upstream);
        assert_eq!(running.report.await.unwrap().ledger.of(Account::Expired), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_route_may_discard_what_a_client_that_left_had_sent() {
    local(async {
        let mut settings = gated();
        settings.hold.on_client_gone = OnClientGone::Discard;
        let running = start(settings);
        let mut client = as_client(running.client).await;
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        send_all(&mut client, &["a", "b"]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(client);

        assert_eq!(
            close_frame(&mut upstream).await,
            (1001, "client_lost".to_owned())
        );
        drop(upstream);
        let report = running.report.await.unwrap();
        assert!(matches!(report.cause, EndReason::ClientLost));
        assert_eq!(report.ledger.of(Account::Discarded), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_an_empty_queue_cancels_the_attempt() {
    local(async {
        let running = start(gated());
        drop(running.client);

        let report = running.report.await.unwrap();

        assert!(matches!(report.cause, EndReason::ClientLost));
        assert!(report.duration < Duration::from_millis(100));
        assert_eq!(report.attempts, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn under_backpressure_any_message_waits_in_the_socket() {
    local(async {
        let mut settings = gated();
        settings.hold.max_bytes = 10_000;
        let running = start(settings);
        let budget = running.budget.clone();
        let big = "x".repeat(2_000_000);
        let sender = tokio::task::spawn_local({
            let big = big.clone();
            async move {
                let mut client = as_client(running.client).await;
                send_all(&mut client, &["small", &big, "behind"]).await;
                client
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!sender.is_finished());
        assert!(budget.used_bytes() < 10_000 + 17 * 1024);

        let ready = server_frame(0x81, b"ready");
        let mut upstream = as_server(running.upstream.connect(&ready)).await;

        assert_eq!(receive(&mut upstream, 3).await, ["small", &big, "behind"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_while_the_process_budget_is_used_up() {
    local(async {
        let budget = Arc::new(Budget::new(20_000));
        let first = start_with(gated(), budget.clone(), Vec::new());
        let second = start_with(gated(), budget.clone(), Vec::new());
        let mut first_client = as_client(first.client).await;
        let text = "x".repeat(1000);
        send_all(&mut first_client, &vec![text.as_str(); 18]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(budget.is_exhausted());
        let held_by_first = budget.used_bytes();

        let mut second_client = as_client(second.client).await;
        send_all(&mut second_client, &vec![text.as_str(); 20]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let in_hand = 20 * 1008 + 5 * MESSAGE_OVERHEAD_BYTES;
        assert!(budget.used_bytes() <= held_by_first + in_hand);

        let ready = server_frame(0x81, b"ready");
        let mut first_upstream = as_server(first.upstream.connect(&ready)).await;
        receive(&mut first_upstream, 18).await;
        let mut second_upstream = as_server(second.upstream.connect(&ready)).await;
        assert_eq!(receive(&mut second_upstream, 20).await.len(), 20);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_budget_does_not_delay_a_sessions_acknowledgement() {
    local(async {
        let budget = Arc::new(Budget::new(1000));
        let full = start_with(gated(), budget.clone(), Vec::new());
        let mut full_client = as_client(full.client).await;
        send_all(&mut full_client, &[&"x".repeat(2000)]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(budget.is_exhausted());

        for overflow in [Overflow::Backpressure, Overflow::Shed, Overflow::Close] {
            let mut settings = gated();
            settings.hold.overflow = overflow;
            settings.rules = Rules::new(vec![Rule {
                matchers: vec![Matcher::Text("ack".to_owned())],
                priority: Priority::Normal,
                release: Release::Authenticated,
            }]);
            let running = start_with(settings, budget.clone(), Vec::new());
            let mut client = as_client(running.client).await;
            let mut upstream = as_server(running.upstream.connect(b"")).await;
            client
                .send(Message::Ping("are you there?".into()))
                .await
                .unwrap();
            send_all(&mut client, &["ack"]).await;

            assert_eq!(receive(&mut upstream, 1).await, ["ack"], "{overflow:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn early_released_messages_to_a_stalled_upstream_are_bounded() {
    for overflow in [Overflow::Backpressure, Overflow::Shed, Overflow::Close] {
        local(async {
            let mut settings = gated();
            settings.hold.max_bytes = 10_000;
            settings.hold.overflow = overflow;
            settings.rules = Rules::new(vec![Rule {
                matchers: vec![Matcher::Prefix("x".to_owned())],
                priority: Priority::Normal,
                release: Release::Authenticated,
            }]);
            let running = start(settings);
            let _upstream = running.upstream.connect(b"");
            let mut client = running.client;
            let frame = client_frame(0x81, &[b'x'; 1000]);
            let flood = tokio::task::spawn_local(async move {
                for _ in 0..1000 {
                    if client.write_all(&frame).await.is_err() {
                        break;
                    }
                }
            });
            tokio::time::sleep(Duration::from_secs(1)).await;

            assert!(!flood.is_finished());
            let used = running.budget.used_bytes();
            assert!(used < 10_000 + 17 * 1024 + 1500, "{overflow:?}: {used}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_byte_fragments_cost_what_they_are_accounted_for() {
    local(async {
        let mut settings = gated();
        settings.hold.max_bytes = 100_000;
        settings.hold.overflow = Overflow::Close;
        let mut running = start(settings);
        let budget = running.budget.clone();
        running
            .client
            .write_all(&client_frame(0x02, b"x"))
            .await
            .unwrap();
        let fragment = client_frame(0x00, b"x").repeat(100);
        let mut most = 0;
        let mut fragments = 1;
        while running.client.write_all(&fragment).await.is_ok() && fragments < 20_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            fragments += 100;
            most = most.max(budget.used_bytes());
        }

        let (_, code, _) = read_to_close(&mut running.client).await;

        assert_eq!(code, 1009);
        assert!((90_000..=100_000 + 16 * 1024).contains(&most), "{most}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_the_upstream_does_not_read_ends_in_time() {
    local(async {
        let mut settings = gated();
        settings.gate.timeout = Duration::from_secs(30);
        let running = start(settings);
        let mut client = as_client(running.client).await;
        let big = "x".repeat(50_000);
        send_all(&mut client, &[&big, &big, &big]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let upstream = running.upstream.connect(&server_frame(0x81, b"ready"));

        let (code, reason) = close_frame(&mut client).await;

        assert_eq!(
            (code, reason.as_str()),
            (
                1013,
                "flush_stalled; 1 message not delivered, 2 may be lost"
            )
        );
        client.close(None).await.ok();
        let report = running.report.await.unwrap();
        assert_eq!(report.ledger.of(Account::Unknown), 2);
        assert_eq!(report.ledger.of(Account::Discarded), 1);
        drop(upstream);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_a_held_session_become_ready() {
    local(async {
        let running = start(gated());
        let mut client = as_client(running.client).await;
        let mut upstream = as_server(running.upstream.connect(b"")).await;
        send_all(&mut client, &["a"]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;

        running.drain.begin();
        tokio::time::sleep(Duration::from_secs(3)).await;
        send_all(&mut upstream, &["ready"]).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        // It has said nothing since, and is not waited for.
        assert_eq!(
            close_frame(&mut client).await,
            (1001, "shutting_down; 1 message may be lost".to_owned())
        );
        assert_eq!(
            close_frame(&mut upstream).await,
            (1001, "shutting_down".to_owned())
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_idle_tunnels_at_once_and_held_ones_in_time() {
    local(async {
        let held = start(gated());
        let mut held_client = as_client(held.client).await;
        send_all(&mut held_client, &["a"]).await;
        let tunnel = start(Settings::default());
        let mut tunnel_client = as_client(tunnel.client).await;
        let _tunnel_upstream = tunnel.upstream.connect(b"");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started = tokio::time::Instant::now();

        held.drain.begin();
        tunnel.drain.begin();

        assert_eq!(
            close_frame(&mut tunnel_client).await,
            (1001, "shutting_down".to_owned())
        );
        assert_eq!(started.elapsed(), Duration::ZERO);
        let close = close_frame(&mut held_client).await;
        assert_eq!(
            close,
            (1001, "shutting_down; 1 message not delivered".to_owned())
        );
        assert_eq!(started.elapsed(), Duration::from_secs(6));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_tunnels_go_on_until_a_random_moment_of_the_spread() {
    local(async {
        let spread = Duration::from_secs(4);
        let mut ended_after = Vec::new();
        for _ in 0..20 {
            let tunnel = start(Settings::default());
            let mut client = as_client(tunnel.client).await;
            let mut upstream = as_server(tunnel.upstream.connect(b"")).await;
            send_all(&mut client, &["before"]).await;
            assert_eq!(receive(&mut upstream, 1).await, ["before"]);
            tunnel.drain.set(DrainSettings {
                delay: Duration::ZERO,
                grace: Duration::from_secs(8),
                spread,
            });
            let began = tokio::time::Instant::now();

            tunnel.drain.begin();

            send_all(&mut client, &["meanwhile"]).await;
            assert_eq!(receive(&mut upstream, 1).await, ["meanwhile"]);
            assert_eq!(close_frame(&mut client).await.0, 1001);
            ended_after.push(began.elapsed());
        }
        assert!(
            ended_after.iter().all(|after| *after <= spread),
            "{ended_after:?}"
        );
        let early = ended_after
            .iter()
            .filter(|after| **after < spread / 2)
            .count();
        assert!((1..20).contains(&early), "{ended_after:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_a_session_that_holds_nothing_waits_for_its_turn() {
    local(async {
        let mut settings = gated();
        settings.gate.timeout = Duration::from_hours(1);
        let held = start(settings);
        let mut client = as_client(held.client).await;
        let mut upstream = as_server(held.upstream.connect(b"")).await;
        held.drain.set(DrainSettings {
            delay: Duration::ZERO,
            grace: Duration::from_secs(800),
            spread: Duration::from_secs(400),
        });

        held.drain.begin();
        send_all(&mut client, &["a"]).await;
        tokio::time::sleep(Duration::from_secs(500)).await;
        send_all(&mut upstream, &["ready"]).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        assert_eq!(close_frame(&mut client).await.0, 1001);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_401_or_403_becomes_a_close_code() {
    for (status, code) in [(401, 1008), (403, 1008), (404, 1014)] {
        local(async {
            let mut running = start(gated());
            let status = http::StatusCode::from_u16(status).unwrap();
            running
                .upstream
                .refuse(readygate::upstream::ConnectError::Refused(status));

            let close = read_to_close(&mut running.client).await;

            assert_eq!((close.1, close.2.as_str()), (code, "upstream_refused"));
        })
        .await;
    }
}
