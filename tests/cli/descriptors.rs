//! Without file descriptors (L10).

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::Killed;

// L10
#[cfg(target_os = "linux")]
#[test]
fn without_file_descriptors_it_waits_without_spinning_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_readygate"), "--workers", "1"])
        .args(["--upstream", "http://127.0.0.1:8081"])
        .args(["--listen", "127.0.0.1:0", "--admin", ""])
        .current_dir(directory.path())
        .env("NO_COLOR", "1")
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let mut log = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut await_line = |part: &str| log.find_map(|line| line.ok().filter(|it| it.contains(part)));
    let listening = await_line("http://").unwrap();
    let address = listening.split("http://").last().unwrap();
    let address = address.split('"').next().unwrap();
    let connect = || TcpStream::connect(address).unwrap();

    let connections: Vec<_> = (0..60).map(|_| connect()).collect();
    assert!(await_line("cannot accept connections").is_some());
    let before = cpu_ticks(program.0.id());
    std::thread::sleep(Duration::from_secs(1));
    // A tick is 10 ms: a loop that spins uses 100 of them, or a good part on a busy machine;
    // one that pauses wakes up ten times.
    let used = cpu_ticks(program.0.id()) - before;
    assert!(used < 10, "{used} ticks");

    drop(connections);
    let mut client = connect();
    client.write_all(b"nonsense\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(await_line("accepting connections again").is_some());
}

/// The processor time that a process has used, in clock ticks.
#[cfg(target_os = "linux")]
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
