//! What is done to a process from outside.

use crate::support::{Program, Upstream, outcome, text};

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
