//! Logins that belong to a connection (NTLM, Negotiate): no other client's request may use it.

use std::sync::Arc;

use readygate::{
    route::{Accept, Route},
    tls::ServerTls,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
};

use crate::{
    pki::{self, Authority, Folder},
    support::{Client, Proxy, Upstream, config, handshake},
};

/// Starts an upstream that logs in connections, as IIS does, and says of each that has ended who
/// was logged in on it.
fn serve(upstream: Upstream) -> mpsc::UnboundedReceiver<Option<String>> {
    let (ended, ends) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let connection = upstream.accept_raw().await;
            let ended = ended.clone();
            tokio::spawn(async move { ended.send(log_in(connection).await) });
        }
    });
    ends
}

/// Serves one connection; returns who was logged in on it at its end.
async fn log_in(connection: Client) -> Option<String> {
    let mut connection = connection;
    let (mut user, mut is_challenged) = (None, false);
    while let Some(mut exchange) = connection.read_request().await {
        let mut offers = "WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM";
        match exchange.header("authorization") {
            Some("NTLM type-1") => {
                (user, is_challenged) = (None, true);
                offers = "WWW-Authenticate: NTLM challenge";
            }
            Some(credentials) => {
                let name = credentials.strip_prefix("NTLM type-3 ");
                user = name.filter(|_| is_challenged).map(str::to_owned);
                is_challenged = false;
            }
            None => {}
        }
        let is_last = exchange.head.contains(" /last");
        let close = if is_last { "Connection: close\r\n" } else { "" };
        match &user {
            None => {
                let head = format!("HTTP/1.1 401 Unauthorized\r\n{offers}\r\n{close}");
                exchange
                    .answer(&format!("{head}Content-Length: 2\r\n\r\nno"))
                    .await;
            }
            Some(user) if exchange.header("upgrade").is_some() => {
                exchange.answer_101().await;
                let frame = [&[0x81, u8::try_from(user.len()).unwrap()], user.as_bytes()];
                exchange.stream.send(frame.concat()).await;
                // A close frame, or the end.
                let _ = exchange.stream.0.read_u8().await;
                return Some(user.clone());
            }
            // In two pieces, so that the end comes apart from the head.
            Some(user) => {
                let length = user.len();
                let head = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {length}\r\n\r\n");
                exchange.answer(&head).await;
                exchange.stream.send(user).await;
            }
        }
        connection = exchange.stream;
        if is_last {
            return user;
        }
    }
    user
}

/// Sends a request with these further lines and returns the status and the body.
async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<S>,
    path: &str,
    lines: &str,
) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    client.send(request).await;
    read_answer(client).await
}

async fn read_answer<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<S>,
) -> (String, String) {
    let head = client.read_head().await.unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let body = client.read(length.unwrap().parse().unwrap()).await;
    (status, String::from_utf8(body).unwrap())
}

const TYPE_1: &str = "Authorization: NTLM type-1\r\n";

fn type_3(name: &str) -> String {
    format!("Authorization: NTLM type-3 {name}\r\n")
}

fn answer(status: &str, body: &str) -> (String, String) {
    (status.to_owned(), body.to_owned())
}

async fn log_in_as<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<S>, name: &str) {
    assert_eq!(get(client, "/", "").await, answer("401", "no"));
    assert_eq!(get(client, "/", TYPE_1).await, answer("401", "no"));
    let logged_in = get(client, "/", &type_3(name)).await;
    assert_eq!(logged_in, answer("200", name));
}

/// Asserts that nobody is logged in who has said nothing.
async fn assert_stranger(proxy: &Proxy) {
    // More than would find their way to all connections of a pool.
    for _ in 0..4 {
        let mut client = proxy.connect().await;
        assert_eq!(get(&mut client, "/", "").await, answer("401", "no"));
    }
}

#[tokio::test]
async fn who_has_logged_in_on_a_connection_has_it_alone() {
    for max_idle_connections in [0, 8] {
        let upstream = Upstream::listen().await;
        let mut route = upstream.route();
        route.http.max_idle_connections = max_idle_connections;
        let proxy = Proxy::start(config(vec![route]));
        let mut ends = serve(upstream);
        let (mut alice, mut bob) = (proxy.connect().await, proxy.connect().await);

        // Each step of one between two of the other.
        assert_eq!(get(&mut alice, "/", "").await, answer("401", "no"));
        assert_eq!(get(&mut alice, "/", TYPE_1).await, answer("401", "no"));
        assert_eq!(get(&mut bob, "/", TYPE_1).await, answer("401", "no"));
        let logged_in = get(&mut alice, "/", &type_3("alice")).await;
        assert_eq!(logged_in, answer("200", "alice"));
        assert_stranger(&proxy).await;
        let logged_in = get(&mut bob, "/", &type_3("bob")).await;
        assert_eq!(logged_in, answer("200", "bob"));

        for _ in 0..3 {
            assert_eq!(get(&mut alice, "/", "").await, answer("200", "alice"));
            assert_eq!(get(&mut bob, "/", "").await, answer("200", "bob"));
            assert_stranger(&proxy).await;
        }
        // One behind the other.
        let two = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
        alice.send(two).await;
        for _ in 0..2 {
            assert_eq!(read_answer(&mut alice).await, answer("200", "alice"));
        }

        drop(alice);
        while ends.recv().await.unwrap().as_deref() != Some("alice") {}
        assert_stranger(&proxy).await;
        assert_eq!(get(&mut bob, "/", "").await, answer("200", "bob"));
    }
}

#[tokio::test]
async fn a_login_begins_anew_after_the_upstream_has_closed() {
    let upstream = Upstream::listen().await;
    let proxy = Proxy::before(&upstream);
    let mut ends = serve(upstream);
    let mut client = proxy.connect().await;

    for name in ["alice", "bob"] {
        log_in_as(&mut client, name).await;
        assert_eq!(get(&mut client, "/last", "").await, answer("200", name));
        while ends.recv().await.unwrap().as_deref() != Some(name) {}
        assert_stranger(&proxy).await;
    }
}

#[tokio::test]
async fn a_websocket_goes_over_the_connection_that_is_logged_in() {
    for accept in [Accept::Early, Accept::AfterUpstream] {
        let upstream = Upstream::listen().await;
        let mut route = upstream.route();
        route.accept = accept;
        let proxy = Proxy::start(config(vec![route]));
        let mut ends = serve(upstream);
        let mut client = proxy.connect().await;
        log_in_as(&mut client, "alice").await;

        client.open().await;

        assert_eq!(client.read(7).await, b"\x81\x05alice");
        assert_stranger(&proxy).await;
        drop(client);
        while ends.recv().await.unwrap().as_deref() != Some("alice") {}
        assert_stranger(&proxy).await;
    }
}

#[tokio::test]
async fn a_client_may_log_in_with_the_handshakes_of_a_websocket() {
    for accept in [Accept::Early, Accept::AfterUpstream] {
        let upstream = Upstream::listen().await;
        let mut route = upstream.route();
        route.accept = accept;
        let proxy = Proxy::start(config(vec![route]));
        let _ends = serve(upstream);
        let mut client = proxy.connect().await;

        if accept == Accept::AfterUpstream {
            client.send(handshake(&[])).await;
            assert_eq!(read_answer(&mut client).await, answer("401", "no"));
        }
        client.send(handshake(&[TYPE_1.trim_end()])).await;
        assert_eq!(read_answer(&mut client).await, answer("401", "no"));
        client.send(handshake(&[type_3("alice").trim_end()])).await;
        let head = client.read_head().await.unwrap();

        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(client.read(7).await, b"\x81\x05alice");
        assert_stranger(&proxy).await;
    }
}

#[tokio::test]
async fn each_route_has_a_login_of_its_own() {
    let (one, other) = (Upstream::listen().await, Upstream::listen().await);
    let at = |upstream: &Upstream, path: &str| Route {
        path: path.to_owned(),
        ..upstream.route()
    };
    let proxy = Proxy::start(config(vec![at(&one, "/one"), at(&other, "/")]));
    let _ends = (serve(one), serve(other));
    let mut client = proxy.connect().await;
    log_in_as(&mut client, "alice").await;

    assert_eq!(get(&mut client, "/one", "").await, answer("401", "no"));
    assert_eq!(get(&mut client, "/one", TYPE_1).await, answer("401", "no"));
    let logged_in = get(&mut client, "/one", &type_3("bob")).await;
    assert_eq!(logged_in, answer("200", "bob"));

    assert_eq!(get(&mut client, "/", "").await, answer("200", "alice"));
    assert_eq!(get(&mut client, "/one", "").await, answer("200", "bob"));
}

#[tokio::test]
async fn a_login_over_tls_is_the_clients_alone_as_well() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&["localhost"]);
    let folder = Folder::new();
    let upstream = Upstream::listen().await;
    let mut config = config(vec![upstream.route()]);
    let identity = folder.identity("server", &issued);
    let tls = ServerTls::load(pki::listener(identity)).unwrap();
    config.listen[0].tls = Some(Arc::new(tls));
    let proxy = Proxy::start(config);
    let _ends = serve(upstream);
    let connect = async || {
        let config = pki::client_config(authority.roots());
        pki::connect(proxy.address, config, "localhost")
            .await
            .unwrap()
    };

    let mut alice = connect().await;
    log_in_as(&mut alice, "alice").await;
    let mut stranger = connect().await;
    assert_eq!(get(&mut stranger, "/", "").await, answer("401", "no"));
    assert_eq!(get(&mut alice, "/", "").await, answer("200", "alice"));
    alice.open().await;
    assert_eq!(alice.read(7).await, b"\x81\x05alice");
    assert_eq!(get(&mut stranger, "/", "").await, answer("401", "no"));
}
