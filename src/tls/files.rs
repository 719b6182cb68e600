//! Certificates and keys as they are in files, and what may be wrong with those.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::provider;

/// The longest file that is read, in bytes: all authorities of a system are a quarter of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A file that cannot be used, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {expected}{}", help.as_ref().map_or_else(String::new, |help| format!(" ({help})")))]
pub struct FileError {
    /// What is wrong with which file.
    pub what: String,
    /// What is expected of it.
    pub expected: &'static str,
    /// What to do, where that is known.
    pub help: Option<String>,
}

impl FileError {
    fn new(what: String, expected: &'static str) -> Self {
        Self {
            what,
            expected,
            help: None,
        }
    }

    fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    fn unreadable(path: &Path, error: &io::Error) -> Self {
        let name = path.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                let missing = Self::new(
                    format!("there is no file `{name}`"),
                    "expected the path of a PEM file",
                );
                match env::current_dir() {
                    Ok(directory) if path.is_relative() => missing.help(format!(
                        "it begins in the working directory, which is {}",
                        directory.display()
                    )),
                    _ => missing,
                }
            }
            io::ErrorKind::PermissionDenied => Self::new(
                format!("permission to read `{name}` is denied"),
                "expected a file that the user of this process may read",
            ),
            _ => Self::new(
                format!("cannot read `{name}`: {error}"),
                "expected the path of a PEM file",
            ),
        }
    }

    fn not_pem(path: &Path, error: &pem::Error) -> Self {
        let name = path.display();
        let what = match error {
            pem::Error::MissingSectionEnd { .. } => {
                format!("`{name}` ends inside of a section: there is no line -----END …-----")
            }
            error => format!("`{name}` is not sound PEM: {error}"),
        };
        Self::new(what, "expected an intact file")
    }
}

/// The certificate chain in a PEM file: the peer's own certificate first.
///
/// # Errors
///
/// The file cannot be read, or has no certificate in it, or one that cannot be used.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| FileError::not_pem(path, &error))?;
    if all.is_empty() {
        return Err(without_certificate(path, &text));
    }
    for certificate in &all {
        ParsedCertificate::try_from(certificate)
            .map_err(|error| unusable_certificate(path, &error))?;
    }
    Ok(all)
}

/// The certificates of authorities in a PEM file.
///
/// # Errors
///
/// Those of [`certificates`].
pub fn authorities(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable_certificate(path, &error))?;
    }
    Ok(roots)
}

/// The private key in a PEM file: the first one.
///
/// # Errors
///
/// The file cannot be read, or has no key in it, or one that needs a passphrase.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read(path)?;
    // In the old form the encryption is a header inside the section, which would be taken
    // for garbage.
    if contains(&text, "BEGIN ENCRYPTED PRIVATE KEY") || contains(&text, "Proc-Type: 4,ENCRYPTED") {
        let name = path.display();
        let error = FileError::new(
            format!("the private key in `{name}` is encrypted"),
            "expected one without a passphrase",
        );
        return Err(error.help(format!(
            "write it to a file of its own: openssl pkey -in {name} -out decrypted.pem"
        )));
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(without_key(path, &text)),
        Err(error) => Err(FileError::not_pem(path, &error)),
    }
}

/// The files of a certificate chain and of its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain: the own certificate first.
    pub certificate: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
}

/// A certificate chain with its private key, and where it came from.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The file with the certificates.
    pub file: PathBuf,
    /// The chain and the key, which belong together.
    pub certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads both files.
    ///
    /// # Errors
    ///
    /// What is wrong with either file, or that they do not belong together.
    pub fn read(files: &IdentityFiles) -> Result<Self, FileError> {
        let chain = certificates(&files.certificate)?;
        let key = private_key(&files.key)?;
        Self::new(files, chain, key)
    }

    /// Puts together what was read from `files`.
    ///
    /// # Errors
    ///
    /// The key is of no kind that is known, or not that of the first certificate.
    pub fn new(
        files: &IdentityFiles,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, FileError> {
        let (certificate, key_file) = (files.certificate.display(), files.key.display());
        let certified = CertifiedKey::from_der(chain, key, &provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => FileError::new(
                format!("the private key in `{key_file}` is not that of the certificate in `{certificate}`"),
                "expected the key that the certificate was made for",
            )
            .help("of several certificates in a file, the one with this key comes first"),
            _ => FileError::new(
                format!("the private key in `{key_file}` is of no known kind"),
                "expected an RSA, ECDSA or Ed25519 key",
            ),
        })?;
        Ok(Self {
            file: files.certificate.clone(),
            certified: Arc::new(certified),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    contents(path).map_err(|error| FileError::unreadable(path, &error))
}

/// What is in a file.
///
/// # Errors
///
/// Those of the system, and what is no file, such as a pipe on which a reader would wait for
/// ever, or is longer than 1 MiB.
pub(super) fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let kind = path.metadata()?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut contents = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(contents)
}

fn without_certificate(path: &Path, text: &[u8]) -> FileError {
    /// How DER, the form without armour, begins.
    const DER: [u8; 2] = [0x30, 0x82];
    let name = path.display();
    let error = FileError::new(
        format!("there is no certificate in `{name}`"),
        "expected a PEM file with a line -----BEGIN CERTIFICATE-----",
    );
    if text.starts_with(&DER) {
        error.help(format!(
            "convert it: openssl x509 -inform der -in {name} -out certificate.pem"
        ))
    } else if contains(text, "PRIVATE KEY-----") {
        error.help("it has a private key in it: are the two files swapped?")
    } else {
        error
    }
}

fn without_key(path: &Path, text: &[u8]) -> FileError {
    let error = FileError::new(
        format!("there is no private key in `{}`", path.display()),
        "expected a PEM file with a line -----BEGIN PRIVATE KEY-----",
    );
    if contains(text, "BEGIN CERTIFICATE-----") {
        error.help("it has a certificate in it: are the two files swapped?")
    } else {
        error
    }
}

fn unusable_certificate(path: &Path, error: &rustls::Error) -> FileError {
    let why = match error {
        rustls::Error::InvalidCertificate(why) => why.to_string(),
        error => error.to_string(),
    };
    let what = format!(
        "a certificate in `{}` cannot be used: {why}",
        path.display()
    );
    FileError::new(what, "expected X.509 certificates of version 3")
}

fn contains(text: &[u8], words: &str) -> bool {
    text.windows(words.len())
        .any(|window| window == words.as_bytes())
}
