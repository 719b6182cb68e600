//! Signals that the program cannot handle: SIGKILL and SIGSTOP.

use std::time::Duration;

use tokio::time::{self, Instant};

use crate::support::{Client, Program, Upstream, frame, outcome, text};

#[tokio::test]
async fn after_sigkill_clients_see_the_end_and_the_port_is_free() {
    let upstream = Upstream::listen().await;
    let route = format!("[[route]]\nupstream = \"http://{}\"\n", upstream.address());
    tokio::spawn(upstream.echo());
    let killed = Program::start(&route).await;
    let address = killed.address().await;
    let mut client = killed.open("/").await;
    client.send(text("a")).await;
    assert_eq!(client.read_text().await, "a");

    killed.signal("KILL");

    assert_eq!(outcome(killed.end().await), Err(9));
    assert_eq!(client.read_to_end().await, "");
    let program = Program::start_with(&route, |command| {
        command.args(["--listen", &address.to_string()]);
    })
    .await;
    assert_eq!(program.address().await, address);
}

#[tokio::test]
async fn a_process_that_was_stopped_goes_on_with_what_came_in_time() {
    const GATE_TIMEOUT: Duration = Duration::from_secs(3);
    let upstream = Upstream::listen().await;
    let program = Program::start(&format!(
        "[[route]]\nupstream = \"http://{}\"\ngate.ready = {{ text = \"ready\" }}\n\
         gate.timeout = \"{}s\"\nbreaker.failures = 0\n",
        upstream.address(),
        GATE_TIMEOUT.as_secs(),
    ))
    .await;
    let mut round = 0;
    let mut held = loop {
        round += 1;
        let before = Instant::now();
        let held = hold(&program, &upstream, &format!("/{round}"), 20).await;
        program.signal("STOP");
        if before.elapsed() < GATE_TIMEOUT {
            break held;
        }
        // A machine that takes so long has let some of them wait too long: not this case.
        program.signal("CONT");
    };

    for (_, upstream) in &mut held {
        upstream.send(frame("ready")).await;
    }
    time::sleep(GATE_TIMEOUT).await;
    program.signal("CONT");

    for (client, upstream) in &mut held {
        assert_eq!(upstream.read_text().await, "a");
        assert_eq!(client.read_text().await, "ready");
    }
}

/// Sessions at `path` that hold a message each, and both their ends.
async fn hold(
    program: &Program,
    upstream: &Upstream,
    path: &str,
    sessions: usize,
) -> Vec<(Client, Client)> {
    let mut held = Vec::new();
    for _ in 0..sessions {
        let mut client = program.open(path).await;
        client.send(text("a")).await;
        let accepted = loop {
            let (asked_for, accepted) = upstream.accept().await;
            // Sessions of another path may have lost their upstream and come again.
            if asked_for == path {
                break accepted;
            }
        };
        held.push((client, accepted));
    }
    held
}
