//! The ledger: every accepted client message ends in exactly one account.
//!
//! # Invariants
//!
//! * `accepted = delivered + shed + expired + discarded + unknown + held`, at every
//!   instant; `held` cannot be negative.
//! * A message is moved out of `held` once.

use std::ops::AddAssign;

/// The accounts of one session, or of many, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    accepted: u64,
    delivered: u64,
    shed: u64,
    expired: u64,
    discarded: u64,
    unknown: u64,
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, more: Self) {
        self.accepted += more.accepted;
        self.delivered += more.delivered;
        self.shed += more.shed;
        self.expired += more.expired;
        self.discarded += more.discarded;
        self.unknown += more.unknown;
    }
}

/// Where a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Written to the connection of an upstream that was still there when the flush had
    /// ended, or through the tunnel. That the application has read it nobody can know.
    Delivered,
    /// Gave way to another one in a full queue.
    Shed,
    /// Was held longer than `max_age`.
    Expired,
    /// The session ended before it could be written.
    Discarded,
    /// Was written, perhaps in part, to an upstream that died or closed during the flush, or
    /// was on its way when the tunnel ended or the session was cut off with the process.
    Unknown,
}

impl Account {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Delivered,
        Self::Shed,
        Self::Expired,
        Self::Discarded,
        Self::Unknown,
    ];

    /// The name in logs and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Shed => "shed",
            Self::Expired => "expired",
            Self::Discarded => "discarded",
            Self::Unknown => "unknown",
        }
    }
}

impl Ledger {
    /// Takes responsibility for `messages`: they are held.
    pub fn accept(&mut self, messages: u64) {
        self.accepted += messages;
    }

    /// Moves `messages` held ones to `account`.
    ///
    /// # Panics
    ///
    /// In a debug build, when fewer are held.
    pub fn settle(&mut self, messages: u64, account: Account) {
        debug_assert!(
            messages <= self.held(),
            "settling {messages} of {} held",
            self.held()
        );
        let messages = messages.min(self.held());
        *match account {
            Account::Delivered => &mut self.delivered,
            Account::Shed => &mut self.shed,
            Account::Expired => &mut self.expired,
            Account::Discarded => &mut self.discarded,
            Account::Unknown => &mut self.unknown,
        } += messages;
    }

    /// All messages the proxy took responsibility for.
    #[must_use]
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Messages in `account`.
    #[must_use]
    pub const fn of(&self, account: Account) -> u64 {
        match account {
            Account::Delivered => self.delivered,
            Account::Shed => self.shed,
            Account::Expired => self.expired,
            Account::Discarded => self.discarded,
            Account::Unknown => self.unknown,
        }
    }

    /// Messages whose end is not decided.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.accepted - self.delivered - self.undelivered()
    }

    /// Messages that did not certainly arrive, without those still held.
    #[must_use]
    pub const fn undelivered(&self) -> u64 {
        self.shed + self.expired + self.discarded + self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_in_exactly_one_account() {
        let mut ledger = Ledger::default();
        ledger.accept(10);
        ledger.settle(4, Account::Delivered);
        ledger.settle(1, Account::Shed);
        ledger.settle(1, Account::Expired);
        ledger.settle(2, Account::Discarded);
        ledger.settle(1, Account::Unknown);

        assert_eq!(ledger.accepted(), 10);
        assert_eq!(ledger.of(Account::Delivered), 4);
        assert_eq!(ledger.held(), 1);
        assert_eq!(ledger.undelivered(), 5);
    }

    #[test]
    #[should_panic(expected = "settling 1 of 0 held")]
    fn a_message_cannot_be_settled_twice() {
        let mut ledger = Ledger::default();
        ledger.accept(1);
        ledger.settle(1, Account::Delivered);
        ledger.settle(1, Account::Shed);
    }
}
