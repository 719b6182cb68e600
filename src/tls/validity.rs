//! Warnings about certificates that are expired, not yet valid, or about to expire.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use der::{
    Decode, Reader, SliceReader, Tag, TagMode, TagNumber, Tagged,
    asn1::{AnyRef, GeneralizedTime, UtcTime},
};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::CertifiedKeyFiles;

/// Longest time before its expiry at which a certificate is warned about.
const SOON: Duration = Duration::from_hours(7 * 24);

/// One part in `LAST_PART` of a certificate's lifetime, if that is shorter: certificates that live
/// for a day are renewed within it.
const LAST_PART: u64 = 6;

/// Warnings about certificates, each reported once.
#[derive(Debug, Default)]
pub struct Warnings(BTreeSet<String>);

impl Warnings {
    /// Returns the warnings about `identities` at the time `now` that the last call did not.
    pub fn about<'a>(
        &mut self,
        identities: impl IntoIterator<Item = &'a CertifiedKeyFiles>,
        now: SystemTime,
    ) -> Vec<String> {
        let all = identities.into_iter();
        let all: BTreeSet<_> = all.filter_map(|identity| warning(identity, now)).collect();
        let new = all.difference(&self.0).cloned().collect();
        // A warning that has ceased may be given again.
        self.0 = all;
        new
    }
}

impl CertifiedKeyFiles {
    /// Earliest expiry in the chain; `None` if no certificate has a readable one.
    #[must_use]
    pub fn expiry(&self) -> Option<UnixTime> {
        self.chain().first().map(|shown| shown.ends)
    }

    /// Validity periods of the chain's certificates, in the order of expiry.
    fn chain(&self) -> Vec<UtcDate> {
        let chain = self.certified.cert.iter().enumerate();
        let mut chain: Vec<_> = chain
            .filter_map(|(place, certificate)| {
                let (begins, ends) = validity(certificate).ok()?;
                let is_intermediate = place > 0;
                Some(UtcDate {
                    is_intermediate,
                    begins,
                    ends,
                })
            })
            .collect();
        chain.sort_by_key(|shown| shown.ends.as_secs());
        chain
    }
}

/// Validity period of one certificate of a chain.
struct UtcDate {
    is_intermediate: bool,
    begins: UnixTime,
    ends: UnixTime,
}

fn warning(identity: &CertifiedKeyFiles, now: SystemTime) -> Option<String> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let chain = identity.chain();
    // In the order of expiry, so that the most urgent warning wins.
    chain.iter().find_map(|shown| {
        let which = if shown.is_intermediate {
            "an intermediate"
        } else {
            "the"
        };
        let what = format!("{which} certificate in `{}`", identity.file.display());
        shown.warning(&what, now)
    })
}

impl UtcDate {
    /// Returns the warning about the certificate, called `what`, at `now` seconds after the epoch.
    fn warning(&self, what: &str, now: u64) -> Option<String> {
        let Self { begins, ends, .. } = *self;
        let left = ends.as_secs().saturating_sub(now);
        let lifetime = ends.as_secs().saturating_sub(begins.as_secs());
        if now < begins.as_secs() {
            let date = date(begins);
            Some(format!(
                "{what} is not valid before {date}: it will be refused"
            ))
        } else if now > ends.as_secs() {
            let date = date(ends);
            Some(format!("{what} expired on {date}: it will be refused"))
        // The shorter one counts: seven days are the whole life of some certificates.
        } else if left <= SOON.as_secs().min(lifetime / LAST_PART) {
            Some(format!("{what} expires on {}", date(ends)))
        } else {
            None
        }
    }
}

/// Formats a time in GMT, as in an HTTP date.
#[must_use]
pub fn date(time: UnixTime) -> String {
    let since_epoch = Duration::from_secs(time.as_secs());
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since_epoch)
}

/// Returns the first and the last moment at which a certificate is valid (RFC 5280 §4.1).
fn validity(certificate: &CertificateDer<'_>) -> der::Result<(UnixTime, UnixTime)> {
    let mut certificate = sequence(&mut SliceReader::new(certificate)?)?;
    let mut fields = sequence(&mut certificate)?;
    // Omitted by the first version.
    let _version: Option<u8> = fields.context_specific(TagNumber(0), TagMode::Explicit)?;
    for _field in ["serialNumber", "signature", "issuer"] {
        fields.tlv_bytes()?;
    }
    let mut validity = sequence(&mut fields)?;
    Ok((time(&mut validity)?, time(&mut validity)?))
}

/// Returns a reader of the elements of the sequence that is next in `reader`.
fn sequence<'a>(reader: &mut SliceReader<'a>) -> der::Result<SliceReader<'a>> {
    let sequence = AnyRef::decode(reader)?;
    sequence.tag().assert_eq(Tag::Sequence)?;
    SliceReader::new(sequence.value())
}

fn time(reader: &mut SliceReader<'_>) -> der::Result<UnixTime> {
    // Dates from 2050 on have the second form (RFC 5280 §4.1.2.5).
    let since_epoch = match Tag::peek(reader)? {
        Tag::UtcTime => UtcTime::decode(reader)?.to_unix_duration(),
        _ => GeneralizedTime::decode(reader)?.to_unix_duration(),
    };
    Ok(UnixTime::since_unix_epoch(since_epoch))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
    };
    use rustls::{pki_types::PrivateKeyDer, sign::CertifiedKey};

    use super::*;
    use crate::tls::provider;

    /// Noon of a day in May 2030.
    fn may(day: u8) -> SystemTime {
        let noon = date_time_ymd(2030, 5, day).unix_timestamp() + 12 * 60 * 60;
        SystemTime::UNIX_EPOCH + Duration::from_secs(noon.try_into().unwrap())
    }

    /// With a certificate that is valid from April 2029 to the 20th of May 2030.
    fn identity() -> CertifiedKeyFiles {
        identity_from(2029, 4)
    }

    fn identity_from(year: i32, month: u8) -> CertifiedKeyFiles {
        let key = KeyPair::generate().unwrap();
        let certificate = valid_from(year, month).self_signed(&key).unwrap();
        identity_with(vec![certificate.der().clone()], &key)
    }

    fn valid_from(year: i32, month: u8) -> CertificateParams {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(year, month, 5);
        params.not_after = date_time_ymd(2030, 5, 20);
        params
    }

    /// With a certificate from May of `year` to the 20th of May 2030 and that of an intermediate
    /// authority for the 2nd of May 2030.
    fn identity_of_intermediate(year: i32) -> CertifiedKeyFiles {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(authority.clone(), KeyPair::generate().unwrap());
        authority.not_before = date_time_ymd(2030, 5, 2);
        authority.not_after = date_time_ymd(2030, 5, 3);
        let key = KeyPair::generate().unwrap();
        let intermediate = CertifiedIssuer::signed_by(authority, key, &root.unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = valid_from(year, 5).signed_by(&key, &intermediate).unwrap();
        identity_with(
            vec![certificate.der().clone(), intermediate.der().clone()],
            &key,
        )
    }

    fn identity_with(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> CertifiedKeyFiles {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        CertifiedKeyFiles {
            file: "a.pem".into(),
            certified: CertifiedKey::from_der(chain, key, &provider())
                .unwrap()
                .into(),
        }
    }

    #[test]
    fn a_certificate_is_warned_about_from_a_week_before_its_end() {
        let identity = identity();
        let warning = |now| Warnings::default().about([&identity], now);

        for (day, expected) in [
            (13, "expires on Mon, 20 May 2030 00:00:00 GMT"),
            (
                20,
                "expired on Mon, 20 May 2030 00:00:00 GMT: it will be refused",
            ),
        ] {
            let expected = format!("the certificate in `a.pem` {expected}");
            assert_eq!(warning(may(day)), [expected]);
        }
        assert_eq!(warning(may(12)), [""; 0]);
    }

    #[test]
    fn a_certificate_is_warned_about_in_time_however_short_it_is() {
        let identity = identity_from(2030, 5);
        let warning = |now| Warnings::default().about([&identity], now);

        let early = "is not valid before Sun, 05 May 2030 00:00:00 GMT: it will be refused";
        assert_eq!(
            warning(may(4)),
            [format!("the certificate in `a.pem` {early}")]
        );
        assert_eq!(warning(may(5)), [""; 0]);
        // 15 days: the last part of six begins in the middle of the 17th.
        assert_eq!(warning(may(16)), [""; 0]);
        assert_eq!(warning(may(18)).len(), 1);
    }

    #[test]
    fn an_intermediate_certificate_that_ends_first_is_what_expires() {
        let identity = identity_of_intermediate(2029);
        let warning = |now| Warnings::default().about([&identity], now);

        let ends = date_time_ymd(2030, 5, 3).unix_timestamp();
        let expiry = identity.expiry().unwrap().as_secs();
        assert_eq!(expiry, u64::try_from(ends).unwrap());
        assert_eq!(warning(may(2)), [""; 0]);
        let expired = "expired on Fri, 03 May 2030 00:00:00 GMT: it will be refused";
        assert_eq!(
            warning(may(3)),
            [format!("an intermediate certificate in `a.pem` {expired}")]
        );
        // That it ends first says nothing of the others.
        let identity = identity_of_intermediate(2030);
        let early = "is not valid before Sun, 05 May 2030 00:00:00 GMT: it will be refused";
        assert_eq!(
            Warnings::default().about([&identity], may(2)),
            [format!("the certificate in `a.pem` {early}")]
        );
    }

    #[test]
    fn dates_before_and_from_2050_on_are_read() {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2049, 12, 31);
        params.not_after = date_time_ymd(2050, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();

        let (begins, ends) = validity(certificate.der()).unwrap();

        assert_eq!(date(begins), "Fri, 31 Dec 2049 00:00:00 GMT");
        assert_eq!(date(ends), "Sat, 01 Jan 2050 00:00:00 GMT");
        let broken = &certificate.der()[..100];
        assert!(validity(&broken.into()).is_err());
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
