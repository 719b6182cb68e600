//! The command line itself: what is wrong with it, and its help.

use crate::support::{VALID, directory_with, run, stderr, stdout};

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
