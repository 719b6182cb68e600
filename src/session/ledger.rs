//! The ledger: every accepted client message ends in exactly one account.
//!
//! # What confirms a message
//!
//! A message that was written lies in the buffers of two sockets. TCP acknowledges it there,
//! whether or not the application lives to read it. So it is *unconfirmed* until the upstream
//! sends something that it sends only after having read it:
//!
//! ```text
//!  written to the upstream    m1    m2        │        m3
//!                             ────────────────┼──────────────┬───────────► time
//!                                  its socket is empty       it says d
//! ```
//!
//! Data from a socket that was found empty was not there before: when the upstream sent `d`, `m1`
//! and `m2` had been written, and an application that reads everything available before it sends
//! has read them. Nothing is known of `m3`: `d` may have been on its way. While only a part of a
//! message has arrived, the socket does not count as empty: the rest may have been sent together
//! with that part. The upstream confirms with
//!
//! * data: the end of a message;
//! * the answer to the proxy's close frame, which is the last thing that it reads. A close frame
//!   is that answer when the socket was found empty after the proxy's was written and it has the
//!   same code, none, 1000 or 3000 to 4999; or when the socket was found empty before and the
//!   code is the same;
//! * a close frame of its own, but only with 1000 or 3000 to 4999: a peer that closes need not
//!   process the messages it has received (RFC 6455 §5.5.1), and with another code it has failed.
//!
//! A pong to a ping of the proxy needs no empty socket: it confirms the messages in front of that
//! ping in the stream, and of the earlier pings that it stands for (`pings.rs`), and nothing
//! behind. All other pongs, and the upstream's pings, confirm nothing: libraries send them of
//! their own accord. To tell which pongs answer a client's ping, every ping and pong of every
//! session would have to be parsed and the position of each ping be kept; a client's pings are
//! relayed unparsed.
//!
//! Outside the tunnel, the socket is asked whether it is empty. The tunnel makes no extra read:
//! it suffices that the reactor has recorded nothing to read when a message has been written.
//! Data that arrived since the worker last polled its sockets, one turn of the worker ago, is
//! taken for something sent after that message.
//!
//! The socket belongs to one session, since upstream connections are opened over HTTP/1.1. Only
//! clients share a connection, over HTTP/2, where a stream could at most be found empty: another
//! task reads the socket. Nothing depends on clients here. Under TLS, a record that has arrived
//! in part is not visible: its socket counts as empty.
//!
//! At any other end, with or without a close frame, unconfirmed messages become *unknown*, before
//! the client is told how many may be lost.
//!
//! # Limits of a confirmation
//!
//! * Delivered does not mean processed: an application may read a message and fail.
//! * An application that processes one message after the other confirms with its first reply
//!   everything written to its socket by then: if it is killed before it comes to the rest, some
//!   messages that were counted as delivered are lost. The same holds for one that sends without
//!   reading.
//! * A pong, and the answer to a close frame, often come from the library: the messages before it
//!   have been read from the socket, and may still wait in the library for the application.
//! * Data that the upstream sends at about the time a message is written confirms that message
//!   too, although it has not been read yet: within a round trip, and while the data lies in the
//!   upstream's send buffers.
//! * Unknown does not mean lost: an application that sends nothing may have read everything.
//! * The reason text of the client's close frame is made from the accounts at that moment. If the
//!   upstream has ended, they are final. If the proxy ends the session itself, or the client has
//!   violated the protocol, both sides are sent their close frames at once: the text then counts
//!   every open message as possibly lost, while the report, written after the upstream's answer,
//!   may count it as delivered. Making the client wait for that answer would be worse: messages
//!   that it sends meanwhile would be lost. A close frame of the upstream is forwarded unchanged,
//!   without numbers.
//!
//! # Invariants
//!
//! * `accepted = delivered + shed + expired + discarded + unknown + unconfirmed + held`, at
//!   every instant; neither `unconfirmed` nor `held` can be negative, and both are 0 at the end.
//! * A message enters one of the [accounts](Account) once, and stays there.

use std::ops::AddAssign;

/// Accounts of one session, or the sum of several, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    accepted: u64,
    delivered: u64,
    shed: u64,
    expired: u64,
    discarded: u64,
    unknown: u64,
    /// Messages written to the upstream, perhaps in part: `delivered`, `unknown` and unconfirmed
    /// ones.
    written: u64,
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, more: Self) {
        self.accepted += more.accepted;
        self.delivered += more.delivered;
        self.shed += more.shed;
        self.expired += more.expired;
        self.discarded += more.discarded;
        self.unknown += more.unknown;
        self.written += more.written;
    }
}

/// Account in which a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Written, and confirmed by something that the upstream sent later.
    Delivered,
    /// Dropped from a full queue in favour of another one.
    Shed,
    /// Held longer than `max_age`.
    Expired,
    /// Dropped because the session ended before it could be written.
    Discarded,
    /// Written, perhaps in part, to an upstream that ended without confirming it.
    Unknown,
}

impl Account {
    /// Every account.
    pub const ALL: [Self; 5] = [
        Self::Delivered,
        Self::Shed,
        Self::Expired,
        Self::Discarded,
        Self::Unknown,
    ];

    /// Name in logs and labels.
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
    /// Accepts `messages`: they are held.
    pub fn accept(&mut self, messages: u64) {
        self.accepted += messages;
    }

    /// Records that `messages` have been written to the upstream so far, including those already
    /// in an account.
    pub(super) const fn note_written(&mut self, messages: u64) {
        // An older count may arrive after a newer one: a pong tells more than the write buffer
        // has counted.
        if messages > self.written {
            self.written = messages;
        }
    }

    /// Messages that were written to the upstream.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Messages that were written and are in an account.
    pub(super) const fn known(&self) -> u64 {
        self.delivered + self.unknown
    }

    /// Confirms the first `messages` of all that were written, except those that are settled
    /// already.
    pub(super) const fn confirm(&mut self, messages: u64) {
        // Cumulative, since messages are written in order.
        let known = self.known();
        if messages > known {
            self.delivered += messages - known;
        }
    }

    /// Moves the unconfirmed messages to [`Account::Unknown`].
    pub(super) const fn give_up_unconfirmed(&mut self) {
        self.unknown += self.unconfirmed();
    }

    /// Moves `messages` from the held ones to `account`.
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
        if matches!(account, Account::Delivered | Account::Unknown) {
            self.written += messages;
        }
        *match account {
            Account::Delivered => &mut self.delivered,
            Account::Shed => &mut self.shed,
            Account::Expired => &mut self.expired,
            Account::Discarded => &mut self.discarded,
            Account::Unknown => &mut self.unknown,
        } += messages;
    }

    /// Messages accepted from the client.
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

    /// Messages that are written and neither confirmed nor given up.
    #[must_use]
    pub const fn unconfirmed(&self) -> u64 {
        self.written - self.known()
    }

    /// Messages that are not written.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.accepted - self.delivered - self.undelivered() - self.unconfirmed()
    }

    /// Messages that may be lost: unknown ones, and those in no account.
    #[must_use]
    pub const fn in_doubt(&self) -> u64 {
        self.unknown + self.unconfirmed() + self.held()
    }

    /// Messages that were held for the upstream or written to it, and not dropped since.
    pub(super) const fn passed_on(&self) -> u64 {
        self.accepted - self.shed - self.expired - self.discarded
    }

    /// Returns whether every message is in an account.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.held() + self.unconfirmed() == 0
    }

    /// Messages whose end is decided and that have not certainly arrived.
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
    fn written_messages_are_unconfirmed_until_settled() {
        let mut ledger = Ledger::default();
        ledger.accept(10);
        ledger.note_written(6);
        assert_eq!((ledger.unconfirmed(), ledger.held()), (6, 4));

        ledger.confirm(4);
        ledger.confirm(3);
        assert_eq!(ledger.of(Account::Delivered), 4);
        assert_eq!((ledger.unconfirmed(), ledger.held()), (2, 4));

        ledger.give_up_unconfirmed();
        // The next message may have been read in part.
        ledger.settle(1, Account::Unknown);
        ledger.note_written(7);
        assert_eq!(ledger.of(Account::Unknown), 3);
        assert_eq!((ledger.unconfirmed(), ledger.held()), (0, 3));

        ledger.note_written(8);
        ledger.confirm(8);
        assert_eq!(ledger.of(Account::Delivered), 5);
        assert!(!ledger.is_settled());
        ledger.settle(2, Account::Discarded);
        assert!(ledger.is_settled());
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
