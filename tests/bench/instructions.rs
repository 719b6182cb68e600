//! Instruction counts of the paths that every message, request and handshake takes, under
//! callgrind.
//!
//! Counts repeat where times on a shared machine do not. Each benchmark has a baseline;
//! more than 5 % above it fails, and a change for the better should lower it:
//!
//! ```text
//! cargo install gungraun-runner --version 0.20.0 --locked      # and valgrind
//! cargo bench --bench instructions
//! ```
//!
//! | benchmark | counts |
//! |---|---|
//! | `scan` | a thousand frames, of which only the headers are read |
//! | `assemble` | a thousand messages, put together from frames |
//! | `classify` | the rules of a route, for one message in JSON |
//! | `queue` | a thousand messages into the hold queue and out of it |
//! | `flush` | a session that becomes ready, with a thousand held messages |
//! | `pass` | one message through a tunnel without sockets |
//! | `relay` | a hundred messages through a tunnel between sockets |
//! | `forward` | twenty plain requests with their responses, between sockets |
//! | `open` | twenty opening handshakes to the first message, between sockets |
//!
//! Those with sockets count the code that plays the client and the upstream, too. The kernel's
//! part, which is nearly all of a message's cost, is in none of them.
#![expect(
    missing_docs,
    unused_qualifications,
    clippy::must_use_candidate,
    reason = "of what the macros make"
)]

mod worker;

use std::{
    cell::RefCell,
    collections::VecDeque,
    hint::black_box,
    io::{self, Read, Write},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use readygate::{
    config::DrainSettings,
    limits::{drain::Drain, held_bytes::Budget},
    matcher::{Matcher, Sample},
    session::{
        self, Report, Settings,
        gate::Trigger,
        queue::{HoldQueue, Order},
        rules::{Class, Priority, Release, Rules},
    },
    transport::{Stream, Transport},
    upstream::{Attempts, ConnectError},
    websocket::{Assembled, Assembler, FrameScanner, Opened, Role},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::Runtime,
    task::LocalSet,
    time::Instant,
};

use worker::Worker;

/// A benchmark that fails at more than 5 % above `baseline` instructions.
fn at_most(baseline: u64) -> LibraryBenchmarkConfig {
    limited(baseline + baseline / 20)
}

/// A benchmark that fails above so many instructions.
fn limited(limit: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, limit)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// A masked text frame of a client.
fn frame(payload: &[u8]) -> Vec<u8> {
    let key = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![0x81];
    if let Ok(short @ ..126) = u8::try_from(payload.len()) {
        frame.push(0x80 | short);
    } else {
        frame.push(0xfe);
        let length = u16::try_from(payload.len()).expect("a short payload");
        frame.extend_from_slice(&length.to_be_bytes());
    }
    frame.extend_from_slice(&key);
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

fn frames(count: usize, payload_bytes: usize) -> Vec<u8> {
    frame(&vec![b'x'; payload_bytes]).repeat(count)
}

#[library_benchmark(config = at_most(33_148))]
#[bench::frames_of_128_bytes(args = (1000, 128), setup = frames)]
fn scan(stream: Vec<u8>) -> u64 {
    black_box(FrameScanner::new(Role::Client).skip(&stream)).messages
}

#[library_benchmark(config = at_most(947_155))]
#[bench::messages_of_128_bytes(args = (1000, 128), setup = frames)]
fn assemble(stream: Vec<u8>) -> usize {
    let mut assembler = Assembler::new(Role::Client, 1 << 20);
    let mut input = &stream[..];
    let mut messages = 0;
    while let Ok(Some(Assembled::Message(message))) = assembler.advance(&mut input) {
        messages += message.wire.len();
    }
    black_box(messages)
}

fn rules() -> (Rules, Vec<u8>) {
    let config = "[[route]]\nupstream = \"http://127.0.0.1:1\"\n[[route.message]]\n\
                  match = { json = { \"/type\" = [\"user_message\", \"agent_request\"] } }\n\
                  priority = \"critical\"\n";
    let config = readygate::config_file::Config::parse("bench", config, &|_| None).expect("valid");
    let rules = config
        .routes
        .iter()
        .next()
        .expect("a route")
        .session
        .rules
        .clone();
    let text = format!(
        "{{\"id\":17,\"user\":{{\"name\":\"someone\",\"roles\":[1,2,3]}},\"text\":\"{}\",\
         \"type\":\"user_message\"}}",
        "lorem ipsum ".repeat(18)
    );
    (rules, text.into_bytes())
}

#[library_benchmark(config = at_most(4_742))]
#[bench::json_of_300_bytes(setup = rules)]
fn classify((rules, payload): (Rules, Vec<u8>)) -> Class {
    let sample = Sample {
        is_text: true,
        payload: &payload,
        is_whole: true,
    };
    let class = black_box(rules.classify(&sample));
    assert_eq!(class.priority, Priority::Critical);
    class
}

fn messages() -> (Vec<Vec<u8>>, Instant) {
    (
        (0..1000).map(|_| frame(&[b'x'; 128])).collect(),
        Instant::now(),
    )
}

#[library_benchmark(config = at_most(330_840))]
#[bench::thousand_messages(setup = messages)]
fn queue((messages, now): (Vec<Vec<u8>>, Instant)) -> usize {
    let mut queue = HoldQueue::new(Order::Priority);
    for wire in messages {
        let class = Class {
            priority: Priority::Normal,
            release: Release::Ready,
        };
        queue.push(wire, class, now);
    }
    std::iter::from_fn(|| queue.pop())
        .map(|wire| wire.len())
        .sum()
}

/// One side of a session without a kernel: what it reads is handed in, what it writes is
/// counted.
#[derive(Clone, Default)]
struct Side(Rc<RefCell<Script>>);

#[derive(Default)]
struct Script {
    to_read: VecDeque<Vec<u8>>,
    written_bytes: usize,
    writes: usize,
}

impl Side {
    /// How many bytes were written, in how many calls.
    fn written(&self) -> (usize, usize) {
        let script = self.0.borrow();
        (script.written_bytes, script.writes)
    }

    fn hand_in(&self, bytes: Vec<u8>) {
        self.0.borrow_mut().to_read.push_back(bytes);
    }
}

impl Stream for Side {}

impl AsyncRead for Side {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut script = self.0.borrow_mut();
        let Some(mut bytes) = script.to_read.pop_front() else {
            return Poll::Pending;
        };
        let rest = bytes.split_off(bytes.len().min(buffer.remaining()));
        buffer.put_slice(&bytes);
        if !rest.is_empty() {
            script.to_read.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Side {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut script = self.0.borrow_mut();
        script.written_bytes += bytes.len();
        script.writes += 1;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum::<usize>();
        self.0.borrow_mut().written_bytes += bytes;
        self.poll_write(context, &[]).map_ok(|_| bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A session that is polled by hand.
struct Polled {
    runtime: Runtime,
    session: Pin<Box<dyn Future<Output = Report>>>,
    client: Side,
    upstream: Side,
}

impl Polled {
    /// A session whose gate opens on the message `ready`.
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let mut settings = Settings::default();
        settings.gate.ready = vec![Trigger::Message(Matcher::Text("ready".to_owned()))];
        let (client, upstream) = (Side::default(), Side::default());
        let opened = |side: &Side| Opened {
            stream: side.clone(),
            read_buf: Bytes::new(),
        };
        let (client_side, upstream_side) = (opened(&client), upstream.clone());
        let session = Box::pin(async move {
            let context = session::Context {
                budget: Arc::new(Budget::new(1 << 30)),
                drain: Drain::new(DrainSettings::default()),
            };
            let connect = async |_: &Attempts| -> Result<Opened<Side>, ConnectError> {
                Ok(Opened {
                    stream: upstream_side.clone(),
                    read_buf: Bytes::new(),
                })
            };
            session::run(client_side, connect, &settings, &context).await
        });
        let mut polled = Self {
            runtime,
            session,
            client,
            upstream,
        };
        polled.poll();
        polled
    }

    fn poll(&mut self) {
        let _entered = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        // A second time for what the first one's timers and wake-ups left behind.
        for _ in 0..2 {
            assert!(self.session.as_mut().poll(&mut context).is_pending());
        }
    }

    fn become_ready(&mut self) {
        self.upstream.hand_in(b"\x81\x05ready".to_vec());
        self.poll();
    }
}

fn held() -> Polled {
    let mut polled = Polled::new();
    polled.client.hand_in(frames(1000, 128));
    // The inbox takes 16 KiB at a time.
    for _ in 0..20 {
        polled.poll();
    }
    polled
}

#[library_benchmark(config = at_most(423_196))]
#[bench::thousand_messages(setup = held)]
fn flush(mut polled: Polled) -> Polled {
    polled.become_ready();
    let (written_bytes, writes) = polled.upstream.written();
    assert_eq!((written_bytes, writes), (1000 * 136, 1));
    black_box(polled)
}

/// A tunnel that has carried a message before, and has the next one to read.
fn polled_tunnel() -> Polled {
    let mut polled = Polled::new();
    polled.become_ready();
    polled.client.hand_in(frame(&[b'x'; 128]));
    polled.poll();
    polled.client.hand_in(frame(&[b'x'; 128]));
    polled
}

#[library_benchmark(config = at_most(1_209))]
#[bench::message_of_128_bytes(setup = polled_tunnel)]
fn pass(mut polled: Polled) -> Polled {
    let mut context = Context::from_waker(Waker::noop());
    assert!(polled.session.as_mut().poll(&mut context).is_pending());
    assert_eq!(polled.upstream.written().0, 2 * 136);
    black_box(polled)
}

/// A tunnel between sockets, with the other ends of these.
struct Tunnel {
    runtime: Runtime,
    tasks: LocalSet,
    client: std::net::TcpStream,
    upstream: std::net::TcpStream,
}

/// How many messages go through it.
const MESSAGES: usize = 100;

impl Tunnel {
    /// Has them carried from the client to the upstream, one after the other.
    fn carry(&mut self) {
        let Self {
            runtime,
            tasks,
            client,
            upstream,
        } = self;
        let frame = frame(&[b'x'; 128]);
        let mut got = [0; 256];
        tasks.block_on(runtime, async {
            for _ in 0..MESSAGES {
                client.write_all(&frame).expect("it fits");
                let mut bytes = 0;
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                    match upstream.read(&mut got) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        read => {
                            bytes = read.expect("it is carried");
                            break;
                        }
                    }
                }
                assert_eq!(got[..bytes], frame);
            }
        });
    }
}

fn socket_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let near = std::net::TcpStream::connect(address).expect("it listens");
    let (far, _) = listener.accept().expect("it was asked");
    for socket in [&near, &far] {
        socket.set_nodelay(true).expect("a TCP socket");
        socket.set_nonblocking(true).expect("a socket");
    }
    (near, far)
}

/// A tunnel that has carried messages before.
fn tunnel() -> Tunnel {
    let (client, far_client) = socket_pair();
    let (upstream, far_upstream) = socket_pair();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let tasks = LocalSet::new();
    tasks.spawn_local(async {
        let opened = |socket| Opened {
            stream: Transport::Tcp(TcpStream::from_std(socket).expect("a runtime")),
            read_buf: Bytes::new(),
        };
        let context = session::Context {
            budget: Arc::new(Budget::new(1 << 30)),
            drain: Drain::new(DrainSettings::default()),
        };
        let far_upstream = RefCell::new(Some(far_upstream));
        let connect = async |_: &Attempts| -> Result<_, ConnectError> {
            Ok(opened(far_upstream.take().expect("one connection")))
        };
        session::run(opened(far_client), connect, &Settings::default(), &context).await
    });
    let mut tunnel = Tunnel {
        runtime,
        tasks,
        client,
        upstream,
    };
    tunnel.carry();
    tunnel
}

// A hundred, with what the benchmark itself needs to write and to read them, and a turn of the
// reactor for each: two thirds of the count, so that 2 % of it are 5 % of the rest.
#[library_benchmark(config = limited(422_000))]
#[bench::messages_of_128_bytes(setup = tunnel)]
fn relay(mut tunnel: Tunnel) -> Tunnel {
    tunnel.carry();
    black_box(tunnel)
}

// One request after the other, on connections that are kept.
#[library_benchmark(config = at_most(1_400_961))]
#[bench::requests_of_8_headers(setup = Worker::forwarding)]
fn forward(mut worker: Worker) -> Worker {
    worker.forward();
    black_box(worker)
}

// One session after the other, each with connections of its own.
#[library_benchmark(config = at_most(2_537_805))]
#[bench::sessions(setup = Worker::upgrading)]
fn open(mut worker: Worker) -> Worker {
    worker.open();
    black_box(worker)
}

library_benchmark_group!(
    name = paths,
    benchmarks = [
        scan, assemble, classify, queue, flush, pass, relay, forward, open
    ]
);

main!(library_benchmark_groups = paths);
