//! The upstream handshake: outcomes that are retried, final or broken.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use http::HeaderMap;
use readygate::{
    config::Retry,
    transport::Transport,
    upstream::{
        self, Attempts, ConnectError, Endpoint, HandshakeOutcome, OpeningRequest, Settings,
    },
    websocket::Opened,
};
use tokio::time::{self, Instant};

use crate::support::{Proxy, Reserved, SWITCHING_PROTOCOLS, Upstream, config, text_frame};

fn request() -> OpeningRequest {
    OpeningRequest::new("/", &HeaderMap::new(), None)
}

/// Settings that lose no time between attempts.
fn impatient(settings: Settings) -> Arc<Endpoint> {
    let mut settings = settings;
    settings.retry.initial = Duration::from_millis(1);
    settings.retry.max = Duration::from_millis(1);
    Endpoint::alone(&settings)
}

async fn until(attempts: &Attempts, count: u32) {
    poll_fn(|context| {
        if attempts.get() >= count {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Connects to an upstream that answers `answer` to the first attempt and a `101` to the
/// second, and returns how many there were.
async fn connect_past(answer: &str) -> (Result<Opened<Transport>, ConnectError>, u32) {
    let listening = Upstream::listen().await;
    let endpoint = impatient(listening.route().upstream);
    let attempts = Attempts::default();
    let script = async {
        listening.accept().await.answer(answer).await;
        listening.accept().await.answer_101().await;
        std::future::pending::<()>().await;
    };
    let request = request();
    let connected = tokio::select! {
        connected = upstream::connect(&endpoint, &request, &attempts) => connected,
        () = script => unreachable!(),
    };
    (connected, attempts.get())
}

#[tokio::test]
async fn an_upstream_that_refuses_is_tried_until_it_listens() {
    let reserved = Reserved::port();
    let endpoint = impatient(reserved.route().upstream);
    let attempts = Attempts::default();
    let request = request();
    let mut connect = pin!(upstream::connect(&endpoint, &request, &attempts));
    tokio::select! {
        _ = &mut connect => panic!("nobody listens"),
        () = until(&attempts, 3) => {}
    }
    let error = attempts.last_error().unwrap();
    assert!(error.starts_with("cannot connect: 127.0.0.1:"), "{error}");

    let upstream = reserved.listen();
    let (connected, ()) = tokio::join!(connect, async {
        upstream.accept().await.answer_101().await;
    });

    connected.unwrap();
}

/// Waits of 50 ms, 100 ms, 200 ms and so on.
fn doubling() -> Retry {
    Retry {
        initial: Duration::from_millis(50),
        max: Duration::from_secs(1),
        jitter: 0.0,
    }
}

#[tokio::test]
async fn between_attempts_there_are_waits_that_double() {
    let reserved = Reserved::port();
    let mut settings = reserved.route().upstream;
    settings.retry = doubling();
    let endpoint = Endpoint::alone(&settings);
    let attempts = Attempts::default();
    let request = request();
    let started = Instant::now();

    tokio::select! {
        _ = upstream::connect(&endpoint, &request, &attempts) => panic!("nobody listens"),
        () = until(&attempts, 3) => {}
    }

    assert!(started.elapsed() >= Duration::from_millis(50 + 100));
}

#[tokio::test]
async fn an_upstream_that_was_lost_is_not_tried_again_at_once() {
    let listening = Upstream::listen().await;
    let mut settings = listening.route().upstream;
    settings.retry = doubling();
    let endpoint = Endpoint::alone(&settings);
    let attempts = Attempts::default();
    let request = request();
    let started = Instant::now();

    for _ in 0..3 {
        let connect = upstream::connect(&endpoint, &request, &attempts);
        let (connected, ()) = tokio::join!(connect, async {
            listening.accept().await.answer_101().await;
        });
        drop(connected.unwrap());
    }

    assert!(started.elapsed() >= Duration::from_millis(50 + 100));
    assert_eq!(attempts.get(), 3);
}

#[tokio::test]
async fn a_name_without_an_address_is_tried_again() {
    let endpoint = impatient(Settings::new(upstream::Address::Tcp {
        host: "upstream.invalid".to_owned(),
        port: 80,
    }));
    let attempts = Attempts::default();
    let request = request();

    tokio::select! {
        _ = upstream::connect(&endpoint, &request, &attempts) => panic!("no such name"),
        () = until(&attempts, 3) => {}
    }
}

#[tokio::test]
async fn a_unix_socket_is_connected_to_once_it_is_there() {
    let path = std::env::temp_dir().join(format!("readygate-{}-u.sock", std::process::id()));
    let endpoint = impatient(Settings::new(upstream::Address::Unix(path.clone())));
    let attempts = Attempts::default();
    let request = request();
    let mut connect = pin!(upstream::connect(&endpoint, &request, &attempts));
    tokio::select! {
        _ = &mut connect => panic!("nobody listens"),
        () = until(&attempts, 2) => {}
    }

    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let accepted = tokio::select! {
        accepted = listener.accept() => accepted,
        _ = connect => panic!("nobody has answered"),
    };

    accepted.unwrap();
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_tried_again() {
    for reset in [false, true] {
        let listening = Upstream::listen().await;
        let endpoint = impatient(listening.route().upstream);
        let attempts = Attempts::default();
        let request = request();
        let script = async {
            let first = listening.accept().await;
            if reset {
                let socket = socket2::SockRef::from(&first.stream.0);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(first);
            listening.accept().await.answer_101().await;
        };

        let (connected, ()) =
            tokio::join!(upstream::connect(&endpoint, &request, &attempts), script);

        connected.unwrap();
        assert_eq!(attempts.get(), 2);
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_tried_again() {
    let listening = Upstream::listen().await;
    let mut settings = listening.route().upstream;
    settings.handshake_timeout = Some(Duration::from_millis(50));
    let endpoint = impatient(settings);
    let attempts = Attempts::default();
    let request = request();
    let script = async {
        let _silent = listening.accept().await;
        listening.accept().await.answer_101().await;
    };

    let (connected, ()) = tokio::join!(upstream::connect(&endpoint, &request, &attempts), script);

    connected.unwrap();
    assert_eq!(
        attempts.last_error().unwrap(),
        "no answer to the opening handshake within 50ms"
    );
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_answers_late_is_asked_once() {
    for is_asked_first in [false, true] {
        let listening = Upstream::listen().await;
        let endpoint = Endpoint::alone(&listening.route().upstream);
        let attempts = Attempts::default();
        let request = request();
        let connect = async {
            if is_asked_first {
                let answer = upstream::ask(&endpoint, &request, &attempts, None).await;
                assert!(matches!(answer, Ok(HandshakeOutcome::Switched(_))));
            } else {
                upstream::connect(&endpoint, &request, &attempts)
                    .await
                    .unwrap();
            }
        };
        let script = async {
            let mut late = listening.accept().await;
            tokio::select! {
                () = time::sleep(Duration::from_mins(2)) => late.answer_101().await,
                _ = listening.accept() => panic!("it was asked already"),
            }
        };

        tokio::join!(connect, script);

        assert_eq!(attempts.get(), 1);
        assert_eq!(attempts.last_error(), None);
    }
}

#[tokio::test]
async fn a_temporary_status_is_tried_again_also_with_a_body() {
    for status in [500, 502, 503, 504] {
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 7\r\n\r\nbooting");

        let (connected, attempts) = connect_past(&answer).await;

        connected.unwrap();
        assert_eq!(attempts, 2);
    }
}

#[tokio::test]
async fn any_other_status_is_final() {
    for status in [200, 302, 400, 401, 403, 404, 426] {
        let answer = format!(
            "HTTP/1.1 {status} x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {{accept}}\r\nContent-Length: 0\r\n\r\n"
        );

        let (connected, attempts) = connect_past(&answer).await;

        let refused = connected.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(got) if got == status));
        assert_eq!(attempts, 1);
    }
}

// Every way of being broken has its unit test beside the check.
#[tokio::test]
async fn a_broken_answer_is_final() {
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n",
        "\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}\u{28}",
        &SWITCHING_PROTOCOLS.replace("{accept}", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        &SWITCHING_PROTOCOLS.replace("HTTP/1.1", "HTTP/1.0"),
        &SWITCHING_PROTOCOLS.replace("Upgrade: websocket\r\n", "Upgrade: websocket\n"),
    ] {
        let (connected, attempts) = connect_past(answer).await;

        assert!(
            matches!(connected, Err(ConnectError::Broken(_))),
            "{answer}"
        );
        assert_eq!(attempts, 1);
    }
}

#[tokio::test]
async fn an_endless_answer_is_read_up_to_the_limit_only() {
    let answer = "HTTP/1.1 101 x\r\nX: ".to_owned() + &"x".repeat(1024 * 1024);

    let (connected, _) = connect_past(&answer).await;

    assert!(matches!(
        connected,
        Err(ConnectError::Broken("header section too large"))
    ));
}

// Frames of the upstream may follow its 101 in the same segment.
#[tokio::test]
async fn interim_responses_are_skipped_and_early_frames_kept() {
    let answer = format!("HTTP/1.1 103 Early Hints\r\n\r\n{SWITCHING_PROTOCOLS}frames");

    let (connected, attempts) = connect_past(&answer).await;

    assert_eq!(&connected.unwrap().read_buf[..], b"frames");
    assert_eq!(attempts, 1);
}

// RFC 6455 §4.1.
#[tokio::test]
async fn no_byte_of_the_client_reaches_the_upstream_before_its_101() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut client = proxy.connect().await;
    client.open().await;
    client
        .send(text_frame("GET /internal HTTP/1.1\r\n\r\n"))
        .await;

    let mut exchange = upstream.accept().await;
    exchange
        .answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        .await;

    // The connection ends here: all that was ever written on it has been read.
    assert_eq!(exchange.stream.read_to_end().await, "");
    assert_eq!(client.read_close_code().await, 1014);
}

#[tokio::test]
async fn the_client_of_a_broken_upstream_is_closed_with_1014() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    for answer in [
        &SWITCHING_PROTOCOLS.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n"),
        &SWITCHING_PROTOCOLS.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut client = proxy.connect().await;
        client.open().await;
        upstream.accept().await.answer(answer).await;

        assert_eq!(client.read_close_code().await, 1014, "{answer}");
    }
}

#[tokio::test]
async fn client_and_upstream_talk_through_the_proxy() {
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    config.workers = 2.try_into().unwrap();
    let proxy = Proxy::start(config);
    for _ in 0..4 {
        let mut client = proxy.connect().await;
        client.open().await;
        let mut exchange = upstream.accept().await;
        exchange
            .answer(&(SWITCHING_PROTOCOLS.to_owned() + "\u{1}"))
            .await;

        // One byte of 0x01 came with the 101: a text frame without FIN, here of length 2.
        exchange.stream.send([2, b'h', b'i', 0x80, 0]).await;
        assert_eq!(client.read(6).await, [1, 2, b'h', b'i', 0x80, 0]);

        let frame = text_frame("hello");
        client.send(&frame).await;
        assert_eq!(exchange.stream.read(frame.len()).await, frame);
    }
}
