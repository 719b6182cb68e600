//! The tunnel between real sockets, where large payloads are moved by the kernel.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use readygate::{
    limits::drain::Drain,
    session::{Report, Settings, ledger::Account},
    transport::{Stream, Transport},
};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::*;

/// Way of large payloads through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The kernel moves them.
    Spliced,
    /// Copied, because splicing is not tried.
    Copied,
    /// The kernel moves nothing out of the socket.
    RefusedBySource,
    /// The kernel moves nothing into the socket, which is found out when a pipe is full.
    RefusedByTarget,
}

const WAYS: [Way; 4] = [
    Way::Spliced,
    Way::Copied,
    Way::RefusedBySource,
    Way::RefusedByTarget,
];

/// The most that one pipe holds.
const MAX_PIPE_BYTES: u64 = 256 * 1024;

/// Bytes that a session has read itself.
type Copied = Rc<Cell<u64>>;

/// A socket of a session.
struct Socket {
    stream: Transport,
    /// Socket that the session splices in place of this one.
    stand_in: Option<TcpStream>,
    way: Way,
    copied: Copied,
}

impl Socket {
    fn new(stream: TcpStream, way: Way, copied: &Copied) -> Self {
        if way == Way::RefusedByTarget {
            // The one flag with which sockets are written to as ever, and not spliced to.
            let flags = fcntl_getfl(&stream).unwrap();
            fcntl_setfl(&stream, flags | OFlags::APPEND).unwrap();
        }
        Self {
            stream: Transport::Tcp(stream),
            stand_in: (way == Way::RefusedBySource).then(unspliceable),
            way,
            copied: copied.clone(),
        }
    }
}

/// A timer that has expired: always readable, and nothing that the kernel splices.
fn unspliceable() -> TcpStream {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).unwrap();
    let expired = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: 0,
            tv_nsec: 1,
        },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &expired).unwrap();
    TcpStream::from_std(timer.into()).unwrap()
}

impl Stream for Socket {
    fn as_tcp(&self) -> Option<&TcpStream> {
        match self.way {
            Way::Copied => None,
            _ => self.stand_in.as_ref().or_else(|| self.stream.as_tcp()),
        }
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(self.stream.poll_receive(context, buffer))?;
        self.copied.set(self.copied.get() + read as u64);
        Poll::Ready(Ok(read))
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_readable(context)
    }

    fn is_unready(&self) -> bool {
        self.stream.is_unready()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = (buffer.filled().len() - before) as u64;
        self.copied.set(self.copied.get() + read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A session whose sockets are of one kind, with their other ends.
struct Scene {
    client: TcpStream,
    upstream: TcpStream,
    report: JoinHandle<Report>,
    drain: Drain,
    copied: Copied,
}

impl Scene {
    async fn start(way: Way, settings: Settings) -> Self {
        let (client, client_far) = socket_pair().await;
        let (upstream, upstream_far) = socket_pair().await;
        let copied = Copied::default();
        let (report, drain) = start_between(
            Socket::new(client_far, way, &copied),
            Socket::new(upstream_far, way, &copied),
            settings,
        );
        Self {
            client,
            upstream,
            report,
            drain,
            copied,
        }
    }
}

/// Runs `scene` each way.
async fn each_way(scene: impl AsyncFn(Way)) {
    for way in WAYS {
        local(scene(way)).await;
    }
}

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
    each_way(async |way| {
        let Scene {
            client,
            upstream,
            report,
            copied,
            ..
        } = Scene::start(way, Settings::default()).await;
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

        let ((), (at_client, at_upstream, mut client_reads, _)) = tokio::join!(sent, received);
        // What the upstream has said until here came before some of the client's messages.
        let last_word = server_frame(0x81, b"all read");
        upstream_writes.write_all(&last_word).await.unwrap();
        let mut at_last = vec![0; last_word.len()];
        client_reads.read_exact(&mut at_last).await.unwrap();

        assert!(at_client == down, "the client's bytes differ, {way:?}");
        assert!(at_upstream == up, "the upstream's bytes differ, {way:?}");
        drop((client_writes, upstream_writes));
        let report = report.await.unwrap();
        assert_eq!(report.ledger.accepted(), 4);
        assert_eq!(report.ledger.of(Account::Delivered), 4);
        assert_eq!(report.traffic.upstream_messages, 5);
        let down_bytes = down.len() + last_word.len();
        // Which is also what keeps a session from being idle.
        assert_eq!(report.traffic.client_bytes, up.len() as u64);
        assert_eq!(report.traffic.upstream_bytes, down_bytes as u64);
        let all = (up.len() + down_bytes) as u64;
        match way {
            // Of each large frame at least what follows the first read and is not its end.
            Way::Spliced => assert!(copied.get() < all / 2, "{copied:?} of {all}"),
            Way::Copied | Way::RefusedBySource => assert_eq!(copied.get(), all),
            // A pipe in each direction was filled before that was found out.
            Way::RefusedByTarget => {
                let rescued = all - copied.get();
                assert!((1..=2 * MAX_PIPE_BYTES).contains(&rescued), "{rescued}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_that_ends_in_a_splice_or_its_refusal_arrives() {
    each_way(async |way| {
        let Scene {
            mut client,
            mut upstream,
            report,
            copied,
            ..
        } = Scene::start(way, Settings::default()).await;
        let frame = client_frame(0x82, &pattern(60_000, 1));
        let (start, rest) = frame.split_at(100);
        let mut received = vec![0; frame.len()];

        client.write_all(start).await.unwrap();
        upstream.read_exact(&mut received[..100]).await.unwrap();
        client.write_all(rest).await.unwrap();
        upstream.read_exact(&mut received[100..]).await.unwrap();

        assert!(received == frame, "{way:?}");
        let answer = server_frame(0x81, b"answer");
        upstream.write_all(&answer).await.unwrap();
        client
            .read_exact(&mut received[..answer.len()])
            .await
            .unwrap();
        drop((client, upstream));
        assert_eq!(report.await.unwrap().ledger.of(Account::Delivered), 1);
        let is_spliced = matches!(way, Way::Spliced | Way::RefusedByTarget);
        assert_eq!(copied.get() < frame.len() as u64, is_spliced, "{way:?}");
    })
    .await;
}

#[tokio::test]
async fn a_large_message_half_read_at_the_gate_arrives_unchanged() {
    each_way(async |way| {
        let mut settings = gated();
        settings.hold.max_bytes = 100_000;
        let Scene {
            mut client,
            mut upstream,
            ..
        } = Scene::start(way, settings).await;
        let frame = long_frame(0x82, true, &pattern(3_000_000, 1));
        let sent = frame.clone();
        let writer = tokio::task::spawn_local(async move {
            client.write_all(&sent).await.unwrap();
            client
        });
        // Long enough for the session to have read the client until it was full; were it not,
        // the test would only try less.
        tokio::time::sleep(Duration::from_millis(300)).await;
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
    each_way(async |way| {
        let Scene {
            mut client,
            upstream,
            ..
        } = Scene::start(way, Settings::default()).await;
        let sent = stream(true);

        let ((_upstream, received), ()) = tokio::join!(read_slowly(upstream, sent.len()), async {
            client.write_all(&sent).await.unwrap();
        });

        assert!(received == sent);
    })
    .await;
}

#[tokio::test]
async fn a_drain_inside_a_large_frame_completes_it_first() {
    each_way(async |way| {
        let Scene {
            mut client,
            mut upstream,
            report,
            drain,
            ..
        } = Scene::start(way, Settings::default()).await;
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
        let answer = server_frame(0x88, &1001_u16.to_be_bytes());
        upstream.write_all(&answer).await.unwrap();
        drop((client, upstream));
        assert_eq!(report.await.unwrap().ledger.of(Account::Delivered), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_lost_inside_a_large_frame_leaves_it_unknown() {
    each_way(async |way| {
        let mut settings = Settings::default();
        // The client, which is inside a frame, does not take part.
        settings.tunnel.close_timeout = Duration::from_millis(100);
        let Scene {
            mut client,
            mut upstream,
            report,
            ..
        } = Scene::start(way, settings).await;
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
