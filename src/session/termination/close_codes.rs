//! Close codes for rejected upgrades.

use std::collections::BTreeMap;

use crate::websocket::CloseCode;

/// Close codes that the client receives for the HTTP statuses of rejected upgrades.
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

    /// Returns the close code for `status`; 1014 by default.
    #[must_use]
    pub fn of(&self, status: http::StatusCode) -> CloseCode {
        self.0
            .get(&status.as_u16())
            .copied()
            .unwrap_or(CloseCode::BAD_GATEWAY)
    }

    /// Returns whether `status` has a code of its own, by default or by the route's settings,
    /// from which a client can tell that it was rejected.
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
