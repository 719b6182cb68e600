//! `readygate run`: from its configuration to its exit status.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
};

use crate::support::{Killed, directory_with, readygate, run, start, stderr};

#[test]
fn an_https_upstream_needs_no_file_but_authorities() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "--upstream",
        "https://localhost:1",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "",
    ];
    let empty = directory.path().join("empty.pem");
    fs::write(&empty, "").unwrap();

    let output = readygate(directory.path(), &arguments)
        .env("SSL_CERT_FILE", &empty)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        stderr(&output),
        "\
error: this machine has no CA certificates
 |
 = note: needed to tell whether the upstream is the right one
 = help: install ca-certificates, or name a file: [route.tls] ca = \"/path.pem\"

error: the environment has a problem
"
    );
}

#[test]
fn run_reports_a_bad_file_like_check() {
    let directory = directory_with("proxy.toml", "workers = 0");

    for arguments in [&[][..], &["run"], &["--config", "proxy.toml"]] {
        let output = run(directory.path(), arguments);

        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        assert!(stderr(&output).contains("proxy.toml:1:11"), "{arguments:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_line_and_78() {
    let directory = tempfile::tempdir().unwrap();

    let output = run(directory.path(), &["--config", "absent.toml"]);

    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        stderr(&output),
        "error: cannot read absent.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn without_any_configuration_the_error_shows_what_to_write() {
    let directory = tempfile::tempdir().unwrap();

    let output = run(directory.path(), &[]);

    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).starts_with("error: there is no configuration"));
    assert!(stderr(&output).contains("readygate --upstream http://127.0.0.1:8081"));
}

#[test]
fn a_garbled_port_in_the_environment_exits_with_78() {
    let directory = tempfile::tempdir().unwrap();

    let output = readygate(directory.path(), &["--upstream", "http://127.0.0.1:8081"])
        .env("PORT", "http")
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("PORT is not a port"));
}

#[test]
fn a_port_in_use_is_one_line_and_1() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let output = run(
        directory.path(),
        &["--upstream", "http://127.0.0.1:8081", "--listen", &address],
    );

    assert_eq!(output.status.code(), Some(1));
    let stderr = stderr(&output);
    assert!(
        stderr.starts_with("error: ") && stderr.contains(&address),
        "{stderr}"
    );
    assert!(stderr.contains("in use"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn sigterm_and_sigint_end_the_program_with_0() {
    let directory = tempfile::tempdir().unwrap();
    for signal in ["TERM", "INT"] {
        let mut program = start(directory.path());

        let id = program.id().to_string();
        let kill = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(kill.unwrap().success());

        assert_eq!(program.wait().unwrap().code(), Some(0), "SIG{signal}");
    }
}

#[test]
fn a_second_program_does_without_the_default_admin_address() {
    let directory = tempfile::tempdir().unwrap();
    // In use afterwards, by whomever.
    let _taken = TcpListener::bind("127.0.0.1:9901");

    let mut program = readygate(directory.path(), &["--upstream", "http://127.0.0.1:8081"])
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();

    let log = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut log = log.map_while(Result::ok);
    let first = log.next().unwrap();
    assert!(first.contains("there is no admin listener"), "{first}");
    assert!(log.any(|line| line.contains("\"listening\"")));
}

#[test]
fn the_log_s_level_can_be_changed_while_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "--upstream",
        "http://127.0.0.1:8081",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let mut program = readygate(directory.path(), &arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut line_with = |part: &str| {
        let mut lines = log.by_ref().map(Result::unwrap);
        lines.find(|line| line.contains(part)).unwrap()
    };
    let line = line_with("listening for admin requests");
    let (_, address) = line.split_once("http://").unwrap();
    let (address, _) = address.split_once('"').unwrap();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };

    assert!(ask("POST /log?level=debug").ends_with("logging from debug on\n"));
    assert!(line_with("level was set").contains("DEBUG"));
    assert!(ask("GET /config").contains("\"log_level\": \"debug\""));
    assert!(ask("POST /log?level=error").starts_with("HTTP/1.1 200 "));
    ask("POST /drain");

    // At this level nothing more is said.
    assert!(log.next().is_none());
    assert_eq!(program.wait().unwrap().code(), Some(0));
}
