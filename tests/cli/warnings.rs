//! Warnings of `check` and of the start: settings that are valid, and probably a mistake.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use crate::support::{Killed, directory_with, readygate, run, stderr, stdout};

/// Returns the warnings of `check` for a valid file with these settings.
fn warnings(settings: &str) -> String {
    let text = settings.replace("ROUTE", "[[route]]\nupstream = \"http://127.0.0.1:8081\"");
    let directory = directory_with("proxy.toml", &text);
    let mut check = readygate(directory.path(), &["check"]);
    let output = check.env("HOST", "a").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("proxy.toml is valid"));
    stderr(&output).to_owned()
}

/// A route whose gate waits for a message.
const GATED: &str = "ROUTE\ngate.ready = { text = \"ready\" }";

#[test]
fn a_default_gate_that_holds_nothing_is_shown_with_its_rule() {
    let rule = "[[route.message]]\nmatch = { prefix = \"say:\" }\npriority = \"high\"";

    assert_eq!(
        warnings(&format!("ROUTE\n{rule}")),
        r#"warning: this route holds nothing once the upstream has answered with 101
 --> proxy.toml:1:1
  |
1 | [[route]]
  | ^^^^^^^^^ `gate.ready` is the default, { on = "upgrade" }
2 | upstream = "http://127.0.0.1:8081"
3 | [[route.message]]
  | ----------------- these messages are held until then only
  |
  = help: say in [route.gate] which message makes the session `ready`; if it is the 101, write ready = { on = "upgrade" }

"#
    );
    for quiet in [
        GATED.to_owned(),
        format!("{GATED}\n{rule}"),
        format!("ROUTE\n[route.gate]\nready = {{ on = \"upgrade\" }}\n{rule}"),
        "ROUTE\npath = \"/api\"".to_owned(),
        "ROUTE\npath = \"/rows\"\nhost = \"news.example\"".to_owned(),
        "ROUTE\npath = \"/ws\"\naccept = \"after-upstream\"".to_owned(),
    ] {
        assert_eq!(warnings(&quiet), "", "{quiet}");
    }
}

#[test]
fn a_default_gate_on_a_route_named_like_a_protocol_warns() {
    for settings in [
        "path = \"/ws\"",
        "path = \"/api/v1/agents\"",
        "path = \"=/live/chat-room\"",
        "host = \"realtime.example\"",
        "gate.forward_ready = false",
        "gate.services_ready = { text = \"up\" }",
    ] {
        let warnings = warnings(&format!("ROUTE\n{settings}"));
        assert!(warnings.contains("holds nothing once"), "{warnings}");
        assert_eq!(warnings.matches("warning").count(), 1, "{warnings}");
    }
}

#[test]
fn what_stands_for_itself_in_a_path_is_shown() {
    for (path, prefix) in [
        ("/agent/*", "/agent"),
        ("/a/*/b", "/a"),
        ("/*", "/"),
        ("=/agent/*", "/agent"),
        ("/a/:id", "/a"),
        ("/a*", "/"),
    ] {
        let warnings = warnings(&format!("{GATED}\npath = \"{path}\""));
        assert!(warnings.contains("stands for itself"), "{warnings}");
        let help = format!("write \"{prefix}\"\n");
        assert!(warnings.contains(&help), "{path}\n{warnings}");
    }
    assert_eq!(warnings(&format!("{GATED}\npath = \"/a/b:c\"")), "");
}

#[test]
fn a_variable_without_braces_is_shown() {
    for text in [
        "ROUTE\ngate.ready = { text = \"$HOST\" }",
        "ROUTE\ngate.ready = { prefix = \"a $SOME_NAME b\" }",
        "ROUTE\ngate.ready = { json = { \"/a\" = [\"x\", \"$HOST\"] } }",
        "[[route]]\nupstream = \"http://$HOST\"",
    ] {
        let warnings = warnings(text);
        assert!(warnings.contains("is no variable"), "{text}\n{warnings}");
        assert!(warnings.contains("write ${"), "{text}\n{warnings}");
    }
    for quiet in [
        "ROUTE\ngate.ready = { regex = '^ready$' }",
        "ROUTE\ngate.ready = { text = '{\"$ref\":1}' }",
        "ROUTE\ngate.ready = { text = \"$$HOST ${HOST} 5$\" }",
    ] {
        assert_eq!(warnings(quiet), "", "{quiet}");
    }
}

#[test]
fn a_text_that_never_matches_and_an_unreachable_rule_warn() {
    let rules = |rules: &[&str]| {
        let rules = rules
            .iter()
            .map(|it| format!("\n[[route.message]]\nmatch = {it}"));
        warnings(&(GATED.to_owned() + &rules.collect::<String>()))
    };

    let empty = warnings("ROUTE\ngate.ready = { text = \"\" }");
    assert!(empty.contains("only an empty message"), "{empty}");
    for twice in [
        ["{ text = \"a\" }", "{ text = \"a\" }"],
        ["[{ text = \"a\" }, { regex = \"b\" }]", "{ regex = \"b\" }"],
    ] {
        let shown = rules(&twice);
        assert!(shown.contains("no message gets to this rule"), "{shown}");
        assert!(
            shown.contains("\n4 |") && shown.contains("\n6 |"),
            "{shown}"
        );
    }
    assert_eq!(
        rules(&["{ text = \"a\" }", "[{ text = \"a\" }, { text = \"b\" }]"]),
        ""
    );
}

#[test]
fn the_start_warns_in_its_log_and_runs() {
    let text = "workers = 1\nlisten = \"127.0.0.1:0\"\nadmin.listen = \"\"\n\
                [[route]]\npath = \"/agent/*\"\nupstream = \"http://127.0.0.1:1\"\n";
    let directory = directory_with("proxy.toml", text);
    let mut start = readygate(directory.path(), &["run", "--log-format", "text"]);
    let mut program = Killed(start.stdout(Stdio::piped()).spawn().unwrap());

    let log = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut warnings = log
        .map_while(Result::ok)
        .filter(|line| line.contains("WARN"));

    let gate = warnings.next().unwrap();
    let place = "proxy.toml:4: this route holds nothing";
    assert!(gate.contains(place), "{gate}");
    let path = warnings.next().unwrap();
    assert!(path.contains("proxy.toml:5: "), "{path}");
    assert!(path.contains("write \"/agent\""), "{path}");
}

#[test]
fn the_shipped_file_is_warned_of_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));

    assert_eq!(stderr(&run(root, &["check"])), "");
}
