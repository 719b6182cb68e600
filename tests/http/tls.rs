//! Handshakes with clients and upstreams: certificates, names, versions, time, reload.

use std::{
    fs::{self, File},
    future, io,
    os::unix::fs::symlink,
    process::Command,
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, IsCa, date_time_ymd};
use readygate::{
    config_file::Config,
    tls::{ServerTls, server},
    transport::Transport,
    upstream::{
        dial::{DialError, dial},
        protocol::Protocol,
        proxy_protocol::ProxyProtocolVersion,
    },
};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion,
    crypto::aws_lc_rs::Ticketer,
    pki_types::{CertificateDer, ServerName},
    version::TLS12,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time,
};

use crate::{
    pki::{self, Authority, Folder, Issued},
    proxy_protocol::trusting,
    support::{Client, Proxy, Reserved, Upstream, config, handshake},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// A listener that has a certificate for `localhost`, before an upstream that refuses.
struct Front {
    authority: Authority,
    issued: Issued,
    folder: Folder,
    settings: server::Settings,
    /// Address on which nothing listens, so that sessions stay held.
    upstream: Reserved,
}

impl Front {
    fn new() -> Self {
        let authority = Authority::new("authority");
        let issued = authority.issue(&["localhost"]);
        let folder = Folder::new();
        let settings = pki::listener(folder.identity("server", &issued));
        Self {
            authority,
            issued,
            folder,
            settings,
            upstream: Reserved::port(),
        }
    }

    fn tls(&self) -> Arc<ServerTls> {
        Arc::new(ServerTls::load(self.settings.clone()).unwrap())
    }

    fn config(&self, tls: Arc<ServerTls>) -> Config {
        let mut config = config(vec![self.upstream.route()]);
        config.listen[0].tls = Some(tls);
        config
    }

    fn start(&self) -> Proxy {
        Proxy::start(self.config(self.tls()))
    }

    fn client(&self) -> ClientConfig {
        pki::client_config(self.authority.roots())
    }
}

async fn connect(proxy: &Proxy, client: ClientConfig, name: &str) -> io::Result<Client<Transport>> {
    pki::connect(proxy.address, client, name).await
}

/// The alert that a handshake has ended with.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

fn own(issued: &Issued) -> CertificateDer<'static> {
    issued.chain().remove(0)
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_else_the_first() {
    let mut front = Front::new();
    let chat = front.authority.issue(&["chat.example"]);
    let any = front.authority.issue(&["*.rooms.example"]);
    for (name, issued) in [("chat", &chat), ("any", &any)] {
        let identity = front.folder.identity(name, issued);
        front.settings.identities.push(identity);
    }
    let proxy = front.start();

    for (name, expected) in [
        ("localhost", &front.issued),
        ("chat.example", &chat),
        ("CHAT.example", &chat),
        ("one.rooms.example", &any),
    ] {
        let client = connect(&proxy, front.client(), name).await.unwrap();
        assert_eq!(pki::shown(&client), own(expected), "{name}");
    }
    let mut without_name = front.client();
    without_name.enable_sni = false;
    let client = connect(&proxy, without_name, "localhost").await.unwrap();
    assert_eq!(pki::shown(&client), own(&front.issued));
    let refused = connect(&proxy, front.client(), "elsewhere.test").await;
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let front = Front::new();
    let proxy = front.start();

    for (versions, expected) in [
        (&[&TLS12][..], ProtocolVersion::TLSv1_2),
        (rustls::ALL_VERSIONS, ProtocolVersion::TLSv1_3),
    ] {
        let mut client = ClientConfig::builder_with_provider(readygate::tls::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(front.authority.roots())
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];

        let mut client = connect(&proxy, client, "localhost").await.unwrap();

        let connection = pki::connection(&client);
        assert_eq!(connection.protocol_version(), Some(expected));
        assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        client.open().await;
    }
}

#[tokio::test]
async fn a_client_resumes_its_tls_session_even_after_a_reload() {
    let front = Front::new();
    let tls = front.tls();
    let proxy = Proxy::start(front.config(Arc::clone(&tls)));
    let config = front.client();
    let kind = |client: &Client<Transport>| pki::connection(client).handshake_kind().unwrap();

    let mut first = connect(&proxy, config.clone(), "localhost").await.unwrap();
    // Tickets come with the first bytes.
    first.open().await;
    tls.reload().unwrap();
    let second = connect(&proxy, config, "localhost").await.unwrap();

    assert_ne!(kind(&first), HandshakeKind::Resumed);
    assert_eq!(kind(&second), HandshakeKind::Resumed);
}

#[tokio::test]
async fn with_client_ca_every_client_needs_a_certificate_of_it() {
    let mut front = Front::new();
    let staff = Authority::new("staff");
    front.settings.client_ca = Some(front.folder.write("staff.pem", &staff.pem()));
    let tls = front.tls();
    let proxy = Proxy::start(front.config(Arc::clone(&tls)));
    let roots = front.authority.roots();
    let with = |issued: &Issued| pki::client_config_with(Arc::clone(&roots), Some(issued));
    let expired = staff.issue_with(&["old"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });

    for (config, expected) in [
        (front.client(), AlertDescription::CertificateRequired),
        (
            with(&Authority::new("other").issue(&["me"])),
            AlertDescription::UnknownCA,
        ),
        (with(&expired), AlertDescription::CertificateExpired),
    ] {
        let mut client = connect(&proxy, config, "localhost").await.unwrap();
        client.send(handshake(&[])).await;
        // In TLS 1.3 a client learns it only when it first reads.
        let error = client.0.read_u8().await.unwrap_err();
        assert_eq!(alert(&error), Some(expected), "{error}");
    }
    let config = with(&staff.issue(&["me"]));
    let mut client = connect(&proxy, config.clone(), "localhost").await.unwrap();
    client.open().await;

    // Who is no longer trusted cannot come in with an old session.
    front
        .folder
        .write("staff.pem", &Authority::new("new staff").pem());
    tls.reload().unwrap();
    let mut client = connect(&proxy, config, "localhost").await.unwrap();
    let error = client.0.read_u8().await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::UnknownCA), "{error}");
}

#[tokio::test]
async fn a_changed_certificate_is_taken_over_and_a_broken_one_is_not() {
    let front = Front::new();
    let tls = front.tls();
    let proxy = Proxy::start(front.config(Arc::clone(&tls)));
    let mut before = connect(&proxy, front.client(), "localhost").await.unwrap();
    before.open().await;
    let fresh = || {
        let mut config = front.client();
        config.resumption = rustls::client::Resumption::disabled();
        config
    };

    let second = front.authority.issue(&["localhost"]);
    front.folder.identity("server", &second);
    while pki::shown(&connect(&proxy, fresh(), "localhost").await.unwrap()) != own(&second) {
        time::sleep(Duration::from_millis(50)).await;
    }
    front.folder.write("server.pem", "nonsense");
    assert!(tls.reload().is_err());
    let shown = pki::shown(&connect(&proxy, fresh(), "localhost").await.unwrap());
    assert_eq!(shown, own(&second));
    let third = front.authority.issue(&["localhost"]);
    front.folder.identity("server", &third);
    while pki::shown(&connect(&proxy, fresh(), "localhost").await.unwrap()) != own(&third) {
        time::sleep(Duration::from_millis(50)).await;
    }

    // Whoever was there goes on.
    let ended = proxy.stop();
    assert_eq!(before.read_close_code().await, 1001);
    drop(before);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_a_pipe_or_endless_is_rejected_at_once() {
    let front = Front::new();
    let tls = front.tls();
    let proxy = Proxy::start(front.config(Arc::clone(&tls)));
    let file = front.folder.path().join("server.pem");
    let make_pipe = || {
        let made = Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success());
    };
    let make_device = || symlink("/dev/zero", &file).unwrap();
    let make_huge = || File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let makers: [(&dyn Fn(), &str); 3] = [
        (&make_pipe, "it is not a regular file"),
        (&make_device, "it is not a regular file"),
        (&make_huge, "it is longer than 1 MiB"),
    ];
    for (make, why) in makers {
        fs::remove_file(&file).unwrap();
        make();

        let error = tls.reload().unwrap_err();

        assert!(error.what.ends_with(why), "{error}");
        let shown = pki::shown(&connect(&proxy, front.client(), "localhost").await.unwrap());
        assert_eq!(shown, own(&front.issued));
    }
    proxy.stop().await.unwrap().unwrap();
}

#[tokio::test]
async fn http_on_a_tls_port_is_told_so() {
    let front = Front::new();
    let proxy = front.start();

    let answer = proxy.exchange(GET).await;

    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\n\r\nthis port speaks HTTPS, not HTTP\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_no_handshake_ends_the_connection_and_no_other() {
    let front = Front::new();
    let proxy = front.start();

    for garbage in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"\x16\x03\x01\xff\xff",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x80\x2e\x01\x03\x00\x00\x15\x00\x00\x00\x10\x01\x00\x80\x03\x00\x80\x07\x00\xc0",
        b"ssh",
    ] {
        let mut client = proxy.connect().await;
        client.send(garbage).await;
        client.0.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = client.0.read_to_end(&mut answer).await;
        // At most an alert (RFC 8446 §6).
        assert!(
            answer.is_empty() || answer[0] == 21,
            "{garbage:?}: {answer:?}"
        );
    }
    let mut client = connect(&proxy, front.client(), "localhost").await.unwrap();
    client.open().await;
}

#[tokio::test]
async fn a_client_that_offers_no_common_protocol_is_told_so() {
    let front = Front::new();
    let proxy = front.start();
    let mut config = front.client();
    config.alpn_protocols = vec![b"imap".to_vec()];

    let refused = connect(&proxy, config, "localhost").await;

    let error = refused.err().unwrap();
    assert_eq!(
        alert(&error),
        Some(AlertDescription::NoApplicationProtocol),
        "{error}"
    );
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut_and_has_taken_a_place() {
    let front = Front::new();
    let mut config = front.config(front.tls());
    config.limits.header_timeout = Duration::from_millis(300);
    config.limits.max_connections = 1;
    let proxy = Proxy::start(config);
    let mut silent = proxy.connect().await;
    let mut half = proxy.connect().await;
    let name = ServerName::try_from("localhost").unwrap();
    let mut hello = ClientConnection::new(Arc::new(front.client()), name).unwrap();
    let mut record = Vec::new();
    hello.write_tls(&mut record).unwrap();
    half.send(&record[..100]).await;

    let mut third = connect(&proxy, front.client(), "localhost").await.unwrap();
    third.send(handshake(&[])).await;
    let head = third.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");

    assert_eq!(silent.read_to_end().await, "");
    assert_eq!(half.read_to_end().await, "");
    drop(third);
    loop {
        let mut client = connect(&proxy, front.client(), "localhost").await.unwrap();
        client.send(handshake(&[])).await;
        if client
            .read_head()
            .await
            .unwrap()
            .starts_with("HTTP/1.1 101 ")
        {
            break;
        }
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_handshakes() {
    let front = Front::new();
    let mut config = front.config(front.tls());
    config.drain.grace = Duration::from_hours(1);
    config.limits.header_timeout = Duration::from_hours(1);
    let proxy = Proxy::start(config);
    let mut silent = proxy.connect().await;
    // Connections are accepted in order: once this one is served, the other one is, too.
    connect(&proxy, front.client(), "localhost").await.unwrap();

    let ended = proxy.stop();

    assert_eq!(silent.read_to_end().await, "");
    ended.await.unwrap().unwrap();
}

/// An upstream that shows `certificate` and perhaps wants one, and a proxy before it that
/// trusts `authority`.
struct Back {
    proxy: Proxy,
    upstream: Upstream,
    _folder: Folder,
}

impl Back {
    async fn new(authority: &Authority, own: Option<&Issued>) -> Self {
        let folder = Folder::new();
        let ca = folder.write("ca.pem", &authority.pem());
        let own = own.map(|issued| folder.identity("own", issued));
        let upstream = Upstream::listen().await;
        let route = pki::over_tls(upstream.route(), ca, own);
        Self {
            proxy: Proxy::start(config(vec![route])),
            upstream,
            _folder: folder,
        }
    }

    /// Returns the close code of a WebSocket and the response to a plain request when every
    /// handshake fails by `server`.
    async fn outcomes(&self, server: &rustls::ServerConfig) -> (u16, String) {
        let serve = async {
            loop {
                let socket = self.upstream.accept_raw().await.0;
                if let Ok(mut stream) = pki::accept(socket, server.clone()).await {
                    // Whatever is wrong with the client's certificate is said to it here.
                    let _ = stream.read_head().await;
                }
            }
        };
        let ask = async {
            let mut client = self.proxy.connect().await;
            client.open().await;
            let code = client.read_close_code().await;
            (code, self.proxy.exchange(GET).await)
        };
        tokio::select! {
            () = serve => unreachable!(),
            outcomes = ask => outcomes,
        }
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_who_it_should_be_is_final() {
    let authority = Authority::new("authority");
    let names = ["127.0.0.1"];
    let expired = authority.issue_with(&names, |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let of_authority = authority.issue_with(&names, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });

    for (what, issued) in [
        ("foreign", Authority::new("other").issue(&names)),
        ("wrong name", authority.issue(&["other.example"])),
        ("expired", expired),
        ("an authority's", of_authority),
    ] {
        let back = Back::new(&authority, None).await;

        let (code, answer) = back.outcomes(&pki::server_config(&issued, None)).await;

        assert_eq!(code, 1014, "{what}");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{what}: {answer}");
    }
}

#[tokio::test]
async fn an_upstream_that_wants_a_certificate_gets_the_routes() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&["127.0.0.1"]);
    let server = pki::server_config(&issued, Some(authority.roots()));
    let foreign = Authority::new("other").issue(&["proxy"]);

    for own in [None, Some(&foreign)] {
        let back = Back::new(&authority, own).await;
        let (code, answer) = back.outcomes(&server).await;
        assert_eq!(code, 1014);
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
    let own = authority.issue(&["proxy"]);
    let back = Back::new(&authority, Some(&own)).await;
    let mut client = back.proxy.connect().await;
    client.send(GET).await;
    let socket = back.upstream.accept_raw().await.0;
    let stream = pki::accept(socket, server).await.unwrap();
    assert_eq!(pki::shown(&stream), self::own(&own));
    let mut exchange = stream.read_request().await.unwrap();
    exchange.answer(NO_CONTENT).await;
    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
}

#[tokio::test]
async fn an_upstream_without_tls_is_final_and_a_lost_one_retried() {
    let authority = Authority::new("authority");
    let back = Back::new(&authority, None).await;
    let mut client = back.proxy.connect().await;
    client.open().await;

    // A reset, an end, and nothing but an alert that says: not yet.
    drop(back.upstream.accept_raw().await);
    let mut booting = back.upstream.accept_raw().await;
    booting.send(b"\x15\x03\x03\x00\x02\x02\x50").await;
    drop(booting);
    let mut plain = back.upstream.accept_raw().await;
    plain.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;

    assert_eq!(client.read_close_code().await, 1014);
}

#[tokio::test]
async fn an_unfinished_tls_handshake_is_retried() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&["127.0.0.1"]);
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &authority.pem());
    let upstream = Upstream::listen().await;
    let mut route = pki::over_tls(upstream.route(), ca, None);
    route.upstream.handshake_timeout = Some(Duration::from_millis(100));
    let proxy = Proxy::start(config(vec![route]));
    let mut client = proxy.connect().await;
    client.open().await;

    let _silent = upstream.accept_raw().await;

    let socket = upstream.accept_raw().await.0;
    let server = pki::server_config(&issued, None);
    let stream = pki::accept(socket, server).await.unwrap();
    assert!(
        stream
            .read_request()
            .await
            .unwrap()
            .head
            .starts_with("GET /chat")
    );
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_long_for_its_tls_is_waited_for() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&["127.0.0.1"]);
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &authority.pem());
    let upstream = Upstream::listen().await;
    let settings = pki::over_tls(upstream.route(), ca, None).upstream;
    let late = async {
        let socket = upstream.accept_raw().await.0;
        time::sleep(Duration::from_mins(2)).await;
        let _stream = pki::accept(socket, pki::server_config(&issued, None)).await;
        future::pending::<()>().await;
    };

    tokio::select! {
        dialled = dial(&settings, Protocol::Http1, b"") => drop(dialled.unwrap()),
        () = late => {}
    }
}

#[tokio::test]
async fn a_plain_request_gets_a_response_when_tls_is_too_slow() {
    let authority = Authority::new("authority");
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &authority.pem());
    let upstream = Upstream::listen().await;
    let mut route = pki::over_tls(upstream.route(), ca, None);
    route.http.hold_timeout = Some(Duration::from_millis(100));
    let proxy = Proxy::start(config(vec![route]));
    let mut client = proxy.connect().await;
    client.send(GET).await;

    let _silent = upstream.accept_raw().await;

    let head = client.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn upstream_tls_resumes_sessions_and_offers_http_1_1() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&["127.0.0.1"]);
    let back = Back::new(&authority, None).await;
    let mut server = pki::server_config(&issued, None);
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    server.ticketer = Ticketer::new().unwrap();
    let mut kinds = Vec::new();

    for _ in 0..2 {
        let mut client = back.proxy.connect().await;
        client.open().await;
        let socket = back.upstream.accept_raw().await.0;
        let stream = pki::accept(socket, server.clone()).await.unwrap();
        let connection = pki::connection(&stream);
        kinds.push(connection.handshake_kind().unwrap());
        assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut exchange = stream.read_request().await.unwrap();
        exchange.answer_101().await;
        // Whatever comes after the 101 says that the tickets before it were read.
        exchange.stream.send(b"\x81\x01x").await;
        client.read(3).await;
    }

    assert_eq!(kinds[1], HandshakeKind::Resumed);
}

#[tokio::test]
async fn where_http_2_is_requested_an_upstream_must_choose_it() {
    let authority = Authority::new("authority");
    let issued = authority.issue(&["127.0.0.1"]);
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &authority.pem());
    let upstream = Upstream::listen().await;
    let settings = pki::over_tls(upstream.route(), ca, None).upstream;
    let dialled = async |protocols: &[&[u8]]| {
        let mut server = pki::server_config(&issued, None);
        server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let accepted = async {
            let socket = upstream.accept_raw().await.0;
            pki::accept(socket, server).await
        };
        tokio::join!(dial(&settings, Protocol::Http2, b""), accepted).0
    };

    let stream = dialled(&[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(stream.application_protocol(), Some(&b"h2"[..]));

    for protocols in [&[][..], &[&b"http/1.1"[..]]] {
        let error = dialled(protocols).await.unwrap_err();
        assert!(matches!(error, DialError::Tls(_)), "{error}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_told_with_what_to_do() {
    let authority = Authority::new("authority");
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &authority.pem());
    let upstream = Upstream::listen().await;
    let settings = pki::over_tls(upstream.route(), ca, None).upstream;
    let expired = authority.issue_with(&["127.0.0.1"], |params| {
        params.not_after = date_time_ymd(2020, 1, 2);
    });
    let names = &["127.0.0.1"];
    let cases = [
        (
            Authority::new("other").issue(names),
            "its certificate is not signed by a trusted CA; name the CA: [route.tls] ca",
        ),
        (
            expired,
            "its certificate expired on Thu, 02 Jan 2020 00:00:00 GMT",
        ),
        (
            authority.issue(&["other.example"]),
            "certificate not valid for name \"127.0.0.1\"; certificate is only valid for \
             DnsName(\"other.example\"); name another one: [route.tls] server_name",
        ),
        (
            authority.issue_with(names, |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
            "its certificate is that of a CA, which cannot be a server's: make one with \
             basicConstraints = CA:FALSE",
        ),
    ];

    for (issued, expected) in cases {
        let server = pki::server_config(&issued, None);
        let accepted = async {
            let socket = upstream.accept_raw().await.0;
            pki::accept(socket, server).await
        };
        let protocol = Protocol::Http1;
        let dialled = dial(&settings, protocol, b"");

        let error = tokio::join!(dialled, accepted).0.unwrap_err().to_string();

        assert_eq!(error, format!("TLS with the upstream failed: {expected}"));
    }
    let plain = async {
        let mut plain = upstream.accept_raw().await;
        plain.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        plain
    };
    let protocol = Protocol::Http1;
    let dialled = dial(&settings, protocol, b"");
    let error = tokio::join!(dialled, plain).0.unwrap_err().to_string();
    assert_eq!(
        error,
        "TLS with the upstream failed: its response is not TLS: is it http:// and not https://?"
    );
}

#[tokio::test]
async fn the_proxy_header_precedes_tls_on_both_sides() {
    let front = Front::new();
    let ca = front.folder.write("ca.pem", &front.authority.pem());
    let upstream = Upstream::listen().await;
    let mut route = pki::over_tls(upstream.route(), ca, None);
    route.upstream.proxy_protocol = Some(ProxyProtocolVersion::V1);
    let mut config = config(vec![route]);
    config.trusted_proxies = trusting("127.0.0.1");
    config.listen[0].proxy_protocol = true;
    config.listen[0].tls = Some(front.tls());
    let proxy = Proxy::start(config);
    let header = "PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n";

    let mut client = proxy.connect().await;
    client.send(header).await;
    let mut client = pki::over(client.0, front.client(), "localhost")
        .await
        .unwrap();
    client.open().await;

    let mut socket = upstream.accept_raw().await;
    let told = socket.read(header.len()).await;
    assert_eq!(String::from_utf8(told).unwrap(), header);
    let issued = front.authority.issue(&["127.0.0.1"]);
    let stream = pki::accept(socket.0, pki::server_config(&issued, None)).await;
    let exchange = stream.unwrap().read_request().await.unwrap();
    assert_eq!(exchange.header("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(exchange.header("x-forwarded-proto"), Some("https"));
}
