//! Attempts to reach an upstream for one session, and their failures.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
};

macro_rules! failures {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Reason why one attempt failed; a closed set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failure {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Failure {
            /// Every reason, in the order of declaration.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Value of the metrics label.
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
    /// The upstream does not listen, or its name cannot be resolved.
    Unreachable = "unreachable",
    /// The connection ended during the opening handshake.
    Lost = "lost",
    /// No response arrived in time.
    Silent = "silent",
    /// A response with 500, 502, 503 or 504, which may change a moment later.
    Unavailable = "unavailable",
    /// A response that refuses this WebSocket.
    Refused = "refused",
    /// An invalid response.
    Broken = "broken",
    /// TLS failed.
    Tls = "tls",
}

impl Failure {
    /// Returns whether the client has no part in the failure.
    const fn blames_upstream(self) -> bool {
        match self {
            Self::Unreachable | Self::Lost | Self::Broken | Self::Tls => true,
            Self::Silent | Self::Unavailable | Self::Refused => false,
        }
    }
}

/// Number of failed attempts, in the order of [`Failure::ALL`].
pub type FailureCounts = [u32; Failure::ALL.len()];

/// Attempts of a session to reach its upstream, and their failures.
///
/// While the upstream does not listen, one of all waiting sessions tries on behalf of the others.
/// Its attempts are its own; each of the others counts one failed attempt, in place of the one that
/// it would have made when it began to wait.
#[derive(Debug, Default)]
pub struct Attempts {
    count: Cell<u32>,
    answers: Cell<u16>,
    /// Set if the latest event is the upstream's fault.
    is_blamed: Cell<bool>,
    /// Boxed, and `None` until an attempt has an outcome: the tunnel never reads it.
    outcomes: RefCell<Option<Box<Outcomes>>>,
}

#[derive(Clone, Debug, Default)]
struct Outcomes {
    failures: FailureCounts,
    last_error: Option<Box<str>>,
    /// TCP address of the latest attempt that succeeded.
    address: Option<SocketAddr>,
}

impl Attempts {
    /// Continues the count of an `earlier` series of attempts.
    pub fn resume(&self, earlier: &Self) {
        self.count.set(earlier.get());
        self.answers.set(earlier.answers.get());
        self.is_blamed.set(earlier.is_blamed.get());
        self.outcomes.replace(earlier.outcomes.borrow().clone());
    }

    /// Counts an attempt.
    pub fn count(&self) {
        self.count.set(self.count.get().saturating_add(1));
    }

    /// Takes back the latest attempt, which did not get as far as the upstream.
    pub(super) fn take_back(&self) {
        self.count.set(self.count.get().saturating_sub(1));
    }

    /// Number of attempts.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.count.get()
    }

    /// Number of attempts with a response: a `101`, or a status that may change a moment later.
    pub(super) fn answers(&self) -> u32 {
        self.answers.get().into()
    }

    /// Records a `101`. If another attempt follows, that connection was lost.
    pub(super) fn note_connection(&self) {
        self.count_answer();
        self.is_blamed.set(true);
    }

    fn count_answer(&self) {
        self.answers.set(self.answers.get().saturating_add(1));
    }

    /// Records a connection that waits for the upstream's response, or an attempt whose failure
    /// says nothing about the upstream.
    pub(super) fn note_standing(&self) {
        self.is_blamed.set(false);
    }

    /// Returns whether a session that ends now does so because the upstream does not listen or was
    /// lost; false while a response may still come, and after one with a status.
    #[must_use]
    pub fn blames_upstream(&self) -> bool {
        self.is_blamed.get()
    }

    /// Address that responded with a `101`, for the log; `None` before that, and for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.outcomes.borrow().as_ref()?.address
    }

    pub(super) fn note_address(&self, address: SocketAddr) {
        self.note(|outcomes| outcomes.address = Some(address));
    }

    /// Number of failed attempts by reason.
    #[must_use]
    pub fn failures(&self) -> FailureCounts {
        let outcomes = self.outcomes.borrow();
        outcomes
            .as_ref()
            .map_or_else(<_>::default, |it| it.failures)
    }

    /// Text of the latest failure, for the log only: it may contain addresses.
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
