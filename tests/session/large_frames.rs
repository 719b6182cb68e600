//! The tunnel between real sockets, where large payloads are moved by the kernel.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use readygate::{
    session::{Settings, ledger::Account},
    transport::Transport,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::*;

async fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (near.unwrap(), far.unwrap().0)
}

/// A frame with a 64-bit length; the mask of a client is all zero, so that payloads compare.
fn long_frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, if masked { 0xff } else { 0x7f }];
    frame.extend((payload.len() as u64).to_be_bytes());
    if masked {
        frame.extend([0; 4]);
    }
    frame.extend_from_slice(payload);
    frame
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|index| ((index * 31 + seed * 17) ^ (index >> 9)).to_le_bytes()[0])
        .collect()
}

/// Large and small frames, fragments and pings, in turns.
fn stream(masked: bool) -> Vec<u8> {
    let mut stream = Vec::new();
    for (seed, bytes) in [70_000, 300_000, 66_000, 1_000_000].into_iter().enumerate() {
        let payload = pattern(bytes, seed);
        let (head, tail) = payload.split_at(bytes - 65_600);
        stream.extend(long_frame(0x02, masked, &pattern(66_000, seed)));
        let ping = if masked {
            client_frame(0x89, b"p")
        } else {
            server_frame(0x89, b"p")
        };
        stream.extend(ping);
        if head.len() > usize::from(u16::MAX) {
            stream.extend(long_frame(0x00, masked, head));
        }
        stream.extend(long_frame(0x80, masked, tail));
    }
    stream
}

/// Reads everything, in bites of many sizes.
async fn read_slowly(mut socket: TcpStream, bytes: usize) -> (TcpStream, Vec<u8>) {
    let mut received = Vec::new();
    let mut bite = 1;
    while received.len() < bytes {
        let mut buffer = vec![0; bite.min(bytes - received.len())];
        let read = socket.read(&mut buffer).await.unwrap();
        assert!(read > 0, "ended after {} of {bytes}", received.len());
        received.extend_from_slice(&buffer[..read]);
        bite = (bite * 7) % 100_003;
        tokio::task::yield_now().await;
    }
    (socket, received)
}

#[tokio::test]
async fn large_frames_arrive_unchanged_in_both_directions_at_once() {
    local(async {
        let (client, client_far) = socket_pair().await;
        let (upstream, upstream_far) = socket_pair().await;
        let (report, _drain) = start_between(
            Transport::Tcp(client_far),
            Transport::Tcp(upstream_far),
            Settings::default(),
        );
        let (up, down) = (stream(true), stream(false));
        let (client_reads, mut client_writes) = client.into_split();
        let (upstream_reads, mut upstream_writes) = upstream.into_split();
        let sent = async {
            let (first, second) = tokio::join!(
                client_writes.write_all(&up),
                upstream_writes.write_all(&down)
            );
            first.and(second).unwrap();
        };
        let received = async {
            let mut at_client = vec![0; down.len()];
            let mut at_upstream = vec![0; up.len()];
            let (mut client_reads, mut upstream_reads) = (client_reads, upstream_reads);
            let (first, second) = tokio::join!(
                client_reads.read_exact(&mut at_client),
                upstream_reads.read_exact(&mut at_upstream)
            );
            first.and(second).unwrap();
            (at_client, at_upstream, client_reads, upstream_reads)
        };

        let ((), (at_client, at_upstream, ..)) = tokio::join!(sent, received);

        assert!(at_client == down, "the client's bytes differ");
        assert!(at_upstream == up, "the upstream's bytes differ");
        drop((client_writes, upstream_writes));
        let report = report.await.unwrap();
        assert_eq!(report.ledger.of(Account::Delivered), 4);
        assert_eq!(report.traffic.upstream_messages, 4);
        // Which is also what keeps a session from being idle.
        assert_eq!(report.traffic.client_bytes, up.len() as u64);
        assert_eq!(report.traffic.upstream_bytes, down.len() as u64);
    })
    .await;
}

#[tokio::test]
async fn a_large_message_that_waited_half_read_for_the_gate_arrives_unchanged() {
    local(async {
        let (mut client, client_far) = socket_pair().await;
        let (mut upstream, upstream_far) = socket_pair().await;
        let mut settings = gated();
        settings.hold.max_bytes = 100_000;
        let (_report, _drain) = start_between(
            Transport::Tcp(client_far),
            Transport::Tcp(upstream_far),
            settings,
        );
        let frame = long_frame(0x82, true, &pattern(3_000_000, 1));
        let sent = frame.clone();
        let writer = tokio::task::spawn_local(async move {
            client.write_all(&sent).await.unwrap();
            client
        });
        // Long enough for the session to have read the client until it was full; were it not,
        // the test would only try less.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        upstream
            .write_all(&server_frame(0x81, b"ready"))
            .await
            .unwrap();

        let mut received = vec![0; frame.len()];
        upstream.read_exact(&mut received).await.unwrap();

        assert!(received == frame);
        writer.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_of_a_large_frame() {
    local(async {
        let (mut client, client_far) = socket_pair().await;
        let (upstream, upstream_far) = socket_pair().await;
        let (_report, _drain) = start_between(
            Transport::Tcp(client_far),
            Transport::Tcp(upstream_far),
            Settings::default(),
        );
        let sent = stream(true);

        let ((_upstream, received), ()) = tokio::join!(read_slowly(upstream, sent.len()), async {
            client.write_all(&sent).await.unwrap();
        });

        assert!(received == sent);
    })
    .await;
}

#[tokio::test]
async fn a_drain_in_the_middle_of_a_large_frame_completes_it_before_the_close() {
    local(async {
        let (mut client, client_far) = socket_pair().await;
        let (mut upstream, upstream_far) = socket_pair().await;
        let (report, drain) = start_between(
            Transport::Tcp(client_far),
            Transport::Tcp(upstream_far),
            Settings::default(),
        );
        let frame = long_frame(0x82, true, &pattern(8_000_000, 1));
        let (first, second) = frame.split_at(5_000_000);
        let mut received = vec![0; frame.len()];
        let (start, rest) = received.split_at_mut(1_000_000);
        let (written, read) = tokio::join!(client.write_all(first), async {
            upstream.read_exact(start).await?;
            drain.begin();
            upstream.read_exact(&mut rest[..3_500_000]).await
        });
        written.unwrap();
        read.unwrap();

        let (written, read) = tokio::join!(
            client.write_all(second),
            upstream.read_exact(&mut rest[3_500_000..])
        );
        written.unwrap();
        read.unwrap();

        assert!(received == frame);
        let mut close = [0; 2];
        upstream.read_exact(&mut close).await.unwrap();
        assert_eq!(close[0], 0x88);
        drop((client, upstream));
        assert_eq!(report.await.unwrap().ledger.of(Account::Delivered), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_vanishes_inside_a_large_frame_leaves_its_message_in_doubt() {
    local(async {
        let (mut client, client_far) = socket_pair().await;
        let (mut upstream, upstream_far) = socket_pair().await;
        let (report, _drain) = start_between(
            Transport::Tcp(client_far),
            Transport::Tcp(upstream_far),
            Settings::default(),
        );
        let frame = long_frame(0x82, true, &pattern(30_000_000, 1));
        let writer = tokio::task::spawn_local(async move {
            client.write_all(&frame).await.ok();
            client
        });
        upstream.read_exact(&mut vec![0; 1_000_000]).await.unwrap();
        drop(upstream);

        let report = report.await.unwrap();

        assert_eq!(report.ledger.of(Account::Delivered), 0);
        writer.await.unwrap();
    })
    .await;
}
