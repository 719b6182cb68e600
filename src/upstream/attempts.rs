//! How often an upstream was tried for one session, and why that failed.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
};

macro_rules! failures {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why one attempt failed; a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failure {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Failure {
            /// All of them, in order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Its name, for a label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

failures! {
    /// It does not listen, or its name cannot be resolved.
    Unreachable = "unreachable",
    /// The connection ended during the opening handshake.
    Lost = "lost",
    /// No answer came in time.
    Silent = "silent",
    /// 500, 502, 503 or 504: it may be another answer a moment later.
    Unavailable = "unavailable",
    /// It does not want this WebSocket.
    Refused = "refused",
    /// Its answer is none.
    Broken = "broken",
    /// TLS failed.
    Tls = "tls",
}

impl Failure {
    /// Whether a client has no part in it.
    const fn blames_upstream(self) -> bool {
        match self {
            Self::Unreachable | Self::Lost | Self::Broken | Self::Tls => true,
            Self::Silent | Self::Unavailable | Self::Refused => false,
        }
    }
}

/// How many attempts failed, in the order of [`Failure::ALL`].
pub type FailureCounts = [u32; Failure::ALL.len()];

/// How often a session has tried to reach its upstream, and how that failed.
///
/// While nobody listens, one of all sessions that wait tries for the others: its attempts are its
/// own, and each of the others has one that has failed, in place of the one that it would have made
/// when it began to wait.
#[derive(Debug, Default)]
pub struct Attempts {
    count: Cell<u32>,
    answers: Cell<u16>,
    /// Whether the latest thing that has happened is the upstream's fault.
    is_blamed: Cell<bool>,
    /// In a box, because there is none while nothing has come of an attempt, and a tunnel does not
    /// look at it.
    outcomes: RefCell<Option<Box<Outcomes>>>,
}

#[derive(Clone, Debug, Default)]
struct Outcomes {
    failures: FailureCounts,
    last_error: Option<Box<str>>,
    /// Where the latest that succeeded has connected, over TCP.
    address: Option<SocketAddr>,
}

impl Attempts {
    /// Goes on behind the attempts of an `earlier` series.
    pub fn resume(&self, earlier: &Self) {
        self.count.set(earlier.get());
        self.answers.set(earlier.answers.get());
        self.is_blamed.set(earlier.is_blamed.get());
        self.outcomes.replace(earlier.outcomes.borrow().clone());
    }

    /// Counts one more.
    pub fn count(&self) {
        self.count.set(self.count.get().saturating_add(1));
    }

    /// Takes the latest one back, which did not come as far as the upstream.
    pub(super) fn take_back(&self) {
        self.count.set(self.count.get().saturating_sub(1));
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.count.get()
    }

    /// How many of them were answered, with a `101` or with a status that may be another one a
    /// moment later.
    pub(super) fn answers(&self) -> u32 {
        self.answers.get().into()
    }

    /// The upstream has answered with a `101`. If there is another attempt, it was lost.
    pub(super) fn note_connection(&self) {
        self.count_answer();
        self.is_blamed.set(true);
    }

    fn count_answer(&self) {
        self.answers.set(self.answers.get().saturating_add(1));
    }

    /// There is a connection, on which the upstream is to answer, or none for a reason that says
    /// nothing of it.
    pub(super) fn note_standing(&self) {
        self.is_blamed.set(false);
    }

    /// Whether a session that gives up now does so because nobody listens, or because the upstream
    /// was lost: not when it still may answer, or has answered with a status.
    #[must_use]
    pub fn blames_upstream(&self) -> bool {
        self.is_blamed.get()
    }

    /// The address that has answered with a `101`, for the log: `None` before, and for a Unix
    /// socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.outcomes.borrow().as_ref()?.address
    }

    pub(super) fn note_address(&self, address: SocketAddr) {
        self.note(|outcomes| outcomes.address = Some(address));
    }

    /// How many of them failed, and why.
    #[must_use]
    pub fn failures(&self) -> FailureCounts {
        let outcomes = self.outcomes.borrow();
        outcomes
            .as_ref()
            .map_or_else(<_>::default, |it| it.failures)
    }

    /// Why the latest failed attempt failed, for the log: it may name addresses.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        let outcomes = self.outcomes.borrow();
        let last_error = outcomes.as_ref()?.last_error.as_ref();
        last_error.map(ToString::to_string)
    }

    pub(super) fn note_failure(&self, failure: Failure, error: &impl ToString) {
        self.note(|outcomes| {
            let count = &mut outcomes.failures[failure as usize];
            *count = count.saturating_add(1);
            outcomes.last_error = Some(error.to_string().into());
        });
        self.is_blamed.set(failure.blames_upstream());
        if failure == Failure::Unavailable {
            self.count_answer();
        }
    }

    fn note(&self, note: impl FnOnce(&mut Outcomes)) {
        let mut outcomes = self.outcomes.borrow_mut();
        note(outcomes.get_or_insert_default());
    }
}
