//! Certificates and keys in files, and errors that say how to fix them.

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

/// Longest file that is read, in bytes: four times the CA bundle of a system.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A file that cannot be used, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {expected}{}", help.as_ref().map_or_else(String::new, |help| format!(" ({help})")))]
pub struct FileError {
    /// The problem, with the name of the file.
    pub what: String,
    /// The expected content.
    pub expected: &'static str,
    /// A way to fix it, where one is known.
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
                    // The usual cause: service managers start programs in another directory.
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
            error => format!("`{name}` is not valid PEM: {error}"),
        };
        Self::new(what, "expected an intact file")
    }
}

/// Reads the certificate chain in a PEM file: the peer's own certificate first.
///
/// # Errors
///
/// The file cannot be read, contains no certificate, or one that cannot be used.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| FileError::not_pem(path, &error))?;
    if all.is_empty() {
        return Err(without_certificate(path, &text));
    }
    // Checked here, so that the error names the file.
    for certificate in &all {
        ParsedCertificate::try_from(certificate)
            .map_err(|error| unusable_certificate(path, &error))?;
    }
    Ok(all)
}

/// Reads the CA certificates in a PEM file.
///
/// # Errors
///
/// As for [`certificates`].
pub fn authorities(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable_certificate(path, &error))?;
    }
    Ok(roots)
}

/// Reads the first private key in a PEM file.
///
/// # Errors
///
/// The file cannot be read, contains no key, or one that needs a passphrase.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read(path)?;
    // In the old form the encryption is a header inside the section, which the parser would report
    // as garbage.
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
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
}

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct CertifiedKeyFiles {
    /// File that the chain was read from.
    pub file: PathBuf,
    /// The chain and the matching key.
    pub certified: Arc<CertifiedKey>,
}

impl CertifiedKeyFiles {
    /// Reads both files.
    ///
    /// # Errors
    ///
    /// A problem with either file, or a key that does not match the certificate.
    pub fn read(files: &IdentityFiles) -> Result<Self, FileError> {
        let chain = certificates(&files.certificate)?;
        let key = private_key(&files.key)?;
        Self::new(files, chain, key)
    }

    /// Combines the chain and the key that were read from `files`.
    ///
    /// # Errors
    ///
    /// The key is of an unknown kind, or does not match the first certificate.
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
                format!("the private key in `{key_file}` is of an unknown kind"),
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

/// Reads a whole file.
///
/// # Errors
///
/// Those of the system, and files that are not regular, such as a pipe on which a reader would
/// block forever, or longer than 1 MiB.
pub(super) fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let kind = path.metadata()?.file_type();
    // Opening a directory fails with an error that says so.
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut contents = Vec::new();
    let file = File::open(path)?;
    // The file may grow while it is read, so its metadata alone is no bound.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(contents)
}

fn without_certificate(path: &Path, text: &[u8]) -> FileError {
    /// First bytes of DER, the binary form.
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
