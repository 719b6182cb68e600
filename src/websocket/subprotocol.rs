//! Subprotocols (RFC 6455 §1.9), which some clients use to send a token: browsers let a page set no
//! other header of the opening handshake.
//!
//! Kubernetes takes `base64url.bearer.authorization.k8s.io.<token>` beside the subprotocols that it
//! speaks; other servers take `jwt.<token>`, or the bare token. The server then selects another of
//! the offered subprotocols, if there is one.

use std::fmt;

/// The longest name that is not taken for a token, in characters.
const MAX_NAME_CHARACTERS: usize = 40;

/// The shortest part of a name between dots that may be a token, in characters.
const MIN_TOKEN_CHARACTERS: usize = 20;

/// Returns whether an offer looks like a token rather than the name of a subprotocol: it is longer
/// than 40 characters, or a part between dots has at least 20, including a digit and a capital
/// letter.
#[must_use]
pub fn is_token_like(offer: &str) -> bool {
    // Tokens mix digits and capitals; names, which are mostly spelled like domains, rarely do.
    let is_token = |part: &str| {
        part.len() >= MIN_TOKEN_CHARACTERS
            && part.bytes().any(|byte| byte.is_ascii_digit())
            && part.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    offer.len() > MAX_NAME_CHARACTERS || offer.split('.').any(is_token)
}

/// Displays a subprotocol in the log: its name in quotes, or only the length of what looks like a
/// token.
#[derive(Clone, Copy, Debug)]
pub struct ShownOffers<'a>(pub &'a str);

impl fmt::Display for ShownOffers<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        if is_token_like(name) {
            write!(formatter, "a token of {} characters", name.len())
        } else {
            write!(formatter, "{name:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_or_mixes_digits_and_capitals_is_like_a_token() {
        let of_41 = "a".repeat(41);
        for token in [
            "base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "jwt.eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl",
            "eyJhbGciOiJIUzI1NiJ9",
            "v1.AAAAAAAAAAAAAAAAAAA0",
            &of_41,
        ] {
            assert!(is_token_like(token), "{token}");
        }
        let of_40 = "a".repeat(40);
        for name in [
            "graphql-transport-ws",
            "v1.kernel.websocket.jupyter.org",
            "base64.binary.k8s.io",
            "v5.channel.k8s.io",
            "Sec-WebSocket-Like-Names",
            "a-name-of-3-or-more-words",
            "ABCDEFGHIJKLMNOPQR1",
            "12345678901234567890.A",
            &of_40,
            "",
        ] {
            assert!(!is_token_like(name), "{name}");
        }
    }

    #[test]
    fn of_a_token_only_the_length_is_shown() {
        assert_eq!(ShownOffers("chat").to_string(), "\"chat\"");
        let token = ShownOffers("eyJhbGciOiJIUzI1NiJ9").to_string();
        assert_eq!(token, "a token of 20 characters");
    }
}
