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
//! * the answer to the close frame that it was sent, which is the last thing that it reads. A close
//!   frame is that answer when the socket was found empty after that frame was written and it has
//!   the same code, none, 1000 or 3000 to 4999; or when it was found empty before and the code is
//!   the same;
//! * a close frame of its own, but only with 1000 or 3000 to 4999: whoever closes need not work
//!   on what it has got (RFC 6455 §5.5.1), and with another code it gives up.
//!
//! A pong to a ping of the proxy's own needs no empty socket: it confirms what is before that ping in
//! the stream, and what is before those that it stands for (`pings.rs`), and nothing behind. All
//! other pongs, and the upstream's pings, confirm nothing: libraries send them on their own account,
//! and to tell which of them answer a client's ping, each ping and pong of every session would have
//! to be looked into, and the place of each ping be kept. A client's pings pass for free.
//!
//! Outside the tunnel the socket is asked whether it is empty. In the tunnel nothing is read
//! without need: where the reactor has noted nothing to read when a message has been written, that
//! will do. What has come since its worker last looked at its sockets, one turn of the worker ago,
//! is taken for something said after that message.
//!
//! That socket is the upstream's alone, for its sessions are opened over HTTP/1.1. Only clients
//! share a connection, over HTTP/2, where no more could be found empty than a stream: another task
//! reads the socket. Nothing is asked of them here. Under TLS a record that has come in part cannot
//! be seen: its socket counts as empty.
//!
//! Whatever the upstream says at any other end, or does not say, what is unconfirmed then is
//! *unknown*, before the client is told how many messages may be lost.
//!
//! # Limits of a confirmation
//!
//! * Delivered is not worked on: an application may read a message and fail.
//! * An application that works message by message confirms with its first answer all that had
//!   been written to its socket by then: if it is killed before it comes to the others, some of
//!   those that were counted as delivered are lost. So does one that speaks without reading.
//! * A pong, and the answer to a close frame, are often the library's: the messages before have been
//!   read from the socket, and may wait in the library for the application.
//! * What an upstream says about when a message is written confirms that message, too, though it
//!   has not seen it: within a round trip, and as long as it lies in the upstream's send buffers.
//! * Unknown is not lost: an application that says nothing may have read everything.
//! * The reason that the client is told is made from the accounts of that moment. Where the upstream
//!   has ended, they are final. Where the proxy ends the session itself, or the client has broken
//!   the protocol, both sides are told at once: all that is open then may be lost, to the client, and
//!   the report, after the upstream's answer, may say that it is delivered. To make the client wait
//!   for that would be worse: what it sent meanwhile would go to nobody. A close frame of the
//!   upstream's own goes on as it is, without numbers.
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

    /// Records that N messages have been written to the upstream, including those already in an
    /// account.
    pub(super) const fn note_written(&mut self, messages: u64) {
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

    /// Confirms the first `messages` of all that were written, as far as nothing is known of
    /// them.
    pub(super) const fn confirm(&mut self, messages: u64) {
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

    /// Messages that may be lost, for all that is known: those that are unknown or in no account.
    #[must_use]
    pub const fn in_doubt(&self) -> u64 {
        self.unknown + self.unconfirmed() + self.held()
    }

    /// Messages that went the upstream's way: held, or written.
    pub(super) const fn passed_on(&self) -> u64 {
        self.accepted - self.shed - self.expired - self.discarded
    }

    /// Whether all are in an account.
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
    fn what_is_written_is_unconfirmed_until_it_is_confirmed_or_given_up() {
        let mut ledger = Ledger::default();
        ledger.accept(10);
        ledger.note_written(6);
        assert_eq!((ledger.unconfirmed(), ledger.held()), (6, 4));

        ledger.confirm(4);
        ledger.confirm(3);
        assert_eq!(ledger.of(Account::Delivered), 4);
        assert_eq!((ledger.unconfirmed(), ledger.held()), (2, 4));

        ledger.give_up_unconfirmed();
        // A part of the next one may have been read.
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
