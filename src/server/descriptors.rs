//! File descriptors of the process: a connection takes one, and mostly another one to its upstream.

use crate::{config::Limits, transport::descriptors};

/// Descriptors of other kinds: listeners, runtimes, the log, name resolution, and those kept back
/// for operators.
const RESERVE: u64 = 100;

/// Raises the soft limit to the hard one, and warns when connections up to `limits.max_connections`
/// would not have enough.
pub fn raise_descriptor_limit(limits: &Limits) {
    let Some(available) = descriptors::raise_limit() else {
        return;
    };
    let max_connections = u64::try_from(limits.max_connections).unwrap_or(u64::MAX);
    let needed = max_connections.saturating_mul(2).saturating_add(RESERVE);
    if available < needed {
        tracing::warn!(
            needed,
            available,
            max_connections,
            "too few file descriptors: raise the hard limit of the process (LimitNOFILE= in \
             systemd, ulimit -Hn in a shell) or lower limits.max_connections"
        );
    }
}
