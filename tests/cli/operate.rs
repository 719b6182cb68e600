//! `readygate healthcheck`, `sessions`, `reload` and `drain` against a running process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    thread,
};

use crate::support::{Killed, directory_with, readygate, run, stderr, stdout};

/// A process that runs, with the addresses of its listeners.
struct Running {
    process: Killed,
    traffic: String,
    admin: String,
}

impl Running {
    /// Starts one before `upstream`.
    fn start(directory: &Path, upstream: &str, admin: &str) -> Self {
        let arguments = [
            "--upstream",
            upstream,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            admin,
        ];
        Self::launch(directory, &arguments)
    }

    /// Starts one with these arguments.
    fn launch(directory: &Path, arguments: &[&str]) -> Self {
        let mut process = readygate(directory, arguments)
            .stdout(Stdio::piped())
            .spawn()
            .map(Killed)
            .unwrap();
        let mut log = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let [traffic, admin] = ["\"listening\"", "listening for admin requests"].map(|message| {
            let mut lines = log.by_ref().map_while(Result::ok);
            let line = lines.find(|line| line.contains(message)).unwrap();
            let (_, address) = line.split_once("\"address\":\"").unwrap();
            let address = address.split('"').next().unwrap();
            address.trim_start_matches("http://").to_owned()
        });
        // Whatever else it logs must not block it.
        thread::spawn(move || log.for_each(drop));
        Self {
            process,
            traffic,
            admin,
        }
    }
}

#[test]
fn a_process_that_runs_is_healthy_and_ready_and_then_drains() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path(), "http://127.0.0.1:1", "127.0.0.1:0");
    let admin = ["--admin", &running.admin];
    let ask = |arguments: &[&str]| run(directory.path(), &[arguments, &admin].concat());

    for arguments in [&["healthcheck"][..], &["healthcheck", "--ready"]] {
        let healthy = ask(arguments);
        assert_eq!(healthy.status.code(), Some(0), "{}", stderr(&healthy));
        assert_eq!(stdout(&healthy), "ok\n");
    }
    let drained = ask(&["drain", "--wait", "30s"]);

    assert_eq!(drained.status.code(), Some(0), "{}", stderr(&drained));
    assert_eq!(running.process.0.wait().unwrap().code(), Some(0));
    let gone = ask(&["healthcheck"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        stderr(&gone).starts_with("error: cannot connect to the admin listener"),
        "{}",
        stderr(&gone)
    );
    assert_eq!(ask(&["drain"]).status.code(), Some(1));
}

#[test]
fn a_drain_that_outlasts_the_wait_fails_and_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let running = Running::start(directory.path(), &url, "127.0.0.1:0");
    let admin = ["--admin", &running.admin];
    let ask = |arguments: &[&str]| run(directory.path(), &[arguments, &admin].concat());
    // A request that the backend does not answer.
    let mut client = TcpStream::connect(&running.traffic).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let (mut exchange, _) = upstream.accept().unwrap();
    exchange.read_exact(&mut [0; 16]).unwrap();

    let asked = ask(&["drain"]);
    let waited = ask(&["drain", "--wait", "100ms"]);
    let healthy = ask(&["healthcheck"]);
    let ready = ask(&["healthcheck", "--ready"]);

    assert_eq!(asked.status.code(), Some(0));
    assert_eq!(stdout(&asked), "draining\n");
    assert_eq!(waited.status.code(), Some(1));
    assert_eq!(stderr(&waited), "error: still there after 100ms\n");
    assert_eq!(healthy.status.code(), Some(0));
    assert_eq!(ready.status.code(), Some(1));
    assert!(
        stderr(&ready).contains("503 Service Unavailable: "),
        "{}",
        stderr(&ready)
    );
    assert!(stderr(&ready).contains("draining"), "{}", stderr(&ready));
}

#[test]
fn a_reload_says_what_is_different_or_what_is_wrong() {
    let route = "[[route]]\nupstream = \"http://127.0.0.1:1\"\n";
    let top = "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n";
    let directory = directory_with("proxy.toml", &format!("{top}{route}"));
    let running = Running::launch(directory.path(), &["run"]);
    let change = |settings: &str| {
        let text = format!("{top}{settings}\n{route}");
        std::fs::write(directory.path().join("proxy.toml"), text).unwrap();
        run(directory.path(), &["reload", "--admin", &running.admin])
    };

    let taken = change("drain.grace = \"3s\"");
    let refused = change("drain.grace = 3");
    let fixed = change("workers = 7");

    assert_eq!(taken.status.code(), Some(0), "{}", stderr(&taken));
    assert_eq!(stdout(&taken), "reloaded\ndrain.grace: \"8s\" -> \"3s\"\n");
    assert_eq!(refused.status.code(), Some(78));
    assert_eq!(stdout(&refused), "");
    let problems = stderr(&refused);
    assert!(
        problems.starts_with("error: `3` is not a duration\n"),
        "{problems}"
    );
    assert!(problems.ends_with("\nnot reloaded\n"), "{problems}");
    assert_eq!(fixed.status.code(), Some(78));
    assert!(stderr(&fixed).contains("workers cannot change while"));
}

#[test]
fn sessions_are_a_table_and_one_of_them_is_told_in_whole() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path(), "http://127.0.0.1:1", "127.0.0.1:0");
    let mut client = TcpStream::connect(&running.traffic).unwrap();
    client
        .write_all(
            b"GET /agent?token=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
              Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x82\0\0\0\0hi",
        )
        .unwrap();
    client.read_exact(&mut [0; 16]).unwrap();
    let ask = |arguments: &[&str]| {
        let admin = ["--admin", &running.admin];
        run(
            directory.path(),
            &[&["sessions"], arguments, &admin].concat(),
        )
    };
    // The message is there, and an attempt has failed.
    let waiting = loop {
        let waiting = ask(&["--waiting", "--route", "/"]);
        let line = stdout(&waiting).lines().nth(1).unwrap_or_default();
        if line.contains("0/1") && line.contains("attempts: ") {
            break waiting;
        }
    };

    let lines: Vec<_> = stdout(&waiting).lines().collect();
    assert!(lines[0].starts_with("ID  STATE "), "{lines:?}");
    assert!(lines[1].starts_with("1   accepted "), "{lines:?}");
    assert!(lines[1].contains(" /agent "), "{lines:?}");
    assert!(!lines[1].contains("token"), "{lines:?}");
    assert_eq!(lines[2..], ["1 of 1 shown, 1 in all"]);
    let one = ask(&["1"]);
    assert!(
        stdout(&one).contains("\nledger              accepted 1, held 1\n"),
        "{}",
        stdout(&one)
    );
    assert!(stdout(&one).contains("accepted (client accepted)\n"));
    let json = ask(&["--json"]);
    assert!(stdout(&json).starts_with("{\n"), "{}", stdout(&json));
    assert_eq!(ask(&["7"]).status.code(), Some(1));
    assert_eq!(ask(&["--route", "a b&c"]).status.code(), Some(0));
}

#[test]
fn a_process_that_has_no_room_is_not_one_that_drains() {
    let directory = tempfile::tempdir().unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap().to_string();
    let answering = thread::spawn(move || {
        for answer in [
            "202 Accepted\r\nContent-Length: 8\r\n\r\ndraining",
            "503 Service Unavailable\r\nContent-Length: 28\r\n\r\n[-] drain: draining\nnot ok\n\n",
            // Another process is in the place of that one.
            "503 Service Unavailable\r\nContent-Length: 26\r\n\r\n[-] limits.x: full\nnot ok\n",
        ] {
            let (mut stream, _) = admin.accept().unwrap();
            let request = BufReader::new(stream.try_clone().unwrap()).lines();
            let end = request.map_while(Result::ok).find(String::is_empty);
            assert!(end.is_some());
            write!(stream, "HTTP/1.1 {answer}").unwrap();
        }
        // It stays there.
        admin
    });

    let drained = run(
        directory.path(),
        &["drain", "--wait", "30s", "--admin", &address],
    );

    assert_eq!(drained.status.code(), Some(0), "{}", stderr(&drained));
    let _admin = answering.join().unwrap();
}

#[test]
fn the_address_in_the_file_may_be_a_unix_socket_or_a_wildcard() {
    let directory = directory_with("proxy.toml", "");
    let socket = format!("unix:{}/admin.sock", directory.path().display());
    let everywhere = Running::start(directory.path(), "http://127.0.0.1:1", "0.0.0.0:0");
    let _at_socket = Running::start(directory.path(), "http://127.0.0.1:1", &socket);
    let route = "[[route]]\nupstream = \"http://127.0.0.1:1\"\n";
    for admin in [&everywhere.admin, &socket] {
        let file = format!("admin.listen = \"{admin}\"\n{route}");
        std::fs::write(directory.path().join("proxy.toml"), file).unwrap();

        let output = run(directory.path(), &["healthcheck"]);

        assert_eq!(
            output.status.code(),
            Some(0),
            "{admin}: {}",
            stderr(&output)
        );
    }
    let file = format!("admin.listen = \"\"\n{route}");
    std::fs::write(directory.path().join("nowhere.toml"), file).unwrap();
    let nowhere = run(directory.path(), &["healthcheck", "-c", "nowhere.toml"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(stderr(&nowhere).contains("has no admin listener"));
    let absent = run(directory.path(), &["healthcheck", "-c", "absent.toml"]);
    assert_eq!(absent.status.code(), Some(78));
}
