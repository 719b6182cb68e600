//! The process without free file descriptors.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::{TcpListener, TcpStream},
    process::{ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio_tungstenite::tungstenite;

use crate::support::{Killed, directory_with};

/// The program with a limit of its own on descriptors, and its log.
struct Limited {
    program: Killed,
    log: Lines<BufReader<ChildStdout>>,
    _directory: TempDir,
}

impl Limited {
    /// Starts it before `upstream` after the `limits` of the shell.
    fn start(limits: &str, upstream: &str) -> Self {
        Self::start_listening(1, limits, upstream)
    }

    /// Starts it with so many listeners for clients.
    fn start_listening(listeners: usize, limits: &str, upstream: &str) -> Self {
        let listen = (1..=listeners).map(|last| format!("{{ address = \"127.0.0.{last}:0\" }}"));
        let listen = listen.collect::<Vec<_>>().join(", ");
        let file = format!(
            "listen = [{listen}]\nadmin.listen = \"127.0.0.1:0\"\nworkers = 1\n\
             [[route]]\nupstream = \"http://{upstream}\"\nbreaker.failures = 1\n\
             [[route]]\npath = \"/late\"\naccept = \"after-upstream\"\n\
             upstream = \"http://{upstream}\"\nbreaker.failures = 1\n"
        );
        let directory = directory_with("proxy.toml", &file);
        let mut program = Command::new("sh")
            .args(["-c", &format!("{limits} && exec \"$0\"")])
            .arg(env!("CARGO_BIN_EXE_readygate"))
            .current_dir(directory.path())
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .spawn()
            .map(Killed)
            .unwrap();
        let log = BufReader::new(program.0.stdout.take().unwrap()).lines();
        Self {
            program,
            log,
            _directory: directory,
        }
    }

    fn await_line(&mut self, part: &str) -> String {
        let mut lines = self.log.by_ref().map_while(Result::ok);
        lines.find(|line| line.contains(part)).unwrap()
    }

    /// Returns the addresses for clients and for operators.
    fn addresses(&mut self) -> [String; 2] {
        [self.address(), self.admin_address()]
    }

    /// Returns the address of the next listener for clients.
    fn address(&mut self) -> String {
        self.address_of("\"listening\"")
    }

    fn admin_address(&mut self) -> String {
        self.address_of("listening for admin requests")
    }

    fn address_of(&mut self, message: &str) -> String {
        let line = self.await_line(message);
        let (_, address) = line.split_once("http://").unwrap();
        address.split('"').next().unwrap().to_owned()
    }

    /// Its descriptors below `limit`, and whether each is an end of a pipe: those above it has
    /// inherited.
    fn descriptors(&self, limit: usize) -> Vec<(usize, bool)> {
        let directory = fs::read_dir(format!("/proc/{}/fd", self.program.0.id())).unwrap();
        let paths = directory.map(|entry| entry.unwrap().path());
        let numbered = paths.map(|path| {
            let number = path.file_name().unwrap().to_str().unwrap();
            (number.parse().unwrap(), path)
        });
        let below = numbered.filter(|(number, _)| *number < limit);
        // One that was closed meanwhile leads nowhere.
        let read = below.filter_map(|(number, path)| Some((number, fs::read_link(path).ok()?)));
        read.map(|(number, target)| (number, target.to_string_lossy().starts_with("pipe:")))
            .collect()
    }

    /// The numbers of the pipes' ends.
    fn pipe_ends(&self) -> Vec<usize> {
        let descriptors = self.descriptors(LIMIT).into_iter();
        descriptors
            .filter_map(|(number, is_pipe)| is_pipe.then_some(number))
            .collect()
    }
}

#[test]
fn without_descriptors_accepting_pauses_without_spinning() {
    let mut limited = Limited::start("ulimit -n 40", "127.0.0.1:8081");
    let [address, _] = limited.addresses();

    let connections: Vec<_> = (0..60).map(|_| connect(&address)).collect();
    limited.await_line("cannot accept connections");
    let before = cpu_ticks(limited.program.0.id());
    thread::sleep(Duration::from_secs(1));
    // The sleep is the measured interval. A tick is 10 ms: a loop that spins uses 100 of them, or a
    // good part on a busy machine; one that pauses wakes up ten times.
    let used = cpu_ticks(limited.program.0.id()) - before;
    assert!(used < 10, "{used} ticks");

    drop(connections);
    let answer = ask(connect(&address), "nonsense\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    limited.await_line("accepting connections again");
}

#[test]
fn without_descriptors_requests_get_503_and_admin_responds() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut limited = Limited::start("ulimit -n 60", &upstream.local_addr().unwrap().to_string());
    let [address, admin] = limited.addresses();
    let [mut early, mut late, mut plain] = [(); 3].map(|()| connect(&address));
    let _others: Vec<_> = (0..60).map(|_| connect(&address)).collect();
    limited.await_line("cannot accept connections");
    let handshake = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
    };

    // Each of them stays open for a while, so that none makes room for the next.
    early.write_all(handshake("/").as_bytes()).unwrap();
    assert!(read_head(&mut early).starts_with("HTTP/1.1 101 "));
    let mut close = [0; 4 + "out_of_descriptors".len()];
    early.read_exact(&mut close).unwrap();
    late.write_all(handshake("/late").as_bytes()).unwrap();
    let late = read_head(&mut late);
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let plain = read_head(&mut plain);

    assert_eq!(close[..2], [0x88, 20]);
    assert_eq!(close[2..4], 1013_u16.to_be_bytes());
    assert_eq!(close[4..], *b"out_of_descriptors");
    for head in [late, plain] {
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.contains("Retry-After: 1\r\n"), "{head}");
    }
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        ask(connect(&admin), &request)
    };
    assert!(get("/livez").starts_with("HTTP/1.1 200 "));
    let ready = get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.contains("[-] file descriptors: "), "{ready}");
    let metrics = get("/metrics");
    for line in [
        "readygate_rejections_total{reason=\"descriptors\"} 2",
        "readygate_upstream_attempts_total{route=\"/\"} 0",
        "readygate_upstream_attempts_total{route=\"/late\"} 0",
        "readygate_breaker_state{route=\"/\",state=\"closed\"} 1",
        "readygate_breaker_state{route=\"/late\",state=\"closed\"} 1",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line}: {metrics}");
    }
    upstream.set_nonblocking(true).unwrap();
    assert!(upstream.accept().is_err(), "the upstream was connected");
}

#[test]
fn health_answers_while_a_crowd_has_the_last_descriptors() {
    // Each listener has one of the seven reserved descriptors for the client that has to wait.
    let limits = format!("ulimit -n {LIMIT}");
    let mut limited = Limited::start_listening(4, &limits, "127.0.0.1:8081");
    let addresses = [(); 4].map(|()| limited.address());
    let admin = limited.admin_address();
    let mut clients: Vec<_> = (0..LIMIT).map(|_| connect(&addresses[0])).collect();
    limited.await_line("cannot accept connections");
    for address in &addresses[1..] {
        clients.push(connect(address));
        limited.await_line("cannot accept connections");
    }
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n");

    // Streams of events stay for good.
    for request in [
        String::new(),
        request("/metrics").repeat(5),
        request("/events"),
    ] {
        let crowd = (0..LIMIT).map(|_| {
            let mut client = connect(&admin);
            // It may have had to go already.
            let _ = client.write_all(request.as_bytes());
            client
        });
        let _crowd: Vec<_> = crowd.collect();

        assert!(is_alive(&admin));
    }
}

#[test]
fn large_frames_whose_clients_pause_take_no_descriptors() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut limited = Limited::start(
        &format!("ulimit -n {LIMIT}"),
        &upstream.local_addr().unwrap().to_string(),
    );
    let [address, admin] = limited.addresses();
    let before = limited.pipe_ends().len();
    let frame = large_frame();
    // Just the header, so that what follows may go through a pipe.
    let header = frame.len() - LARGE;
    let cuts = [0, header, header + 1, frame.len()];
    let mut tunnels: Vec<_> = (0..TUNNELS).map(|_| tunnel(&address, &upstream)).collect();

    let mut received = vec![0; frame.len()];
    for cut in cuts.windows(2).take(2) {
        for (client, upstream) in &mut tunnels {
            client.write_all(&frame[cut[0]..cut[1]]).unwrap();
            upstream.read_exact(&mut received[cut[0]..cut[1]]).unwrap();
        }
    }

    assert!(is_alive(&admin));
    let pipe_ends = limited.pipe_ends().len() - before;
    assert_eq!(pipe_ends, 2, "one pipe for one worker");
    for (client, upstream) in &mut tunnels {
        thread::scope(|scope| {
            scope.spawn(|| client.write_all(&frame[cuts[2]..]).unwrap());
            upstream.read_exact(&mut received[cuts[2]..]).unwrap();
        });
        assert!(received == frame);
    }
}

#[test]
fn stalled_large_frames_leave_operators_their_descriptors() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut limited = Limited::start(
        &format!("ulimit -n {LIMIT}"),
        &upstream.local_addr().unwrap().to_string(),
    );
    let reserved_from = LIMIT - LIMIT / 8;
    let [address, admin] = limited.addresses();
    let before = limited.pipe_ends().len();
    let frame = large_frame();
    let tunnels: Vec<_> = (0..TUNNELS).map(|_| tunnel(&address, &upstream)).collect();

    thread::scope(|scope| {
        let (clients, upstreams): (Vec<_>, Vec<_>) = tunnels.into_iter().unzip();
        for mut client in clients {
            let frame = &frame;
            scope.spawn(move || {
                client.write_all(frame).unwrap();
                client
            });
        }
        // A pipe has two ends, and one descriptor may be left over. Another process opens them,
        // which can only be looked for.
        let is_full = || limited.descriptors(reserved_from).len() >= reserved_from - 1;
        let pause = Duration::from_millis(10);
        let looks = PATIENCE.as_millis() / pause.as_millis();
        assert!((0..looks).any(|_| {
            thread::sleep(pause);
            is_full()
        }));

        assert!(is_alive(&admin));
        let pipe_ends = limited.pipe_ends();
        assert!(pipe_ends.len() > before, "{pipe_ends:?}");
        let highest = pipe_ends.into_iter().max().unwrap();
        assert!(highest < reserved_from, "{highest}");
        for mut upstream in upstreams {
            let mut received = vec![0; frame.len()];
            upstream.read_exact(&mut received).unwrap();
            assert!(received == frame);
        }
    });
}

#[test]
fn the_limit_is_raised_and_one_that_is_too_low_is_warned_of() {
    let mut limited = Limited::start("ulimit -Sn 60 && ulimit -Hn 300", "127.0.0.1:8081");

    let warning = limited.await_line("too few");

    for part in ["20100", "300", "10000", "limits.max_connections"] {
        assert!(warning.contains(part), "{warning}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", limited.program.0.id())).unwrap();
    let mut limits = limits.lines();
    let files = limits.find(|line| line.starts_with("Max open files"));
    let numbers: Vec<_> = files.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["300", "300"]);
}

/// The limit of tests with tunnels.
const LIMIT: usize = 60;

/// Tunnels for which the descriptors suffice, though not with a pipe each.
const TUNNELS: usize = 12;

/// The payload of a large frame: more than the sockets to an upstream keep that takes nothing.
const LARGE: usize = 8 * 1024 * 1024;

/// A client's frame with a mask of zeros.
fn large_frame() -> Vec<u8> {
    let mut frame = vec![0x82, 0xff];
    frame.extend((LARGE as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend((0..LARGE).map(|index| (index ^ (index >> 9)).to_le_bytes()[0]));
    frame
}

/// Both ends of a session through the program at `address`, after their handshakes.
fn tunnel(address: &str, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(address);
    let url = format!("ws://{address}/");
    let mut client = tungstenite::client(url, client).unwrap().0;
    let upstream = upstream.accept().unwrap().0;
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut upstream = tungstenite::accept(upstream).unwrap();
    let sockets = [client.get_mut(), upstream.get_mut()];
    let [client, upstream] = sockets.map(|socket| socket.try_clone().unwrap());
    (client, upstream)
}

/// Returns whether the admin listener responds.
fn is_alive(admin: &str) -> bool {
    let request = format!("GET /livez HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    ask(connect(admin), &request).starts_with("HTTP/1.1 200 ")
}

/// Time after which a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection on which nobody waits for ever.
fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything that is answered.
fn ask(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A head and not a byte more.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// The processor time that a process has used, in clock ticks.
fn cpu_ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    // The 14th and the 15th field, of which the third comes first here.
    let fields: Vec<_> = after_name.split_whitespace().collect();
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}
