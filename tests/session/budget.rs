//! Memory of a session: counted, bounded, and read no faster than it is passed on.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use readygate::{
    limits::held_bytes::{Budget, Charge},
    session::{hold::Overflow, ledger::Account, queue::MESSAGE_OVERHEAD_BYTES},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{scene::*, support::*};

/// Bytes that a session may hold although the budget is used up.
const RESERVE_BYTES: usize = 4096;

/// Sends `bytes` in small pieces beside the test, and counts what was taken of them.
fn pour(mut into: DuplexStream, bytes: Vec<u8>) -> (JoinHandle<DuplexStream>, Rc<Cell<usize>>) {
    let taken = Rc::new(Cell::new(0));
    let count = taken.clone();
    let pouring = tokio::task::spawn_local(async move {
        for piece in bytes.chunks(1000) {
            into.write_all(piece).await.expect("somebody reads");
            count.set(count.get() + piece.len());
        }
        into
    });
    (pouring, taken)
}

/// Checks that little of `bytes` is taken from `source` while `target` is not read, and that
/// all of it arrives once it is.
async fn check_that_reading_keeps_pace(
    source: DuplexStream,
    mut target: DuplexStream,
    bytes: Vec<u8>,
) {
    let (pouring, taken) = pour(source, bytes.clone());
    sleep(Duration::from_secs(1)).await;
    assert!(!pouring.is_finished());
    let in_pipes_and_hands = 2 * PIPE_BYTES + 128 * 1024;
    assert!(taken.get() <= in_pipes_and_hands, "{} bytes", taken.get());

    let mut got = vec![0; bytes.len()];
    target.read_exact(&mut got).await.expect("all of it");
    assert!(got == bytes);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_not_read_while_its_client_does_not_read() {
    for phase in PHASES {
        local(async {
            let scene = Scene::set(phase).await;
            let bytes = server_frame(0x82, &[7; 125]).repeat(8000);

            check_that_reading_keeps_pace(scene.upstream, scene.client, bytes).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_upstream_stops_reading_from_the_client() {
    local(async {
        let scene = Scene::set(Phase::Tunnel).await;
        let bytes = client_frame(0x82, &[7; 125]).repeat(8000);

        check_that_reading_keeps_pace(scene.client, scene.upstream, bytes).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_and_not_yet_looked_at_is_charged() {
    local(async {
        let mut settings = gated();
        settings.hold.max_messages = 1;
        let mut running = start(settings);
        let stream = client_frame(0x82, &[7; 1000]).repeat(10);

        write(&mut running.client, &stream, Segments::Whole).await;

        let charged = stream.len() + MESSAGE_OVERHEAD_BYTES;
        assert!(running.budget.used_bytes() >= charged);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_upstream_that_does_not_read_stays_charged() {
    local(async {
        let mut running = start(gated());
        let stream = client_frame(0x82, &[7; 1000]).repeat(200);
        let _upstream = {
            write(&mut running.client, &stream, Segments::Whole).await;
            running.upstream.connect(&server_frame(0x81, b"ready"))
        };
        sleep(TICK).await;

        assert!(running.budget.used_bytes() >= stream.len() - PIPE_BYTES);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_kept_part_of_a_possible_ready_message_is_charged() {
    local(async {
        let mut settings = gated();
        settings.gate.forward_ready = false;
        let running = start(settings);
        let mut begun = b"\x81\x7e\xff\xff".to_vec();
        begun.extend([b'x'; 10_000]);

        let _upstream = running.upstream.connect(&begun);
        sleep(TICK).await;

        assert!(running.budget.used_bytes() >= begun.len());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn half_a_message_in_the_tunnel_is_charged_until_written() {
    local(async {
        let mut running = start(gated());
        let half = [
            client_frame(0x02, &[7; 10_000]),
            client_frame(0x00, &[7; 10_000]).repeat(59),
        ]
        .concat();
        write(&mut running.client, &half, Segments::Whole).await;
        let mut upstream = running.upstream.connect(&server_frame(0x81, b"ready"));
        sleep(TICK).await;
        assert!(running.budget.used_bytes() >= half.len() - PIPE_BYTES);

        let mut got = vec![0; half.len()];
        upstream.read_exact(&mut got).await.unwrap();
        sleep(TICK).await;

        assert!(got == half);
        assert_eq!(running.budget.used_bytes(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pongs_for_a_stalled_upstream_do_not_pile_up() {
    local(async {
        let mut running = start(gated());
        let _upstream = running.upstream.connect(b"");
        let pong = client_frame(0x8a, &[7; 125]);

        for _ in 0..20_000 {
            running.client.write_all(&pong).await.unwrap();
        }
        sleep(TICK).await;

        assert!(running.budget.used_bytes() < 32 * 1024);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_longer_than_the_queue_passes_during_the_flush() {
    for overflow in [Overflow::Backpressure, Overflow::Shed, Overflow::Close] {
        local(async {
            let mut settings = gated();
            settings.hold.max_bytes = 200_000;
            settings.hold.overflow = overflow;
            let running = start(settings);
            let mut client = as_client(running.client).await;
            let big = "x".repeat(50_000);
            send_all(&mut client, &[&big, &big, &big]).await;
            sleep(TICK).await;
            let upstream = running.upstream.connect(&server_frame(0x81, b"ready"));
            sleep(TICK).await;

            // The upstream does not read: the flush is under way.
            let too_long_to_hold = vec![7; 1_000_000];
            let sent = Message::binary(too_long_to_hold.clone());
            let sending = tokio::task::spawn_local(async move { client.send(sent).await });
            sleep(Duration::from_secs(1)).await;

            let mut upstream = as_server(upstream).await;
            assert_eq!(receive(&mut upstream, 3).await, [&big[..]; 3]);
            let got = upstream.next().await.unwrap().unwrap().into_data();
            assert!(got == too_long_to_hold, "{overflow:?}: {} bytes", got.len());
            sending.await.unwrap().unwrap();
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_for_the_budget_is_woken() {
    local(async {
        let budget = Arc::new(Budget::new(20_000));
        let mut others = Charge::new(budget.clone());
        let mut running = start_with(gated(), budget.clone(), Vec::new());
        let message = client_frame(0x82, &[7; 10_000]);
        write(&mut running.client, &message, Segments::Whole).await;
        others.set(20_000);
        let ping = client_frame(0x89, b"?");
        write(&mut running.client, &ping, Segments::Whole).await;
        // Between two looks at whether the client has gone, which come every second.
        sleep(Duration::from_millis(1500)).await;
        let started = Instant::now();

        others.set(0);

        let mut answer = [0; 3];
        running.client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"\x8a\x01?");
        assert_eq!(started.elapsed(), Duration::ZERO);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_budget_shedding_keeps_the_reserve_and_the_newest() {
    local(async {
        let budget = Arc::new(Budget::new(20_000));
        let mut others = Charge::new(budget.clone());
        let mut settings = gated();
        settings.hold.overflow = Overflow::Shed;
        let running = start_with(settings, budget.clone(), Vec::new());
        let mut client = as_client(running.client).await;
        let texts: Vec<String> = (0..11).map(|number| format!("{number:0>1000}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        send_all(&mut client, &texts[..10]).await;
        sleep(TICK).await;
        assert!(budget.used_bytes() > 10_000);

        others.set(20_000);
        send_all(&mut client, &texts[10..]).await;
        sleep(TICK).await;

        assert!(budget.used_bytes() - others.bytes() <= RESERVE_BYTES + 1500);
        let mut upstream = as_server(running.upstream.connect(&server_frame(0x81, b"ready"))).await;
        assert_eq!(receive(&mut upstream, 4).await, texts[7..]);
        client.close(None).await.unwrap();
        assert_eq!(close_frame(&mut upstream).await.0, 1005);
        drop(upstream);
        let ledger = running.report.await.unwrap().ledger;
        assert_eq!(ledger.of(Account::Shed), 7);
        assert_eq!(ledger.of(Account::Delivered), 4);
    })
    .await;
}
