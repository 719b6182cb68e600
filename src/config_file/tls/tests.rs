//! Certificates and keys that are named in a file, with what may be wrong with each.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use crate::config_file::{Config, Problems};

/// Who signs certificates.
pub(in crate::config_file) struct Authority(rcgen::CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(in crate::config_file) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(in crate::config_file) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `names`, and its key.
    pub(in crate::config_file) fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap();
        let certificate = certificate.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A directory of files, which `@` stands for in texts.
struct Files(TempDir);

impl Files {
    /// With `ca.pem`, and two certificates and keys of it.
    fn new() -> Self {
        let authority = Authority::new("authority");
        let (one, one_key) = authority.issue(&["one.example"]);
        let (two, two_key) = authority.issue(&["two.example"]);
        let files = Self(tempfile::tempdir().unwrap());
        files.write("ca.pem", authority.pem());
        files.write("one.pem", &one);
        files.write("one.key", &one_key);
        files.write("two.pem", &two);
        files.write("two.key", &two_key);
        files
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        let text = text.replace('@', &self.0.path().display().to_string());
        let directory = self.0.path().display().to_string();
        let environment = |name: &str| match name {
            "DIRECTORY" => Some(directory.clone()),
            "PART" => Some("e.p".to_owned()),
            _ => None,
        };
        Config::parse("proxy.toml", &text, &environment)
    }

    /// What is wrong with a file of these tables and a plain route.
    fn report_on_listener(&self, tls: &str) -> String {
        self.report(&format!(
            "[[listen]]\naddress = \"127.0.0.1:1\"\n{tls}\n[[route]]\nupstream = \"http://a:1\"\n"
        ))
    }

    fn report_on_route(&self, upstream: &str, tls: &str) -> String {
        self.report(&format!("[[route]]\nupstream = \"{upstream}\"\n{tls}\n"))
    }

    fn report(&self, text: &str) -> String {
        let problems = self.parse(text).unwrap_err().to_string();
        problems.replace(&self.0.path().display().to_string(), "@")
    }
}

/// The title, the label and the help of each problem.
fn gist(report: &str) -> Vec<String> {
    let shown = |line: &str| {
        let line = line.trim_start();
        let title = line.strip_prefix("error: ");
        let label = line
            .split_once(" ^")
            .map(|(_, label)| label.trim_start_matches('^').trim());
        let help = line.strip_prefix("= help: ");
        title.or(label).or(help).map(str::to_owned)
    };
    let mut lines: Vec<_> = report.lines().filter_map(shown).collect();
    lines.pop();
    lines
}

#[test]
fn a_listener_has_its_certificates_in_the_order_of_the_file() {
    let files = Files::new();
    let text = "\
[[listen]]
address = \"127.0.0.1:1\"
[listen.tls]
certificate = \"@/one.pem\"
key = \"@/one.key\"
client_ca = \"@/ca.pem\"
[[listen.tls.additional]]
certificate = \"@/two.pem\"
key = \"@/two.key\"
[[listen]]
address = \"127.0.0.1:2\"
[[route]]
upstream = \"http://127.0.0.1:8081\"";

    let config = files
        .parse(text)
        .unwrap_or_else(|problems| panic!("{problems}"));

    let tls = config.listen[0].tls.as_ref().unwrap();
    let names: Vec<_> = tls
        .identities()
        .iter()
        .map(|identity| identity.file.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["one.pem", "two.pem"]);
    assert!(config.listen[1].tls.is_none());
}

#[test]
fn a_problem_of_two_files_shows_the_variables_of_both() {
    let files = Files::new();
    for (certificate, key) in [
        ("${DIRECTORY}/one.pem", "${DIRECTORY}/two.key"),
        ("@/on${PART}em", "@/two.key"),
    ] {
        let tls = format!("[listen.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"");

        let report = files.report_on_listener(&tls);

        let title = &gist(&report)[0];
        assert!(
            title.contains(certificate) && title.contains(key),
            "{title}"
        );
        assert!(report.contains("of this certificate"), "{report}");
    }
}

#[test]
fn every_problem_of_the_files_stands_under_its_key() {
    let files = Files::new();
    files.write("empty.pem", "");

    let report = files.report_on_listener(
        "\
[listen.tls]
certificate = \"@/empty.pem\"
key = \"@/one.pem\"
client_ca = \"@/none.pem\"
[[listen.tls.additional]]
certificate = \"@/one.pem\"
key = \"@/two.key\"
colour = 1",
    );

    assert_eq!(
        gist(&report),
        [
            "there is no certificate in `@/empty.pem`",
            "expected a PEM file with a line -----BEGIN CERTIFICATE-----",
            "there is no private key in `@/one.pem`",
            "expected a PEM file with a line -----BEGIN PRIVATE KEY-----",
            "it has a certificate in it: are the two files swapped?",
            "there is no file `@/none.pem`",
            "expected the path of a PEM file",
            "the private key in `@/two.key` is not that of the certificate in `@/one.pem`",
            "expected the key that the certificate was made for",
            "of several certificates in a file, the one with this key comes first",
            "unknown key `colour`",
            "`listen.tls.additional` has no such key",
            "expected `certificate` or `key`",
        ]
    );
    for place in [
        "proxy.toml:4:15",
        "proxy.toml:5:7",
        "proxy.toml:6:13",
        "proxy.toml:9:7",
    ] {
        assert!(report.contains(place), "{place}: {report}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_told_with_what_to_do() {
    let files = Files::new();
    let sound = fs::read_to_string(files.0.path().join("one.pem")).unwrap();
    files.write("der.pem", [0x30, 0x82, 0x01, 0x02]);
    files.write("cut.pem", &sound[..sound.len() / 2]);
    files.write(
        "garbled.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    files.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    files.write(
        "old-encrypted.key",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
         AAAA\n-----END RSA PRIVATE KEY-----\n",
    );
    files.write(
        "garbled.key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    fs::create_dir(files.0.path().join("folder")).unwrap();

    for (certificate, key, expected) in [
        (
            "@/der.pem",
            "@/one.key",
            &[
                "there is no certificate in `@/der.pem`",
                "expected a PEM file with a line -----BEGIN CERTIFICATE-----",
                "convert it: openssl x509 -inform der -in @/der.pem -out certificate.pem",
            ][..],
        ),
        (
            "@/one.key",
            "@/one.key",
            &[
                "there is no certificate in `@/one.key`",
                "expected a PEM file with a line -----BEGIN CERTIFICATE-----",
                "it has a private key in it: are the two files swapped?",
            ],
        ),
        (
            "@/cut.pem",
            "@/one.key",
            &[
                "`@/cut.pem` ends inside of a section: there is no line -----END …-----",
                "expected an intact file",
            ],
        ),
        (
            "@/garbled.pem",
            "@/one.key",
            &[
                "a certificate in `@/garbled.pem` cannot be used: BadEncoding",
                "expected X.509 certificates of version 3",
            ],
        ),
        (
            "@/folder",
            "@/one.key",
            &[
                "cannot read `@/folder`: Is a directory (os error 21)",
                "expected the path of a PEM file",
            ],
        ),
        (
            "@/one.pem",
            "@/encrypted.key",
            &[
                "the private key in `@/encrypted.key` is encrypted",
                "expected one without a passphrase",
                "write it to a file of its own: openssl pkey -in @/encrypted.key -out decrypted.pem",
            ],
        ),
        (
            "@/one.pem",
            "@/old-encrypted.key",
            &[
                "the private key in `@/old-encrypted.key` is encrypted",
                "expected one without a passphrase",
                "write it to a file of its own: openssl pkey -in @/old-encrypted.key -out \
                 decrypted.pem",
            ],
        ),
        (
            "@/one.pem",
            "@/garbled.key",
            &[
                "the private key in `@/garbled.key` is of an unknown kind",
                "expected an RSA, ECDSA or Ed25519 key",
            ],
        ),
    ] {
        let tls = format!("[listen.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"");
        assert_eq!(gist(&files.report_on_listener(&tls)), expected);
    }
}

#[test]
fn what_is_missing_from_tls_is_named() {
    let files = Files::new();

    for (tls, expected) in [
        (
            "[listen.tls]",
            &[
                "this listener has no certificate",
                "expected certificate = \"/path.pem\"",
                "leave out [listen.tls] for a listener without TLS",
            ][..],
        ),
        (
            "[listen.tls]\ncertificate = \"@/one.pem\"",
            &[
                "this certificate has no key",
                "expected a `key`, too",
                "if it is in the same file, name that file twice",
            ],
        ),
        (
            "[listen.tls]\nkey = \"@/one.key\"",
            &[
                "this key has no certificate",
                "expected a `certificate`, too",
            ],
        ),
        (
            "[listen.tls]\ncertificate = \"@/one.pem\"\nkey = \"@/one.key\"\n\
             [[listen.tls.additional]]",
            &[
                "there is no certificate",
                "expected certificate = \"/path.pem\"",
            ],
        ),
    ] {
        assert_eq!(gist(&files.report_on_listener(tls)), expected, "{tls}");
    }
}

#[test]
fn an_upstream_over_tls_has_a_name_cas_and_a_certificate() {
    let files = Files::new();
    for text in [
        "ca = \"@/ca.pem\"",
        "ca = \"@/ca.pem\"\nserver_name = \"other.example\"",
        "ca = \"@/ca.pem\"\ncertificate = \"@/one.pem\"\nkey = \"@/one.key\"",
    ] {
        let text = format!("[[route]]\nupstream = \"https://127.0.0.1\"\n[route.tls]\n{text}");

        let config = files
            .parse(&text)
            .unwrap_or_else(|problems| panic!("{problems}"));

        let route = config.routes.iter().next().unwrap();
        let identity = route.upstream.tls.as_ref().unwrap().identity();
        assert_eq!(identity.is_some(), text.contains("certificate"));
    }
    let text = "[[route]]\nupstream = \"http://127.0.0.1\"";
    let config = files.parse(text).unwrap();
    assert!(config.routes.iter().next().unwrap().upstream.tls.is_none());
}

#[test]
fn what_tls_with_an_upstream_cannot_be_is_told() {
    let files = Files::new();

    for (upstream, tls, expected) in [
        (
            "http://a",
            "[route.tls]\nca = \"@/ca.pem\"",
            &[
                "TLS is not spoken with this upstream",
                "has no effect",
                "write upstream = \"https://…\"",
            ][..],
        ),
        (
            "https://a",
            "[route.tls]\nca = \"@/one.key\"",
            &[
                "there is no certificate in `@/one.key`",
                "expected a PEM file with a line -----BEGIN CERTIFICATE-----",
                "it has a private key in it: are the two files swapped?",
            ],
        ),
        (
            "https://a",
            "[route.tls]\nca = \"@/ca.pem\"\nserver_name = \"https://b\"",
            &[
                "`https://b` is not a name that a certificate can be for",
                "expected a host name or an IP address",
            ],
        ),
        (
            "https://a",
            "[route.tls]\nca = \"@/ca.pem\"\ncertificate = \"@/one.pem\"\nkey = \"@/two.key\"",
            &[
                "the private key in `@/two.key` is not that of the certificate in `@/one.pem`",
                "expected the key that the certificate was made for",
                "of several certificates in a file, the one with this key comes first",
            ],
        ),
    ] {
        assert_eq!(
            gist(&files.report_on_route(upstream, tls)),
            expected,
            "{tls}"
        );
    }
}

#[test]
fn a_relative_path_begins_in_the_working_directory() {
    let report = Files::new()
        .report_on_listener("[listen.tls]\ncertificate = \"no.pem\"\nkey = \"@/one.key\"");

    let here = std::env::current_dir().unwrap();
    let help = format!(
        "it begins in the working directory, which is {}",
        here.display()
    );
    assert_eq!(
        gist(&report),
        [
            "there is no file `no.pem`",
            "expected the path of a PEM file",
            &help
        ]
    );
    assert!(!Path::new("no.pem").exists());
}
