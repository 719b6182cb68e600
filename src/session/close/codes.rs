//! Which close code a refused upgrade becomes.

use std::collections::BTreeMap;

use crate::websocket::CloseCode;

/// Which close code the client gets for an HTTP status that refused the upgrade.
#[derive(Clone, Debug)]
pub struct CloseCodes(BTreeMap<u16, CloseCode>);

impl CloseCodes {
    /// The defaults (401 and 403: 1008) with `overrides` on top.
    #[must_use]
    pub fn new(overrides: impl IntoIterator<Item = (u16, CloseCode)>) -> Self {
        let defaults = [
            (401, CloseCode::POLICY_VIOLATION),
            (403, CloseCode::POLICY_VIOLATION),
        ];
        Self(defaults.into_iter().chain(overrides).collect())
    }

    /// The close code for `status`; 1014 where nothing is said.
    #[must_use]
    pub fn of(&self, status: http::StatusCode) -> CloseCode {
        self.0
            .get(&status.as_u16())
            .copied()
            .unwrap_or(CloseCode::BAD_GATEWAY)
    }

    /// Returns whether `status` has a code, by default or because the route says so, from which a client
    /// can tell that it was refused.
    #[must_use]
    pub fn name(&self, status: http::StatusCode) -> bool {
        self.0.contains_key(&status.as_u16())
    }
}

impl Default for CloseCodes {
    fn default() -> Self {
        Self::new([])
    }
}
