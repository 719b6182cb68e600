//! Without file descriptors (L10).

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::{TcpListener, TcpStream},
    process::{ChildStdout, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

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
        let file = format!(
            "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nworkers = 1\n\
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

    /// Where it listens, for clients and for operators.
    fn addresses(&mut self) -> [String; 2] {
        ["\"listening\"", "listening for admin requests"].map(|message| {
            let line = self.await_line(message);
            let (_, address) = line.split_once("http://").unwrap();
            address.split('"').next().unwrap().to_owned()
        })
    }
}

#[test]
fn without_file_descriptors_it_waits_without_spinning_and_recovers() {
    let mut limited = Limited::start("ulimit -n 40", "127.0.0.1:8081");
    let [address, _] = limited.addresses();

    let connections: Vec<_> = (0..60).map(|_| connect(&address)).collect();
    limited.await_line("cannot accept connections");
    let before = cpu_ticks(limited.program.0.id());
    std::thread::sleep(Duration::from_secs(1));
    // A tick is 10 ms: a loop that spins uses 100 of them, or a good part on a busy machine;
    // one that pauses wakes up ten times.
    let used = cpu_ticks(limited.program.0.id()) - before;
    assert!(used < 10, "{used} ticks");

    drop(connections);
    let answer = ask(connect(&address), "nonsense\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    limited.await_line("accepting connections again");
}

#[test]
fn what_needs_a_descriptor_more_is_told_to_come_again_and_operators_are_answered() {
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
        assert!(head.contains("retry-after: 1\r\n"), "{head}");
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

/// A connection on which nobody waits for ever.
fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    let patience = Duration::from_secs(10);
    stream.set_read_timeout(Some(patience)).unwrap();
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
