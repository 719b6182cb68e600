//! TLS material of either side: certificates and keys from PEM files, and their reload.
//!
//! # Invariants
//!
//! * The crypto provider is always named, never the process's default: looking that up panics where
//!   two are linked in.
//! * Material in use was read and checked as a whole; a file that breaks later changes nothing.
//! * No key material appears in a `Debug` or an error.

mod files;
mod reload;
pub mod server;
mod validity;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use self::{
    files::{CertifiedKeyFiles, FileError, IdentityFiles, authorities, certificates, private_key},
    reload::{Reloadable, fingerprint},
    server::ServerTls,
    validity::{Warnings, date},
};

/// Returns the SHA-256 of `bytes` in hexadecimal.
///
/// # Panics
///
/// When aws-lc-rs has no cipher suite with that hash, without which there is no TLS 1.3.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13();
    let suite = suite.expect("it is of TLS 1.3");
    let hash = suite.common.hash_provider.hash(bytes);
    let digits = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Cryptography of both sides: aws-lc-rs, with its post-quantum key exchange first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}
