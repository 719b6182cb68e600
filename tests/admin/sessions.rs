//! Live and ended sessions in `/sessions`.

use crate::support::{Proxy, Upstream, config, gated};

#[tokio::test]
async fn a_held_session_explains_itself() {
    let upstream = Upstream::listen().await;
    let address = upstream.address();
    drop(upstream);
    let proxy = Proxy::start(config(&gated(address)));
    let mut client = proxy.open(&[]).await;
    client.send_text("one").await;
    client.send_text("two").await;

    let list = proxy
        .until("/sessions?state=accepted", |it| {
            it["sessions"][0]["queue"]["messages"] == 2 && it["sessions"][0]["attempts"] != 0
        })
        .await;

    let session = &list["sessions"][0];
    assert_eq!(list["total"], 1);
    assert_eq!(list["by_state"]["accepted"], 1);
    assert_eq!(session["path"], "/chat");
    assert_eq!(session["route"], "/");
    assert_eq!(
        session["client"],
        client.0.local_addr().unwrap().to_string()
    );
    assert_eq!(session["queue"]["by_priority"]["normal"], 2);
    assert_eq!(session["queue"]["messages_limit"], 1000);
    assert_eq!(session["gate_timeout_ms"], 30_000);
    assert_eq!(session["on_timeout"], "close");
    assert_eq!(session["connected_ms"], serde_json::Value::Null);
    let id = session["id"].as_u64().unwrap();
    let target = format!("/sessions/{id}");
    let detail = proxy
        .until(&target, |it| it["last_connect_error"].is_string())
        .await;
    assert_eq!(detail["ledger"]["accepted"], 2);
    assert_eq!(detail["ledger"]["held"], 2);
    assert_eq!(detail["trail"][0]["state"], "accepted");
    assert_ne!(detail["failed_attempts"]["unreachable"], 0);
    // Operators are told where that was; `/config` says so, too.
    let error = detail["last_connect_error"].as_str().unwrap();
    assert!(error.contains("127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_session_shows_its_states_and_is_listed_after_its_end() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(&gated(upstream.address())));
    let mut client = proxy.open(&[]).await;
    let mut backend = upstream.accept().await;
    client.send_text("hello").await;
    backend.say("ready").await;
    backend.read(11).await;

    let list = proxy
        .until("/sessions", |it| it["sessions"][0]["state"] == "processing")
        .await;
    let target = format!("/sessions/{}", list["sessions"][0]["id"]);
    let detail = proxy.json(&target).await;
    let states: Vec<_> = detail["trail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["state"].as_str().unwrap())
        .collect();
    assert_eq!(
        states,
        [
            "accepted",
            "authenticated",
            "processing_ready",
            "processing"
        ]
    );
    assert_eq!(detail["ledger"]["unconfirmed"], 1);
    assert_eq!(detail["ledger"]["delivered"], 0);
    assert!(detail["ready_ms"].is_u64());

    backend.say("answer").await;
    let answered = |it: &serde_json::Value| it["ledger"]["delivered"] == 1;
    let detail = proxy.until(&target, answered).await;
    assert_eq!(detail["ledger"]["unconfirmed"], 0);

    drop(client);

    proxy.until("/sessions", |it| it["total"] == 0).await;
    let ended = proxy.json("/sessions?ended=true&state=failed").await;
    assert_eq!(
        (&ended["total"], &ended["matching"]),
        (&1.into(), &1.into())
    );
    assert_eq!(ended["by_state"]["failed"], 1);
    let detail = proxy.json(&target).await;
    assert_eq!(detail["end"], ended["sessions"][0]["end"]);
    assert_eq!(detail["end"]["by"], "client");
    assert_eq!(detail["end"]["reason"], "client_lost");
    assert_eq!(detail["end"]["detail"], "client lost");
    assert_eq!(detail["end"]["upstream_code"], 1001);
    assert_eq!(detail["ledger"]["delivered"], 1);
    let steps = detail["trail"].as_array().unwrap();
    assert_eq!(steps.last().unwrap()["state"], "failed");
    // It does not grow older.
    assert!(detail["age_ms"].as_u64() >= steps.last().unwrap()["after_ms"].as_u64());
    assert_eq!(proxy.json(&target).await["age_ms"], detail["age_ms"]);

    let (code, text) = proxy.get("/sessions/2").await;
    assert_eq!(code, 404, "{text}");
    assert!(text.contains("or there never was one"), "{text}");
}

#[tokio::test]
async fn a_list_is_filtered_sorted_and_limited_over_all_workers() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(&gated(upstream.address())));
    let mut clients = Vec::new();
    let mut backends = Vec::new();
    for _ in 0..5 {
        clients.push(proxy.open(&[]).await);
        backends.push(upstream.accept().await);
    }
    backends[0].say("ready").await;
    proxy
        .until("/sessions?state=processing", |it| it["matching"] == 1)
        .await;
    let ids = |list: &serde_json::Value| -> Vec<_> {
        let sessions = list["sessions"].as_array().unwrap().iter();
        sessions.map(|it| it["id"].as_u64().unwrap()).collect()
    };

    assert_eq!(ids(&proxy.json("/sessions").await), [5, 4, 3, 2, 1]);
    let newest = proxy.json("/sessions?limit=2").await;
    assert_eq!(ids(&newest), [5, 4]);
    assert_eq!(
        (&newest["total"], &newest["matching"]),
        (&5.into(), &5.into())
    );
    let waiting = proxy.json("/sessions?sort=waiting&limit=3").await;
    assert_eq!(ids(&waiting), [2, 3, 4]);
    assert_eq!(waiting["matching"], 4);
    assert_eq!(proxy.json("/sessions?route=%2F").await["matching"], 5);
    assert_eq!(proxy.json("/sessions?route=/other").await["matching"], 0);
    assert_eq!(proxy.json("/sessions?min_age=1h").await["matching"], 0);
    // Both workers have some.
    let workers: std::collections::BTreeSet<_> = proxy.json("/sessions").await["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["worker"].as_u64().unwrap())
        .collect();
    assert_eq!(workers, [0, 1].into());
}

/// Tokens go in many places, and none of them is shown.
#[tokio::test]
async fn no_secret_of_a_client_is_anywhere() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::start(config(&gated(upstream.address())));
    let mut client = proxy
        .open(&[
            "Cookie: session=canary-cookie",
            "Authorization: Bearer canary-authorization",
            "Sec-WebSocket-Protocol: chat, canary-subprotocol",
            "X-Api-Key: canary-header",
        ])
        .await;
    client.send_text("canary-payload").await;
    let list = proxy
        .until("/sessions", |it| {
            it["sessions"][0]["queue"]["messages"] == 1
        })
        .await;

    let session = format!("/sessions/{}", list["sessions"][0]["id"]);
    for target in [
        "/sessions",
        &session,
        "/livez?verbose",
        "/readyz?verbose&backend=1",
        "/build",
        "/metrics",
        "/config",
    ] {
        let (head, body) = proxy.exchange("GET", target, &[]).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{target}: {head}");
        assert!(!body.contains("canary"), "{target}: {body}");
        assert!(!head.contains("canary"), "{target}: {head}");
    }
}

#[tokio::test]
async fn a_session_without_traffic_is_called_idle() {
    let upstream = Upstream::listen().await;
    let routes = gated(upstream.address()) + "tunnel.idle_after = \"10ms\"\n";
    let proxy = Proxy::start(config(&routes));
    let _client = proxy.open(&[]).await;
    let mut backend = upstream.accept().await;

    backend.say("ready").await;

    let idle = proxy.until("/sessions?state=idle", |it| it["matching"] == 1);
    idle.await;
}
