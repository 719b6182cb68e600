//! Names and passwords in URLs, however they are written: no report shows a piece of them.

use super::parse;
use crate::config_file::address;

#[test]
fn a_password_is_hidden_however_the_file_writes_it() {
    for settings in [
        r#"upstream = "http://kiwi:plum\nyuzu@h""#,
        r#"upstream = "http://kiwi:plum`yuzu@h""#,
        r#"upstream = "http://kiwi:plum\"yuzu@h""#,
        r#"upstream = "http://kiwi:plum yuzu@h/path""#,
        r#"upstream = "http://kiwi:plum\u000ayuzu\u0040h""#,
        r#"upstream = "http\u003a//kiwi:plum\tyuzu\u0040h""#,
        "upstream = \"\"\"http://kiwi:plum\nyuzu@h\"\"\"",
        "upstream = '''http://kiwi:plum'\nyuzu@h'''",
        r#"upstream = "ws://kiwi:plum\nyuzu@h""#,
        r#"upstream = "kiwi:plum\nyuzu@h""#,
        r#"upstream = "kiwi:${SEC:-plum}\nyuzu@h""#,
        "upstream = \"http://kiwi:plum\nyuzu@h\"",
        r#"origins = ["http://kiwi:plum\nyuzu@h"]"#,
        r#"origins = ["https://a.example", "http://kiwi:plum\nyuzu@h/"]"#,
        r#"hold.overflow = "http://kiwi:plum\nyuzu@h""#,
        r#"hold.max_age = { "http://kiwi:plum\nyuzu@h" = 1 }"#,
        r#"gate.ready = { json = { "http://kiwi.plum\n:yuzu@h" = 1 } }"#,
        r#"gate.ready = { regex = "(http://kiwi:plum\nyuzu@h" }"#,
        r#""http://kiwi:plum\nyuzu@h" = 1"#,
        r#"close_codes = { "http://kiwi:plum\nyuzu@h" = 1 }"#,
    ] {
        let upstream = if settings.starts_with("upstream") {
            ""
        } else {
            "upstream = \"http://b\"\n"
        };

        let problems = parse(&format!("[[route]]\n{upstream}{settings}\n")).unwrap_err();

        for report in [problems.to_string(), problems.render(true)] {
            for piece in ["kiwi", "plum", "yuzu"] {
                assert!(!report.contains(piece), "{settings}\n{report}");
            }
        }
    }
}

#[test]
fn an_argument_with_a_password_is_refused_without_it() {
    for text in [
        "http://kiwi:plum\nyuzu@h",
        "http://kiwi:plum`yuzu@h",
        "kiwi:plum\nyuzu@h",
        "kiwi:plum`yuzu@h",
        "ws://kiwi:plum\nyuzu@h",
        "unix:kiwi:plum\nyuzu@h",
    ] {
        for mistake in [
            address::upstream(text).unwrap_err(),
            address::listen(text).unwrap_err(),
        ] {
            let shown = mistake.to_string();
            for piece in ["kiwi", "plum", "yuzu"] {
                assert!(!shown.contains(piece), "{shown}");
            }
        }
    }
}
