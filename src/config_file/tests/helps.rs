//! What somebody meant who wrote something else: one problem, and what to write instead.

use super::report;

/// Holds files against what their one problem says, or part of it.
fn assert_helped(files_and_helps: &[(&str, &str)]) {
    for (settings, help) in files_and_helps {
        let text = settings.replace("ROUTE", "[[route]]\nupstream = \"http://h\"");
        let report = report(&text);
        assert!(report.contains(help), "{settings}\n{report}");
        assert!(report.ends_with("has a problem"), "{settings}\n{report}");
    }
}

#[test]
fn a_matcher_written_as_fields_is_shown_as_json() {
    assert_helped(&[
        (
            "ROUTE\ngate.ready = { type = \"x\" }",
            "write { json = { \"/type\" = \"x\" } }",
        ),
        (
            "ROUTE\n[[route.message]]\nmatch = { type = \"x\", n = 1 }",
            "write { json = { \"/n\" = 1, \"/type\" = \"x\" } }",
        ),
        (
            "ROUTE\ngate.ready = { \"/type\" = [\"x\", 'y\"'] }",
            "write { json = { \"/type\" = [\"x\", 'y\"'] } }",
        ),
        (
            "ROUTE\ngate.ready = [{ text = \"a\" }, { \"$.type\" = true }]",
            "write { json = { \"/type\" = true } }",
        ),
        (
            "ROUTE\n[route.gate.ready]\ntype = \"x\"",
            "write { json = { \"/type\" = \"x\" } }",
        ),
        (
            "ROUTE\ngate.ready = { op = 10 }",
            "write { json = { \"/op\" = 10 } }",
        ),
        ("ROUTE\ngate.ready = \"up\"", "write { text = \"up\" }"),
        // A letter is wrong, or the field has none of the values that there may be.
        (
            "ROUTE\ngate.ready = { txt = \"x\" }",
            "did you mean `text`?",
        ),
        (
            "ROUTE\ngate.ready = { type = { a = 1 } }",
            "expected `first`, `on`",
        ),
    ]);
}

#[test]
fn a_field_in_another_notation_is_shown_as_a_json_pointer() {
    for (written, pointer) in [
        ("$.event", "/event"),
        ("$.a.b", "/a/b"),
        (".event", "/event"),
        ("$['a']['b c']", "/a/b c"),
        ("$.items[0].x", "/items/0/x"),
        ("items[12]", "/items/12"),
        ("a.b~", "/a/b~0"),
        ("$", "\"\""),
        ("#/event", "/event"),
    ] {
        let text = format!("ROUTE\ngate.ready = {{ json = {{ \"{written}\" = 1 }} }}");
        let expected = if pointer == "\"\"" {
            "write \"\"".to_owned()
        } else {
            format!("write \"{pointer}\"")
        };
        assert_helped(&[(&text, &expected)]);
    }
}

#[test]
fn a_listener_written_in_another_way_is_shown_as_an_address() {
    assert_helped(&[
        ("listen = 18080\nROUTE", "write \"0.0.0.0:18080\""),
        ("listen = \":80\"\nROUTE", "write \"0.0.0.0:80\""),
        ("listen = \"*:80\"\nROUTE", "write \"0.0.0.0:80\""),
        (
            "listen = \"http://127.0.0.1:80/\"\nROUTE",
            "write \"127.0.0.1:80\"",
        ),
        ("listen = \"127.0.0.1\"\nROUTE", "write \"127.0.0.1:8080\""),
        (
            "listen = [\"0.0.0.0:80\", \"[::1]:80\"]\nROUTE",
            "write [{ address = \"0.0.0.0:80\" }, { address = \"[::1]:80\" }]",
        ),
        (
            "listen = [80, \":81\"]\nROUTE",
            "write [{ address = \"0.0.0.0:80\" }, { address = \"0.0.0.0:81\" }]",
        ),
        ("listen.address = \"0.0.0.0:80\"\nROUTE", "write [[listen]]"),
        ("[[listen]]\naddress = 80\nROUTE", "write \"0.0.0.0:80\""),
        // Nobody but this machine is meant to ask it.
        ("admin.listen = 9901\nROUTE", "write \"127.0.0.1:9901\""),
        (
            "admin = 9901\nROUTE",
            "write admin.listen = \"127.0.0.1:9901\"",
        ),
        ("admin = false\nROUTE", "write admin.listen = \"\""),
    ]);
}

#[test]
fn a_duration_written_in_another_way_is_shown_in_one_unit() {
    for (written, help) in [
        ("1m30s", "write \"90s\""),
        ("1h30m", "write \"90m\""),
        ("1.5s", "write \"1500ms\""),
        ("0.5m", "write \"30s\""),
        ("30 seconds", "write \"30s\""),
        ("5min", "write \"5m\""),
        ("30S", "write \"30s\""),
        ("1d", "write \"24h\""),
        ("30", "for seconds write \"30s\""),
        ("1500us", "expected a whole number and a unit"),
        ("soon", "expected a whole number and a unit"),
        ("1m-30s", "expected a whole number and a unit"),
    ] {
        let text = format!("ROUTE\ngate.timeout = \"{written}\"");
        assert_helped(&[(&text, help)]);
    }
}

#[test]
fn a_table_with_a_letter_wrong_is_one_problem() {
    let did_you_mean = "did you mean `route`?";
    assert_helped(&[
        ("[[routes]]\nupstream = \"http://h\"", did_you_mean),
        (
            "[[routes]]\nupstream = \"http://h\"\n[routes.gate]\nready = { type = 1 }\n\
             [[routes]]\nupstream = \"http://i\"",
            did_you_mean,
        ),
        ("[[Route]]\nupstream = \"http://h\"", did_you_mean),
        ("[rout]\nupstream = \"http://h\"", did_you_mean),
        (
            "ROUTE\n[[route.messages]]\nmatch = { type = 1 }",
            "did you mean `message`?",
        ),
    ]);
}

#[test]
fn a_variable_without_braces_is_named_as_the_reason() {
    assert_helped(&[
        (
            "[[route]]\nupstream = \"http://$HOST:$PORT\"",
            "for the variable write ${HOST}",
        ),
        (
            "ROUTE\ngate.timeout = \"$WAIT\"",
            "for the variable write ${WAIT}",
        ),
    ]);
}

#[test]
fn a_list_where_there_may_be_one_is_told_so() {
    assert_helped(&[
        (
            "[[route]]\nupstream = [\"http://a\", \"http://b\"]",
            "expected one address",
        ),
        (
            "ROUTE\nhost = [\"a\", \"b\"]",
            "write one [[route]] for each",
        ),
        (
            "ROUTE\npath = [\"/a\", \"/b\"]",
            "write one [[route]] for each",
        ),
        ("ROUTE\nsubprotocols = \"a\"", "write [\"a\"]"),
        ("ROUTE\norigins = \"https://a\"", "write [\"https://a\"]"),
        (
            "trusted_proxies = \"private\"\nROUTE",
            "write [\"private\"]",
        ),
        (
            "ROUTE\ngate.timeout = [\"1s\"]",
            "expected a string or a number",
        ),
    ]);
    for text in [
        "[[route]]\nupstream = [\"http://a\"]",
        "ROUTE\nhost = [\"a\"]",
    ] {
        let text = text.replace("ROUTE", "[[route]]\nupstream = \"http://h\"");
        let report = report(&text);
        assert!(!report.contains("number"), "{report}");
    }
}
