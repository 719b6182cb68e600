//! TLS with the upstream: trusted CAs, client certificate, and the meaning of its errors.

use std::{error::Error, fmt, io, path::PathBuf, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage, OtherError, RootCertStore,
    pki_types::ServerName,
};
use tokio_rustls::{TlsConnector, TlsStream};

use super::protocol::Protocol;
use crate::{
    tls::{self, CertifiedKeyFiles, FileError, IdentityFiles, Reloadable, fingerprint},
    transport::Transport,
};

/// Settings for TLS with an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Name that the upstream's certificate must be valid for.
    pub server_name: ServerName<'static>,
    /// CAs that are trusted to sign that certificate.
    pub roots: Roots,
    /// Client certificate and key, if the upstream wants one.
    pub identity: Option<IdentityFiles>,
}

/// Trusted CAs.
#[derive(Clone, Debug)]
pub enum Roots {
    /// The system's CAs, read once.
    System(Arc<RootCertStore>),
    /// The CAs in a file, and no others.
    File(PathBuf),
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::System(one), Self::System(other)) => one.roots == other.roots,
            (Self::File(one), Self::File(other)) => one == other,
            (Self::System(_), Self::File(_)) | (Self::File(_), Self::System(_)) => false,
        }
    }
}

impl Roots {
    /// Loads the system's CAs: from `SSL_CERT_FILE` or `SSL_CERT_DIR`, else from where
    /// distributions keep them.
    ///
    /// # Errors
    ///
    /// No certificate was found.
    pub fn system() -> Result<Self, FileError> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        // A bad certificate in the system's bundle must not disable the others.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(FileError {
                what: "this machine has no CA certificates".to_owned(),
                expected: "needed to tell whether the upstream is the right one",
                help: Some(
                    "install ca-certificates, or name a file: [route.tls] ca = \"/path.pem\""
                        .to_owned(),
                ),
            });
        }
        Ok(Self::System(Arc::new(roots)))
    }

    fn read(&self) -> Result<Arc<RootCertStore>, FileError> {
        match self {
            Self::System(roots) => Ok(Arc::clone(roots)),
            Self::File(file) => tls::authorities(file).map(Arc::new),
        }
    }
}

/// TLS with one upstream, loaded from files.
#[derive(Debug)]
pub struct Tls {
    settings: Settings,
    /// [Fingerprint](fingerprint) of the files when they were first read.
    first_contents: u64,
    loaded: Reloadable<Loaded>,
}

impl PartialEq for Tls {
    /// Compares the settings and the contents of the files.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.first_contents == other.first_contents
    }
}

/// Material in use until a file changes, with the TLS sessions to resume.
#[derive(Debug)]
struct Loaded {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    identity: Option<CertifiedKeyFiles>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A problem with the first file that cannot be used.
    pub fn load(settings: Settings) -> Result<Self, FileError> {
        let mut files = Vec::new();
        // The system's CAs are read once and not reloaded.
        if let Roots::File(file) = &settings.roots {
            files.push(file.clone());
        }
        if let Some(identity) = &settings.identity {
            files.extend([identity.certificate.clone(), identity.key.clone()]);
        }
        let first_contents = fingerprint(&files);
        let read = settings.clone();
        let loaded = Reloadable::new(files, move || Loaded::read(&read))?;
        Ok(Self {
            settings,
            first_contents,
            loaded,
        })
    }

    /// Adopts changed files; see [`Reloadable::refresh`].
    #[must_use]
    pub fn refresh(&self) -> Option<Result<(), FileError>> {
        self.loaded.refresh()
    }

    /// Reads the files again at once.
    ///
    /// # Errors
    ///
    /// A problem with a file; the previous material stays in use.
    pub fn reload(&self) -> Result<(), FileError> {
        self.loaded.reload()
    }

    /// Client certificate in use.
    #[must_use]
    pub fn identity(&self) -> Option<CertifiedKeyFiles> {
        self.loaded.current().identity.clone()
    }

    /// Performs the TLS handshake over `stream`, for `protocol`.
    pub(super) async fn connect(
        &self,
        stream: Transport,
        protocol: Protocol,
    ) -> io::Result<Transport> {
        let loaded = self.loaded.current();
        let config = match protocol {
            Protocol::Http1 => &loaded.http1,
            Protocol::Http2 => &loaded.http2,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let handshake = connector.connect(self.settings.server_name.clone(), stream);
        let stream = Transport::Tls(Box::new(TlsStream::Client(handshake.await?)));
        let chosen = stream.application_protocol();
        // An upstream without HTTP/2 may complete the handshake and ignore the offer.
        if protocol == Protocol::Http2 && chosen != Some(Protocol::Http2.name()) {
            let refusal = rustls::Error::General("it does not speak HTTP/2".to_owned());
            return Err(io::Error::new(io::ErrorKind::InvalidData, refusal));
        }
        Ok(stream)
    }
}

impl Loaded {
    fn read(settings: &Settings) -> Result<Self, FileError> {
        let roots = settings.roots.read()?;
        let identity = settings
            .identity
            .as_ref()
            .map(CertifiedKeyFiles::read)
            .transpose()?;
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has cipher suites of both versions")
            .with_root_certificates(roots);
        let mut http1 = match &identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certified = Arc::clone(&identity.certified);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                    certified,
                )))
            }
        };
        // Two configurations: ALPN offers exactly the protocol that is spoken afterwards.
        let mut http2 = http1.clone();
        http1.alpn_protocols = vec![Protocol::Http1.name().to_vec()];
        http2.alpn_protocols = vec![Protocol::Http2.name().to_vec()];
        Ok(Self {
            http1: Arc::new(http1),
            http2: Arc::new(http2),
            identity,
        })
    }
}

/// Error of a TLS handshake with the upstream that a retry would not change.
///
/// Boxed, as a session reserves room for the error that may end it.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsError(Box<rustls::Error>);

impl TlsError {
    /// Extracts the TLS error from `error`; `None` if the failure concerns the connection alone and
    /// may not repeat.
    ///
    /// `internal_error` is sent by terminators whose certificate is not loaded yet: the 500 of TLS.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let is_temporary = matches!(
            error,
            rustls::Error::AlertReceived(
                AlertDescription::InternalError | AlertDescription::UserCanceled
            )
        );
        (!is_temporary).then(|| Self(Box::new(error.clone())))
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage as Invalid};
        formatter.write_str(match &*self.0 {
            InvalidCertificate(CertificateError::UnknownIssuer) => {
                "its certificate is not signed by a trusted CA; name the CA: [route.tls] ca"
            }
            InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                return write!(
                    formatter,
                    "its certificate expired on {}",
                    tls::date(*not_after)
                );
            }
            InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
                return write!(
                    formatter,
                    "its certificate is not valid before {}",
                    tls::date(*not_before)
                );
            }
            InvalidCertificate(CertificateError::Other(OtherError(other)))
                // rustls has no variant for this error of webpki.
                if other.to_string().contains("CaUsedAsEndEntity") =>
            {
                "its certificate is that of a CA, which cannot be a server's: make one with \
                 basicConstraints = CA:FALSE"
            }
            InvalidCertificate(error @ CertificateError::NotValidForNameContext { .. }) => {
                return write!(
                    formatter,
                    "{error}; name another one: [route.tls] server_name"
                );
            }
            // A response in plain text looks like an illegal record type.
            Invalid(InvalidMessage::InvalidContentType) => {
                "its response is not TLS: is it http:// and not https://?"
            }
            AlertReceived(AlertDescription::CertificateRequired) => {
                "it wants a certificate: [route.tls] certificate and key"
            }
            AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::UnsupportedCertificate,
            ) => return write!(formatter, "it refuses this proxy's certificate: {}", self.0),
            AlertReceived(AlertDescription::UnrecognisedName) => {
                "it does not know this server name; name another one: [route.tls] server_name"
            }
            error => return error.fmt(formatter),
        })
    }
}

impl Error for TlsError {}
