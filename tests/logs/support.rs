//! The program with its log in a pipe, a backend, and clients that speak in bytes.

use std::{
    fs,
    io::{self, BufRead, BufReader, Lines, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use tempfile::TempDir;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The top of a configuration.
pub(crate) const BASE: &str =
    "listen = \"127.0.0.1:0\"\nworkers = 1\nadmin.listen = \"127.0.0.1:0\"\n";

/// A program that ends with the test, also with one that fails.
pub(crate) struct Program {
    child: Child,
    directory: TempDir,
    pub(crate) log: Lines<Box<dyn BufRead + Send>>,
    pub(crate) traffic: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Starts one that sends everything to `upstream`, with these further lines in its
    /// configuration, arguments and variables, and waits until it listens.
    pub(crate) fn start(
        upstream: SocketAddr,
        configuration: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let text = format!("{BASE}{configuration}\n[[route]]\nupstream = \"http://{upstream}\"\n");
        Self::configured(&text, arguments, environment)
    }

    /// Starts one with this configuration.
    pub(crate) fn configured(
        configuration: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("proxy.toml"), configuration).unwrap();
        let mut child = command(directory.path(), arguments, environment)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Box<dyn BufRead + Send> = Box::new(BufReader::new(child.stdout.take().unwrap()));
        let mut log = log.lines();
        let mut listening = log.by_ref().map(Result::unwrap);
        let mut listening = listening.by_ref().filter(|line| line.contains("http://"));
        let (one, other) = (listening.next().unwrap(), listening.next().unwrap());
        let is_admin = one.contains("admin");
        let (one, other) = (address_in(&one), address_in(&other));
        let (traffic, admin) = if is_admin { (other, one) } else { (one, other) };
        Self {
            child,
            directory,
            log,
            traffic,
            admin,
        }
    }

    /// Writes another configuration, which it has not read.
    pub(crate) fn configure(&self, configuration: &str) {
        fs::write(self.directory.path().join("proxy.toml"), configuration).unwrap();
    }

    /// The next line with `part` in it.
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        let mut lines = self.log.by_ref().map(Result::unwrap);
        lines.find(|line| line.contains(part)).unwrap()
    }

    /// Reads all that it says from now on.
    pub(crate) fn collect_log(&mut self) -> thread::JoinHandle<String> {
        let nothing: Box<dyn BufRead + Send> = Box::new(io::empty());
        let log = std::mem::replace(&mut self.log, nothing.lines());
        thread::spawn(move || {
            log.flat_map(|line| [line.unwrap(), "\n".to_owned()])
                .collect()
        })
    }

    /// Closes the reading end of its standard output.
    pub(crate) fn close_log(&mut self) {
        let nothing: Box<dyn BufRead + Send> = Box::new(io::empty());
        self.log = nothing.lines();
    }

    /// Returns the response to `request`, up to the end of the connection.
    pub(crate) fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        exchange(self.traffic, request)
    }

    /// Returns the response of the admin listener.
    pub(crate) fn ask(&self, request: &str) -> String {
        let head = format!("{request} HTTP/1.1\r\nHost: {}\r\n", self.admin);
        exchange(self.admin, head + "Connection: close\r\n\r\n")
    }

    /// Runs another instance with these arguments in the same directory, and returns its output.
    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = command(self.directory.path(), arguments, environment).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Runs another instance with these arguments, and returns its errors.
    pub(crate) fn errors(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = command(self.directory.path(), arguments, environment).output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    }

    /// Tells it to end.
    pub(crate) fn terminate(&self) {
        let id = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

fn command(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readygate"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs(environment.iter().copied());
    command
}

fn address_in(line: &str) -> SocketAddr {
    let (_, address) = line.split_once("http://").unwrap();
    let end = address.find(|it: char| it == '"' || it.is_whitespace());
    address[..end.unwrap_or(address.len())].parse().unwrap()
}

fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_ref()).unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A handshake for `target` with these further lines.
pub(crate) fn handshake(target: &str, lines: &[&str]) -> String {
    let more = lines.iter().flat_map(|line| [*line, "\r\n"]);
    let more: String = more.collect();
    format!(
        "GET {target} HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A whole session: a handshake, a message, and a close frame behind it.
pub(crate) fn session(target: &str, lines: &[&str]) -> Vec<u8> {
    let message = *b"\x81\x82\0\0\0\0hi";
    let close = *b"\x88\x82\0\0\0\0\x03\xe8";
    [handshake(target, lines).as_bytes(), &message, &close].concat()
}

/// A backend that accepts every WebSocket, sends `frames`, and closes when the client does;
/// plain requests are answered `hello`.
pub(crate) fn backend(frames: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, frames));
        }
    });
    address
}

/// Behaviour of a backend after its response.
#[derive(Clone, Copy, Debug)]
pub(crate) enum After {
    /// Closes the connection.
    Close,
    /// Waits for the proxy to close it.
    Wait,
}

/// A backend that answers every request with this text.
pub(crate) fn answering(answer: &'static str, after: After) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = reader.by_ref().lines().map_while(Result::ok);
            let _ = head.find(String::is_empty);
            stream.write_all(answer.as_bytes()).unwrap();
            if matches!(after, After::Wait) {
                let _ = reader.read_to_end(&mut Vec::new());
            }
        }
    });
    address
}

fn serve(mut stream: TcpStream, frames: &[u8]) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut key = None;
    for line in reader.by_ref().lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("Sec-WebSocket-Key: ") {
            key = Some(value.to_owned());
        }
    }
    let Some(key) = key else {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let _ = stream.write_all(answer.as_bytes());
        return;
    };
    let accept = derive_accept_key(key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let _ = stream.write_all(&[head.as_bytes(), frames].concat());
    // Up to the client's close frame, which is answered; all frames are of this length.
    let mut frame = [0; 8];
    while reader.read_exact(&mut frame).is_ok() {
        if frame[0] == 0x88 {
            let _ = stream.write_all(&[0x88, 2, 0x03, 0xe8]);
        }
    }
}

/// An address at which nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
