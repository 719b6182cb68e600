//! Why a connection has ended, in the words of hyper and of what is below it.

use std::{error::Error, fmt, iter};

use h2::Reason;

/// An error of hyper's with its causes, for the log: its own words are only `http2 error`.
///
/// What a peer says in words of its own when it ends a connection (RFC 9113 §6.8) is not in it.
pub(crate) struct ErrorChain<'a>(pub(crate) &'a hyper::Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        for cause in iter::successors(self.0.source(), |&error| error.source()) {
            match cause.downcast_ref::<h2::Error>() {
                Some(error) if error.is_remote() && error.is_go_away() => {
                    let reason = error.reason().unwrap_or(Reason::NO_ERROR);
                    write!(formatter, ": ended by the peer: {reason}")?;
                }
                _ => write!(formatter, ": {cause}")?,
            }
        }
        Ok(())
    }
}

/// Whether h2 has ended a connection because its client floods it, say with streams that it
/// resets, or with header sections that have no end.
pub(crate) fn is_flood(error: &hyper::Error) -> bool {
    let error = error.source().and_then(<dyn Error>::downcast_ref);
    error.is_some_and(|error: &h2::Error| {
        error.is_library()
            && error.is_go_away()
            && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
    })
}
