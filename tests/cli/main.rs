//! The program as its users start it: arguments in, text and an exit status out.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use readygate::config::Config;
use tempfile::TempDir;

const VALID: &str = "[[route]]\nupstream = \"http://127.0.0.1:8081\"\n";

/// The program in `directory`, without the caller's `PORT` and colours.
fn readygate(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readygate"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("PORT")
        .env_remove("NO_COLOR");
    command
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    readygate(directory, arguments).output().unwrap()
}

fn directory_with(name: &str, text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(name), text).unwrap();
    directory
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn check_says_in_one_line_that_a_file_is_valid() {
    let directory = directory_with("proxy.toml", &format!("workers = 2\n{VALID}"));

    let output = run(directory.path(), &["check"]);

    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "proxy.toml is valid: 1 route, 2 workers, listening on 0.0.0.0:8080\n"
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_shows_every_problem_and_exits_with_78() {
    let directory = directory_with("bad.toml", &format!("workers = 0\nlisten = \"x\"\n{VALID}"));

    let output = run(directory.path(), &["check", "--config", "bad.toml"]);

    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stdout(&output), "");
    assert_eq!(
        stderr(&output),
        r#"error: `0` is not a number of workers
 --> bad.toml:1:11
  |
1 | workers = 0
  |           ^ expected 1 to 4096, or "auto" for one per core

error: `x` is not an address to listen on
 --> bad.toml:2:10
  |
2 | listen = "x"
  |          ^^^ expected an IP address and a port, or "unix:/path.sock"

error: bad.toml has 2 problems
"#
    );
}

#[test]
fn the_shipped_file_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));

    let output = run(root, &["check"]);

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn check_warns_of_a_certificate_that_has_expired() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 1, 2);
    let certificate = params.self_signed(&key).unwrap();
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:1\"\n[listen.tls]\ncertificate = \"tls.crt\"\n\
         key = \"tls.key\"\n{VALID}"
    );
    let directory = directory_with("proxy.toml", &text);
    fs::write(directory.path().join("tls.crt"), certificate.pem()).unwrap();
    fs::write(directory.path().join("tls.key"), key.serialize_pem()).unwrap();

    let output = run(directory.path(), &["check"]);

    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("proxy.toml is valid: 1 route, "));
    assert_eq!(
        stderr(&output),
        "warning: the certificate in `tls.crt` expired on Thu, 02 Jan 2020 00:00:00 GMT: it will \
         be refused\n"
    );
}

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
error: this machine has no certificates of authorities
 |
 = note: needed to tell whether the upstream is the right one
 = help: install ca-certificates, or name a file: [route.tls] ca = \"/path.pem\"

error: the environment has a problem
"
    );
}

#[test]
fn every_configuration_in_the_readme_is_valid() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> = readme
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() > 4, "the blocks were not found");

    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let directory = directory_with("tls.crt", &certificate);
    fs::write(directory.path().join("ca.crt"), &certificate).unwrap();
    fs::write(directory.path().join("tls.key"), key.serialize_pem()).unwrap();

    for block in blocks {
        let block = block.replace("/etc/readygate", &directory.path().display().to_string());
        if let Err(problems) = Config::parse("README.md", &block, &|_| None) {
            panic!("{}", problems.render(false));
        }
    }
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
fn a_wrong_command_line_exits_with_2() {
    let directory = directory_with("proxy.toml", VALID);

    for (arguments, reason) in [
        (&["--upstrem", "http://a"][..], "--upstream"),
        (
            &["--config", "a", "--upstream", "http://a"],
            "cannot be used with",
        ),
        (&["--upstream", "a:1"], "write \"http://a:1\""),
        (&["--workers", "0"], "expected 1 to 4096"),
        (&["--listen", "8080"], "write \"0.0.0.0:8080\""),
        (&["start"], "unrecognized subcommand"),
        (&["demo", "--clients", "51"], "is not in 1..=50"),
    ] {
        let output = run(directory.path(), arguments);

        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            stderr(&output).contains(reason),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_garbled_port_in_the_environment_exits_with_78() {
    let directory = tempfile::tempdir().unwrap();

    let output = readygate(directory.path(), &["--upstream", "http://127.0.0.1:8081"])
        .env("PORT", "http")
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("PORT is `http`, which is not a port"));
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
fn help_and_version_succeed_on_standard_output() {
    let directory = tempfile::tempdir().unwrap();

    let help = run(directory.path(), &["--help"]);
    let version = run(directory.path(), &["--version"]);

    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Exit status:"));
    assert_eq!(version.status.code(), Some(0));
    assert!(stdout(&version).starts_with("readygate "));
}

#[test]
fn the_demo_loses_messages_straight_and_none_through_readygate() {
    let directory = tempfile::tempdir().unwrap();

    let output = run(
        directory.path(),
        &["demo", "--clients", "3", "--messages", "20"],
    );

    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(stderr(&output), "");
    assert!(!stdout(&output).contains('\x1b'), "{}", stdout(&output));
    let rows = |way| -> Vec<Vec<&str>> {
        let lines = stdout(&output).lines().map(str::split_whitespace);
        let cells = lines.map(Iterator::collect::<Vec<_>>);
        cells
            .filter(|cells| cells.len() > 6 && cells[0] == way)
            .collect()
    };
    let (straight, readygate) = (rows("straight"), rows("readygate"));
    assert_eq!((straight.len(), readygate.len()), (3, 3));
    for row in readygate {
        // Clients, messages, delivered, lost, out of order, doubled.
        assert_eq!(row[1..7], ["3", "60", "60", "0", "0", "0"], "{row:?}");
    }
    for row in straight {
        assert_ne!(row[4], "0", "{row:?}");
    }
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

/// A program that ends with the test, also with one that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    let log: Vec<_> = log.map_while(Result::ok).take(3).collect();
    assert!(log[0].contains("there is no admin listener"), "{log:?}");
    assert!(log[2].contains("listening"), "{log:?}");
}

/// Starts the program on any port and waits until it says that it listens.
fn start(directory: &Path) -> Child {
    let arguments = [
        "--upstream",
        "http://127.0.0.1:8081",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "",
    ];
    let mut program = readygate(directory, &arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stdout.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    // Whatever else it logs must not block it.
    std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
    program
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
    assert!(ask("POST /log?level=error").starts_with("HTTP/1.1 200 "));
    ask("POST /drain");

    // At this level nothing more is said.
    assert!(log.next().is_none());
    assert_eq!(program.wait().unwrap().code(), Some(0));
}
