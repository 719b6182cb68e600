//! What bounds sessions in operation.

use std::time::Duration;

use super::*;

#[test]
fn a_tunnel_is_bounded_where_the_file_says_so() {
    let tunnel = |settings: &str| {
        let route = route_with(&format!("[route.tunnel]\n{settings}"));
        let tunnel = route.session.tunnel;
        (
            tunnel.idle_timeout,
            tunnel.ping_interval,
            tunnel.max_session_age,
        )
    };
    let minutes = |minutes| Some(Duration::from_mins(minutes));

    assert_eq!(tunnel(""), (None, None, None));
    assert_eq!(
        tunnel("idle_timeout = \"\"\nping_interval = \"\"\nmax_session_age = \"\""),
        (None, None, None)
    );
    assert_eq!(
        tunnel("idle_timeout = \"5m\"\nping_interval = \"1m\"\nmax_session_age = \"59m\""),
        (minutes(5), minutes(1), minutes(59))
    );
}

#[test]
fn memory_is_bounded_by_a_size_a_share_or_not_at_all() {
    let bound = |value: &str| {
        let text = format!(
            "limits.max_memory_bytes = {value}\n[[route]]\nupstream = \"http://127.0.0.1:1\""
        );
        parse(&text).map(|config| config.limits.max_memory)
    };

    let size = bound("\"64MiB\"").unwrap().unwrap();
    assert_eq!(size.max_bytes, 64 << 20);
    assert_eq!(bound("\"\"").unwrap(), None);
    let default = parse("[[route]]\nupstream = \"http://127.0.0.1:1\"").unwrap();
    assert_eq!(default.limits.max_memory, bound("\"85%\"").unwrap());
    assert!(bound("\"50%\"").is_ok());
    assert!(bound("\"101%\"").is_err());
    assert!(bound("\"lots\"").is_err());
}

#[test]
fn a_breaker_is_as_the_file_says() {
    let breaker = |settings: &str| {
        let breaker = route_with(&format!("[route.breaker]\n{settings}")).breaker;
        (breaker.failures, breaker.cooldown)
    };
    let seconds = Duration::from_secs;

    assert_eq!(breaker(""), (5, seconds(5)));
    assert_eq!(breaker("failures = 0"), (0, seconds(5)));
    assert_eq!(
        breaker("failures = 20\ncooldown = \"1m\""),
        (20, seconds(60))
    );
}

#[test]
fn a_breaker_that_cannot_work_is_refused() {
    assert_refused(&[
        ("[route.breaker]\nfailures = -1", "expected a whole number"),
        (
            "[route.breaker]\nfailures = 4294967296",
            "expected less than 4294967296",
        ),
        ("[route.breaker]\ncooldown = \"0s\"", "must not be zero"),
        (
            "[route.breaker]\ncooldown = \"25h\"",
            "expected at most \"24h\"",
        ),
    ]);
}

#[test]
fn a_bound_of_a_tunnel_that_cannot_work_is_refused() {
    assert_refused(&[
        ("[route.tunnel]\nidle_timeout = \"0s\"", "must not be zero"),
        (
            "[route.tunnel]\nping_interval = \"30\"",
            "for seconds write \"30s\"",
        ),
        (
            "[route.tunnel]\nmax_session_age = 59",
            "`59` is not a duration",
        ),
        (
            "[route.tunnel]\nping_intervall = \"30s\"",
            "did you mean `ping_interval`?",
        ),
    ]);
}
