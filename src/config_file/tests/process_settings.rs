//! Settings of the process.

use super::*;

#[test]
fn the_default_port_comes_from_the_environment() {
    let route = "[[route]]\nupstream = \"http://127.0.0.1:8081\"";
    let listen = |port: Option<&str>| {
        let environment = |name: &str| port.filter(|_| name == "PORT").map(str::to_owned);
        Config::parse("proxy.toml", route, &environment).map(|config| config.listen)
    };
    let on = |port: u16| vec![ListenAddress::Tcp(([0, 0, 0, 0], port).into()).into()];

    assert_eq!(listen(None), Ok(on(8080)));
    assert_eq!(listen(Some("")), Ok(on(8080)));
    assert_eq!(listen(Some("9090")), Ok(on(9090)));
    assert_eq!(
        listen(Some("http")).unwrap_err().to_string(),
        "\
error: the environment variable PORT is not a port
 |
 = note: expected a number from 0 to 65535

error: proxy.toml has a problem"
    );
}

#[test]
fn a_garbled_port_is_ignored_where_the_file_listens() {
    let text = "listen = \"127.0.0.1:1\"\n[[route]]\nupstream = \"http://127.0.0.1:8081\"";

    assert!(Config::parse("proxy.toml", text, &|_| Some("x".to_owned())).is_ok());
}

#[test]
fn several_listeners_are_tables() {
    let text = "\
[[listen]]
address = \"127.0.0.1:1\"
[[listen]]
address = \"unix:/run/gate.sock\"
[[route]]
upstream = \"http://127.0.0.1:8081\"";

    assert_eq!(
        parse(text).unwrap().listen,
        [
            ListenAddress::Tcp(([127, 0, 0, 1], 1).into()).into(),
            ListenAddress::Unix("/run/gate.sock".into()).into()
        ]
    );
}

#[test]
fn http_2_is_taken_where_a_listener_says_so() {
    let text = "\
listen = [{ address = \"127.0.0.1:1\", h2c = true }, { address = \"127.0.0.1:2\" }]
limits.max_streams = 7
[[route]]
upstream = \"http://127.0.0.1:8081\"";

    let config = parse(text).unwrap_or_else(|problems| panic!("{problems}"));

    let h2c: Vec<_> = config.listen.iter().map(|listener| listener.h2c).collect();
    assert_eq!(h2c, [true, false]);
    assert_eq!(config.limits.max_streams, 7);
}

#[test]
fn an_empty_limit_is_none() {
    let text = "\
[limits]
max_connections_per_address = \"\"
session_rate = 50
session_rate_per_address = \"\"
[[route]]
upstream = \"http://127.0.0.1:8081\"
[route.http]
max_body_bytes = \"1MiB\"
";
    let config = parse(text).unwrap();

    assert_eq!(config.limits.max_connections_per_address, None);
    assert_eq!(config.limits.session_rate, Some(50));
    assert_eq!(config.limits.session_rate_per_address, None);
    let route = config.routes.iter().next().unwrap();
    assert_eq!(route.http.max_body_bytes, Some(1 << 20));
}

#[test]
fn the_proxy_protocol_is_set_by_listener_and_by_route() {
    let text = "\
trusted_proxies = [\"10.0.0.0/8\"]
[[listen]]
address = \"127.0.0.1:1\"
proxy_protocol = true
[[route]]
upstream = \"http://127.0.0.1:8081\"
proxy_protocol = \"v2\"
";
    let config = parse(text).unwrap();

    assert!(config.listen[0].proxy_protocol);
    assert!(
        !config
            .routes
            .iter()
            .next()
            .unwrap()
            .upstream
            .may_share_connections()
    );
    assert!(route_with("").upstream.may_share_connections());
}

#[test]
fn trusted_proxies_are_networks_addresses_and_words() {
    let trusted = |list: &str| {
        let text =
            format!("trusted_proxies = {list}\n[[route]]\nupstream = \"http://127.0.0.1:8081\"");
        parse(&text).unwrap().trusted_proxies
    };
    let networks = |list: &str| -> Vec<_> {
        let networks = trusted(list).networks;
        networks.iter().map(ToString::to_string).collect()
    };

    assert!(trusted("[]").is_empty());
    assert_eq!(
        networks("[\"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\", \"::1\"]"),
        ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::1/128"]
    );
    assert!(networks("[\"private\"]").contains(&"169.254.0.0/16".to_owned()));
    assert!(trusted("[\"unix\"]").unix);
}

#[test]
fn impossible_values_of_the_process_are_refused_with_reasons() {
    for (settings, reason) in [
        ("listen = \"localhost:80\"", "write \"127.0.0.1:80\""),
        ("listen = 80", "write \"0.0.0.0:80\""),
        ("listen = []", "expected at least one address"),
        ("[[listen]]", "this listener has no address"),
        (
            "listen = [{ address = \"0.0.0.0:1\" }, { address = \"0.0.0.0:1\" }]",
            "already",
        ),
        ("workers = -1", "\"auto\" for one per core"),
        (
            "listen = [{ address = \"0.0.0.0:1\", proxy_protocol = true }]",
            "there are no trusted proxies",
        ),
        (
            "listen = [{ address = \"0.0.0.0:1\", proxy_protocol = \"v1\" }]",
            "expected true or false",
        ),
        ("trusted_proxies = \"10.0.0.0/8\"", "expected a list"),
        ("trusted_proxies = [\"all\"]", "is not a network"),
        ("trusted_proxies = [\"10.0.0.0/33\"]", "is not a network"),
        (
            "trusted_proxies = [\"10.1.0.0/8\"]",
            "expected \"10.0.0.0/8\", or \"10.1.0.0\" alone",
        ),
        (
            "trusted_proxies = [\"::ffff:10.0.0.0/104\"]",
            "clients with an IPv4 address count as such",
        ),
        ("log = 5", "expected a table"),
        ("log.level = \"warning\"", "did you mean `warn`?"),
        ("limits.max_connections = 0", "must not be zero"),
        ("limits.max_streams = 0", "must not be zero"),
        ("limits.max_streams = 10001", "at most 10000"),
        ("limits.max_connections_per_address = 0", "must not be zero"),
        ("limits.session_rate = \"fast\"", "expected a whole number"),
        (
            "limits.session_rate_per_address = 4294967296",
            "is too large",
        ),
        ("limits.max_headers = 101", "expected at most 100"),
        ("limits.max_uri_bytes = 0", "must not be zero"),
        ("limits.max_held_bytes = \"0%\"", "from \"1%\" to \"100%\""),
        (
            "limits.max_header_bytes = 100",
            "expected at least \"8KiB\"",
        ),
        ("drain.grace = 8", "write \"8s\""),
        ("drain.spread = \"soon\"", "expected"),
        ("reload.poll = \"0s\"", "expected"),
    ] {
        let text = format!("{settings}\n[[route]]\nupstream = \"http://127.0.0.1:8081\"");
        let report = report(&text);
        assert!(report.contains(reason), "{settings}\n{report}");
        assert!(
            report.ends_with("proxy.toml has a problem"),
            "{settings}\n{report}"
        );
    }
}

#[test]
fn the_admin_listener_has_an_address_of_its_own_or_none() {
    let admin = |settings: &str| {
        let text = format!("{settings}\n[[route]]\nupstream = \"http://127.0.0.1:8081\"");
        parse(&text)
            .unwrap()
            .admin
            .map(|address| address.to_string())
    };

    assert_eq!(admin("").as_deref(), Some("http://127.0.0.1:9901"));
    assert_eq!(admin("admin.listen = \"\""), None);
    assert_eq!(
        admin("[admin]\nlisten = \"unix:/run/admin.sock\"").as_deref(),
        Some("unix:/run/admin.sock")
    );
    let wrong = report("[admin]\nlisten = \"9901\"\nport = 1");
    assert!(
        wrong.contains("`9901` is not an address to listen on"),
        "{wrong}"
    );
    assert!(wrong.contains("unknown key `port`"), "{wrong}");
}
