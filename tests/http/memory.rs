//! Rejection of new work under memory pressure.

use std::{fs, path::PathBuf};

use readygate::limits::overload::{Bound, Usage};
use tempfile::TempDir;

use crate::support::{Proxy, Reserved, Upstream, config, handshake, text_frame};

/// Memory of the process as the system would report it, set by the test.
pub(crate) struct Reading {
    folder: TempDir,
}

impl Reading {
    pub(crate) fn new(pages: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let reading = Self { folder };
        reading.set(pages);
        reading
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("statm")
    }

    pub(crate) fn set(&self, pages: u64) {
        // Put in place as a whole, for it may be read at any time.
        let new = self.folder.path().join("new");
        fs::write(&new, format!("0 {pages} 0 0 0 0 0\n")).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    /// A bound of a hundred pages.
    pub(crate) fn bound(&self) -> Bound {
        Bound {
            max_bytes: 100 * rustix::param::page_size() as u64,
            usage: Usage::Process { statm: self.path() },
        }
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

async fn open(proxy: &Proxy) -> String {
    let mut client = proxy.connect().await;
    client.send(handshake(&[])).await;
    client.read_head().await.unwrap()
}

#[tokio::test]
async fn under_memory_pressure_only_new_sessions_get_503() {
    let upstream = Upstream::listen().await;
    let reading = Reading::new(100);
    let mut config = config(vec![upstream.route()]);
    config.limits.max_memory = Some(reading.bound());
    let proxy = Proxy::start(config);
    let mut client = proxy.connect().await;
    client.open().await;
    let mut exchange = upstream.accept().await;
    exchange.answer_101().await;

    reading.set(101);
    while status(&open(&proxy).await) == "101" {}
    let answer = proxy.exchange(&handshake(&[])).await;
    assert_eq!(status(&answer), "503");
    assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    assert!(answer.contains("\r\n\r\nmemory is short"), "{answer}");
    let message = text_frame("on and on");
    client.send(&message).await;
    assert_eq!(exchange.stream.read(message.len()).await, message);

    reading.set(90);
    while status(&open(&proxy).await) != "101" {}
}

#[tokio::test]
async fn under_memory_pressure_only_held_requests_get_503() {
    let (absent, present) = (Reserved::port(), Upstream::listen().await);
    let reading = Reading::new(101);
    let mut held = absent.route();
    held.path = "/absent".to_owned();
    let mut config = config(vec![held, present.route()]);
    config.limits.max_memory = Some(reading.bound());
    // It is known from the start.
    let proxy = Proxy::start(config);

    let answer = proxy
        .exchange("GET /absent HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    assert!(answer.contains("\r\n\r\nmemory is short"), "{answer}");

    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut exchange = present.accept().await;
    exchange.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(status(&client.read_head().await.unwrap()), "204");
}
