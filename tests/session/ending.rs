//! The ledger of sessions that end while messages are in flight.

use std::time::Duration;

use readygate::session::{Settings, ledger::Account};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep},
};

use crate::{scene::*, support::*};

#[tokio::test(start_paused = true)]
async fn messages_flushed_to_a_failing_upstream_are_not_delivered() {
    local(async {
        let mut running = start(gated());
        let messages = client_frame(0x82, &vec![7; 50_000]).repeat(3);
        running.client.write_all(&messages[..60_000]).await.unwrap();
        running.client.write_all(&messages[60_000..]).await.unwrap();
        let mut upstream = running.upstream.connect(&server_frame(0x81, b"ready"));
        sleep(TICK).await;

        // One message is in the pipe and a part of the second.
        let close = server_close(1011, "no seat");
        upstream.write_all(&close).await.unwrap();
        sleep(TICK).await;
        let close = client_close(1011, "");
        write(&mut running.client, &close, Segments::Whole).await;
        let heard = Frame::all(&read_to_end(&mut upstream).await);
        drop(upstream);

        assert_eq!((heard.len(), Told::close(&heard).0), (3, 1011));
        let ledger = running.report.await.unwrap().ledger;
        assert_eq!(ledger.of(Account::Delivered), 0);
        assert_eq!(ledger.of(Account::Unknown), 2);
        assert_eq!(ledger.of(Account::Discarded), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_tunnel_could_not_write_does_not_count_as_delivered() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        let message = client_frame(0x82, &[7; 1000]);
        let fit = u64::try_from(PIPE_BYTES / message.len()).unwrap();

        // The upstream never reads, and vanishes.
        scene.client.write_all(&message.repeat(120)).await.unwrap();
        sleep(TICK).await;
        drop(scene.upstream);
        sleep(TICK).await;
        drop(scene.client);

        let ledger = scene.report.await.unwrap().ledger;
        assert_eq!(ledger.accepted(), 120);
        assert!(ledger.of(Account::Delivered) <= fit, "{ledger:?}");
        assert_eq!(ledger.of(Account::Discarded), 0, "{ledger:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_stalled_flush_within_the_grace_period() {
    local(async {
        let running = start(gated());
        let mut client = as_client(running.client).await;
        let big = "x".repeat(50_000);
        send_all(&mut client, &[&big, &big, &big]).await;
        let _upstream = running.upstream.connect(&server_frame(0x81, b"ready"));
        sleep(Duration::from_secs(1)).await;
        let started = Instant::now();

        running.drain.begin();

        let (code, _) = close_frame(&mut client).await;
        assert_eq!(code, 1001);
        assert_eq!(started.elapsed(), Duration::from_secs(6));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn last_messages_of_an_upstream_reach_a_slow_talking_client() {
    local(async {
        let running = start(Settings::default());
        let (mut client, mut upstream) = (running.client, running.upstream.connect(b""));
        let words = [
            server_frame(0x82, &[7; 125]).repeat(1200),
            server_close(1000, "done"),
        ]
        .concat();
        let said = words.clone();
        let goes = tokio::task::spawn_local(async move {
            upstream.write_all(&said).await.unwrap();
        });
        sleep(TICK).await;
        assert!(goes.is_finished(), "and is gone");
        write(&mut client, &client_frame(0x81, b"more"), Segments::Whole).await;

        let got = read_to_end(&mut client).await;

        assert!(got == words, "{} of {} bytes", got.len(), words.len());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_client_still_gets_its_reply() {
    local(async {
        let mut scene = Scene::set(Phase::Tunnel).await;
        let question = client_frame(0x81, b"question");
        scene.client.write_all(&question).await.unwrap();
        scene.client.shutdown().await.unwrap();
        sleep(TICK).await;
        let answer = [server_frame(0x81, b"answer"), server_close(1001, "")].concat();
        write(&mut scene.upstream, &answer, Segments::Whole).await;

        let told = scene.end().await;

        assert_eq!(told.before_client_close(), [(0x81, &b"answer"[..])]);
        assert_eq!(told.before_upstream_close(), [(0x81, &b"question"[..])]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_session_that_holds_nothing_at_once() {
    local(async {
        let running = start(gated());
        let _upstream = running.upstream.connect(b"");
        let mut client = as_client(running.client).await;
        sleep(TICK).await;
        let started = Instant::now();

        running.drain.begin();

        let close = close_frame(&mut client).await;
        assert_eq!(close, (1001, "shutting_down".to_owned()));
        assert_eq!(started.elapsed(), Duration::ZERO);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_echoes_its_close_does_not_wait_for_upstream() {
    local(async {
        let running = start(Settings::default());
        let _upstream = running.upstream.connect(b"");
        let mut client = running.client;
        sleep(TICK).await;
        let started = Instant::now();

        running.drain.begin();
        let close = read_frame(&mut client).await;
        assert_eq!(Told::close(&[close]).0, 1001);
        let answer = client_close(1001, "");
        client.write_all(&answer).await.unwrap();

        assert_eq!(read_to_end(&mut client).await, b"");
        assert_eq!(started.elapsed(), Duration::ZERO);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_close_timeout_stays_within_the_grace_period() {
    local(async {
        let mut running = start(gated());
        let _upstream = running.upstream.connect(b"");
        let message = client_frame(0x81, b"held");
        write(&mut running.client, &message, Segments::Whole).await;
        let started = Instant::now();

        running.drain.begin();
        running.report.await.unwrap();

        // Held for three quarters of it; the timeout for the closing handshake is longer
        // than the rest.
        assert_eq!(started.elapsed(), Duration::from_millis(7600));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_inside_a_withheld_message_drops_its_rest() {
    local(async {
        let mut settings = gated();
        settings.gate.forward_ready = false;
        let mut running = start(settings);
        let mut upstream = running.upstream.connect(&server_frame(0x01, b"rea"));
        sleep(TICK).await;
        let close = client_close(4000, "bye");
        write(&mut running.client, &close, Segments::Whole).await;

        let rest = [server_frame(0x80, b"lity"), server_close(4000, "bye")].concat();
        write(&mut upstream, &rest, Segments::Whole).await;
        drop(upstream);

        let frames = Frame::all(&read_to_end(&mut running.client).await);
        assert_eq!(Told::close(&frames), (4000, "bye".to_owned()));
        assert_eq!(frames.len(), 1);
    })
    .await;
}
