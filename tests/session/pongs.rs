//! What a pong to a ping of the proxy's own confirms: all that was written before that ping.

use std::time::Duration;

use readygate::{
    matcher::Matcher,
    session::{
        Settings,
        gate::Trigger,
        ledger::Account,
        rules::{Priority, Release, Rule, Rules},
    },
};
use tokio::{io::DuplexStream, time::sleep};

use crate::{scene::*, support::*};

/// A session in its tunnel whose upstream is pinged.
async fn tunnel() -> (Running, DuplexStream) {
    let mut settings = Settings::default();
    settings.tunnel.ping_interval = Some(Duration::from_secs(20));
    let running = start(settings);
    let upstream = running.upstream.connect(b"");
    sleep(TICK).await;
    (running, upstream)
}

/// The client says something, and the upstream reads it.
async fn tell(running: &mut Running, upstream: &mut DuplexStream) {
    let message = client_frame(0x81, b"message");
    write(&mut running.client, &message, Segments::Whole).await;
    assert_eq!(read_frame(upstream).await.payload, b"message");
    // So that its socket is found empty after that.
    sleep(TICK).await;
}

/// The pong to the ping that the upstream reads next.
async fn pong_to_next(upstream: &mut DuplexStream) -> Vec<u8> {
    let ping = read_frame(upstream).await;
    assert_eq!(ping.first, 0x89);
    server_frame(0x8a, &ping.payload)
}

/// Messages that are delivered, and that are not confirmed.
fn known(running: &Running) -> (u64, u64) {
    let ledger = running.record.ledger();
    (ledger.of(Account::Delivered), ledger.unconfirmed())
}

/// Two messages, each with a ping behind it, and the pongs to these.
async fn two_pings(running: &mut Running, upstream: &mut DuplexStream) -> [Vec<u8>; 2] {
    tell(running, upstream).await;
    let first = pong_to_next(upstream).await;
    // It is there, then, and is asked again when it has said nothing for as long.
    let ping = server_frame(0x89, b"its own");
    write(upstream, &ping, Segments::Whole).await;
    tell(running, upstream).await;
    let second = pong_to_next(upstream).await;
    assert_eq!(known(running), (0, 2));
    [first, second]
}

#[tokio::test(start_paused = true)]
async fn a_pong_confirms_nothing_written_after_its_ping() {
    local(async {
        let (mut running, mut upstream) = tunnel().await;
        tell(&mut running, &mut upstream).await;
        let pong = pong_to_next(&mut upstream).await;
        tell(&mut running, &mut upstream).await;

        write(&mut upstream, &pong, Segments::Bytes).await;

        assert_eq!(known(&running), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_within_a_message_confirms_what_was_before_its_ping() {
    local(async {
        let (mut running, mut upstream) = tunnel().await;
        let begun = server_frame(0x01, b"never found empty");
        write(&mut upstream, &begun, Segments::Whole).await;
        tell(&mut running, &mut upstream).await;

        let pong = pong_to_next(&mut upstream).await;
        write(&mut upstream, &pong, Segments::Whole).await;

        assert_eq!(known(&running), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_confirms_as_much_as_those_it_stands_for() {
    local(async {
        let (mut running, mut upstream) = tunnel().await;
        let [first, second] = two_pings(&mut running, &mut upstream).await;
        write(&mut upstream, &first, Segments::Whole).await;
        assert_eq!(known(&running), (1, 1));
        write(&mut upstream, &second, Segments::Whole).await;
        assert_eq!(known(&running), (2, 0));

        // Only the most recent ping need be answered (RFC 6455 §5.5.3).
        let (mut running, mut upstream) = tunnel().await;
        let [first, second] = two_pings(&mut running, &mut upstream).await;
        write(&mut upstream, &second, Segments::Whole).await;
        assert_eq!(known(&running), (2, 0));
        tell(&mut running, &mut upstream).await;
        write(&mut upstream, &first, Segments::Whole).await;
        assert_eq!(known(&running), (2, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_answers_no_ping_confirms_nothing() {
    local(async {
        let (mut running, mut upstream) = tunnel().await;
        tell(&mut running, &mut upstream).await;
        let pong = pong_to_next(&mut upstream).await;
        // Of the ping that comes next, as it may guess.
        let mut early = pong.clone();
        *early.last_mut().unwrap() += 1;
        write(&mut upstream, &early, Segments::Whole).await;
        assert_eq!(known(&running), (0, 1));
        write(&mut upstream, &pong, Segments::Whole).await;
        assert_eq!(known(&running), (1, 0));

        tell(&mut running, &mut upstream).await;
        write(&mut upstream, &pong.repeat(2), Segments::Whole).await;

        assert_eq!(known(&running), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_while_closing_confirms_what_was_before_its_ping() {
    local(async {
        for is_last in [false, true] {
            let (mut running, mut upstream) = tunnel().await;
            let [first, second] = two_pings(&mut running, &mut upstream).await;
            drop(running.client);
            sleep(TICK).await;
            let pong = if is_last { second } else { first };
            write(&mut upstream, &pong, Segments::Whole).await;
            drop(upstream);

            let ledger = running.report.await.unwrap().ledger;
            let known = (ledger.of(Account::Delivered), ledger.of(Account::Unknown));
            assert_eq!(known, if is_last { (2, 0) } else { (1, 1) });
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_to_the_gate_confirms_what_was_before_its_ping() {
    local(async {
        let mut settings = Settings::default();
        settings.gate.ready = vec![Trigger::Pong];
        settings.rules = Rules::new(vec![Rule {
            matchers: vec![Matcher::Text("message".to_owned())],
            priority: Priority::Normal,
            release: Release::Authenticated,
        }]);
        for pings_after in 0..3 {
            let mut running = start(settings.clone());
            let mut upstream = running.upstream.connect(b"");
            let mut pong = pong_to_next(&mut upstream).await;
            tell(&mut running, &mut upstream).await;
            for _ in 0..pings_after {
                pong = pong_to_next(&mut upstream).await;
            }

            write(&mut upstream, &pong, Segments::Whole).await;

            let expected = if pings_after > 0 { (1, 0) } else { (0, 1) };
            assert_eq!(known(&running), expected, "{pings_after} pings");
        }
    })
    .await;
}
