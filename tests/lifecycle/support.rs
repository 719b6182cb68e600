//! The program as a process of its own, with clients and an upstream that speak in bytes.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    time,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The program, which ends with the test.
pub(crate) struct Program {
    pub(crate) directory: TempDir,
    id: u32,
    log: watch::Receiver<Vec<String>>,
    ended: Mutex<Option<oneshot::Receiver<ExitStatus>>>,
}

impl Program {
    /// Starts it with a `proxy.toml` of `text` behind what lets it listen on any port, and waits
    /// until it listens.
    pub(crate) async fn start(text: &str) -> Self {
        Self::start_with(text, |_| {}).await
    }

    /// Starts the program by a command that `change` has changed.
    pub(crate) async fn start_with(text: &str, change: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_config(directory.path(), text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_readygate"));
        command.current_dir(directory.path()).env_remove("PORT");
        change(&mut command);
        let program = Self::spawn(directory, command);
        program.logged("\"listening\"").await;
        program
    }

    /// Starts `command`.
    pub(crate) fn spawn(directory: TempDir, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let id = child.id();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (logged, log) = watch::channel(Vec::new());
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                logged.send_modify(|log| log.push(line));
            }
            let _ = end.send(child.wait().unwrap());
        });
        Self {
            directory,
            id,
            log,
            ended: Mutex::new(Some(ended)),
        }
    }

    /// Writes another configuration for it to find.
    pub(crate) fn configure(&self, text: &str) {
        write_config(self.directory.path(), text);
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.id.to_string();
        let kill = Command::new("kill").args(["-s", name, &id]).status();
        assert!(kill.unwrap().success());
    }

    /// The first line of the log with `part` in it, once there is one.
    pub(crate) async fn logged(&self, part: &str) -> String {
        self.logged_times(part, 1).await
    }

    /// The line with `part` in it that is the `count`th.
    pub(crate) async fn logged_times(&self, part: &str, count: usize) -> String {
        let mut log = self.log.clone();
        let find = |log: &Vec<String>| {
            let mut found = log.iter().filter(|line| line.contains(part));
            found.nth(count - 1).cloned()
        };
        let Ok(log) = log.wait_for(|log| find(log).is_some()).await else {
            panic!("no {part:?} in {:#?}", self.log());
        };
        find(&log).unwrap()
    }

    /// Returns all lines logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Returns the address for clients.
    pub(crate) async fn address(&self) -> SocketAddr {
        address(&self.logged("\"listening\"").await)
    }

    /// Returns the address for operators.
    pub(crate) async fn admin(&self) -> SocketAddr {
        address(&self.logged("\"listening for admin requests\"").await)
    }

    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address().await).await.unwrap())
    }

    /// Opens a WebSocket.
    pub(crate) async fn open(&self, path: &str) -> Client {
        let mut client = self.connect().await;
        client.open(path).await;
        client
    }

    /// Returns the status and body of a response of the admin listener.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        ask(self.admin().await, method, path).await
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&self) -> ExitStatus {
        let ended = self.ended.lock().unwrap().take();
        ended.expect("it ends once").await.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let ended = self.ended.get_mut().unwrap();
        if ended
            .as_mut()
            .is_some_and(|ended| ended.try_recv().is_err())
        {
            let id = self.id.to_string();
            let _ = Command::new("kill").args(["-s", "KILL", &id]).status();
        }
    }
}

/// The exit code, or the signal that ended it.
pub(crate) fn outcome(status: ExitStatus) -> Result<i32, i32> {
    status.code().ok_or_else(|| status.signal().unwrap())
}

fn write_config(directory: &Path, text: &str) {
    let listen = if text.starts_with("listen = ") {
        ""
    } else {
        "listen = \"127.0.0.1:0\"\n"
    };
    let text = format!("{listen}workers = 2\nadmin.listen = \"127.0.0.1:0\"\n{text}");
    // As whoever edits a file does: nobody sees half of it.
    fs::write(directory.join("proxy.toml.new"), text).unwrap();
    fs::rename(
        directory.join("proxy.toml.new"),
        directory.join("proxy.toml"),
    )
    .unwrap();
}

/// The address in a line of the log.
fn address(line: &str) -> SocketAddr {
    let address = line.split("http://").nth(1).unwrap();
    address.split('"').next().unwrap().parse().unwrap()
}

/// Sends a request without a body on a connection of its own; returns the status and the body.
pub(crate) async fn ask(at: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut client = Client(TcpStream::connect(at).await.unwrap());
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    client.send(head).await;
    let answer = client.read_to_end().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), body.to_owned())
}

/// An opening handshake for `path`.
pub(crate) fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The sum of the series of metrics of a name that have `label`.
pub(crate) fn sum(metrics: &str, name: &str, label: &str) -> u64 {
    let series = format!("readygate_{name}{{");
    let of_series = |line: &str| {
        let (labels, value) = line.strip_prefix(&series)?.rsplit_once(' ')?;
        labels
            .contains(label)
            .then(|| value.parse::<u64>().unwrap())
    };
    let values: Vec<_> = metrics.lines().filter_map(of_series).collect();
    assert!(!values.is_empty(), "no {series}…{label} in {metrics}");
    values.into_iter().sum()
}

/// Waits until as many sessions are there, as many of them are in each of these states, and all
/// together have accepted as many messages.
pub(crate) async fn all_settled(
    program: &Program,
    sessions: usize,
    states: &[(&str, usize)],
    messages: usize,
) {
    loop {
        let (_, metrics) = program.ask("GET", "/metrics").await;
        let is = |name, label: &str, count| sum(&metrics, name, label) == count as u64;
        let in_state =
            |(state, count): &(&str, usize)| is("sessions", &format!("state=\"{state}\""), *count);
        if is("sessions", "", sessions)
            && states.iter().all(in_state)
            && is("messages_accepted_total", "", messages)
        {
            return;
        }
        // What is asked tells states and not their changes, so it is asked again.
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Client side of a connection.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// Opens a WebSocket and expects its `101`.
    pub(crate) async fn open(&mut self, path: &str) {
        self.send(handshake(path)).await;
        let head = self.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head:?}");
    }

    pub(crate) async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) async fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.0.read_exact(&mut read).await.unwrap();
        read
    }

    /// Everything up to the end of the connection, however it ends.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let mut read = Vec::new();
        let _ = self.0.read_to_end(&mut read).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    /// The next frame's first byte and unmasked payload; `None` at the end of the connection.
    pub(crate) async fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, payload, _) = self.read_frame_and_mask().await?;
        Some((first, payload))
    }

    /// Reads a frame, and whether it was masked as a client's must be.
    async fn read_frame_and_mask(&mut self) -> Option<(u8, Vec<u8>, bool)> {
        let first = self.0.read_u8().await.ok()?;
        let second = self.0.read_u8().await.ok()?;
        let mut length = usize::from(second & 0x7f);
        if length == 126 {
            length = usize::from(self.0.read_u16().await.ok()?);
        }
        let mut key = [0; 4];
        if second & 0x80 != 0 {
            self.0.read_exact(&mut key).await.ok()?;
        }
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
        Some((first, payload, second & 0x80 != 0))
    }

    /// The text of the next frame.
    pub(crate) async fn read_text(&mut self) -> String {
        let (first, payload) = self.read_frame().await.expect("a frame");
        assert_eq!(first, 0x81, "{payload:?}");
        String::from_utf8(payload).unwrap()
    }

    /// Reads up to a close frame, answers it, and returns its code; `None` when the connection
    /// ends without one.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        loop {
            let (first, payload, is_masked) = self.read_frame_and_mask().await?;
            if first == 0x88 {
                let code = [payload[0], payload[1]];
                if is_masked {
                    self.send([0x88, 2, code[0], code[1]]).await;
                } else {
                    self.send([0x88, 0x82, 0, 0, 0, 0, code[0], code[1]]).await;
                }
                self.read_to_end().await;
                return Some(u16::from_be_bytes(code));
            }
        }
    }
}

/// A client's text frame, whose mask changes nothing.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut frame = frame(text);
    frame[1] |= 0x80;
    frame.splice(2..2, [0; 4]);
    frame
}

/// An upstream's text frame.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 126);
    [&[0x81, length], text.as_bytes()].concat()
}

/// An upstream that answers every handshake.
pub(crate) struct Upstream(TcpListener);

impl Upstream {
    pub(crate) async fn listen() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection, and the path that it asks for.
    pub(crate) async fn accept(&self) -> (String, Client) {
        let mut client = Client(self.0.accept().await.unwrap().0);
        let head = client.read_head().await;
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        if let Some(key) = key {
            let accept = derive_accept_key(key.as_bytes());
            client
                .send(format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                ))
                .await;
        }
        (path, client)
    }

    /// Answers the next connection's request with 503.
    pub(crate) async fn refuse(&self) {
        let mut client = Client(self.0.accept().await.unwrap().0);
        client.read_head().await;
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        client.send(answer).await;
    }

    /// Sends every frame of every session back.
    pub(crate) async fn echo(self) {
        loop {
            let (_, mut client) = self.accept().await;
            tokio::spawn(async move {
                while let Some((first, payload)) = client.read_frame().await {
                    let length = u8::try_from(payload.len()).unwrap();
                    client.send([&[first, length], &payload[..]].concat()).await;
                }
            });
        }
    }
}

/// A port on which nobody listens.
pub(crate) async fn closed_port() -> SocketAddr {
    Upstream::listen().await.address()
}
