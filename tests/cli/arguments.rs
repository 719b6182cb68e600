//! The command line itself: its errors and its help.

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
        (
            &["--config", "a", "check"],
            "write: readygate check --config FILE\n",
        ),
        (
            &["--workers", "2", "check"],
            "'--workers <N>' cannot stand before 'check'\n\n\
             Usage: readygate [OPTIONS]\n       readygate [--color <WHEN>] <COMMAND>\n",
        ),
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
        let output = command.output().unwrap();
        (stdout(&output).to_owned() + stderr(&output)).contains('\x1b')
    };

    // A wrong file, help, and a wrong command line.
    for arguments in [&["check"][..], &["check", "--help"], &["check", "--wrong"]] {
        let with = |color| is_colored(&[arguments, &["--color", color]].concat(), false);
        assert!(!is_colored(arguments, false), "{arguments:?}");
        assert!(!with("auto") && !with("never"), "{arguments:?}");
        assert!(with("always"), "{arguments:?}");
        let always = [&["--color=always"], arguments].concat();
        assert!(is_colored(&always, true), "{arguments:?}");
    }
    let output = run(directory.path(), &["--color", "never", "check"]);
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
}

/// Help on a command, in which each of `parts` stands.
fn help_with(command: &[&str], parts: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), &[command, &["--help"]].concat());
    assert_eq!(output.status.code(), Some(0), "{command:?}");
    let help = stdout(&output);
    for part in parts {
        assert!(help.contains(part), "{command:?} lacks {part:?}: {help}");
    }
    help.to_owned()
}

/// The names of the commands that a page of help lists.
fn commands(help: &str) -> Vec<&str> {
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names = commands
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names.filter(|command| *command != "help").collect()
}

/// Returns the exit statuses that a page of help explains.
fn statuses(help: &str) -> Vec<&str> {
    let (_, statuses) = help.split_once("Exit status:\n").unwrap();
    let lines = statuses.lines().map(str::trim_start);
    let numbers = lines.filter_map(|line| line.split_once("  "));
    numbers.map(|(numbers, _)| numbers).collect()
}

#[test]
fn help_has_an_example_and_the_statuses_of_each_command() {
    let help = help_with(&[], &["\nExamples:\n", "./proxy.toml"]);
    assert_eq!(statuses(&help), ["0", "1", "2", "78", "130, 143"]);
    let commands = commands(&help);
    assert!(commands.len() >= 9, "{commands:?}");
    for command in commands {
        let example = match command {
            // It is what happens without a command.
            "run" => "\n  readygate --config proxy.toml\n".to_owned(),
            "completions" => "readygate completions bash".to_owned(),
            command => format!("\n  readygate {command}"),
        };
        help_with(
            &[command],
            &["Usage: readygate ", "\nExamples:\n", &example],
        );
    }
    for (command, expected) in [
        ("run", &["0", "1", "2", "78", "130, 143"][..]),
        ("check", &["0", "2", "78"]),
        ("config", &["0", "2", "78"]),
        ("explain", &["0", "1", "2", "78"]),
        ("healthcheck", &["0", "1", "2", "78"]),
        ("drain", &["0", "1", "2", "78"]),
        ("demo", &["0", "1", "2"]),
    ] {
        assert_eq!(statuses(&help_with(&[command], &[])), expected, "{command}");
    }
}

#[test]
fn help_names_the_file_that_is_read_if_nobody_names_one() {
    for command in [
        &["run"][..],
        &["check"],
        &["config", "show"],
        &["explain"],
        &["healthcheck"],
        &["drain"],
    ] {
        let help = help_with(command, &["--config <FILE>"]);
        let (_, option) = help.split_once("--config <FILE>").unwrap();
        let option = option.split("\n  -").next().unwrap();
        assert!(option.contains("proxy.toml"), "{help}");
    }
}
