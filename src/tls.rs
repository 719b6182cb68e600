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

use aws_lc_rs::digest;
use rustls::crypto::{self, CryptoProvider};

pub use self::{
    files::{CertifiedKeyFiles, FileError, IdentityFiles, authorities, certificates, private_key},
    reload::{Reloadable, fingerprint},
    server::ServerTls,
    validity::{Warnings, date},
};

/// Returns the SHA-256 of `bytes` in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    let digits = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Cryptography of both sides: aws-lc-rs, with its post-quantum key exchange first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_sha256sum_prints() {
        // `printf abc | sha256sum`
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
    }
}
