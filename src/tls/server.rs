//! TLS of listeners: certificates and their choice.
//!
//! # Invariants
//!
//! * A reload concerns later handshakes only.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::aws_lc_rs::Ticketer,
    pki_types::ServerName,
    server::{
        ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
    },
    sign::CertifiedKey,
};

use super::{CertifiedKeyFiles, FileError, IdentityFiles, Reloadable, authorities, provider};

/// TLS settings of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Certificates; the client gets the first one that matches its server name, else the first.
    pub identities: Vec<IdentityFiles>,
    /// File of the CAs that must have signed the client's certificate; `None`: none is requested.
    pub client_ca: Option<PathBuf>,
    /// Offers HTTP/2 beside HTTP/1.1 (RFC 7301); default true.
    pub h2: bool,
}

/// TLS of one listener, loaded from files.
#[derive(Debug)]
pub struct ServerTls {
    settings: Settings,
    loaded: Reloadable<LoadedTls>,
}

#[derive(Debug)]
struct LoadedTls {
    config: Arc<ServerConfig>,
    identities: Vec<CertifiedKeyFiles>,
}

/// Compares the files, not their content.
impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for ServerTls {}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// The first file that cannot be used, and the reason.
    ///
    /// # Panics
    ///
    /// `settings` has no identity.
    pub fn load(settings: Settings) -> Result<Self, FileError> {
        assert!(!settings.identities.is_empty(), "a listener needs one");
        let pairs = settings.identities.iter();
        let files = pairs
            .flat_map(|pair| [&pair.certificate, &pair.key])
            .chain(&settings.client_ca);
        let files = files.cloned().collect();
        // `None` only if the random generator fails; then sessions are not resumed.
        let tickets = Ticketer::new().ok();
        let source = settings.clone();
        let loaded = Reloadable::new(files, move || LoadedTls::read(&source, tickets.as_ref()))?;
        Ok(Self { settings, loaded })
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
    /// A file that cannot be used; the previous content stays in use.
    pub fn reload(&self) -> Result<(), FileError> {
        self.loaded.reload()
    }

    /// Returns the configuration for further handshakes.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.current().config)
    }

    /// Returns the certificates in use.
    #[must_use]
    pub fn identities(&self) -> Vec<CertifiedKeyFiles> {
        self.loaded.current().identities.clone()
    }
}

impl LoadedTls {
    fn read(
        settings: &Settings,
        tickets: Option<&Arc<dyn ProducesTickets>>,
    ) -> Result<Self, FileError> {
        let identities: Vec<_> = settings
            .identities
            .iter()
            .map(CertifiedKeyFiles::read)
            .collect::<Result<_, _>>()?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has cipher suites of both versions");
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let roots = Arc::new(authorities(file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = verifier.build().expect("a file of authorities has one");
                builder.with_client_cert_verifier(verifier)
            }
        };
        let certified = identities
            .iter()
            .map(|identity| Arc::clone(&identity.certified));
        let mut config = builder.with_cert_resolver(Arc::new(ByName(certified.collect())));
        let offered: &[&[u8]] = if settings.h2 {
            &[b"h2", b"http/1.1"]
        } else {
            &[b"http/1.1"]
        };
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        // A client that resumes a session does not show its certificate again, so tickets must not
        // outlive the CAs that it was checked against. Without CAs they outlive a reload.
        let tickets = match settings.client_ca {
            None => tickets.cloned(),
            Some(_) => Ticketer::new().ok(),
        };
        if let Some(tickets) = tickets {
            config.ticketer = tickets;
        }
        Ok(Self {
            config: Arc::new(config),
            identities,
        })
    }
}

/// Chooses the certificate by the server name of the client (RFC 6066 §3).
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first()?;
        let Some(name) = hello.server_name().filter(|_| self.0.len() > 1) else {
            return Some(Arc::clone(first));
        };
        // With an ECDSA and an RSA certificate for one name, the client may support only one.
        let can_sign = |certified: &CertifiedKey| {
            let schemes = hello.signature_schemes();
            certified.key.choose_scheme(schemes).is_some()
        };
        let fitting = self
            .0
            .iter()
            .find(|certified| is_for(certified, name) && can_sign(certified));
        Some(Arc::clone(fitting.unwrap_or(first)))
    }
}

/// Returns whether a certificate is valid for the host `name`, wildcards included.
fn is_for(certified: &CertifiedKey, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else {
        return false;
    };
    certified
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
}
