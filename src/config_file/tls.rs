//! Certificates, keys and CAs: every file is read, so that problems are reported under its name.

use std::{cell::OnceCell, path::PathBuf, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::{
    keys,
    reader::Table,
    report::{Mistake, Problem},
    values::{address::Upstream, files::server_name},
};
use crate::{
    tls::{CertifiedKeyFiles, FileError, IdentityFiles, ServerTls, server},
    upstream::{self, Address, tls::Roots},
};

/// A certificate and its key, each with its file.
#[derive(Default)]
pub(super) struct Pair {
    pub(super) certificate: Option<(PathBuf, Vec<CertificateDer<'static>>)>,
    pub(super) key: Option<(PathBuf, PrivateKeyDer<'static>)>,
}

/// `[listen.tls]`.
pub(super) struct ListenerTls {
    pub(super) pair: Pair,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) h2: bool,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self {
            pair: Pair::default(),
            client_ca: None,
            h2: true,
        }
    }
}

/// `[route.tls]`.
#[derive(Default)]
pub(super) struct UpstreamTls {
    pub(super) pair: Pair,
    /// Trusted CAs; `None`: those of the system.
    pub(super) ca: Option<PathBuf>,
    pub(super) server_name: Option<ServerName<'static>>,
}

/// `[listen.tls]`; `None` when there is a problem.
pub(super) fn listener(table: &mut Table<'_>) -> Option<Arc<ServerTls>> {
    let mut written = ListenerTls::default();
    report_half_pair(table);
    keys::LISTEN_TLS.read(table, &mut written);
    let first = identity(table, written.pair);
    if first.is_none() && table.is_sound() {
        let what = "this listener has no certificate";
        let mistake = Mistake::new(what, "expected certificate = \"/path.pem\"");
        table.lacks(
            "certificate",
            mistake.help("leave out [listen.tls] for a listener without TLS"),
        );
    }
    let additional = table.tables("additional", |additional| {
        let mut pair = Pair::default();
        report_half_pair(additional);
        keys::ADDITIONAL.read(additional, &mut pair);
        let identity = identity(additional, pair);
        if identity.is_none() && additional.is_sound() {
            let what = "there is no certificate";
            additional.lacks(
                "certificate",
                Mistake::new(what, "expected certificate = \"/path.pem\""),
            );
        }
        identity
    });
    if !table.is_sound() {
        return None;
    }
    let identities = first.into_iter().chain(additional.into_iter().flatten());
    let settings = server::Settings {
        identities: identities.collect(),
        client_ca: written.client_ca,
        h2: written.h2,
    };
    loaded(table, ServerTls::load(settings))
}

/// CAs of the system, once they were needed.
pub(super) type SystemRoots = OnceCell<Roots>;

/// TLS with a route's upstream, by `[route.tls]`; `None` without, and when there is a
/// problem.
pub(super) fn upstream(
    table: &mut Table<'_>,
    upstream: Option<&Upstream>,
    system_roots: &SystemRoots,
) -> Option<Arc<upstream::tls::Tls>> {
    let written = table.lookup("tls");
    let url = table.lookup("upstream");
    table.table("tls", |tls| {
        let mut settings = UpstreamTls::default();
        report_half_pair(tls);
        keys::TLS.read(tls, &mut settings);
        let identity = identity(tls, settings.pair);
        let upstream = upstream?;
        if !upstream.is_tls {
            if let Some(written) = written {
                let what = "TLS is not spoken with this upstream";
                let mistake = Mistake::new(what, "has no effect");
                written.report(mistake.help("write upstream = \"https://…\""));
            }
            return None;
        }
        let server_name = match settings.server_name {
            Some(name) => name,
            None => host_name(&upstream.address)
                .map_err(|mistake| url.map(|url| url.report(mistake)))
                .ok()?,
        };
        let roots = match settings.ca {
            Some(file) => Roots::File(file),
            None => shared(system_roots)
                .map_err(|error| url.map(|url| url.report(error.into())))
                .ok()?,
        };
        if !tls.is_sound() {
            return None;
        }
        let settings = upstream::tls::Settings {
            server_name,
            roots,
            identity,
        };
        loaded(tls, upstream::tls::Tls::load(settings))
    })
}

/// TLS with the upstream at `address` and the CAs of the system.
pub(super) fn to(address: &Address) -> Result<Arc<upstream::tls::Tls>, Mistake> {
    let settings = upstream::tls::Settings {
        server_name: host_name(address)?,
        roots: Roots::system()?,
        identity: None,
    };
    Ok(Arc::new(upstream::tls::Tls::load(settings)?))
}

fn shared(roots: &SystemRoots) -> Result<Roots, FileError> {
    if let Some(roots) = roots.get() {
        return Ok(roots.clone());
    }
    let read = Roots::system()?;
    Ok(roots.get_or_init(|| read).clone())
}

/// Name in the certificate of an upstream at `address`.
fn host_name(address: &Address) -> Result<ServerName<'static>, Mistake> {
    match address {
        Address::Tcp { host, .. } => server_name(host),
        // No notation says that TLS is to be spoken over one.
        Address::Unix(_) => server_name("localhost"),
    }
}

/// Reports a `certificate` without `key`, or the reverse.
fn report_half_pair(table: &mut Table<'_>) {
    match (table.lookup("certificate"), table.lookup("key")) {
        (Some(value), None) => {
            let mistake = Mistake::new("this certificate has no key", "expected a `key`, too");
            value.report(mistake.help("if it is in the same file, name that file twice"));
        }
        (None, Some(value)) => {
            let what = "this key has no certificate";
            value.report(Mistake::new(what, "expected a `certificate`, too"));
        }
        _ => {}
    }
}

/// Returns the files of a matching `pair`; `None` also without both keys.
fn identity(table: &mut Table<'_>, pair: Pair) -> Option<IdentityFiles> {
    let ((certificate, chain), (key, private_key)) = pair.certificate.zip(pair.key)?;
    let files = IdentityFiles { certificate, key };
    match CertifiedKeyFiles::new(&files, chain, private_key) {
        Ok(_) => Some(files),
        Err(error) => {
            let problem = Problem::at(table.lookup("key")?.span(), error.into());
            let certificate = table.lookup("certificate")?.span();
            let problem = problem.context(certificate, "of this certificate");
            table.file().report(problem);
            None
        }
    }
}

/// Reports the problem of a file that has changed since it was checked.
fn loaded<T>(table: &Table<'_>, loaded: Result<T, FileError>) -> Option<Arc<T>> {
    loaded
        .map(Arc::new)
        .map_err(|error| table.problem_at(table.span(), error.into()))
        .ok()
}

#[cfg(test)]
pub(super) mod tests;
