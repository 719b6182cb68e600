//! CAs, certificates and both ends of TLS, for tests.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use readygate::{
    route::Route,
    tls::{IdentityFiles, provider, server},
    transport::Transport,
    upstream::tls::{self, Roots},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::support::Client;

/// A CA.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// A certificate for `names`, with its key.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        Issued {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A certificate and its key, in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Issued {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A directory that goes with the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }

    /// Writes a certificate and its key, or replaces those of the same `name`.
    pub(crate) fn identity(&self, name: &str, issued: &Issued) -> IdentityFiles {
        IdentityFiles {
            certificate: self.write(&format!("{name}.pem"), &issued.certificate),
            key: self.write(&format!("{name}.key"), &issued.key),
        }
    }
}

/// TLS of a listener with one certificate, which clients need none for.
pub(crate) fn listener(identity: IdentityFiles) -> server::Settings {
    server::Settings {
        identities: vec![identity],
        client_ca: None,
        h2: true,
    }
}

/// Returns the route, changed to TLS with the upstream.
pub(crate) fn over_tls(mut route: Route, ca: PathBuf, identity: Option<IdentityFiles>) -> Route {
    let settings = tls::Settings {
        server_name: ServerName::try_from("127.0.0.1").unwrap(),
        roots: Roots::File(ca),
        identity,
    };
    route.upstream.tls = Some(Arc::new(tls::Tls::load(settings).unwrap()));
    route
}

/// Configures a client that trusts `roots`.
pub(crate) fn client_config(roots: Arc<RootCertStore>) -> ClientConfig {
    client_config_with(roots, None)
}

pub(crate) fn client_config_with(
    roots: Arc<RootCertStore>,
    identity: Option<&Issued>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(issued) => builder
            .with_client_auth_cert(issued.chain(), issued.key())
            .unwrap(),
    }
}

/// Configures a server; with `client_roots` it requests certificates of clients.
pub(crate) fn server_config(
    issued: &Issued,
    client_roots: Option<Arc<RootCertStore>>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .unwrap(),
        ),
    };
    builder
        .with_single_cert(issued.chain(), issued.key())
        .unwrap()
}

/// Connects to `address` and asks for `name`.
pub(crate) async fn connect(
    address: SocketAddr,
    config: ClientConfig,
    name: &str,
) -> std::io::Result<Client<Transport>> {
    over(TcpStream::connect(address).await?, config, name).await
}

/// The client's side of a handshake over `socket`.
pub(crate) async fn over(
    socket: TcpStream,
    config: ClientConfig,
    name: &str,
) -> std::io::Result<Client<Transport>> {
    let socket = Transport::Tcp(socket);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await?;
    Ok(Client(Transport::Tls(Box::new(TlsStream::Client(stream)))))
}

/// The server's side of a handshake.
pub(crate) async fn accept(
    socket: TcpStream,
    config: ServerConfig,
) -> std::io::Result<Client<Transport>> {
    let stream = TlsAcceptor::from(Arc::new(config))
        .accept(Transport::Tcp(socket))
        .await?;
    Ok(Client(Transport::Tls(Box::new(TlsStream::Server(stream)))))
}

/// The certificate that the server has shown.
pub(crate) fn shown(client: &Client<Transport>) -> CertificateDer<'static> {
    let connection = connection(client);
    connection.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

/// The connection's side of TLS.
pub(crate) fn connection(client: &Client<Transport>) -> &rustls::CommonState {
    match &client.0 {
        Transport::Tls(stream) => stream.get_ref().1,
        _ => panic!("not over TLS"),
    }
}
