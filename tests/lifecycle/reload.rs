//! Reloads of the configuration.

use std::{fs, os::unix::fs::symlink};

use crate::support::{Client, Program, Upstream, all_settled, frame, handshake, sum, text};

const RELOADED: &str = "\"configuration reloaded\"";
const REFUSED: &str = "\"configuration not reloaded; the one before stays\"";

/// Configures a single route to `upstream`.
fn route(upstream: &Upstream) -> String {
    format!("[[route]]\nupstream = \"http://{}\"\n", upstream.address())
}

/// Asks for a path on a connection that stays, and returns the status.
async fn get(client: &mut Client, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send(request).await;
    let head = client.read_head().await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    client.read(length.unwrap_or(0)).await;
    status
}

/// The lines of the metrics about the configuration.
async fn metrics(program: &Program) -> Vec<String> {
    let (_, metrics) = program.ask("GET", "/metrics").await;
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("readygate_config_"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn tunnels_outlive_reloads_and_new_sessions_use_the_new_file() {
    let (old, new) = (Upstream::listen().await, Upstream::listen().await);
    let (old_route, new_route) = (route(&old), route(&new));
    tokio::spawn(old.echo());
    let program = Program::start(&old_route).await;
    let mut clients = Vec::new();
    for index in 0..500 {
        let mut client = program.open("/").await;
        client.send(text(&index.to_string())).await;
        assert_eq!(client.read_text().await, index.to_string());
        // Half a frame is under way during the reload.
        client.send(&text("half")[..7]).await;
        clients.push(client);
    }

    for count in 1..=3 {
        program.configure(&new_route);
        program.signal("HUP");
        program.logged_times(RELOADED, count).await;
    }

    let mut newcomer = program.open("/").await;
    let (_, mut upstream) = new.accept().await;
    newcomer.send(text("new")).await;
    assert_eq!(upstream.read_text().await, "new");
    upstream.send(frame("answer")).await;
    assert_eq!(newcomer.read_text().await, "answer");
    for client in &mut clients {
        client.send(&text("half")[7..]).await;
        assert_eq!(client.read_text().await, "half");
    }
    let metrics = metrics(&program).await;
    let applied = "readygate_config_reloads_total{result=\"success\"} 3";
    assert!(metrics.iter().any(|line| line == applied), "{metrics:?}");
}

#[tokio::test]
async fn a_reload_warns_of_what_is_most_likely_not_meant() {
    let upstream = Upstream::listen().await;
    let program = Program::start(&route(&upstream)).await;

    program.configure(&(route(&upstream) + "path = \"/agent/*\"\n"));
    program.signal("HUP");

    let line = program.logged("stands for itself").await;
    assert!(line.contains("\"WARN\""), "{line}");
    assert!(line.contains("write \\\"/agent\\\""), "{line}");
}

#[tokio::test]
async fn a_held_session_keeps_its_timeout_rules_and_messages() {
    let upstream = Upstream::listen().await;
    let gated = |ready: &str, timeout: &str, urgent: &str| {
        format!(
            "{}gate.ready = {{ text = \"{ready}\" }}\ngate.timeout = \"{timeout}\"\n\
             message = [{{ match = {{ prefix = \"{urgent}\" }}, priority = \"high\" }}]\n",
            route(&upstream)
        )
    };
    let program = Program::start(&gated("ready", "1h", "urgent")).await;
    let mut client = program.open("/").await;
    let (_, mut backend) = upstream.accept().await;
    for message in ["usual 1", "urgent 1"] {
        client.send(text(message)).await;
    }
    all_settled(&program, 1, &[], 2).await;

    program.configure(&gated("steady", "10ms", "usual"));
    assert_eq!(program.ask("POST", "/reload").await.0, 200);

    // The timeout of whoever comes now is over while the one before still holds.
    let mut newcomer = program.open("/").await;
    assert_eq!(newcomer.close_code().await, Some(1013));
    backend.send(frame("steady")).await;
    assert_eq!(client.read_text().await, "steady");
    for message in ["usual 2", "urgent 2"] {
        client.send(text(message)).await;
    }
    all_settled(&program, 1, &[], 4).await;
    let (_, metrics) = program.ask("GET", "/metrics").await;
    assert_eq!(sum(&metrics, "queued_messages", "priority=\"high\""), 2);
    backend.send(frame("ready")).await;
    for message in ["urgent 1", "urgent 2", "usual 1", "usual 2"] {
        assert_eq!(backend.read_text().await, message);
    }
}

#[tokio::test]
async fn a_reload_applies_from_a_connections_next_request_on() {
    let upstream = Upstream::listen().await;
    let upstream_route = format!("{}path = \"/old\"\n", route(&upstream));
    tokio::spawn(async move {
        loop {
            let (_, mut client) = upstream.accept().await;
            client.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    let program = Program::start(&upstream_route).await;
    let mut client = program.connect().await;
    assert_eq!(get(&mut client, "/new").await, 404);

    program.configure(&upstream_route.replace("/old", "/new"));
    let (status, answer) = program.ask("POST", "/reload").await;

    assert_eq!(
        (status, &*answer),
        (200, "reloaded\nroute /new: added\nroute /old: removed\n")
    );
    assert_eq!(get(&mut client, "/new").await, 204);
    assert_eq!(get(&mut client, "/old").await, 404);
    let (_, shown) = program.ask("GET", "/config").await;
    assert!(
        shown.contains("\"/new\"") && !shown.contains("\"/old\""),
        "{shown}"
    );
}

#[tokio::test]
async fn the_counters_of_a_route_that_is_removed_and_comes_back_go_on() {
    let upstream = Upstream::listen().await;
    let old = format!("{}path = \"/old\"\n", route(&upstream));
    let new = old.replace("/old", "/new");
    tokio::spawn(async move {
        loop {
            let (_, mut client) = upstream.accept().await;
            client.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    });
    let program = Program::start(&old).await;
    let mut client = program.connect().await;

    for (configuration, path, answered) in [
        (&old, "/old", [Some(1), None]),
        (&new, "/new", [Some(1), Some(1)]),
        (&old, "/old", [Some(2), Some(1)]),
    ] {
        program.configure(configuration);
        assert_eq!(program.ask("POST", "/reload").await.0, 200);
        assert_eq!(get(&mut client, path).await, 204);

        let (_, metrics) = program.ask("GET", "/metrics").await;
        let count = |route: &str| {
            let series = format!("http_requests_total{{route=\"{route}\",code=\"2xx\"}} ");
            let (_, rest) = metrics.split_once(&series)?;
            rest.lines().next()?.parse::<u64>().ok()
        };
        assert_eq!(["/old", "/new"].map(count), answered, "{metrics}");
    }
}

#[tokio::test]
async fn an_invalid_file_is_reported_whole_and_changes_nothing() {
    let upstream = Upstream::listen().await;
    let good = route(&upstream);
    tokio::spawn(upstream.echo());
    let program = Program::start(&good).await;

    program.configure(&format!("drain.grace = 8\nlimits.nonsense = 1\n{good}"));
    program.signal("HUP");
    let logged = program.logged(REFUSED).await;
    let (status, answer) = program.ask("POST", "/reload").await;

    assert!(
        logged.contains("proxy.toml:4:") && logged.contains("proxy.toml:5:"),
        "{logged}"
    );
    assert_eq!(status, 422);
    assert!(answer.contains("proxy.toml:4:15"), "{answer}");
    assert!(answer.contains("proxy.toml has 2 problems"), "{answer}");
    assert!(answer.ends_with("\nnot reloaded\n"), "{answer}");
    let mut client = program.open("/").await;
    client.send(text("a")).await;
    assert_eq!(client.read_text().await, "a");
    let metrics = metrics(&program).await;
    let rejected = "readygate_config_reloads_total{result=\"rejected\"} 2";
    assert!(metrics.iter().any(|line| line == rejected), "{metrics:?}");

    fs::remove_file(program.directory.path().join("proxy.toml")).unwrap();
    let (status, answer) = program.ask("POST", "/reload").await;
    assert_eq!(status, 422);
    assert!(
        answer.starts_with("cannot read proxy.toml: No such file"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_variables_are_is_in_no_report_of_mistakes() {
    let upstream = Upstream::listen().await;
    let good = route(&upstream);
    let program = Program::start_with(&good, |command| {
        command.env("TOKEN", "CANARYTOKEN");
    })
    .await;

    program.configure(&format!(
        "drain.grace = \"${{TOKEN}}\"\n{good}gate.ready = {{ regex = \"(${{TOKEN}}\" }}\n"
    ));
    let (status, answer) = program.ask("POST", "/reload").await;
    program.logged(REFUSED).await;

    assert_eq!(status, 422);
    assert!(answer.contains("`${TOKEN}` is not a duration"), "{answer}");
    assert!(answer.contains("`(${TOKEN}` is not a regular"), "{answer}");
    assert!(!answer.contains("CANARY"), "{answer}");
    let log = program.log().join("\n");
    assert!(!log.contains("CANARY"), "{log}");
}

#[tokio::test]
async fn a_key_that_needs_a_restart_refuses_the_whole_reload() {
    let upstream = Upstream::listen().await;
    let good = route(&upstream);
    let program = Program::start(&good).await;
    let sum = metrics(&program).await;

    program.configure(&format!("drain.grace = \"17s\"\n{good}"));
    let file = program.directory.path().join("proxy.toml");
    let changed = fs::read_to_string(&file).unwrap();
    let changed = changed.replace("workers = 2", "workers = 3");
    fs::write(
        &file,
        changed.replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\""),
    )
    .unwrap();
    let (status, answer) = program.ask("POST", "/reload").await;

    assert_eq!(status, 422);
    assert!(
        answer.starts_with("listen (its addresses), admin.listen, workers cannot change while"),
        "{answer}"
    );
    let (_, shown) = program.ask("GET", "/config").await;
    assert!(!shown.contains("\"17s\""), "{shown}");
    let is_sum = |line: &&String| line.starts_with("readygate_config_info");
    let now = metrics(&program).await;
    assert_eq!(sum.iter().find(is_sum), now.iter().find(is_sum));
}

#[tokio::test]
async fn polling_finds_a_file_swapped_by_a_symbolic_link() {
    let upstream = Upstream::listen().await;
    let polled = format!("reload.poll = \"100ms\"\n{}", route(&upstream));
    let program = Program::start(&polled).await;
    let before = metrics(&program).await;
    let directory = program.directory.path();

    // As Kubernetes mounts a ConfigMap.
    program.configure(&format!("limits.max_connections = 7\n{polled}"));
    fs::create_dir(directory.join("..new")).unwrap();
    fs::rename(
        directory.join("proxy.toml"),
        directory.join("..new/proxy.toml"),
    )
    .unwrap();
    symlink("..new", directory.join("..data")).unwrap();
    symlink("..data/proxy.toml", directory.join("link")).unwrap();
    fs::rename(directory.join("link"), directory.join("proxy.toml")).unwrap();
    let logged = program.logged(RELOADED).await;

    assert!(
        logged.contains("\"keys\":\"limits.max_connections\""),
        "{logged}"
    );
    assert_ne!(metrics(&program).await, before);
    program.configure(&format!(
        "limits.max_connections = 8\nnonsense = 1\n{polled}"
    ));
    program.logged(REFUSED).await;
    program.configure(&format!("limits.max_connections = 8\n{polled}"));
    program.logged_times(RELOADED, 2).await;
}

#[tokio::test]
async fn the_level_of_the_log_and_limits_change_at_once() {
    let upstream = Upstream::listen().await;
    let good = route(&upstream);
    let program = Program::start(&good).await;

    program.configure(&format!(
        "log.level = \"warn\"\nlimits.max_connections = 1\n{good}"
    ));
    assert_eq!(program.ask("POST", "/reload").await.0, 200);

    let _first = program.open("/").await;
    let mut second = program.connect().await;
    assert_eq!(get(&mut second, "/").await, 503);
    assert!(!program.log().iter().any(|line| line.contains(RELOADED)));
}

#[tokio::test]
async fn the_bound_on_memory_changes_by_the_next_look() {
    let upstream = Upstream::listen().await;
    let good = route(&upstream);
    tokio::spawn(upstream.echo());
    let program = Program::start(&format!("limits.max_memory_bytes = \"\"\n{good}")).await;
    let open = async || {
        let mut client = program.connect().await;
        client.send(handshake("/")).await;
        client.read_head().await
    };
    assert!(open().await.starts_with("HTTP/1.1 101 "));
    for (bound, status) in [("1MiB", "HTTP/1.1 503 "), ("", "HTTP/1.1 101 ")] {
        program.configure(&format!("limits.max_memory_bytes = \"{bound}\"\n{good}"));
        assert_eq!(program.ask("POST", "/reload").await.0, 200);

        let (_, metrics) = program.ask("GET", "/metrics").await;
        let is_bound = metrics.contains("readygate_memory_limit_bytes 1048576\n");
        assert_eq!(is_bound, bound == "1MiB", "{metrics}");
        while !open().await.starts_with(status) {}
    }
}

#[tokio::test]
async fn without_a_file_sighup_changes_nothing() {
    let program = Program::start_with("", |command| {
        command.args([
            "--upstream",
            "http://127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
        ]);
        command.args(["--admin", "127.0.0.1:0"]);
    })
    .await;

    program.signal("HUP");
    program.logged(REFUSED).await;
    let (status, answer) = program.ask("POST", "/reload").await;

    assert_eq!(status, 422);
    assert!(
        answer.starts_with("there is no file to read again"),
        "{answer}"
    );
}
