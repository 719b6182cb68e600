//! Sessions over real sockets, on the real clock.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{self, Either};
use readygate::{
    session::{Settings, hold::Overflow},
    transport::Transport,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{coop, spawn_local},
    time,
};

use crate::{scene::*, support::*};

/// A client on a real socket, connected to an upstream in the test's hands.
async fn start_on_socket(settings: Settings) -> (TcpStream, DuplexStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut upstream, proxy_upstream) = tokio::io::duplex(PIPE_BYTES);
    let proxy_client = Transport::Tcp(accepted.unwrap().0);
    start_between(proxy_client, proxy_upstream, settings);

    let mut client = client.unwrap();
    let hello = server_frame(0x81, b"hello");
    upstream.write_all(&hello).await.unwrap();
    let mut got = vec![0; hello.len()];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
    (client, upstream)
}

#[tokio::test]
async fn a_client_that_overfills_its_queue_reads_the_close_frame() {
    local(async {
        let mut settings = gated();
        settings.hold.max_messages = 1;
        settings.hold.overflow = Overflow::Close;
        let (mut client, _upstream) = start_on_socket(settings).await;

        let upload = client_frame(0x82, &[7; 1000]).repeat(4000);
        client.write_all(&upload).await.unwrap();
        client.write_all(&client_close(1013, "")).await.unwrap();

        let frames = Frame::all(&read_to_end(&mut client).await);
        let reason = "queue_full; 2 messages not delivered".to_owned();
        assert_eq!(Told::close(&frames), (1013, reason));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_reads_the_close_frame() {
    local(async {
        for settings in [gated(), Settings::default()] {
            let (mut client, mut upstream) = start_on_socket(settings).await;

            // What follows the rubbish is read, or the close frame would be lost in a reset.
            let upload = vec![0xff; 4_000_000];
            let (uploaded, said_goodbye) =
                tokio::join!(client.write_all(&upload), say_goodbye(&mut upstream));
            uploaded.unwrap();

            let frames = Frame::all(&read_to_end(&mut client).await);
            assert_eq!(Told::close(&frames).0, 1002);
            assert_eq!(Told::close(&[said_goodbye]).0, 1001);
        }
    })
    .await;
}

/// Answers the close frame that comes first, and returns it.
async fn say_goodbye(upstream: &mut DuplexStream) -> Frame {
    let close = read_frame(upstream).await;
    upstream.write_all(&server_close(1001, "")).await.unwrap();
    close
}

/// A socket in the test's hands, and the other end of it.
async fn socket() -> (TcpStream, Transport) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), Transport::Tcp(far.unwrap().0))
}

/// Passes a message each way, now and not at some later event.
async fn exchange(client: &mut TcpStream, upstream: &mut TcpStream) {
    pass(&client_frame(0x81, b"question"), client, upstream).await;
    pass(&server_frame(0x82, b"answer"), upstream, client).await;
}

/// Awaits a `future` that some event must wake.
async fn in_time<F: Future>(future: F) -> F::Output {
    let in_time = time::timeout(Duration::from_secs(10), future).await;
    in_time.expect("it is woken")
}

async fn pass(frame: &[u8], from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(frame).await.unwrap();
    let mut got = vec![0; frame.len()];
    in_time(to.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, frame);
}

#[tokio::test]
async fn a_tunnel_goes_on_in_whatever_task_it_is_polled() {
    local(async {
        let (mut client, far_client) = socket().await;
        let (mut upstream, far_upstream) = socket().await;
        let (session, drain) = session_between(far_client, far_upstream, Settings::default());

        let (stop, stopped) = oneshot::channel::<()>();
        let first = spawn_local(future::select(Box::pin(session), stopped));
        exchange(&mut client, &mut upstream).await;
        stop.send(()).unwrap();
        let Either::Right((_, session)) = first.await.unwrap() else {
            panic!("nobody has ended it");
        };
        let session = spawn_local(session);

        exchange(&mut client, &mut upstream).await;
        drain.begin();
        let mut close = [0; 256];
        let bytes = in_time(upstream.read(&mut close)).await.unwrap();
        assert_eq!(Told::close(&Frame::all(&close[..bytes])).0, 1001);
        drop((client, upstream));
        in_time(session).await.unwrap();
    })
    .await;
}

/// A task that does so many steps of its turn on the thread before it is polled, each time.
struct AtTheEndOfItsTurn<F> {
    steps: usize,
    inner: Pin<Box<F>>,
}

/// Returns the number of steps that a task may do in one turn.
async fn steps_per_turn() -> usize {
    let count = future::poll_fn(|context| {
        let mut steps = 0;
        while let Poll::Ready(step) = coop::poll_proceed(context) {
            step.made_progress();
            steps += 1;
        }
        Poll::Ready(steps)
    });
    spawn_local(count).await.unwrap()
}

impl<F: Future> Future for AtTheEndOfItsTurn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        for _ in 0..self.steps {
            let Poll::Ready(step) = coop::poll_proceed(context) else {
                panic!("a turn has fewer steps than {}", self.steps);
            };
            step.made_progress();
        }
        self.inner.as_mut().poll(context)
    }
}

#[tokio::test]
async fn a_tunnel_that_yields_at_any_step_is_polled_again() {
    for left in 1..8 {
        local(async {
            let (mut client, far_client) = socket().await;
            let (mut upstream, far_upstream) = socket().await;
            let (session, _drain) = session_between(far_client, far_upstream, Settings::default());
            let inner = Box::pin(session);
            let steps = steps_per_turn().await - left;
            let session = spawn_local(AtTheEndOfItsTurn { steps, inner });

            for _ in 0..3 {
                exchange(&mut client, &mut upstream).await;
            }

            drop((client, upstream));
            in_time(session).await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn an_end_that_comes_with_the_last_message_is_seen_behind_it() {
    local(async {
        for is_client in [true, false] {
            let (mut client, far_client) = socket().await;
            let (mut upstream, far_upstream) = socket().await;
            let (session, _drain) = session_between(far_client, far_upstream, Settings::default());
            let session = spawn_local(session);
            exchange(&mut client, &mut upstream).await;
            let (from, to, frame) = if is_client {
                (&mut client, &mut upstream, client_frame(0x81, b"last"))
            } else {
                (&mut upstream, &mut client, server_frame(0x81, b"last"))
            };
            from.write_all(&frame).await.unwrap();
            from.shutdown().await.unwrap();

            let mut got = vec![0; frame.len()];
            in_time(to.read_exact(&mut got)).await.unwrap();
            assert_eq!(got, frame);
            // The proxy's close frame, for the one who has just left cannot send any.
            assert_ne!(in_time(to.read(&mut got)).await.unwrap(), 0);
            drop((client, upstream));
            in_time(session).await.unwrap();
        }
    })
    .await;
}
