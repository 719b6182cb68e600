//! Commands whose standard error is a terminal.

use std::{
    ffi::CString,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    thread,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::support::{Killed, readygate};

/// A pseudo-terminal: the side that reads what is shown, and the one for the program.
fn terminal() -> (File, File) {
    let shown = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&shown).unwrap();
    unlockpt(&shown).unwrap();
    let path: CString = ptsname(&shown, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let program = open(path, flags, Mode::empty()).unwrap();
    (shown.into(), program.into())
}

/// Reads up to `text`; the end of the program before is a failure.
fn read_until(shown: &mut File, text: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(text) {
        let mut byte = [0];
        let is_read = matches!(shown.read(&mut byte), Ok(1));
        assert!(is_read, "ended after {read:?}, without {text:?}");
        read.push(byte[0].into());
    }
    read
}

/// Plays a process that drains, with as many sessions at each look, and is then gone.
fn drain_with_sessions(admin: &TcpListener, sessions: &[u64]) {
    let mut sessions = sessions.iter();
    loop {
        let (mut stream, _) = admin.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.next().unwrap().unwrap();
        while !lines.next().unwrap().unwrap().is_empty() {}
        let (status, body) = match request.split(' ').nth(1).unwrap() {
            "/drain" => ("202 Accepted", "draining".to_owned()),
            "/readyz" => ("503 Service Unavailable", "[-] drain: draining".to_owned()),
            "/sessions?limit=1" => match sessions.next() {
                Some(total) => ("200 OK", format!("{{\"total\": {total}}}")),
                None => return,
            },
            other => panic!("{other}"),
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
    }
}

#[test]
fn a_drain_shows_on_a_terminal_how_many_sessions_are_left() {
    let directory = tempfile::tempdir().unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap().to_string();
    let draining = thread::spawn(move || drain_with_sessions(&admin, &[2, 1]));
    let (mut shown, for_program) = terminal();

    let arguments = ["drain", "--wait", "60s", "--admin", &address];
    let mut program = readygate(directory.path(), &arguments)
        .stderr(for_program)
        .spawn()
        .map(Killed)
        .unwrap();

    read_until(
        &mut shown,
        "\r\u{1b}[Kdraining: 2 sessions are left; 0 of 60 s",
    );
    read_until(&mut shown, "\r\u{1b}[Kdraining: 1 session is left; ");
    read_until(&mut shown, "\r\u{1b}[Kgone after ");
    assert_eq!(program.0.wait().unwrap().code(), Some(0));
    draining.join().unwrap();
}
