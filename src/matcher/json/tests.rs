//! JSON as clients and upstreams send it, well formed and not, whole and cut off.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn json<'a>(conditions: impl IntoIterator<Item = (&'a str, Scalar)>) -> Json {
    let conditions = conditions.into_iter();
    Json::new(conditions.map(|(pointer, value)| (pointer, vec![value]))).unwrap()
}

fn string(text: &str) -> Scalar {
    Scalar::String(text.to_owned())
}

fn float(number: f64) -> Scalar {
    Scalar::Number(number.into())
}

fn matches_whole(json: &Json, document: &str) -> bool {
    json.matches(&Sample {
        is_text: true,
        payload: document.as_bytes(),
        is_whole: true,
    })
}

fn matches_beginning(json: &Json, document: &[u8]) -> bool {
    json.matches(&Sample {
        is_text: true,
        payload: document,
        is_whole: false,
    })
}

#[test]
fn every_condition_must_hold() {
    let both = json([("/type", string("ready")), ("/session/state", 2.into())]);

    assert!(matches_whole(
        &both,
        r#"{"session":{"id":"x","state":2},"type":"ready"}"#
    ));
    assert!(!matches_whole(
        &both,
        r#"{"session":{"state":3},"type":"ready"}"#
    ));
    assert!(!matches_whole(&both, r#"{"type":"ready"}"#));
}

#[test]
fn any_one_of_the_values_will_do() {
    let json = Json::new([("/type", vec![string("typing"), string("heartbeat")])]).unwrap();

    assert!(matches_whole(&json, r#"{"type":"heartbeat"}"#));
    assert!(!matches_whole(&json, r#"{"type":"message"}"#));
}

#[test]
fn pointers_are_read_as_rfc_6901_has_them() {
    // The examples of RFC 6901 §5.
    let document = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,
        "k\"l":6," ":7,"m~n":8}"#;
    for (pointer, value) in [
        ("/foo/0", string("bar")),
        ("/", 0.into()),
        ("/a~1b", 1.into()),
        ("/c%d", 2.into()),
        ("/e^f", 3.into()),
        ("/g|h", 4.into()),
        ("/i\\j", 5.into()),
        ("/k\"l", 6.into()),
        ("/ ", 7.into()),
        ("/m~0n", 8.into()),
    ] {
        assert!(
            matches_whole(&json([(pointer, value)]), document),
            "{pointer}"
        );
    }
    assert!(!matches_whole(
        &json([("/foo/00", string("bar"))]),
        document
    ));
    assert!(!matches_whole(&json([("/foo/-", string("bar"))]), document));
}

#[test]
fn the_empty_pointer_is_the_whole_document() {
    assert!(matches_whole(
        &json([("", string("ready"))]),
        r#" "ready" "#
    ));
}

#[test]
fn what_is_no_pointer_is_refused() {
    let error = |pointer| Json::new([(pointer, vec![1.into()])]).unwrap_err();

    assert_eq!(error("type"), PointerError::NoSlash);
    assert_eq!(error("/a~b"), PointerError::Escape);
    assert_eq!(error("/a~"), PointerError::Escape);
}

#[test]
fn numbers_are_compared_by_value() {
    for same in ["1", "1.0", "10e-1", "1E0"] {
        assert!(matches_whole(&json([("", 1.into())]), same), "{same}");
        assert!(matches_whole(&json([("", float(1.0))]), same), "{same}");
    }
    assert!(matches_whole(&json([("", float(0.5))]), "5e-1"));
    assert!(matches_whole(&json([("", 0.into())]), "-0"));
    assert!(!matches_whole(&json([("", 1.into())]), "\"1\""));
    // These two have the same nearest f64.
    let large = json([("", 9_007_199_254_740_993_i64.into())]);
    assert!(matches_whole(&large, "9007199254740993"));
    assert!(!matches_whole(&large, "9007199254740992"));
}

#[test]
fn the_last_of_two_equal_keys_counts() {
    let json = json([("/a/b", 1.into())]);

    assert!(matches_whole(&json, r#"{"a":0,"a":{"b":2,"b":1}}"#));
    assert!(!matches_whole(&json, r#"{"a":{"b":1},"a":{}}"#));
    assert!(!matches_whole(&json, r#"{"a":{"b":1},"\u0061":null}"#));
}

#[test]
fn what_is_not_json_does_not_match() {
    let json = json([("/a", 1.into())]);

    for text in [
        r#"{"a":1"#,
        r#"{"a":1} {"#,
        r#"{"a":1}x"#,
        r#"{"a":1,}"#,
        r#"{"a":1,"b":tru}"#,
        r"{'a':1}",
        "",
    ] {
        assert!(!matches_whole(&json, text), "{text}");
    }
    let not_utf8 = Sample {
        is_text: false,
        payload: b"{\"a\":1,\"b\":\"\xff\"}",
        is_whole: true,
    };
    assert!(!json.matches(&not_utf8));
}

#[test]
fn a_beginning_matches_once_every_value_was_seen() {
    let document = r#"{"type":"ready","n":12,"ok":true,"text":"é…"}"#;
    let type_only = json([("/type", string("ready"))]);
    let number = json([("/n", 12.into())]);
    let one = json([("/n", 1.into())]);
    let truth = json([("/ok", Scalar::Bool(true))]);
    let seen = |value: &str| document.find(value).unwrap() + value.len();

    for end in 0..=document.len() {
        let payload = &document.as_bytes()[..end];
        let is_after = |value| end >= seen(value);
        assert_eq!(
            matches_beginning(&type_only, payload),
            is_after("\"ready\""),
            "{end}"
        );
        // Without the comma the number might go on.
        assert_eq!(
            matches_beginning(&number, payload),
            is_after("12,"),
            "{end}"
        );
        assert_eq!(
            matches_beginning(&truth, payload),
            is_after("true"),
            "{end}"
        );
        assert!(!matches_beginning(&one, payload), "{end}");
    }
}

#[test]
fn a_beginning_that_is_not_json_does_not_match() {
    let json = json([("/a", 1.into())]);

    assert!(!matches_beginning(&json, br#"{"a":1,]"#));
    assert!(!matches_beginning(&json, br#"{"a":1}{"b":"#));
    assert!(!matches_beginning(&json, b"{\"a\":1,\"\xff\xff"));
}

#[test]
fn deep_nesting_and_many_duplicates_are_read_in_one_pass() {
    const BYTES: usize = 256 * 1024;
    let json = json([("/a/b", 1.into()), ("/c/0", 2.into())]);

    let ignored_depth = format!("{{\"x\":{}", "[".repeat(BYTES));
    assert!(!matches_whole(&json, &ignored_depth));
    let closed = format!(
        "{{\"x\":{}{},\"a\":{{\"b\":1}},\"c\":[2]}}",
        "[".repeat(BYTES / 2),
        "]".repeat(BYTES / 2)
    );
    assert!(matches_whole(&json, &closed));
    let wanted_depth = format!("{{\"a\":{}", "{\"b\":".repeat(BYTES / 5));
    assert!(!matches_whole(&json, &wanted_depth));
    let duplicates = format!(
        "{{{}\"a\":{{\"b\":1}},\"c\":[2]}}",
        "\"a\":{},".repeat(BYTES / 7)
    );
    assert!(matches_whole(&json, &duplicates));
}

/// Any JSON document, written with duplicate keys where they fell.
fn document() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        (-2_i64..3).prop_map(|value| value.to_string()),
        prop_oneof![Just("1.0"), Just("0.5"), Just("1e0"), Just("-0")].prop_map(str::to_owned),
        key().prop_map(|value| Value::String(value).to_string()),
    ];
    scalar.prop_recursive(4, 40, 4, |inner| {
        let member = (key(), inner.clone())
            .prop_map(|(key, value)| format!("{}: {value}", Value::String(key)));
        prop_oneof![
            prop::collection::vec(inner, 0..4)
                .prop_map(|elements| format!("[{}]", elements.join(", "))),
            prop::collection::vec(member, 0..5)
                .prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a"),
        Just("b"),
        Just("0"),
        Just("1"),
        Just("~/"),
        Just("é\"")
    ]
    .prop_map(str::to_owned)
}

fn pointer() -> impl Strategy<Value = String> {
    let token = prop_oneof![Just("a"), Just("b"), Just("0"), Just("1"), Just("~0~1")];
    prop::collection::vec(token, 0..4).prop_map(|tokens| {
        let tokens = tokens.iter().map(|token| format!("/{token}"));
        tokens.collect()
    })
}

fn wanted() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        any::<bool>().prop_map(Scalar::Bool),
        (-2_i64..3).prop_map(Scalar::from),
        prop_oneof![Just(0.5), Just(1.0)].prop_map(float),
        key().prop_map(Scalar::String),
    ]
}

fn is_equal(value: &Value, wanted: &Scalar) -> bool {
    match (value, wanted) {
        (Value::Bool(value), Scalar::Bool(wanted)) => value == wanted,
        (Value::String(value), Scalar::String(wanted)) => value == wanted,
        (Value::Number(value), Scalar::Number(wanted)) => {
            value.as_f64().map(Number::from) == Some(*wanted)
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn the_stream_agrees_with_the_document_in_memory(
        document in document(),
        conditions in prop::collection::btree_map(pointer(), wanted(), 1..4),
    ) {
        let parsed: Value = serde_json::from_str(&document).unwrap();
        let expected = conditions.iter().all(|(pointer, wanted)| {
            parsed.pointer(pointer).is_some_and(|value| is_equal(value, wanted))
        });
        let conditions = conditions.iter();
        let json = json(conditions.map(|(pointer, wanted)| (pointer.as_str(), wanted.clone())));

        prop_assert_eq!(matches_whole(&json, &document), expected);
        if document.ends_with(['}', ']', '"']) {
            prop_assert_eq!(matches_beginning(&json, document.as_bytes()), expected);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let json = json([("/a", 1.into())]);

        prop_assert!(!matches_beginning(&json, &payload) || payload.contains(&b'a'));
    }
}
