//! `readygate check`: every problem of a file, or none.

use std::{fs, path::Path};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use readygate::config_file::Config;

use crate::support::{VALID, directory_with, run, stderr, stdout};

#[test]
fn check_says_in_one_line_that_a_file_is_valid() {
    let directory = directory_with("proxy.toml", &format!("workers = 2\n{VALID}"));

    let output = run(directory.path(), &["check"]);

    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "proxy.toml is valid: 1 route, 2 workers, listening on 0.0.0.0:8080\n"
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_shows_every_problem_and_exits_with_78() {
    let directory = directory_with("bad.toml", &format!("workers = 0\nlisten = \"x\"\n{VALID}"));

    let output = run(directory.path(), &["check", "--config", "bad.toml"]);

    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stdout(&output), "");
    assert_eq!(
        stderr(&output),
        r#"error: `0` is not a number of workers
 --> bad.toml:1:11
  |
1 | workers = 0
  |           ^ expected 1 to 4096, or "auto" for one per core

error: `x` is not an address to listen on
 --> bad.toml:2:10
  |
2 | listen = "x"
  |          ^^^ expected an IP address and a port, or "unix:/path.sock"

error: bad.toml has 2 problems
"#
    );
}

#[test]
fn the_shipped_file_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));

    let output = run(root, &["check"]);

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn check_warns_of_a_certificate_that_has_expired() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 1, 2);
    let certificate = params.self_signed(&key).unwrap();
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:1\"\n[listen.tls]\ncertificate = \"tls.crt\"\n\
         key = \"tls.key\"\n{VALID}"
    );
    let directory = directory_with("proxy.toml", &text);
    fs::write(directory.path().join("tls.crt"), certificate.pem()).unwrap();
    fs::write(directory.path().join("tls.key"), key.serialize_pem()).unwrap();

    let output = run(directory.path(), &["check"]);

    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("proxy.toml is valid: 1 route, "));
    assert_eq!(
        stderr(&output),
        "warning: the certificate in `tls.crt` expired on Thu, 02 Jan 2020 00:00:00 GMT: it will \
         be refused\n"
    );
}

/// Each page in Markdown that shows configurations, with its name.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let pages = docs.map(|entry| entry.unwrap().path());
    pages
        .filter(|path| path.extension().is_some_and(|it| it == "md"))
        .chain([root.join("README.md")])
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.display().to_string(), text)
        })
        .collect()
}

#[test]
fn every_configuration_in_the_documentation_is_valid() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let directory = directory_with("tls.crt", &certificate);
    fs::write(directory.path().join("ca.crt"), &certificate).unwrap();
    fs::write(directory.path().join("tls.key"), key.serialize_pem()).unwrap();

    let mut blocks = 0;
    for (page, text) in pages() {
        for block in text.split("```toml\n").skip(1) {
            let (block, _) = block.split_once("```").unwrap();
            let block = block.replace("/etc/readygate", &directory.path().display().to_string());
            if let Err(problems) = Config::parse(&page, &block, &|_| None) {
                panic!("{}", problems.render(false));
            }
            blocks += 1;
        }
    }
    assert!(blocks > 10, "the blocks were not found");
}
