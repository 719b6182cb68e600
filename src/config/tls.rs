//! Certificates, keys and authorities: every file is read, so that what is wrong with one
//! stands under its name.

use std::{cell::OnceCell, path::PathBuf, sync::Arc};

use rustls::pki_types::ServerName;

use super::{
    reader::Table,
    report::{Mistake, Problem},
    values::{address::Upstream, units},
};
use crate::{
    server,
    tls::{self, FileError, Identity, IdentityFiles},
    upstream::{self, Address, tls::Roots},
};

impl From<FileError> for Mistake {
    fn from(error: FileError) -> Self {
        let mistake = Self::new(error.what, error.expected);
        match error.help {
            Some(help) => mistake.help(help),
            None => mistake,
        }
    }
}

/// `[listen.tls]`; `None` when there is a problem.
pub(super) fn listener(table: &mut Table<'_>) -> Option<Arc<server::Tls>> {
    let first = identity(table);
    if first.is_none() && table.is_sound() {
        let what = "this listener has no certificate";
        let mistake = Mistake::new(what, "expected certificate = \"/path.pem\"");
        table.lacks(
            "certificate",
            mistake.help("leave out [listen.tls] for a listener without TLS"),
        );
    }
    let additional = table.tables("additional", |additional| {
        let identity = identity(additional);
        if identity.is_none() && additional.is_sound() {
            let what = "there is no certificate";
            additional.lacks(
                "certificate",
                Mistake::new(what, "expected certificate = \"/path.pem\""),
            );
        }
        identity
    });
    let client_ca = authorities(table, "client_ca");
    let h2 = table.measure("h2", units::truth);
    if !table.is_sound() {
        return None;
    }
    let identities = first.into_iter().chain(additional.into_iter().flatten());
    let settings = server::tls::Settings {
        identities: identities.collect(),
        client_ca,
        h2: h2.unwrap_or(true),
    };
    loaded(table, server::Tls::load(settings))
}

/// The authorities of the machine, once somebody has needed them.
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
        let file = authorities(tls, "ca");
        let identity = identity(tls);
        let given_name = tls.parse("server_name", |name| {
            let is_given = !name.is_empty();
            is_given.then(|| server_name(name)).transpose()
        });
        let upstream = upstream?;
        if !upstream.is_tls {
            if let Some(written) = written {
                let what = "TLS is not spoken with this upstream";
                let mistake = Mistake::new(what, "has no effect");
                written.report(mistake.help("write upstream = \"https://…\""));
            }
            return None;
        }
        let server_name = match given_name.flatten() {
            Some(name) => name,
            None => host_name(&upstream.address)
                .map_err(|mistake| url.map(|url| url.report(mistake)))
                .ok()?,
        };
        let roots = match file {
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

/// TLS with the upstream at `address`, by the machine's own authorities.
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

/// The name in the certificate of an upstream at `address`.
fn host_name(address: &Address) -> Result<ServerName<'static>, Mistake> {
    match address {
        Address::Tcp { host, .. } => server_name(host),
        // No notation says that TLS is to be spoken over one.
        Address::Unix(_) => server_name("localhost"),
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Mistake> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        let what = format!("`{name}` is not a name that a certificate can be for");
        Mistake::new(what, "expected a host name or an IP address")
    })
}

/// The files `certificate` and `key`; `None` also when the table has neither.
fn identity(table: &mut Table<'_>) -> Option<IdentityFiles> {
    let certificate_value = table.lookup("certificate");
    let key_value = table.lookup("key");
    match (&certificate_value, &key_value) {
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
    let certificate = table.parse("certificate", |file| {
        let chain = tls::certificates(file.as_ref())?;
        Ok((PathBuf::from(file), chain))
    });
    let key = table.parse("key", |file| {
        let key = tls::private_key(file.as_ref())?;
        Ok((PathBuf::from(file), key))
    });
    let ((certificate, chain), (key, private_key)) = certificate.zip(key)?;
    let files = IdentityFiles { certificate, key };
    match Identity::new(&files, chain, private_key) {
        Ok(_) => Some(files),
        Err(error) => {
            let problem = Problem::at(key_value?.span(), error.into());
            let certificate = certificate_value?.span();
            let problem = problem.context(certificate, "of this certificate");
            table.file().report(problem);
            None
        }
    }
}

/// A file with certificates of authorities; `""` is none.
fn authorities(table: &mut Table<'_>, key: &'static str) -> Option<PathBuf> {
    let file = table.parse(key, |file| {
        if file.is_empty() {
            return Ok(None);
        }
        tls::authorities(file.as_ref())?;
        Ok(Some(PathBuf::from(file)))
    });
    file.flatten()
}

/// What was loaded, or the problem of a file that has changed since it was checked.
fn loaded<T>(table: &Table<'_>, loaded: Result<T, FileError>) -> Option<Arc<T>> {
    loaded
        .map(Arc::new)
        .map_err(|error| table.problem_at(table.span(), error.into()))
        .ok()
}

#[cfg(test)]
pub(super) mod tests;
