//! Random schedules of whole sessions: whatever happens, no message is lost silently,
//! doubled, or out of order, and the ledger says what became of each.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{collections::BTreeSet, time::Duration};

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use readygate::{
    matcher::Matcher,
    session::{
        Report, Settings,
        hold::{OnClientGone, Order, Overflow},
        ledger::Account,
        rules::{Priority, Release, Rule, Rules},
    },
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    time::sleep,
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::*;

const PRIORITIES: [(&str, Priority); 4] = [
    ("low", Priority::Low),
    ("normal", Priority::Normal),
    ("high", Priority::High),
    ("critical", Priority::Critical),
];

/// One client message: its priority's index, its length, and into how many frames it is
/// cut.
#[derive(Clone, Debug)]
struct Sent {
    priority: usize,
    padding: usize,
    fragments: usize,
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Never,
    /// Before the ready message, at this time; another connection follows.
    Before(u64),
    /// After it has received this many messages.
    After(usize),
}

#[derive(Clone, Debug)]
struct Schedule {
    messages: Vec<Sent>,
    /// Bytes in each write of the client, and the pause behind it in milliseconds.
    writes: Vec<(usize, u64)>,
    connect_after: u64,
    ready_after: u64,
    loss: Loss,
    client_leaves: bool,
    settings: (usize, usize, Overflow, Order, OnClientGone),
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let sent =
        (0..4_usize, 0..300_usize, 1..4_usize).prop_map(|(priority, padding, fragments)| Sent {
            priority,
            padding,
            fragments,
        });
    let loss = prop_oneof![
        3 => Just(Loss::Never),
        1 => (0..200_u64).prop_map(Loss::Before),
        1 => (0..30_usize).prop_map(Loss::After),
    ];
    let overflow = prop_oneof![
        Just(Overflow::Backpressure),
        Just(Overflow::Shed),
        Just(Overflow::Close)
    ];
    let order = prop_oneof![Just(Order::Priority), Just(Order::Arrival)];
    let gone = prop_oneof![Just(OnClientGone::Deliver), Just(OnClientGone::Discard)];
    (
        prop::collection::vec(sent, 0..40),
        prop::collection::vec((1..2000_usize, 0..20_u64), 1..60),
        0..300_u64,
        0..300_u64,
        loss,
        any::<bool>(),
        (1..50_usize, 1000..40_000_usize, overflow, order, gone),
    )
        .prop_map(
            |(messages, writes, connect_after, ready_after, loss, client_leaves, settings)| {
                Schedule {
                    messages,
                    writes,
                    connect_after,
                    ready_after,
                    loss,
                    client_leaves,
                    settings,
                }
            },
        )
}

impl Schedule {
    fn settings(&self) -> Settings {
        let mut settings = gated();
        let (max_messages, max_bytes, overflow, order, on_client_gone) = self.settings;
        settings.hold.max_messages = max_messages;
        settings.hold.max_bytes = max_bytes;
        settings.hold.overflow = overflow;
        settings.hold.order = order;
        settings.hold.on_client_gone = on_client_gone;
        let rules = PRIORITIES.map(|(name, priority)| Rule {
            matchers: vec![Matcher::Prefix(name.to_owned())],
            priority,
            release: Release::Ready,
        });
        settings.rules = Rules::new(rules.to_vec());
        settings
    }

    /// The client's bytes: numbered messages, in fragments with pings between.
    fn stream(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        for (
            number,
            Sent {
                priority,
                padding,
                fragments,
            },
        ) in self.messages.iter().enumerate()
        {
            let name = PRIORITIES[*priority].0;
            let payload = format!("{name} {number} {}", "x".repeat(*padding)).into_bytes();
            let size = payload.len().div_ceil(*fragments);
            let last = payload.chunks(size).count() - 1;
            for (index, chunk) in payload.chunks(size).enumerate() {
                let opcode = u8::from(index == 0);
                let fin = if index == last { 0x80 } else { 0 };
                stream.extend(client_frame(fin | opcode, chunk));
                if index < last {
                    stream.extend(client_frame(0x89, b"between"));
                }
            }
        }
        stream
    }
}

async fn send(mut client: DuplexStream, schedule: Schedule) -> DuplexStream {
    let stream = schedule.stream();
    let mut rest = &stream[..];
    for (bytes, pause) in schedule.writes.iter().cycle() {
        let (chunk, after) = rest.split_at((*bytes).min(rest.len()));
        if client.write_all(chunk).await.is_err() {
            break;
        }
        rest = after;
        sleep(Duration::from_millis(*pause)).await;
        if rest.is_empty() {
            break;
        }
    }
    client
}

/// Everything that arrives at one upstream connection until its end.
async fn serve(stream: DuplexStream, ready_after: u64, loss: Loss) -> Vec<String> {
    let mut upstream = as_server(stream).await;
    sleep(Duration::from_millis(ready_after)).await;
    upstream.send(text("ready")).await.ok();
    let mut received = Vec::new();
    loop {
        if matches!(loss, Loss::After(messages) if received.len() >= messages) {
            return received;
        }
        match upstream.next().await {
            Some(Ok(Message::Text(text))) => received.push(text.to_string()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return received,
        }
    }
}

async fn run(schedule: Schedule) -> (Vec<String>, Report, usize) {
    let running = start(schedule.settings());
    let client = tokio::task::spawn_local(send(running.client, schedule.clone()));
    sleep(Duration::from_millis(schedule.connect_after)).await;
    let mut upstream = running.upstream.connect(b"");
    if let Loss::Before(after) = schedule.loss {
        sleep(Duration::from_millis(after)).await;
        drop(upstream);
        upstream = running.upstream.connect(b"");
    }
    let serving = tokio::task::spawn_local(serve(upstream, schedule.ready_after, schedule.loss));
    let mut client = client.await.unwrap();
    let leaver = tokio::task::spawn_local(async move {
        if schedule.client_leaves {
            drop(client);
        } else {
            // A client that stays a while and then closes.
            sleep(Duration::from_secs(1)).await;
            client
                .write_all(&client_frame(0x88, b"\x03\xe8"))
                .await
                .ok();
            let mut sink = tokio::io::sink();
            tokio::io::copy(&mut client, &mut sink).await.ok();
        }
    });
    let report = running.report.await.unwrap();
    leaver.await.unwrap();
    let received = serving.await.unwrap();
    (received, report, running.budget.used_bytes())
}

fn number_of(text: &str) -> usize {
    text.split(' ')
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a numbered message")
}

fn check(schedule: &Schedule, received: &[String], report: &Report) -> Result<(), TestCaseError> {
    let numbers: Vec<usize> = received.iter().map(|text| number_of(text)).collect();
    let distinct: BTreeSet<usize> = numbers.iter().copied().collect();
    prop_assert_eq!(distinct.len(), numbers.len(), "doubled: {:?}", numbers);
    for (index, (name, _)) in PRIORITIES.iter().enumerate() {
        let lane = numbers
            .iter()
            .filter(|number| schedule.messages[**number].priority == index);
        prop_assert!(lane.is_sorted(), "{} out of order: {:?}", name, numbers);
    }

    let ledger = &report.ledger;
    let accounts = [
        Account::Delivered,
        Account::Shed,
        Account::Expired,
        Account::Discarded,
        Account::Unknown,
    ];
    let sum: u64 = accounts.map(|account| ledger.of(account)).iter().sum();
    prop_assert_eq!(ledger.accepted(), sum);
    prop_assert_eq!(ledger.held(), 0);
    let delivered = usize::try_from(ledger.of(Account::Delivered)).unwrap_or(usize::MAX);
    let unknown = usize::try_from(ledger.of(Account::Unknown)).unwrap_or(usize::MAX);
    if !matches!(schedule.loss, Loss::After(_)) {
        // Where the upstream lives on, the ledger is exact.
        prop_assert_eq!(delivered, received.len(), "{:?}", report);
        prop_assert_eq!(unknown, 0);
    }
    prop_assert!(received.len() <= delivered + unknown, "{:?}", report);

    let (.., overflow, order, gone) = schedule.settings;
    let keeps_all = overflow == Overflow::Backpressure
        && (!schedule.client_leaves || gone == OnClientGone::Deliver)
        && matches!(schedule.loss, Loss::Never | Loss::Before(_));
    if keeps_all {
        prop_assert_eq!(received.len(), schedule.messages.len(), "{:?}", report);
        prop_assert!(
            order == Order::Priority || numbers.is_sorted(),
            "{:?}",
            numbers
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_message_is_lost_silently_doubled_or_out_of_order(schedule in schedules()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (received, report, charged) = runtime.block_on(local(run(schedule.clone())));

        prop_assert_eq!(charged, 0);
        check(&schedule, &received, &report)?;
    }
}
