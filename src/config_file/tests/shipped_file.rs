//! The shipped file: every key, with its default.

use super::*;

/// The environment with a directory of TLS files, which is removed when dropped.
fn with_tls_files() -> (tempfile::TempDir, impl Fn(&str) -> Option<String>) {
    let files = tempfile::tempdir().unwrap();
    let authority = tls::tests::Authority::new("authority");
    let (certificate, key) = authority.issue(&["localhost"]);
    for (name, text) in [
        ("ca.crt", &authority.pem()),
        ("tls.crt", &certificate),
        ("tls.key", &key),
    ] {
        fs::write(files.path().join(name), text).unwrap();
    }
    let path = files.path().display().to_string();
    let lookup = move |name: &str| match name {
        "TLS_FILES" => Some(path.clone()),
        name => environment(name),
    };
    (files, lookup)
}

#[test]
fn the_shipped_file_is_the_one_that_the_rows_make() {
    assert!(
        default_file() == SHIPPED,
        "run: cargo run -- config default > proxy.toml\n{}",
        default_file()
    );
}

#[test]
fn the_shipped_file_says_what_the_defaults_are() {
    let shipped = parse(&default_file()).unwrap_or_else(|problems| panic!("{problems}"));
    let upstream = address::upstream("http://127.0.0.1:8081").unwrap();
    let defaults = Config::for_upstream(upstream, &environment).unwrap();

    assert_eq!(debug(shipped), debug(defaults));
}

#[test]
fn the_shipped_file_has_every_key() {
    let text = shipped_with_examples();
    let (_files, environment) = with_tls_files();
    let file = File::new(&text, &environment);
    let root = DeTable::parse(&text).unwrap();
    file.read(root.get_ref(), |top| {
        let routes = routes::read(top);
        Config::with_routes(top, routes)
    });

    let mut occurs = BTreeMap::new();
    for (name, is_there) in file.lookups() {
        let is_matcher =
            |table: &str| ["authenticated", "services_ready", "ready", "match"].contains(&table);
        let name = match name.split_once('.') {
            Some((table, kind)) if is_matcher(table) => format!("matcher.{kind}"),
            _ => name,
        };
        *occurs.entry(name).or_insert(false) |= is_there;
    }
    let missing: Vec<_> = occurs.iter().filter(|(_, is_there)| !**is_there).collect();
    assert!(occurs.len() > 50, "{occurs:?}");
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_of_the_shipped_file_is_shown_with_its_origin() {
    let (_files, environment) = with_tls_files();
    let text = shipped_with_examples();
    let config = Config::parse("proxy.toml", &text, &environment).unwrap();

    let without_numbers = |key: &str| {
        let parts = key.split(['[', ']']).enumerate();
        let names = parts.filter(|(index, _)| index % 2 == 0);
        names.map(|(_, name)| name).collect::<String>()
    };
    let settings = config.effective.settings();
    let files = environment("TLS_FILES").unwrap();
    assert!(!format!("{settings:?}").contains(&files), "{settings:?}");
    let settings = settings.into_iter();
    let shown: BTreeSet<_> = settings.map(|it| without_numbers(&it.key)).collect();
    let mut table = String::new();
    let mut written = BTreeSet::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned() + ".";
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            written.insert(format!("{table}{key}"));
        }
    }
    // An inline table of settings, and not one value.
    written.remove("route.connect.retry");
    assert!(written.len() > 60, "{written:?}");
    let missing: Vec<_> = written.difference(&shown).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_examples_in_the_shipped_file_are_valid() {
    let (_files, environment) = with_tls_files();
    let config = Config::parse("proxy.toml", &shipped_with_examples(), &environment);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));

    let paths: BTreeSet<_> = config
        .routes
        .iter()
        .map(|route| route.path.clone())
        .collect();
    assert_eq!(
        paths,
        ["/", "/assistant", "/chat", "/secure"]
            .map(str::to_owned)
            .into()
    );
}
