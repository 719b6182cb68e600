//! Certificates that are not valid now, or soon.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};

use super::{Identity, provider};

/// From how long before its end on a certificate is warned about.
const SOON: Duration = Duration::from_hours(7 * 24);

/// What was said about certificates, each thing once.
#[derive(Debug, Default)]
pub struct Warnings(BTreeSet<String>);

impl Warnings {
    /// What there is to say about `identities` at the time `now` that was not said at the
    /// last call.
    pub fn about<'a>(
        &mut self,
        identities: impl IntoIterator<Item = &'a Identity>,
        now: SystemTime,
    ) -> Vec<String> {
        let all = identities.into_iter();
        let all: BTreeSet<_> = all.filter_map(|identity| warning(identity, now)).collect();
        let new = all.difference(&self.0).cloned().collect();
        self.0 = all;
        new
    }
}

fn warning(identity: &Identity, now: SystemTime) -> Option<String> {
    let certificate = identity.certified.end_entity_cert().ok()?;
    let what = format!("the certificate in `{}`", identity.file.display());
    match validity(certificate, now) {
        Validity::EndedAt(time) => Some(format!(
            "{what} expired on {}: it will be refused",
            date(time)
        )),
        Validity::BeginsAt(time) => Some(format!(
            "{what} is not valid before {}: it will be refused",
            date(time)
        )),
        Validity::Now => match validity(certificate, now + SOON) {
            Validity::EndedAt(time) => Some(format!("{what} expires on {}", date(time))),
            _ => None,
        },
    }
}

/// A time as people read it, in GMT.
#[must_use]
pub fn date(time: UnixTime) -> String {
    let since_epoch = Duration::from_secs(time.as_secs());
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since_epoch)
}

enum Validity {
    Now,
    BeginsAt(UnixTime),
    EndedAt(UnixTime),
}

/// Whether a certificate is valid at the time `now`, whoever has signed it.
///
/// rustls looks at the time before it looks for the issuer, of which there is none here; its
/// parser shows the dates in no other way.
fn validity(certificate: &CertificateDer<'_>, now: SystemTime) -> Validity {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(since_epoch.unwrap_or_default());
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else {
        return Validity::Now;
    };
    let algorithms = provider().signature_verification_algorithms.all;
    let nobody = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, algorithms) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Validity::EndedAt(not_after)
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before, ..
        })) => Validity::BeginsAt(not_before),
        _ => Validity::Now,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::{pki_types::PrivateKeyDer, sign::CertifiedKey};

    use super::*;

    /// Noon of a day in May 2030.
    fn may(day: u8) -> SystemTime {
        let noon = date_time_ymd(2030, 5, day).unix_timestamp() + 12 * 60 * 60;
        SystemTime::UNIX_EPOCH + Duration::from_secs(noon.try_into().unwrap())
    }

    /// With a certificate that is valid from the 5th to the 20th of May 2030.
    fn identity() -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2030, 5, 5);
        params.not_after = date_time_ymd(2030, 5, 20);
        let certificate = params.self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let chain = vec![certificate.der().clone()];
        Identity {
            file: "a.pem".into(),
            certified: CertifiedKey::from_der(chain, key, &provider())
                .unwrap()
                .into(),
        }
    }

    #[test]
    fn a_certificate_is_warned_about_before_its_time_and_from_a_week_before_its_end() {
        let identity = identity();
        let warning = |now| Warnings::default().about([&identity], now);

        for (day, expected) in [
            (
                4,
                "is not valid before Sun, 05 May 2030 00:00:00 GMT: it will be refused",
            ),
            (13, "expires on Mon, 20 May 2030 00:00:00 GMT"),
            (
                20,
                "expired on Mon, 20 May 2030 00:00:00 GMT: it will be refused",
            ),
        ] {
            let expected = format!("the certificate in `a.pem` {expected}");
            assert_eq!(warning(may(day)), [expected]);
        }
        for day in [5, 12] {
            assert_eq!(warning(may(day)), [""; 0]);
        }
    }

    #[test]
    fn a_warning_is_given_once_and_again_when_it_is_another() {
        let identity = identity();
        let mut warnings = Warnings::default();
        let mut count = |now| warnings.about([&identity], now).len();

        assert_eq!(count(may(12)), 0);
        assert_eq!(count(may(13)), 1);
        assert_eq!(count(may(14)), 0);
        assert_eq!(count(may(20)), 1);
        assert_eq!(count(may(21)), 0);
    }
}
