//! Expiry of the certificates that the process presents.

use std::{collections::BTreeMap, fmt};

use super::{labels, page::Page};
use crate::{config_file::Config, tls::CertifiedKeyFiles};

/// First expiry among the certificates of a listener or of a route's upstream connections, by side
/// and name; in seconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Expiries(BTreeMap<(&'static str, String), u64>);

impl Expiries {
    /// Reads the expiries of the certificates in use.
    pub(super) fn of(config: &Config) -> Self {
        let listeners = config.listen.iter().filter_map(|listen| {
            let identities = listen.tls.as_ref()?.identities();
            Some((("client", listen.to_string()), identities))
        });
        let routes = config.routes.iter().filter_map(|route| {
            let identity = route.upstream.tls.as_ref()?.identity()?;
            Some((("upstream", route.label()), vec![identity]))
        });
        // An alert needs the earliest; the log names each certificate that expires soon.
        let first = listeners.chain(routes).filter_map(|(place, identities)| {
            let expiries = identities.iter().filter_map(CertifiedKeyFiles::expiry);
            Some((place, expiries.map(|it| it.as_secs()).min()?))
        });
        Self(first.collect())
    }

    pub(super) fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        // A family without a series would still print its help.
        if self.0.is_empty() {
            return Ok(());
        }
        let series = self.0.iter().map(|((side, name), expiry)| {
            let labels = labels(&[("side", side), ("name", name)]);
            (labels, *expiry)
        });
        page.gauges(
            "readygate_tls_certificate_expiry_timestamp_seconds",
            "Earliest expiry of the certificates presented to this side.",
            series,
        )
    }
}
