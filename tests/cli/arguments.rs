//! The command line itself: what is wrong with it, and its help.

use crate::support::{VALID, directory_with, readygate, run, stderr, stdout};

#[test]
fn a_wrong_command_line_exits_with_2() {
    let directory = directory_with("proxy.toml", VALID);

    for (arguments, reason) in [
        (&["--upstrem", "http://a"][..], "--upstream"),
        (
            &["--config", "a", "--upstream", "http://a"],
            "cannot be used with",
        ),
        (&["--upstream", "a:1"], "write \"http://a:1\""),
        (&["--workers", "0"], "expected 1 to 4096"),
        (&["--listen", "8080"], "write \"0.0.0.0:8080\""),
        (&["start"], "unrecognized subcommand"),
        (&["demo", "--clients", "51"], "is not in 1..=50"),
    ] {
        let output = run(directory.path(), arguments);

        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            stderr(&output).contains(reason),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    let directory = tempfile::tempdir().unwrap();

    let help = run(directory.path(), &["--help"]);
    let version = run(directory.path(), &["--version"]);

    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Exit status:"));
    assert_eq!(version.status.code(), Some(0));
    assert!(stdout(&version).starts_with("readygate "));
}

#[test]
fn colours_are_for_terminals_unless_somebody_says_otherwise() {
    let directory = directory_with("proxy.toml", "workers = 0");
    let is_colored = |arguments: &[&str], no_color: bool| {
        let mut command = readygate(directory.path(), arguments);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        stderr(&command.output().unwrap()).contains('\x1b')
    };

    assert!(!is_colored(&["check"], false));
    assert!(is_colored(&["check", "--color", "always"], false));
    assert!(is_colored(&["--color=always"], true));
    assert!(!is_colored(&["run", "--color", "never"], false));
}

#[test]
fn every_command_has_a_page_of_help() {
    let directory = tempfile::tempdir().unwrap();
    let help = run(directory.path(), &["--help"]);
    let (_, commands) = stdout(&help).split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let commands = commands
        .lines()
        .map(|line| line.split_whitespace().next().unwrap());
    let commands: Vec<_> = commands.filter(|command| *command != "help").collect();
    assert!(commands.len() >= 9, "{commands:?}");
    for command in commands {
        let help = run(directory.path(), &[command, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{command}");
        assert!(stdout(&help).contains("Usage: readygate "), "{command}");
    }
}
