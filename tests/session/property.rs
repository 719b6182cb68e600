//! Random schedules of whole sessions: no message is lost silently, doubled or reordered, and the
//! ledger names the outcome of each.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{collections::BTreeSet, time::Duration};

use futures_util::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::*;
use readygate::{
    matcher::Matcher,
    session::{
        EndReason, Report, SessionStats, Settings,
        gate::OnTimeout,
        hold::{OnClientGone, Overflow},
        ledger::{Account, Ledger},
        queue::Order,
        rules::{Priority, Release, Rule, Rules},
    },
    websocket::CloseCode,
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    task::unconstrained,
    time::sleep,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::CloseFrame},
};

use crate::support::*;

const PRIORITIES: [(&str, Priority); 4] = [
    ("low", Priority::Low),
    ("normal", Priority::Normal),
    ("high", Priority::High),
    ("critical", Priority::Critical),
];

/// Message of a client: index of its priority, length, and number of frames.
#[derive(Clone, Debug)]
struct Sent {
    priority: usize,
    padding: usize,
    fragments: usize,
}

/// Readiness of the upstream.
#[derive(Clone, Copy, Debug)]
enum Readiness {
    /// Ready, at this time after the final connection.
    After(u64),
    /// Never ready, so that the gate's deadline passes.
    Never(OnTimeout),
}

/// Configuration of a session, with times in milliseconds.
#[derive(Clone, Debug)]
struct Configured {
    max_messages: usize,
    max_bytes: usize,
    overflow: Overflow,
    order: Order,
    on_client_gone: OnClientGone,
    max_age: Option<u64>,
    /// Priority that is released as soon as the upstream is connected.
    released_early: Option<usize>,
    settle: u64,
    forward_ready: bool,
}

/// A connection that is lost before the upstream is ready.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// Duration in milliseconds.
    lasts: u64,
    /// True when the upstream sends something meanwhile.
    greets: bool,
    /// The code of its close frame, if it sends one.
    close: Option<u16>,
}

#[derive(Clone, Debug)]
struct Schedule {
    messages: Vec<Sent>,
    /// Bytes in each write of the client, and the pause behind it in milliseconds.
    writes: Vec<(usize, u64)>,
    connect_after: u64,
    /// The connections that are lost before the upstream is ready.
    losses: Vec<Loss>,
    readiness: Readiness,
    /// The upstream answers about one in so many messages.
    answers: usize,
    /// The upstream vanishes once it has received this many messages.
    lost_behind: Option<usize>,
    drain_after: Option<u64>,
    client_leaves: bool,
    configured: Configured,
}

/// The gate's deadline where the upstream is never ready.
const SHORT_TIMEOUT: Duration = Duration::from_millis(400);

fn seldom<T: std::fmt::Debug>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.2, value)
}

fn configured() -> impl Strategy<Value = Configured> {
    let overflow = prop_oneof![
        Just(Overflow::Backpressure),
        Just(Overflow::Shed),
        Just(Overflow::Close)
    ];
    let order = prop_oneof![Just(Order::Priority), Just(Order::Arrival)];
    let gone = prop_oneof![Just(OnClientGone::Deliver), Just(OnClientGone::Discard)];
    let bounds = (1..50_usize, 1000..40_000_usize);
    let rest = (
        seldom(0..400_u64),
        prop::option::weighted(0.3, 0..PRIORITIES.len()),
        prop_oneof![Just(0), 0..100_u64],
        any::<bool>(),
    );
    (bounds, overflow, order, gone, rest).prop_map(
        |((max_messages, max_bytes), overflow, order, on_client_gone, rest)| {
            let (max_age, released_early, settle, forward_ready) = rest;
            Configured {
                max_messages,
                max_bytes,
                overflow,
                order,
                on_client_gone,
                max_age,
                released_early,
                settle,
                forward_ready,
            }
        },
    )
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let sent =
        (0..4_usize, 0..300_usize, 1..4_usize).prop_map(|(priority, padding, fragments)| Sent {
            priority,
            padding,
            fragments,
        });
    let readiness = prop_oneof![
        6 => (0..300_u64).prop_map(Readiness::After),
        1 => Just(Readiness::Never(OnTimeout::Close)),
        1 => Just(Readiness::Never(OnTimeout::Open)),
    ];
    let close = prop::option::of(prop_oneof![Just(1001), Just(1012), Just(1013)]);
    let loss = (0..200_u64, any::<bool>(), close).prop_map(|(lasts, greets, close)| Loss {
        lasts,
        greets,
        close,
    });
    let losses = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(loss, 1..=3),
    ];
    let answers = prop_oneof![1..4_usize, Just(usize::MAX)];
    let upstream = (0..300_u64, losses, readiness, answers, seldom(0..30_usize));
    let client = (
        prop::collection::vec(sent, 0..40),
        prop::collection::vec((1..2000_usize, 0..20_u64), 1..60),
        any::<bool>(),
    );
    (client, upstream, seldom(0..600_u64), configured()).prop_map(
        |(client, upstream, drain_after, configured)| {
            let (messages, writes, client_leaves) = client;
            let (connect_after, losses, readiness, answers, lost_behind) = upstream;
            Schedule {
                messages,
                writes,
                connect_after,
                losses,
                readiness,
                answers,
                lost_behind,
                drain_after,
                client_leaves,
                configured,
            }
        },
    )
}

impl Schedule {
    fn settings(&self) -> Settings {
        let mut settings = gated();
        let configured = &self.configured;
        settings.hold.max_messages = configured.max_messages;
        settings.hold.max_bytes = configured.max_bytes;
        settings.hold.overflow = configured.overflow;
        settings.hold.order = configured.order;
        settings.hold.on_client_gone = configured.on_client_gone;
        settings.hold.max_age = configured.max_age.map(Duration::from_millis);
        settings.gate.settle = Duration::from_millis(configured.settle);
        settings.gate.forward_ready = configured.forward_ready;
        if let Readiness::Never(on_timeout) = self.readiness {
            settings.gate.timeout = SHORT_TIMEOUT;
            settings.gate.on_timeout = on_timeout;
        }
        let rules = PRIORITIES.iter().enumerate();
        let rules = rules.map(|(index, (name, priority))| Rule {
            matchers: vec![Matcher::Prefix((*name).to_owned())],
            priority: *priority,
            release: if configured.released_early == Some(index) {
                Release::Authenticated
            } else {
                Release::Ready
            },
        });
        settings.rules = Rules::new(rules.collect());
        settings
    }

    /// Returns whether the connection may be lost after a message has passed in either direction,
    /// so that it is unknown what the upstream has read.
    fn may_lose_used_connection(&self) -> bool {
        let opens_meanwhile = matches!(self.readiness, Readiness::Never(OnTimeout::Open));
        self.lost_behind.is_some()
            || !self.losses.is_empty()
                && (self.configured.released_early.is_some() || opens_meanwhile)
    }

    /// Returns whether the session cannot end before every message could have been delivered.
    fn is_undisturbed(&self) -> bool {
        let opens = match self.readiness {
            Readiness::After(_) => true,
            Readiness::Never(OnTimeout::Open) => self.losses.is_empty(),
            Readiness::Never(OnTimeout::Close) => false,
        };
        let configured = &self.configured;
        opens
            && !self.may_lose_used_connection()
            && self.drain_after.is_none()
            && configured.overflow != Overflow::Close
            && (!self.client_leaves || configured.on_client_gone == OnClientGone::Deliver)
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

/// Receives on one upstream connection until its end, or until there are `enough` messages.
async fn serve(
    upstream: &mut WebSocketStream<DuplexStream>,
    ready_after: Option<u64>,
    enough: Option<usize>,
    answers: usize,
    received: &mut Vec<String>,
) {
    let mut owed = None;
    if let Some(after) = ready_after {
        sleep(Duration::from_millis(after)).await;
        owed = Some("ready");
    }
    while owed == Some("ready") || enough.is_none_or(|enough| received.len() < enough) {
        // It reads all there is before it says anything.
        let next = match unconstrained(upstream.next()).now_or_never() {
            Some(next) => next,
            None => match owed.take() {
                Some(what) => {
                    upstream.send(text(what)).await.ok();
                    continue;
                }
                None => upstream.next().await,
            },
        };
        match next {
            Some(Ok(Message::Text(text))) => {
                if number_of(&text).is_multiple_of(answers) {
                    owed.get_or_insert("answer");
                }
                received.push(text.to_string());
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// Everything that arrives at the upstream, on all its connections, and how much of it on
/// those that are lost before it is ready.
async fn serve_all(upstream: Upstream, schedule: Schedule) -> (Vec<String>, usize) {
    let mut received = Vec::new();
    sleep(Duration::from_millis(schedule.connect_after)).await;
    for loss in &schedule.losses {
        let mut connection = as_server(upstream.connect(b"")).await;
        if loss.greets {
            connection.send(text("hello")).await.ok();
        }
        let serving = serve(&mut connection, None, None, usize::MAX, &mut received);
        let lasts = Duration::from_millis(loss.lasts);
        tokio::time::timeout(lasts, serving).await.ok();
        if let Some(code) = loss.close {
            let frame = CloseFrame {
                code: code.into(),
                reason: "again".into(),
            };
            connection.close(Some(frame)).await.ok();
        }
    }
    let ready_after = match schedule.readiness {
        Readiness::After(after) => Some(after),
        Readiness::Never(_) => None,
    };
    let received_early = received.len();
    let mut connection = as_server(upstream.connect(b"")).await;
    let enough = schedule.lost_behind;
    let answers = schedule.answers;
    serve(&mut connection, ready_after, enough, answers, &mut received).await;
    (received, received_early)
}

/// Sends everything, and then leaves, or stays a while and closes; returns what it has got
/// if it has stayed.
async fn visit(client: DuplexStream, schedule: Schedule) -> Option<Vec<u8>> {
    let client_leaves = schedule.client_leaves;
    let mut client = send(client, schedule).await;
    if client_leaves {
        return None;
    }
    // Beyond the latest readiness.
    sleep(Duration::from_secs(2)).await;
    let close = client_frame(0x88, b"\x03\xe8");
    client.write_all(&close).await.ok();
    Some(read_to_end(&mut client).await)
}

/// Observations of both sides and the proxy.
struct Outcome {
    received: Vec<String>,
    received_early: usize,
    client_got: Option<Vec<u8>>,
    report: Report,
    charged_bytes: usize,
}

async fn run(schedule: Schedule) -> Outcome {
    let running = start(schedule.settings());
    let visiting = tokio::task::spawn_local(visit(running.client, schedule.clone()));
    if let Some(after) = schedule.drain_after {
        let drain = running.drain.clone();
        tokio::task::spawn_local(async move {
            sleep(Duration::from_millis(after)).await;
            drain.begin();
        });
    }
    let serving = tokio::task::spawn_local(serve_all(running.upstream, schedule));
    let record = running.record;
    let auditing = tokio::task::spawn_local(async move {
        let mut before = Ledger::default();
        loop {
            before = audit(&record, &before);
            sleep(Duration::from_millis(1)).await;
        }
    });
    let report = running.report.await.unwrap();
    auditing.abort();
    let Err(error) = auditing.await;
    assert!(error.is_cancelled(), "{error}");
    let client_got = visiting.await.unwrap();
    let (received, received_early) = serving.await.unwrap();
    Outcome {
        received,
        received_early,
        client_got,
        report,
        charged_bytes: running.budget.used_bytes(),
    }
}

/// Checks that every message that was accepted is in one account, and that no message has left
/// one in which it was `before`.
fn audit(record: &SessionStats, before: &Ledger) -> Ledger {
    let ledger = record.ledger();
    let settled = Account::ALL.map(|account| ledger.of(account));
    let settled_before = Account::ALL.map(|account| before.of(account));
    for (now, before) in settled.iter().zip(settled_before) {
        assert!(*now >= before, "{before:?}, then {ledger:?}");
    }
    let open = ledger.unconfirmed() + ledger.held();
    assert_eq!(ledger.accepted(), settled.iter().sum::<u64>() + open);
    assert!(ledger.accepted() >= before.accepted());
    ledger
}

fn number_of(text: &str) -> usize {
    text.split(' ')
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a numbered message")
}

/// Checks what the upstream received: nothing twice, and everything in its order.
fn check_order(schedule: &Schedule, numbers: &[usize]) -> Result<(), TestCaseError> {
    let distinct: BTreeSet<usize> = numbers.iter().copied().collect();
    prop_assert_eq!(distinct.len(), numbers.len(), "doubled: {:?}", numbers);
    for (index, (name, _)) in PRIORITIES.iter().enumerate() {
        let lane = numbers
            .iter()
            .filter(|number| schedule.messages[**number].priority == index);
        prop_assert!(lane.is_sorted(), "{} out of order: {:?}", name, numbers);
    }
    let Configured {
        order,
        released_early,
        ..
    } = schedule.configured;
    if order == Order::Arrival && released_early.is_none() {
        prop_assert!(numbers.is_sorted(), "{:?}", numbers);
    }
    Ok(())
}

/// Checks what arrived although the upstream had not said that it is ready.
fn check_early(schedule: &Schedule, numbers: &[usize]) -> Result<(), TestCaseError> {
    let opens_meanwhile = matches!(schedule.readiness, Readiness::Never(OnTimeout::Open));
    for number in numbers {
        let priority = schedule.messages[*number].priority;
        let is_released = schedule.configured.released_early == Some(priority);
        prop_assert!(is_released || opens_meanwhile, "{} was held", number);
    }
    Ok(())
}

/// Checks the ledger against what the upstream received.
fn check_ledger(
    schedule: &Schedule,
    numbers: &[usize],
    report: &Report,
) -> Result<(), TestCaseError> {
    let of = |account| usize::try_from(report.ledger.of(account)).unwrap();
    let accepted = usize::try_from(report.ledger.accepted()).unwrap();
    let (delivered, unknown) = (of(Account::Delivered), of(Account::Unknown));
    let (shed, expired) = (of(Account::Shed), of(Account::Expired));
    let lost = shed + expired + of(Account::Discarded);
    prop_assert_eq!(report.ledger.held(), 0);
    prop_assert_eq!(accepted, delivered + unknown + lost);
    prop_assert!(accepted <= schedule.messages.len());
    prop_assert!(numbers.len() <= delivered + unknown, "{:?}", report);
    // Nothing that is lost counts as delivered.
    prop_assert!(delivered <= numbers.len(), "{:?}", report);
    let configured = &schedule.configured;
    prop_assert!(shed == 0 || configured.overflow == Overflow::Shed);
    prop_assert!(expired == 0 || configured.max_age.is_some());

    if !schedule.may_lose_used_connection() {
        // Where the upstream lives on, the ledger is exact.
        prop_assert!(!matches!(report.cause, EndReason::UpstreamLost));
        prop_assert_eq!(delivered, numbers.len(), "{:?}", report);
        prop_assert_eq!(unknown, 0);
    }
    if schedule.is_undisturbed() {
        prop_assert_eq!(
            delivered + shed + expired,
            schedule.messages.len(),
            "{:?}",
            report
        );
        let critical = (0..schedule.messages.len())
            .filter(|number| PRIORITIES[schedule.messages[*number].priority].0 == "critical");
        for number in critical.filter(|_| configured.max_age.is_none()) {
            prop_assert!(numbers.contains(&number), "{} was shed", number);
        }
    }
    Ok(())
}

/// Checks what the client got: the ready message unless it is withheld, and one close frame.
fn check_client(schedule: &Schedule, got: &[u8], report: &Report) -> Result<(), TestCaseError> {
    let frames = Frame::all(got);
    let readies = frames.iter().filter(|frame| frame.payload == b"ready");
    let readies = readies.count();
    prop_assert!(readies <= usize::from(schedule.configured.forward_ready));
    let code = frames.last().and_then(|frame| match frame.first {
        0x88 => frame.payload.first_chunk().copied(),
        _ => None,
    });
    prop_assert_eq!(
        report.client_code.map(CloseCode::get),
        code.map(u16::from_be_bytes)
    );
    let closes = frames.iter().filter(|frame| frame.first == 0x88).count();
    prop_assert!(closes <= 1, "{:?}", frames);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_message_is_lost_silently_doubled_or_out_of_order(schedule in schedules()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();

        let outcome = runtime.block_on(local(run(schedule.clone())));

        prop_assert_eq!(outcome.charged_bytes, 0);
        let numbers: Vec<usize> = outcome.received.iter().map(|text| number_of(text)).collect();
        check_order(&schedule, &numbers)?;
        check_early(&schedule, &numbers[..outcome.received_early])?;
        check_ledger(&schedule, &numbers, &outcome.report)?;
        if let Some(got) = &outcome.client_got {
            check_client(&schedule, got, &outcome.report)?;
        }
    }
}
