//! Sessions over real sockets, on the real clock.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use readygate::{
    session::{Settings, hold::Overflow},
    transport::Transport,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
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
async fn a_client_that_still_sends_when_its_queue_is_full_reads_why_it_is_closed() {
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
async fn a_client_that_still_sends_when_it_breaks_the_protocol_reads_why_it_is_closed() {
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
