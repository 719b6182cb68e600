//! `readygate config`: effective settings, defaults, schema.

use std::fs;

use crate::support::{VALID, directory_with, readygate, run, stderr, stdout};

#[test]
fn the_default_is_the_shipped_file_and_valid() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &["config", "default"]);
    assert_eq!(stdout(&output), include_str!("../../proxy.toml"));

    fs::write(directory.path().join("proxy.toml"), &output.stdout).unwrap();
    let checked = run(directory.path(), &["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
}

#[test]
fn effective_settings_show_their_origin_and_load_as_a_file() {
    let directory = directory_with("proxy.toml", &format!("workers = \"${{N}}\"\n{VALID}"));
    fs::write(
        directory.path().join("secret.toml"),
        format!("{VALID}gate.ready = {{ text = \"${{TOKEN}}\" }}\n"),
    )
    .unwrap();
    let show = |arguments: &[&str]| {
        let output = readygate(directory.path(), &["config", "show"])
            .args(arguments)
            .envs([("N", "3"), ("TOKEN", "canary")])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).to_owned()
    };

    let shown = show(&["--listen", "127.0.0.1:1"]);
    let secret = show(&["--config", "secret.toml"]);
    let upstream = show(&["--upstream", "http://127.0.0.1:9"]);

    for line in [
        "workers = \"3\" # environment",
        "listen = \"127.0.0.1:1\" # command line",
        "upstream = \"http://127.0.0.1:8081\" # file",
        "max_headers = 100 # default",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            shown.lines().any(|shown| words(shown) == line),
            "{line}: {shown}"
        );
    }
    assert!(
        secret.contains("${TOKEN}") && !secret.contains("canary"),
        "{secret}"
    );
    assert!(upstream.contains("\"http://127.0.0.1:9\""), "{upstream}");
    fs::write(directory.path().join("shown.toml"), shown).unwrap();
    let checked = run(directory.path(), &["check", "--config", "shown.toml"]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    assert!(stdout(&checked).contains("1 route, 3 workers, listening on 127.0.0.1:1"));
}

#[test]
fn what_is_shown_of_the_command_line_reads_back_as_it_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let said = [
        "--upstream",
        "unix:/run/${NOT_A_VARIABLE}",
        "--listen",
        "unix:/run/$${N}",
    ];
    let shown = run(directory.path(), &[&["config", "show"], &said[..]].concat());
    fs::write(directory.path().join("shown.toml"), stdout(&shown)).unwrap();

    let again = run(
        directory.path(),
        &["config", "show", "--config", "shown.toml"],
    );

    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    let lines = |text: &str| {
        let values = text.lines().filter_map(|line| line.split_once(" # "));
        let values = values.map(|(value, _)| value.trim_end().to_owned());
        values.collect::<Vec<_>>()
    };
    assert_eq!(lines(stdout(&again)), lines(stdout(&shown)));
    let checked = run(directory.path(), &["check", "--config", "shown.toml"]);
    assert!(
        stdout(&checked).contains("listening on unix:/run/$${N}"),
        "{}",
        stdout(&checked)
    );
}

#[test]
fn a_file_that_is_wrong_is_not_shown() {
    let directory = directory_with("proxy.toml", "workers = 0");

    let output = run(directory.path(), &["config", "show"]);

    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("proxy.toml:1:11"));
}

#[test]
fn the_reference_in_docs_is_that_of_the_keys() {
    let directory = tempfile::tempdir().unwrap();

    let output = run(directory.path(), &["config", "reference"]);

    assert!(
        stdout(&output) == include_str!("../../docs/configuration.md"),
        "run: cargo run -- config reference > docs/configuration.md"
    );
}

#[test]
fn the_schema_is_json() {
    let directory = tempfile::tempdir().unwrap();

    let output = run(directory.path(), &["config", "schema"]);

    let schema: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(
        schema["properties"]["limits"]["additionalProperties"],
        false
    );
}
