//! The drain after a stop signal.

use std::{thread, time::Duration};

use tokio::{io::AsyncWriteExt, sync::watch, time};

use crate::support::{Program, Upstream, all_settled, closed_port, frame, outcome, text};

#[tokio::test]
async fn a_flush_under_way_at_the_drain_delivers_every_message() {
    /// Together more than the buffers of sockets take.
    const MESSAGES: usize = 400;
    let upstream = Upstream::listen().await;
    let program = Program::start(&format!(
        "drain = {{ grace = \"1h\", spread = \"0s\" }}\nlimits.max_held_bytes = \"64MiB\"\n\
         [[route]]\nupstream = \"http://{}\"\ngate.ready = {{ text = \"ready\" }}\n\
         gate.timeout = \"1h\"\nhold.max_bytes = \"64MiB\"\n",
        upstream.address()
    ))
    .await;
    let mut client = program.open("/").await;
    let (_, mut backend) = upstream.accept().await;
    for index in 0..MESSAGES {
        client.send(long_text(index)).await;
    }
    all_settled(&program, 1, &[], MESSAGES).await;

    backend.send(frame("ready")).await;
    let mut read = async |messages: std::ops::Range<usize>| {
        for index in messages {
            let text = backend.read_text().await;
            assert_eq!(text.trim_start().parse(), Ok(index));
        }
    };
    read(0..10).await;
    program.signal("TERM");
    program.logged("\"draining\"").await;
    all_settled(&program, 1, &[("processing_ready", 1)], MESSAGES).await;
    read(10..MESSAGES).await;

    let ending = tokio::spawn(async move { backend.close_code().await });
    assert_eq!(client.read_text().await, "ready");
    assert_eq!(client.close_code().await, Some(1001));
    assert_eq!(ending.await.unwrap(), Some(1001));
    assert_eq!(outcome(program.end().await), Ok(0));
    let line = program.logged("\"session ended\"").await;
    let of_all = |account| format!("\"{account}\":{MESSAGES}");
    // The drain has ended the tunnel behind the flush.
    let state = "\"state\":\"processing\"".to_owned();
    for part in [of_all("accepted"), of_all("delivered"), state] {
        assert!(line.contains(&part), "{part}: {line}");
    }
}

/// A client's text frame of 60 000 bytes, which end with a number.
fn long_text(number: usize) -> Vec<u8> {
    let length = 60_000_u16;
    let head = [[0x81, 0xfe], length.to_be_bytes(), [0, 0], [0, 0]].concat();
    [head, format!("{number:>60000}").into_bytes()].concat()
}

#[tokio::test]
async fn a_second_signal_cuts_the_drain_off() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let upstream = Upstream::listen().await;
        let program = Program::start(&format!(
            "drain.grace = \"1h\"\n[[route]]\nupstream = \"http://{}\"\n",
            upstream.address()
        ))
        .await;
        let mut request = program.connect().await;
        request.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let _unanswered = upstream.accept().await;

        program.signal("TERM");
        program.logged("\"draining\"").await;
        program.signal(signal);

        assert_eq!(outcome(program.end().await), Ok(code));
        assert_eq!(request.read_to_end().await, "");
    }
}

// Also one that nothing waits for any more.
#[tokio::test]
async fn a_session_that_is_cut_off_has_its_line_in_the_log() {
    for (grace, code) in [("1h", 143), ("0s", 0)] {
        let route = "[[route]]\nupstream = \"http://127.0.0.1:1\"\ngate.timeout = \"1h\"\n";
        let program = Program::start(&format!("drain.grace = \"{grace}\"\n{route}")).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = program.open("/chat").await;
            client.send(text("a")).await;
            clients.push(client);
        }
        all_settled(&program, 20, &[], 20).await;

        program.signal("TERM");
        program.logged("\"draining\"").await;
        if grace != "0s" {
            program.signal("TERM");
        }

        assert_eq!(outcome(program.end().await), Ok(code));
        let log = program.log();
        let mut ends = log.iter().filter(|line| line.contains("\"session ended\""));
        let line = ends.next().unwrap();
        for part in [
            "\"WARN\"",
            "\"ended_by\":\"proxy\"",
            "\"state\":\"accepted\"",
            "\"accepted\":1",
            "\"discarded\":1",
            "\"delivered\":0",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        // Without any grace a session may end by itself before it is dropped, or not.
        let may_end = grace == "0s" && line.contains("\"reason\":\"shutting_down\"");
        assert!(may_end || line.contains("\"reason\":\"aborted\""), "{line}");
        assert_eq!(ends.count(), 19, "{grace}: {log:#?}");
    }
}

#[tokio::test]
async fn a_forced_close_counts_sent_as_unknown_and_held_as_discarded() {
    let upstream = Upstream::listen().await;
    let route = format!(
        "drain.grace = \"1h\"\n[[route]]\nupstream = \"http://{}\"\ngate.ready = {{ text = \"ready\" }}\n\
         message = [{{ match = {{ prefix = \"auth\" }}, release = \"authenticated\" }}]\n\
         tunnel.close_timeout = \"1h\"\n",
        upstream.address()
    );
    for timeout in ["1h", "1s"] {
        let program = Program::start(&format!("{route}gate.timeout = \"{timeout}\"\n")).await;
        let mut client = program.open("/").await;
        client.send(text("held")).await;
        client.send(text("auth x")).await;
        let (_, mut backend) = upstream.accept().await;
        assert_eq!(backend.read_text().await, "auth x");
        if timeout == "1s" {
            // It is closing when it is cut off.
            assert_eq!(client.close_code().await, Some(1013));
        }

        program.signal("TERM");
        program.logged("\"draining\"").await;
        program.signal("TERM");

        assert_eq!(outcome(program.end().await), Ok(143));
        let line = program.logged("\"session ended\"").await;
        for part in [
            "\"reason\":\"aborted\"",
            "\"accepted\":2",
            "\"delivered\":0",
            "\"discarded\":1",
            "\"unknown\":1",
        ] {
            assert!(line.contains(part), "{timeout}: {part}: {line}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_cut_off_is_a_warning_with_its_reason() {
    for (requests, expected) in [("none", 0), ("errors", 1), ("all", 2)] {
        let upstream = Upstream::listen().await;
        let program = Program::start(&format!(
            "drain.grace = \"1h\"\nlog.requests = \"{requests}\"\n\
             [[route]]\npath = \"/a\"\nupstream = \"http://{}\"\n",
            upstream.address()
        ))
        .await;
        let get = "GET /a/b HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut waiting = program.connect().await;
        waiting.send(get).await;
        let _unanswered = upstream.accept().await;
        let mut answered = program.connect().await;
        answered.send(get).await;
        let (_, mut exchange) = upstream.accept().await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no";
        exchange.send(answer).await;
        answered.read_head().await;
        answered.read(1).await;

        program.signal("TERM");
        program.logged("\"draining\"").await;
        program.signal("TERM");

        assert_eq!(outcome(program.end().await), Ok(143));
        let log = program.log();
        let ends = log.iter().filter(|line| line.contains("\"request ended\""));
        let ends: Vec<_> = ends.collect();
        assert_eq!(ends.len(), expected, "{log:#?}");
        for line in &ends {
            for part in [
                "\"WARN\"",
                "\"path\":\"/a/b\"",
                "\"route\":\"/a\"",
                "\"reason\":\"aborted\"",
                "\"detail\":\"cut off when",
            ] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
        let of_upstream = |line: &&&String| line.contains("\"answered_by\":\"upstream\"");
        let answered = ends.iter().filter(of_upstream).count();
        assert_eq!(answered, expected / 2, "{ends:#?}");
    }
}

// A drain that was requested by other means, say before the process is stopped, is no signal.
#[tokio::test]
async fn a_signal_after_a_drain_that_was_asked_for_cuts_nothing_off() {
    let upstream = Upstream::listen().await;
    let program = Program::start(&format!(
        "drain.grace = \"1h\"\n[[route]]\nupstream = \"http://{}\"\n",
        upstream.address()
    ))
    .await;
    let mut request = program.connect().await;
    request.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, mut exchange) = upstream.accept().await;

    assert_eq!(program.ask("POST", "/drain").await.0, 202);
    program.signal("TERM");
    // Whatever the signal does is done before another answer.
    assert_eq!(program.ask("GET", "/readyz").await.0, 503);
    exchange
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;

    assert!(request.read_to_end().await.ends_with("\r\n\r\nok"));
    assert_eq!(outcome(program.end().await), Ok(0));
}

#[tokio::test]
async fn until_the_delay_is_over_only_load_balancers_hear_of_a_drain() {
    let upstream = Upstream::listen().await;
    let config = |delay| {
        let upstream = upstream.address();
        let drain = format!("drain = {{ delay = \"{delay}\", spread = \"0s\" }}");
        format!("{drain}\n[[route]]\nupstream = \"http://{upstream}\"\n")
    };
    let program = Program::start(&config("1h")).await;

    program.signal("TERM");
    program.logged("\"draining\"").await;

    assert_eq!(program.ask("GET", "/readyz").await.0, 503);
    assert_eq!(program.ask("GET", "/livez").await.0, 200);
    let mut request = program.connect().await;
    request.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, mut exchange) = upstream.accept().await;
    exchange
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let answer = request.read_to_end().await.to_lowercase();
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let mut client = program.open("/chat").await;
    // A second signal ends the delay, and not more.
    program.signal("TERM");
    assert_eq!(client.close_code().await, Some(1001));
    assert_eq!(outcome(program.end().await), Ok(0));

    let program = Program::start(&config("1h")).await;
    let mut client = program.open("/chat").await;
    assert_eq!(program.ask("POST", "/drain").await.0, 202);
    program.signal("TERM");
    assert_eq!(client.close_code().await, Some(1001));
    assert_eq!(outcome(program.end().await), Ok(0));

    let program = Program::start(&config("200ms")).await;
    let mut client = program.open("/chat").await;
    assert_eq!(program.ask("POST", "/drain").await.0, 202);
    assert_eq!(client.close_code().await, Some(1001));
    assert_eq!(outcome(program.end().await), Ok(0));
}

#[tokio::test]
async fn a_request_that_never_comes_whole_does_not_delay_the_end() {
    let program = Program::start(&format!(
        "drain.grace = \"1h\"\nlimits.header_timeout = \"1h\"\n[[route]]\nupstream = \"http://{}\"\n",
        closed_port().await
    ))
    .await;
    let mut client = program.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    let (sent, mut sending) = watch::channel(0);
    let slow = tokio::spawn(async move {
        while client.0.write_all(b"a").await.is_ok() {
            sent.send_modify(|count| *count += 1);
            time::sleep(Duration::from_millis(5)).await;
        }
    });
    sending.wait_for(|count| *count > 20).await.unwrap();

    program.signal("TERM");

    assert_eq!(outcome(program.end().await), Ok(0));
    slow.await.unwrap();
}

#[tokio::test]
async fn clients_that_connect_at_the_last_moment_do_not_delay_the_end() {
    let program = Program::start(&format!(
        "drain.grace = \"1h\"\n[[route]]\nupstream = \"http://{}\"\n",
        closed_port().await
    ))
    .await;
    let address = program.address().await;
    let (connected, mut connecting) = watch::channel(0);
    let connect = |connected: watch::Sender<usize>| {
        thread::spawn(move || {
            while std::net::TcpStream::connect(address).is_ok() {
                connected.send_modify(|count| *count += 1);
            }
        })
    };
    let connects: Vec<_> = (0..8).map(|_| connect(connected.clone())).collect();
    connecting.wait_for(|count| *count > 500).await.unwrap();

    program.signal("TERM");

    assert_eq!(outcome(program.end().await), Ok(0));
    for connect in connects {
        connect.join().unwrap();
    }
}
