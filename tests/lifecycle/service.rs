//! Integration with a service manager: inherited sockets and notifications.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    process::{Command, Stdio},
};

use tokio::net::{UnixDatagram as Datagrams, UnixStream};

use crate::support::{Client, Program, Upstream, ask, outcome, text};

/// The program in a process that has `first` as its descriptor 3 and `second` as 4.
fn with_sockets(
    command: &mut Command,
    variables: &str,
    first: impl Into<OwnedFd>,
    second: impl Into<OwnedFd>,
) {
    let script = format!(
        "exec 3<&0 4<&2 0</dev/null 2>/dev/null; export LISTEN_PID=$$ {variables}; exec \"$0\""
    );
    let program = command.get_program().to_owned();
    let directory = command.get_current_dir().unwrap().to_owned();
    *command = Command::new("sh");
    command.args(["-c", &script]).arg(program);
    command.current_dir(directory).env_remove("PORT");
    command.stdin(Stdio::from(first.into()));
    command.stderr(Stdio::from(second.into()));
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

#[tokio::test]
async fn inherited_sockets_replace_addresses_and_admin_goes_by_name() {
    let upstream = Upstream::listen().await;
    let route = format!("[[route]]\nupstream = \"http://{}\"\n", upstream.address());
    tokio::spawn(upstream.echo());
    let (admin, traffic) = (listen(), listen());
    let (at_admin, at_traffic) = (admin.local_addr().unwrap(), traffic.local_addr().unwrap());
    // Whoever connects before the program is there is served, too.
    let early = std::net::TcpStream::connect(at_traffic).unwrap();

    let program = Program::start_with(&route, |command| {
        let variables = "LISTEN_FDS=2 LISTEN_FDNAMES=admin:web";
        with_sockets(command, variables, admin, traffic);
    })
    .await;

    assert_eq!(program.address().await, at_traffic);
    assert_eq!(program.admin().await, at_admin);
    assert_eq!(
        ask(at_admin, "GET", "/readyz").await,
        (200, "ok\n".to_owned())
    );
    early.set_nonblocking(true).unwrap();
    let mut client = Client(tokio::net::TcpStream::from_std(early).unwrap());
    client.open("/").await;
    client.send(text("a")).await;
    assert_eq!(client.read_text().await, "a");
    let reloaded = program.ask("POST", "/reload").await;
    assert_eq!(reloaded.0, 200, "{}", reloaded.1);
}

#[tokio::test]
async fn inherited_sockets_without_names_are_for_clients() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.sock");
    let socket = UnixListener::bind(&path).unwrap();

    let program = Program::start_with(
        "[[route]]\nupstream = \"http://127.0.0.1:1\"\n",
        |command| {
            with_sockets(command, "LISTEN_FDS=1", socket, listen());
        },
    )
    .await;

    let logged = program.logged("\"listening\"").await;
    assert!(
        logged.contains(&format!("unix:{}", path.display())),
        "{logged}"
    );
    UnixStream::connect(&path).await.unwrap();
    assert_eq!(program.ask("GET", "/livez").await.0, 200);
}

#[tokio::test]
async fn sockets_of_another_process_are_ignored_and_unfit_refused() {
    let route = "[[route]]\nupstream = \"http://127.0.0.1:1\"\n";
    let taken = listen();
    let address = taken.local_addr().unwrap();
    let program = Program::start_with(route, |command| {
        with_sockets(command, "LISTEN_FDS=1 LISTEN_PID=1", taken, listen());
    })
    .await;
    assert_ne!(program.address().await, address);

    let (connected, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let (datagrams, _) = UnixDatagram::pair().unwrap();
    let refused = [
        (
            "LISTEN_FDS=1",
            OwnedFd::from(connected),
            "3 of LISTEN_FDS does not listen",
        ),
        (
            "LISTEN_FDS=1",
            OwnedFd::from(datagrams),
            "3 of LISTEN_FDS is not a TCP or Unix",
        ),
        ("LISTEN_FDS=2", OwnedFd::from(listen()), "fewer addresses"),
    ];
    for (variables, socket, reason) in refused {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("proxy.toml"), route).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_readygate"));
        command.current_dir(directory.path());
        // What it says goes to standard error, which carries the second socket into it.
        let variables = format!("{variables}; exec 2>&1");
        with_sockets(&mut command, &variables, socket, listen());
        let output = command.stdout(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}

/// Receives the next notification.
async fn next(told: &Datagrams) -> String {
    let mut message = [0; 1024];
    let bytes = told.recv(&mut message).await.unwrap();
    String::from_utf8(message[..bytes].to_vec()).unwrap()
}

#[tokio::test]
async fn a_service_manager_is_told_of_start_reload_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let abstract_name = format!("readygate-test-{}", std::process::id());
    let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let sockets = [
        (
            path.display().to_string(),
            UnixDatagram::bind(&path).unwrap(),
        ),
        (
            format!("@{abstract_name}"),
            UnixDatagram::bind_addr(&abstract_address).unwrap(),
        ),
    ];
    for (name, socket) in sockets {
        socket.set_nonblocking(true).unwrap();
        let told = Datagrams::from_std(socket).unwrap();
        let program = Program::start_with("[[route]]\nupstream = \"http://127.0.0.1:1\"\n", |it| {
            it.env("NOTIFY_SOCKET", &name);
        })
        .await;
        let address = program.address().await;
        assert_eq!(
            next(&told).await,
            format!("READY=1\nSTATUS=listening on http://{address}")
        );

        program.signal("HUP");
        let reloading = next(&told).await;
        let monotonic = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .and_then(|rest| rest.split('\n').next()?.parse::<u64>().ok());
        assert!(monotonic.is_some_and(|micros| micros > 0), "{reloading}");
        assert_eq!(next(&told).await, "READY=1\nSTATUS=configuration reloaded");
        program.configure("nonsense");
        program.signal("HUP");
        next(&told).await;
        assert!(
            next(&told)
                .await
                .starts_with("READY=1\nSTATUS=configuration not reloaded")
        );

        program.signal("TERM");
        assert_eq!(next(&told).await, "STOPPING=1\nSTATUS=draining");
        assert_eq!(outcome(program.end().await), Ok(0));
    }
}

#[tokio::test]
async fn the_watchdog_is_notified_also_during_the_drain() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let told = Datagrams::bind(&path).unwrap();
    let upstream = Upstream::listen().await;
    let route = format!("[[route]]\nupstream = \"http://{}\"\n", upstream.address());
    let program = Program::start_with(&route, |command| {
        command.env("NOTIFY_SOCKET", &path);
        command.env("WATCHDOG_USEC", "100000");
    })
    .await;
    let mut request = program.connect().await;
    request.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, mut exchange) = upstream.accept().await;

    for _ in 0..3 {
        while next(&told).await != "WATCHDOG=1" {}
    }
    program.signal("TERM");
    while !next(&told).await.starts_with("STOPPING=1") {}
    assert_eq!(next(&told).await, "WATCHDOG=1");
    // What stops is not ready again.
    program.signal("HUP");
    program.logged("configuration reloaded").await;
    for _ in 0..3 {
        assert_eq!(next(&told).await, "WATCHDOG=1");
    }

    exchange.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(outcome(program.end().await), Ok(0));
}
