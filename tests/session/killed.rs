//! Killed backends on real sockets: messages that they have not read do not count as delivered.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use readygate::{
    session::{Report, Settings, ledger::Account},
    transport::{Stream, Transport},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::{scene::*, support::*};

/// Behaviour of a backend before it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Leaves the data in its socket, so that the kernel resets the connection.
    Nothing,
    /// Reads everything, and sends nothing.
    Everything,
}

async fn tcp() -> (TcpStream, Transport) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), Transport::Tcp(far.unwrap().0))
}

/// Passes frames from one side to the other, and waits until they are there.
async fn pass(
    frames: &[u8],
    from: &mut (impl AsyncWrite + Unpin),
    to: &mut (impl AsyncRead + Unpin),
) {
    from.write_all(frames).await.unwrap();
    let mut got = vec![0; frames.len()];
    to.read_exact(&mut got).await.unwrap();
    assert_eq!(got, frames);
}

/// Reads to the end of the client's stream, and returns it with the report.
async fn end(
    mut client: DuplexStream,
    report: tokio::task::JoinHandle<Report>,
) -> (u16, String, Report) {
    let frames = Frame::all(&read_to_end(&mut client).await);
    drop(client);
    let (code, reason) = Told::close(&frames);
    (code, reason, report.await.unwrap())
}

fn check(report: &Report, delivered: u64, unknown: u64) {
    let ledger = report.ledger;
    assert_eq!(ledger.accepted(), delivered + unknown, "{ledger:?}");
    assert_eq!(ledger.of(Account::Delivered), delivered, "{ledger:?}");
    assert_eq!(ledger.of(Account::Unknown), unknown, "{ledger:?}");
}

fn start_before(
    upstream: impl Stream + 'static,
    settings: Settings,
) -> (DuplexStream, tokio::task::JoinHandle<Report>) {
    let (client, proxy) = tokio::io::duplex(PIPE_BYTES);
    let (report, _) = start_between(proxy, upstream, settings);
    (client, report)
}

#[tokio::test]
async fn what_a_killed_backend_did_not_answer_is_unknown() {
    local(async {
        for reads in [Reads::Nothing, Reads::Everything] {
            let (mut upstream, proxy) = tcp().await;
            let (mut client, report) = start_before(proxy, Settings::default());
            for _ in 0..5 {
                pass(&client_frame(0x81, b"question"), &mut client, &mut upstream).await;
                pass(&server_frame(0x81, b"answer"), &mut upstream, &mut client).await;
            }

            let last = client_frame(0x81, b"lost").repeat(2);
            client.write_all(&last).await.unwrap();
            let mut got = vec![0; last.len()];
            match reads {
                Reads::Nothing => while upstream.peek(&mut got).await.unwrap() < last.len() {},
                Reads::Everything => drop(upstream.read_exact(&mut got).await.unwrap()),
            }
            drop(upstream);

            let (code, reason, report) = end(client, report).await;
            check(&report, 5, 2);
            let expected = "upstream_lost; 2 messages may be lost".to_owned();
            assert_eq!((code, reason), (1014, expected), "{reads:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_flushed_to_a_backend_that_is_killed_is_unknown() {
    local(async {
        for is_connected_by_tcp in [true, false] {
            let held = client_frame(0x81, b"held").repeat(3);
            let ready = server_frame(0x81, b"ready");
            let (code, reason, report) = if is_connected_by_tcp {
                let (mut upstream, proxy) = tcp().await;
                let (mut client, report) = start_before(proxy, gated());
                client.write_all(&held).await.unwrap();
                pass(&ready, &mut upstream, &mut client).await;
                upstream.read_exact(&mut vec![0; held.len()]).await.unwrap();
                drop(upstream);
                end(client, report).await
            } else {
                let (mut upstream, proxy) = UnixStream::pair().unwrap();
                let (mut client, report) = start_before(Transport::Unix(proxy), gated());
                client.write_all(&held).await.unwrap();
                pass(&ready, &mut upstream, &mut client).await;
                upstream.read_exact(&mut vec![0; held.len()]).await.unwrap();
                drop(upstream);
                end(client, report).await
            };

            check(&report, 0, 3);
            let expected = "upstream_lost; 3 messages may be lost".to_owned();
            assert_eq!((code, reason), (1014, expected));
        }
    })
    .await;
}
