//! Counts during the drain.

use crate::support::{Program, Upstream, all_settled, frame, sum, text};

#[tokio::test]
async fn counts_of_an_ended_worker_stay_until_the_last_one_ends() {
    let upstream = Upstream::listen().await;
    let program = Program::start(&format!(
        "drain = {{ grace = \"1h\", spread = \"0s\" }}\n[[route]]\nupstream = \"http://{}\"\n\
         gate.ready = {{ text = \"ready\" }}\ngate.timeout = \"1h\"\n\
         tunnel.close_timeout = \"1h\"\n",
        upstream.address()
    ))
    .await;
    // On one worker each.
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut client = program.open("/").await;
        client.send(text("held")).await;
        let (_, backend) = upstream.accept().await;
        sessions.push((client, backend));
    }
    all_settled(&program, 2, &[], 2).await;

    program.signal("TERM");
    program.logged("\"draining\"").await;
    let (mut client, mut backend) = sessions.remove(0);
    backend.send(frame("ready")).await;
    assert_eq!(backend.read_text().await, "held");
    assert_eq!(client.read_text().await, "ready");
    let ending = tokio::spawn(async move { backend.close_code().await });
    assert_eq!(client.close_code().await, Some(1001));
    ending.await.unwrap();
    program.logged("\"session ended\"").await;
    drop(client);

    let (_, metrics) = program.ask("GET", "/metrics").await;
    for (name, label, expected) in [
        ("sessions", "", 1),
        ("sessions_ended_total", "", 1),
        ("handshakes_total", "result=\"accepted\"", 2),
        ("messages_accepted_total", "", 2),
        ("messages_settled_total", "", 1),
        ("messages_held", "", 1),
        ("worker_up", "", 2),
    ] {
        assert_eq!(sum(&metrics, name, label), expected, "{name}: {metrics}");
    }
    for path in ["/sessions", "/sessions?ended=true"] {
        let (_, list) = program.ask("GET", path).await;
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["silent_workers"], serde_json::json!([]), "{list}");
        assert_eq!(list["matching"], 1, "{list}");
    }
}
