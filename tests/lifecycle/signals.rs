//! What is done to a process from outside.

use std::time::Duration;

use tokio::time;

use crate::support::{Client, Program, Upstream, frame, outcome, text};

// L05
#[tokio::test]
async fn after_a_kill_its_clients_see_the_end_and_a_new_process_can_listen_at_once() {
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

// L13
#[tokio::test]
async fn a_process_that_was_stopped_goes_on_with_what_came_in_time() {
    let upstream = Upstream::listen().await;
    let program = Program::start(&format!(
        "[[route]]\nupstream = \"http://{}\"\ngate.ready = {{ text = \"ready\" }}\n\
         gate.timeout = \"3s\"\n",
        upstream.address()
    ))
    .await;
    let mut held: Vec<(Client, Client)> = Vec::new();
    for _ in 0..20 {
        let mut client = program.open("/").await;
        client.send(text("a")).await;
        held.push((client, upstream.accept().await.1));
    }

    program.signal("STOP");
    for (_, upstream) in &mut held {
        upstream.send(frame("ready")).await;
    }
    time::sleep(Duration::from_millis(3500)).await;
    program.signal("CONT");

    for (client, upstream) in &mut held {
        assert_eq!(upstream.read_text().await, "a");
        assert_eq!(client.read_text().await, "ready");
    }
}
