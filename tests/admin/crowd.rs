//! More connections than there are places for, none of which reads.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{Proxy, config, gated};

/// How many connections the listener serves at once.
const PLACES: usize = 64;

#[tokio::test]
async fn livez_answers_while_every_place_is_taken_by_somebody_who_does_not_read() {
    let proxy = Proxy::start(config(&gated(([127, 0, 0, 1], 1).into())));
    let requests = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(20);
    let mut crowd = Vec::new();
    for _ in 0..PLACES {
        let mut client = TcpStream::connect(proxy.admin).await.unwrap();
        client.write_all(requests.as_bytes()).await.unwrap();
        crowd.push(client);
    }

    for _ in 0..3 {
        assert_eq!(proxy.get("/livez").await, (200, "ok\n".to_owned()));
    }
    // Nobody of the crowd has gone by itself.
    assert_eq!(crowd.len(), PLACES);
}
