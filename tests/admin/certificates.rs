//! Expiry of the certificates in use, in `/metrics`.

use std::{fs, path::Path, time::Duration};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use readygate::config_file::Config;

use crate::support::{Proxy, config, gated};

/// Writes a certificate that expires in May 2030, and its key.
fn write_certificate(directory: &Path, name: &str, day: u8) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2030, 5, day);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let write = |end: &str, text: String| {
        fs::write(directory.join(format!("{name}.{end}")), text).unwrap();
    };
    write("key", key.serialize_pem());
    write("pem", certificate.pem());
}

/// Everything of which there are metrics only where it is configured, with files in `directory`.
pub(crate) fn with_everything(directory: &Path) -> Config {
    for name in ["one", "two", "own"] {
        write_certificate(directory, name, 1);
    }
    with_tls(
        directory,
        "limits.max_memory_bytes = \"1024GiB\"\nlimits.session_rate = 1\n",
    )
}

/// A listener with the certificates `one` and `two`, and a route that shows `own`.
fn with_tls(directory: &Path, more: &str) -> Config {
    let files = |name: &str| {
        let path = directory.join(name).display().to_string();
        format!("certificate = \"{path}.pem\"\nkey = \"{path}.key\"\n")
    };
    let (one, two, own) = (files("one"), files("two"), files("own"));
    let text = format!(
        "{more}workers = 1\nadmin.listen = \"127.0.0.1:0\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n[listen.tls]\n{one}\
         [[listen.tls.additional]]\n{two}\
         [[route]]\nupstream = \"https://localhost:1\"\n\
         [route.tls]\nca = \"{}\"\n{own}",
        directory.join("own.pem").display()
    );
    Config::parse("proxy.toml", &text, &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

/// The days of May 2030 on which certificates expire, by their labels.
async fn expiries(proxy: &Proxy) -> Vec<(String, i64)> {
    let (_, page) = proxy.get("/metrics").await;
    let name = "readygate_tls_certificate_expiry_timestamp_seconds{";
    let series = page.lines().filter_map(|line| line.strip_prefix(name));
    let before = date_time_ymd(2030, 4, 30).unix_timestamp();
    let day = |line: &str| {
        let (labels, seconds) = line.rsplit_once("} ").unwrap();
        let seconds: i64 = seconds.parse().unwrap();
        (labels.to_owned(), (seconds - before) / (24 * 60 * 60))
    };
    series.map(day).collect()
}

#[tokio::test]
async fn the_earliest_expiry_is_exported_and_follows_renewed_files() {
    let directory = tempfile::tempdir().unwrap();
    for (name, day) in [("one", 9), ("two", 7), ("own", 8)] {
        write_certificate(directory.path(), name, day);
    }
    let proxy = Proxy::start(with_tls(directory.path(), ""));
    let expiry = |of_listener| {
        let listener = "side=\"client\",name=\"https://127.0.0.1:0\"".to_owned();
        let route = "side=\"upstream\",name=\"/\"".to_owned();
        [(listener, of_listener), (route, 8)]
    };
    assert_eq!(expiries(&proxy).await, expiry(7));

    write_certificate(directory.path(), "two", 10);

    while expiries(&proxy).await == expiry(7) {
        // Files are read by a timer of the proxy, which announces it only here: ask again.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(expiries(&proxy).await, expiry(9));
}

#[tokio::test]
async fn without_certificates_none_expires() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));

    assert!(expiries(&proxy).await.is_empty());
}
