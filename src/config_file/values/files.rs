//! Files of certificates and keys, each read in order to report what is wrong with it.

use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::Text;
use crate::{
    config_file::report::Mistake,
    tls::{self, FileError},
};

/// A file and what is in it.
type Read<T> = Option<(PathBuf, T)>;

pub(in crate::config_file) const CERTIFICATE: Text<Read<Vec<CertificateDer<'static>>>> =
    Text(|file| {
        Ok(Some((
            PathBuf::from(file),
            tls::certificates(file.as_ref())?,
        )))
    });
pub(in crate::config_file) const PRIVATE_KEY: Text<Read<PrivateKeyDer<'static>>> = Text(|file| {
    Ok(Some((
        PathBuf::from(file),
        tls::private_key(file.as_ref())?,
    )))
});
pub(in crate::config_file) const AUTHORITIES: Text<Option<PathBuf>> = Text(authorities);
pub(in crate::config_file) const SERVER_NAME: Text<Option<ServerName<'static>>> = Text(|name| {
    let is_given = !name.is_empty();
    is_given.then(|| server_name(name)).transpose()
});

impl From<FileError> for Mistake {
    fn from(error: FileError) -> Self {
        let mistake = Self::new(error.what, error.expected);
        match error.help {
            Some(help) => mistake.help(help),
            None => mistake,
        }
    }
}

/// A file with certificates of authorities; `""` is none.
fn authorities(file: &str) -> Result<Option<PathBuf>, Mistake> {
    if file.is_empty() {
        return Ok(None);
    }
    tls::authorities(file.as_ref())?;
    Ok(Some(PathBuf::from(file)))
}

pub(in crate::config_file) fn server_name(name: &str) -> Result<ServerName<'static>, Mistake> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        let what = format!("`{name}` is not a name that a certificate can be for");
        Mistake::new(what, "expected a host name or an IP address")
    })
}
