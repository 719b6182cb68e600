//! Standard output that nobody reads, or that is closed.

use crate::support::{Program, backend, session};

/// The path makes a long line of each session.
fn long_path() -> String {
    format!("/{}", "x".repeat(8000))
}

/// The sum of all series whose names begin so.
fn sum(program: &Program, name: &str) -> u64 {
    let page = program.ask("GET /metrics");
    let samples = page.lines().filter(|line| line.starts_with(name));
    let values = samples.map(|line| line.rsplit(' ').next().unwrap());
    values.map(|value| value.parse::<u64>().unwrap()).sum()
}

fn dropped(program: &Program) -> u64 {
    sum(program, "readygate_log_lines_dropped_total ")
}

#[test]
fn an_unread_log_blocks_no_session_and_counts_dropped_lines() {
    const SESSIONS: usize = 300;
    let mut program = Program::start(backend(&[]), "", &[], &[]);

    for _ in 0..SESSIONS {
        let answer = program.exchange(session(&long_path(), &[]));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }

    while sum(&program, "readygate_sessions_ended_total") < SESSIONS as u64 {}
    // Some 2.4 MB, of which the pipe and the queue take half.
    let dropped = dropped(&program);
    assert!(dropped > 50, "{dropped}");
    let (mut ended, mut said) = (0, Vec::new());
    while said.is_empty() {
        let line = program.log.next().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        ended += u64::from(line["message"] == "session ended");
        said.extend(line["lines"].as_u64());
    }
    assert_eq!(said, [dropped]);
    assert_eq!(ended + dropped, SESSIONS as u64);
    program.terminate();
    assert!(program.line_with("draining").contains("INFO"));
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn the_end_does_not_wait_for_whoever_does_not_read() {
    let mut program = Program::start(backend(&[]), "", &[], &[]);
    for _ in 0..20 {
        program.exchange(session(&long_path(), &[]));
    }

    program.terminate();

    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    let mut program = Program::start(backend(&[]), "", &[], &[]);

    for _ in 0..5 {
        program.exchange(session(&long_path(), &[]));
    }
    program.terminate();

    let rest: Vec<_> = program.log.by_ref().map(Result::unwrap).collect();
    let ended = rest.iter().filter(|line| line.contains("session ended"));
    assert_eq!(ended.count(), 5);
    assert!(rest.iter().any(|line| line.contains("draining")));
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_closed_standard_output_is_no_error() {
    let mut program = Program::start(backend(&[]), "", &[], &[]);
    program.close_log();

    for _ in 0..3 {
        let answer = program.exchange(session("/", &[]));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }

    while dropped(&program) < 3 {}
    program.terminate();
    assert_eq!(program.wait().code(), Some(0));
}
