//! Full queues, and clients that leave.

use std::{sync::Arc, time::Duration};

use futures_util::SinkExt;
use readygate::{
    matcher::Matcher,
    session::{
        Budget, Cause, Settings,
        hold::{OnClientGone, Overflow},
        ledger::Account,
        queue::MESSAGE_OVERHEAD_BYTES,
        rules::{Priority, Release, Rule, Rules},
    },
};
use tokio::io::AsyncWriteExt;

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
async fn backpressure_reaches_a_client_that_sends_much_more_than_may_be_held() {
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
async fn the_oldest_of_the_lowest_priority_gives_way_and_critical_never_does() {
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
async fn where_only_critical_messages_are_left_shedding_turns_into_backpressure() {
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
        let mut running = start(settings);
        let header = b"\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00mask";
        running.client.write_all(header).await.unwrap();

        let (_, code, reason) = read_to_close(&mut running.client).await;

        assert_eq!((code, reason.as_str()), (1009, "message_too_big"));
        assert!(running.budget.used_bytes() < 1000);
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
        assert!(matches!(report.cause, Cause::ClientLost));
        assert_eq!(report.ledger.of(Account::Discarded), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_with_nothing_held_ends_the_attempt_at_the_upstream() {
    local(async {
        let running = start(gated());
        drop(running.client);

        let report = running.report.await.unwrap();

        assert!(matches!(report.cause, Cause::ClientLost));
        assert!(report.duration < Duration::from_millis(100));
        assert_eq!(report.attempts, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_finds_the_process_s_budget_used_up_waits_for_room() {
    local(async {
        let budget = Arc::new(Budget::new(1000));
        let first = start_with(gated(), budget.clone(), Vec::new());
        let second = start_with(gated(), budget.clone(), Vec::new());
        let mut first_client = as_client(first.client).await;
        send_all(&mut first_client, &["x".repeat(900).as_str()]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(budget.is_exhausted());
        let mut second_client = as_client(second.client).await;
        send_all(&mut second_client, &["waits"]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(budget.used_bytes(), 900 + 8 + MESSAGE_OVERHEAD_BYTES);

        let ready = server_frame(0x81, b"ready");
        let mut first_upstream = as_server(first.upstream.connect(&ready)).await;
        receive(&mut first_upstream, 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(budget.used_bytes() >= MESSAGE_OVERHEAD_BYTES);

        let mut second_upstream = as_server(second.upstream.connect(&ready)).await;
        assert_eq!(receive(&mut second_upstream, 1).await, ["waits"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_byte_fragments_cost_what_they_are_accounted_for() {
    local(async {
        let mut settings = gated();
        settings.hold.max_bytes = 100_000;
        let mut running = start(settings);
        let budget = running.budget.clone();
        let fragment = client_frame(0x00, b"x");
        let flood: Vec<u8> = [client_frame(0x02, b"x")]
            .into_iter()
            .chain((0..20_000).map(|_| fragment.clone()))
            .flatten()
            .collect();
        let sender = tokio::task::spawn_local(async move {
            running.client.write_all(&flood).await.ok();
            read_to_close(&mut running.client).await
        });

        let (_, code, _) = sender.await.unwrap();

        assert_eq!(code, 1009);
        assert!(budget.used_bytes() <= 100_000 + 16 * 1024);
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
            (1013, "flush_stalled; 2 messages not delivered")
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

        running.drain.cancel();
        tokio::time::sleep(Duration::from_secs(3)).await;
        send_all(&mut upstream, &["ready"]).await;

        assert_eq!(receive(&mut upstream, 1).await, ["a"]);
        assert_eq!(
            close_frame(&mut client).await,
            (1001, "shutting_down".to_owned())
        );
        assert_eq!(
            close_frame(&mut upstream).await,
            (1001, "shutting_down".to_owned())
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_idle_tunnels_at_once_and_held_sessions_within_the_grace_period() {
    local(async {
        let held = start(gated());
        let mut held_client = as_client(held.client).await;
        send_all(&mut held_client, &["a"]).await;
        let tunnel = start(Settings::default());
        let mut tunnel_client = as_client(tunnel.client).await;
        let _tunnel_upstream = tunnel.upstream.connect(b"");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started = tokio::time::Instant::now();

        held.drain.cancel();
        tunnel.drain.cancel();

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
async fn an_upstream_that_refuses_the_credentials_becomes_a_close_code() {
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
