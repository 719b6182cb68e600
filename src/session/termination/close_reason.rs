//! Reasons in close frames to clients (RFC 6455 §7.1.6).

use super::EndReason;
use crate::session::ledger::{Account, Ledger};

impl EndReason {
    /// Reason text of a close frame for the client: the name, the number of messages that were
    /// not delivered, and the number of those that may be lost.
    ///
    /// An upstream that has not ended may yet confirm messages. The client does not wait for
    /// that, since messages that it sends meanwhile would be lost; every open message counts as
    /// possibly lost.
    #[must_use]
    pub fn close_reason(&self, ledger: &Ledger) -> String {
        let name = self.name();
        let undelivered = ledger.undelivered() - ledger.of(Account::Unknown);
        let in_doubt = ledger.in_doubt();
        let messages = |count| match count {
            1 => "1 message".to_owned(),
            _ => format!("{count} messages"),
        };
        match (undelivered, in_doubt) {
            (0, 0) => name.to_owned(),
            (_, 0) => format!("{name}; {} not delivered", messages(undelivered)),
            (0, _) => format!("{name}; {} may be lost", messages(in_doubt)),
            _ => format!(
                "{name}; {} not delivered, {in_doubt} may be lost",
                messages(undelivered)
            ),
        }
    }
}
