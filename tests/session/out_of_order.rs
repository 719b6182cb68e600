//! A circuit breaker with malicious clients and slowly starting backends: other clients get in.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use readygate::{
    config::{BreakerSettings, DrainSettings},
    limits::{drain::Drain, held_bytes::Budget},
    matcher::Matcher,
    session::{
        self, Agreed, Context, Settings,
        rules::{Priority, Release, Rule, Rules},
    },
    upstream::{
        self, Address, Attempts, ConnectError, Endpoint, Mismatch, OpeningRequest, Permit,
        dns::Names,
    },
    websocket::Opened,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task,
    time::{self, Instant},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::{
    PIPE_BYTES, Running, as_client, as_server, client_frame, close_frame, gated, local, send_all,
    start_agreed,
};

const SECOND: Duration = Duration::from_secs(1);

/// An upstream that would be at a socket in this folder.
struct Nowhere {
    folder: TempDir,
    endpoint: Arc<Endpoint>,
}

impl Nowhere {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("upstream.sock"));
        let endpoint = Endpoint::new(
            "/",
            &upstream::Settings::new(address),
            BreakerSettings::default(),
            &Names::default(),
        );
        Self { folder, endpoint }
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.folder.path().join("upstream.sock")).unwrap()
    }

    /// Closes the listener.
    fn leave(&self) {
        std::fs::remove_file(self.folder.path().join("upstream.sock")).unwrap();
    }
}

/// A session that `trial` is about, whose upstream is the test's.
fn start(settings: Settings, trial: Permit) -> Running {
    let agreed = Agreed {
        trial,
        ..Agreed::default()
    };
    let budget = Arc::new(Budget::new(64 * 1024 * 1024));
    start_agreed(settings, budget, Vec::new(), agreed)
}

fn until_3_s(mut settings: Settings) -> Settings {
    settings.gate.timeout = 3 * SECOND;
    settings
}

/// Releases a message of the client before the upstream is ready.
fn released() -> Settings {
    let mut settings = until_3_s(gated());
    settings.rules = Rules::new(vec![Rule {
        matchers: vec![Matcher::Prefix("init".to_owned())],
        priority: Priority::Normal,
        release: Release::Authenticated,
    }]);
    settings
}

/// Whoever comes is let in, for more than twice as many failures as open a breaker.
async fn attack(fail: impl AsyncFn(Permit)) {
    let Nowhere { endpoint, .. } = Nowhere::new();
    for _ in 0..12 {
        fail(endpoint.admit().unwrap()).await;
    }
    endpoint.admit().unwrap();
}

#[tokio::test(start_paused = true)]
async fn clients_with_a_wrong_subprotocol_do_not_open_the_breaker() {
    local(attack(async |trial| {
        let running = start(gated(), trial);
        let mismatch = Mismatch {
            told: Some("a".to_owned()),
            chosen: "b".to_owned(),
            is_offered: false,
        };
        let error = ConnectError::Subprotocol(Box::new(mismatch));
        running.upstream.refuse(error);
        let report = running.report.await.unwrap();
        assert_eq!(report.cause.name(), "bad_upstream_handshake");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_say_nothing_keep_nobody_out() {
    for gives_up in [false, true] {
        local(attack(async |trial| {
            let running = start(released(), trial);
            let mut upstream = running.upstream.connect(b"");
            if gives_up {
                time::sleep(SECOND).await;
                upstream.write_all(&[0x88, 2, 0x03, 0xf3]).await.unwrap();
            }
            let mut client = as_client(running.client).await;
            let code = close_frame(&mut client).await.0;
            assert_eq!(code, if gives_up { 1011 } else { 1013 });
            drop(upstream);
            running.report.await.unwrap();
        }))
        .await;
    }
}

/// A binary frame of the upstream with so many bytes.
fn large_frame(bytes: u32) -> Vec<u8> {
    let mut frame = vec![0x82, 127, 0, 0, 0, 0];
    frame.extend(bytes.to_be_bytes());
    frame.resize(frame.len() + bytes as usize, b'x');
    frame
}

#[tokio::test(start_paused = true)]
async fn clients_that_do_not_read_keep_nobody_out() {
    local(attack(async |trial| {
        let running = start(until_3_s(gated()), trial);
        let mut upstream = running.upstream.connect(b"");
        let frame = large_frame(8 * 1024 * 1024);
        let written = time::timeout(SECOND, upstream.write_all(&frame)).await;
        assert!(written.is_err(), "the client does not read");
        let report = running.report.await.unwrap();
        assert_eq!(report.cause.name(), "ready_timeout");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_do_not_read_do_not_open_the_breaker() {
    local(attack(async |trial| {
        let running = start(gated(), trial);
        let mut upstream = running.upstream.connect(b"");
        // A little more than the client's pipe takes.
        let frame = large_frame(u32::try_from(PIPE_BYTES).unwrap() + 1024);
        upstream.write_all(&frame).await.unwrap();
        upstream.write_all(&[0x88, 2, 0x03, 0xf3]).await.unwrap();
        let report = running.report.await.unwrap();
        assert_eq!(report.cause.name(), "upstream_closed");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_read_everything_too_late_keep_nobody_out() {
    local(attack(async |trial| {
        let Running {
            mut client,
            upstream,
            report,
            ..
        } = start(gated(), trial);
        let mut upstream = upstream.connect(b"");
        let frame = large_frame(1024 * 1024);
        let bytes = frame.len();
        let read = async {
            time::sleep(SECOND).await;
            client.read_exact(&mut vec![0; bytes]).await.unwrap();
        };
        let (written, ()) = tokio::join!(upstream.write_all(&frame), read);
        written.unwrap();
        time::sleep(SECOND).await;
        // It had no time left to become ready.
        upstream.write_all(&[0x88, 2, 0x03, 0xf3]).await.unwrap();
        let report = report.await.unwrap();
        assert_eq!(report.cause.name(), "upstream_closed");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_owe_a_pong_for_long_keep_nobody_out() {
    // That of the ping, too late, and another one in its place.
    for (wait, pong) in [(5 * SECOND, b"x"), (Duration::ZERO, b"y")] {
        local(attack(async |trial| {
            let Running {
                mut client,
                upstream,
                report,
                ..
            } = start(gated(), trial);
            let mut upstream = upstream.connect(b"");
            upstream.write_all(&[0x89, 1, b'x']).await.unwrap();
            client.read_exact(&mut [0; 3]).await.unwrap();
            time::sleep(wait).await;
            let answer = client_frame(0x8a, pong);
            client.write_all(&answer).await.unwrap();
            upstream
                .read_exact(&mut vec![0; answer.len()])
                .await
                .unwrap();
            upstream.write_all(&[0x88, 2, 0x03, 0xf3]).await.unwrap();
            let report = report.await.unwrap();
            assert_eq!(report.cause.name(), "upstream_closed");
        }))
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_owe_a_pong_do_not_open_the_breaker() {
    local(async {
        let nowhere = Nowhere::new();
        let settings = until_3_s(gated());
        for _ in 0..12 {
            let trial = nowhere.endpoint.admit().unwrap();
            let listener = nowhere.listen();
            let upstream = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(answer(&mut stream).await);
                stream.write_all(&[0x89, 1, b'x']).await.unwrap();
                time::sleep(SECOND).await;
                nowhere.leave();
            };
            let session = visit(&nowhere.endpoint, trial, &settings);
            let (is_ready, ()) = tokio::join!(session, upstream);
            assert!(!is_ready);
        }
        nowhere.endpoint.admit().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_find_the_upstreams_queue_full_keep_nobody_out() {
    local(async {
        let nowhere = Nowhere::new();
        let path = nowhere.folder.path().join("upstream.sock");
        let queue = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let queue = queue.unwrap();
        queue
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        queue.listen(1).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
        }
        let settings = until_3_s(gated());
        for _ in 0..12 {
            let trial = nowhere.endpoint.admit().unwrap();
            assert!(!visit(&nowhere.endpoint, trial, &settings).await);
        }
        nowhere.endpoint.admit().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_at_a_path_that_fails_keep_nobody_out() {
    for status in [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::NOT_IMPLEMENTED,
    ] {
        local(attack(async |trial| {
            let running = start(gated(), trial);
            running.upstream.refuse(ConnectError::Refused(status));
            let report = running.report.await.unwrap();
            assert_eq!(report.cause.name(), "upstream_refused");
        }))
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_goes_before_any_client_had_a_part_counts() {
    local(async {
        let Nowhere { endpoint, .. } = Nowhere::new();
        for _ in 0..5 {
            let running = start(gated(), endpoint.admit().unwrap());
            let mut upstream = running.upstream.connect(b"");
            upstream.write_all(&[0x88, 2, 0x03, 0xf3]).await.unwrap();
            let mut client = as_client(running.client).await;
            assert_eq!(close_frame(&mut client).await.0, 1011);
            running.report.await.unwrap();
        }

        assert!(endpoint.admit().is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_lost_after_a_clients_message_does_not_count() {
    local(attack(async |trial| {
        let running = start(released(), trial);
        let upstream = running.upstream.connect(b"");
        let mut client = as_client(running.client).await;
        send_all(&mut client, &["init"]).await;
        let mut upstream = as_server(upstream).await;
        assert_eq!(crate::support::receive(&mut upstream, 1).await, ["init"]);
        drop(upstream);
        let report = running.report.await.unwrap();
        assert_eq!(report.cause.name(), "upstream_lost");
    }))
    .await;
}

/// Runs one session that connects to the endpoint itself; whether it became ready.
async fn visit(endpoint: &Arc<Endpoint>, trial: Permit, settings: &Settings) -> bool {
    let (_client, stream) = tokio::io::duplex(64 * 1024);
    let client = Opened {
        stream,
        read_buf: Bytes::new(),
    };
    let request = OpeningRequest::new("/", &HeaderMap::new(), None);
    let connect = async |attempts: &Attempts| upstream::connect(endpoint, &request, attempts).await;
    let context = Context {
        budget: Arc::new(Budget::new(1024 * 1024)),
        drain: Drain::new(DrainSettings::default()),
    };
    let agreed = Agreed {
        trial,
        ..Agreed::default()
    };
    let record = Rc::new(session::SessionStats::accepted());
    let session = session::run_agreed(
        client,
        agreed,
        connect,
        settings,
        &context,
        Rc::clone(&record),
    );
    tokio::select! {
        _ = session => false,
        () = ready(&record) => true,
    }
}

/// Resolves within a tenth of a second of the gate's opening.
async fn ready(record: &session::SessionStats) {
    while record.ready_after().is_none() {
        time::sleep(SECOND / 10).await;
    }
}

/// Accepts sessions for as long as it is polled.
async fn serve(listener: UnixListener) {
    let mut open = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        if answer(&mut stream).await {
            open.push(stream);
        }
    }
}

/// Answers an opening handshake, if there is one.
async fn answer(stream: &mut UnixStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_probe) => return false,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let key = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let accept = derive_accept_key(key.unwrap().1.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn clients_are_let_in_within_a_second_after_a_long_start() {
    local(async {
        let nowhere = Nowhere::new();
        let endpoint = &nowhere.endpoint;
        let settings = Rc::new(until_3_s(Settings::default()));
        let started = Instant::now();
        let client = || {
            let (endpoint, settings) = (Arc::clone(endpoint), Rc::clone(&settings));
            task::spawn_local(async move {
                loop {
                    if let Ok(trial) = endpoint.admit()
                        && visit(&endpoint, trial, &settings).await
                    {
                        return Instant::now();
                    }
                    time::sleep(SECOND).await;
                }
            })
        };
        let clients: Vec<_> = (0..6).map(|_| client()).collect();
        time::sleep(29 * SECOND).await;
        assert!(endpoint.admit().is_err(), "it is known to be out of order");

        task::spawn_local(serve(nowhere.listen()));

        for client in clients {
            let ready_at = client.await.unwrap();
            // A try of the proxy, one of the client, and the look at the record.
            assert!(ready_at - started <= 29 * SECOND + 2 * SECOND + SECOND / 5);
        }
    })
    .await;
}
