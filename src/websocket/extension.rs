//! Negotiating permessage-deflate (RFC 6455 §9.1, RFC 7692 §5 and §7.1).
//!
//! All other extensions are declined: the meaning of their reserved bits and opcodes is unknown, so
//! neither the end of a message nor the frames inside it could be recognized.

use std::{borrow::Cow, fmt::Write};

use http::HeaderValue;

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// A client's offer (RFC 7692 §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Demands that no message of the server depend on those before it.
    pub server_no_context_takeover: bool,
    /// Promises that no message of the client depends on those before it.
    pub client_no_context_takeover: bool,
    /// The largest window that the server may use, 8 to 15 bits.
    pub server_max_window_bits: Option<u8>,
    /// Outer `Some`: the server may limit the client's window. Inner: the window the client uses
    /// anyway.
    pub client_max_window_bits: Option<Option<u8>>,
}

/// A server's response to an offer (RFC 7692 §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// No message of the server depends on those before it.
    pub server_no_context_takeover: bool,
    /// No message of the client depends on those before it.
    pub client_no_context_takeover: bool,
    /// Window of the server in bits; `None` is 15.
    pub server_max_window_bits: Option<u8>,
    /// Window of the client in bits; `None` is 15.
    pub client_max_window_bits: Option<u8>,
}

/// A header that is not a list of extensions (RFC 6455 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal Sec-WebSocket-Extensions")]
pub struct Malformed;

/// Parses the valid offers of permessage-deflate, in the client's order.
///
/// Other extensions are left out, and so are offers that a server must decline: those with unknown
/// parameters, illegal values, or a repeated parameter (RFC 7692 §7.1).
///
/// # Errors
///
/// A header that is not a list of extensions.
pub fn offers<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
) -> Result<Vec<Offer>, Malformed> {
    let elements = elements(lines)?;
    Ok(elements
        .iter()
        .filter(|element| element.name == NAME)
        .filter_map(Element::offer)
        .collect())
}

/// Parses a server's response, `None` if it accepts no extension.
///
/// # Errors
///
/// A header that is not a list of extensions, or that lists anything but one permessage-deflate.
pub fn agreement<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
) -> Result<Option<Agreement>, &'static str> {
    let elements = elements(lines).map_err(|Malformed| "malformed extensions")?;
    match &elements[..] {
        [] => Ok(None),
        [element] if element.name == NAME => element
            .agreement()
            .map(Some)
            .ok_or("illegal permessage-deflate parameter"),
        _ => Err("extension that was not offered"),
    }
}

/// Parses a server's response to `offers`, `None` if it accepts none.
///
/// # Errors
///
/// As for [`agreement`], and a response that matches none of the offers.
pub fn answer<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
    offers: &[Offer],
) -> Result<Option<Agreement>, &'static str> {
    let agreement = agreement(lines)?;
    match agreement {
        Some(_) if offers.is_empty() => Err("extension that was not offered"),
        Some(agreement) if !offers.iter().any(|offer| agreement.answers(*offer)) => {
            Err("permessage-deflate other than it was offered")
        }
        agreement => Ok(agreement),
    }
}

impl Offer {
    /// Formats the offer as an element of a `Sec-WebSocket-Extensions` header.
    #[must_use]
    pub fn to_element(self) -> String {
        let mut element = flags(
            self.server_no_context_takeover,
            self.client_no_context_takeover,
        );
        write_bits(
            &mut element,
            SERVER_MAX_WINDOW_BITS,
            self.server_max_window_bits,
        );
        match self.client_max_window_bits {
            Some(None) => {
                element.push_str("; ");
                element.push_str(CLIENT_MAX_WINDOW_BITS);
            }
            Some(bits) => write_bits(&mut element, CLIENT_MAX_WINDOW_BITS, bits),
            None => {}
        }
        element
    }
}

impl Agreement {
    /// Formats the agreement as a `Sec-WebSocket-Extensions` header.
    #[must_use]
    pub fn to_element(self) -> String {
        let mut element = flags(
            self.server_no_context_takeover,
            self.client_no_context_takeover,
        );
        write_bits(
            &mut element,
            SERVER_MAX_WINDOW_BITS,
            self.server_max_window_bits,
        );
        write_bits(
            &mut element,
            CLIENT_MAX_WINDOW_BITS,
            self.client_max_window_bits,
        );
        element
    }

    /// Returns whether this is a legal response to `offer`. A server may limit itself without being
    /// asked, and may always require the client to use no context takeover.
    fn answers(self, offer: Offer) -> bool {
        // A limit that the client demands must be confirmed (RFC 7692 §7.1.2.1).
        let server_bits = offer.server_max_window_bits.is_none_or(|offered| {
            self.server_max_window_bits
                .is_some_and(|bits| bits <= offered)
        });
        // A client's window may be limited only if it announced that it can do so (§7.1.2.2).
        let client_bits = self.client_max_window_bits.is_none_or(|bits| {
            offer
                .client_max_window_bits
                .is_some_and(|offered| offered.is_none_or(|offered| bits <= offered))
        });
        let takeover = self.server_no_context_takeover || !offer.server_no_context_takeover;
        server_bits && client_bits && takeover
    }
}

fn flags(server: bool, client: bool) -> String {
    let mut element = NAME.to_owned();
    let flags = [
        (server, SERVER_NO_CONTEXT_TAKEOVER),
        (client, CLIENT_NO_CONTEXT_TAKEOVER),
    ];
    for (is_set, name) in flags {
        if is_set {
            element.push_str("; ");
            element.push_str(name);
        }
    }
    element
}

fn write_bits(element: &mut String, name: &str, bits: Option<u8>) {
    if let Some(bits) = bits {
        let _ = write!(element, "; {name}={bits}");
    }
}

/// One extension of a list, with its parameters.
#[derive(Debug)]
struct Element<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

impl Element<'_> {
    fn offer(&self) -> Option<Offer> {
        let mut offer = Offer::default();
        for (at, (name, value)) in self.parameters.iter().enumerate() {
            self.is_first(at).then_some(())?;
            match (*name, value.as_deref()) {
                (SERVER_NO_CONTEXT_TAKEOVER, None) => offer.server_no_context_takeover = true,
                (CLIENT_NO_CONTEXT_TAKEOVER, None) => offer.client_no_context_takeover = true,
                (SERVER_MAX_WINDOW_BITS, Some(bits)) => {
                    offer.server_max_window_bits = Some(window_bits(bits)?);
                }
                (CLIENT_MAX_WINDOW_BITS, None) => offer.client_max_window_bits = Some(None),
                (CLIENT_MAX_WINDOW_BITS, Some(bits)) => {
                    offer.client_max_window_bits = Some(Some(window_bits(bits)?));
                }
                _ => return None,
            }
        }
        Some(offer)
    }

    fn agreement(&self) -> Option<Agreement> {
        let offer = self.offer()?;
        Some(Agreement {
            server_no_context_takeover: offer.server_no_context_takeover,
            client_no_context_takeover: offer.client_no_context_takeover,
            server_max_window_bits: offer.server_max_window_bits,
            client_max_window_bits: match offer.client_max_window_bits {
                // Only an offer may leave the value open.
                Some(None) => return None,
                bits => bits.flatten(),
            },
        })
    }

    /// Returns whether no earlier parameter has the name of the one at `at`.
    fn is_first(&self, at: usize) -> bool {
        let (name, _) = self.parameters[at];
        self.parameters[..at]
            .iter()
            .all(|(other, _)| *other != name)
    }
}

/// Parses 8 to 15, without a leading zero (RFC 7692 §7.1.2).
fn window_bits(text: &str) -> Option<u8> {
    match text {
        "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15" => text.parse().ok(),
        _ => None,
    }
}

fn elements<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
) -> Result<Vec<Element<'a>>, Malformed> {
    let mut elements = Vec::new();
    for line in lines {
        let mut rest = Rest(line.to_str().map_err(|_| Malformed)?);
        loop {
            // A list may have empty elements (RFC 9110 §5.6.1.2).
            while rest.take(',') {}
            if rest.0.is_empty() {
                break;
            }
            elements.push(rest.element()?);
            if !rest.0.is_empty() && !rest.take(',') {
                return Err(Malformed);
            }
        }
    }
    Ok(elements)
}

/// Unparsed rest of a header's value.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Takes `wanted` and the space around it; returns whether it was there.
    fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        let Some(rest) = self.0.strip_prefix(wanted) else {
            return false;
        };
        self.0 = rest;
        self.skip_space();
        true
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn element(&mut self) -> Result<Element<'a>, Malformed> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.take(';') {
            let name = self.token()?;
            let value = if self.take('=') {
                Some(self.value()?)
            } else {
                None
            };
            parameters.push((name, value));
        }
        Ok(Element { name, parameters })
    }

    fn token(&mut self) -> Result<&'a str, Malformed> {
        let end = self
            .0
            .find(|character| !is_token(character))
            .unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        if token.is_empty() {
            Err(Malformed)
        } else {
            Ok(token)
        }
    }

    /// Takes a token, or a quoted string whose content must also be a token (RFC 6455 §9.1).
    fn value(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return self.token().map(Cow::Borrowed);
        };
        let mut value = String::new();
        let mut characters = quoted.chars();
        loop {
            match characters.next() {
                Some('"') => break,
                // A quoted pair stands for its second character (RFC 9110 §5.6.4).
                Some('\\') => value.extend(characters.next()),
                Some(character) => value.push(character),
                None => return Err(Malformed),
            }
        }
        self.0 = characters.as_str();
        if value.is_empty() || !value.chars().all(is_token) {
            return Err(Malformed);
        }
        Ok(Cow::Owned(value))
    }
}

/// Returns whether `character` may be part of a token (RFC 9110 §5.6.2).
const fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(
            character,
            '!' | '#'
                | '$'
                | '%'
                | '&'
                | '\''
                | '*'
                | '+'
                | '-'
                | '.'
                | '^'
                | '_'
                | '`'
                | '|'
                | '~'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> Vec<HeaderValue> {
        text.split('\n')
            .map(|line| HeaderValue::from_str(line).unwrap())
            .collect()
    }

    fn offered(text: &str) -> Result<Vec<String>, Malformed> {
        let offers = offers(&lines(text))?;
        Ok(offers.iter().map(|offer| offer.to_element()).collect())
    }

    fn agreed(answer: &str, offer: &str) -> Result<Option<Agreement>, &'static str> {
        super::answer(&lines(answer), &offers(&lines(offer)).unwrap())
    }

    #[test]
    fn offers_keep_their_order_and_other_extensions_are_left_out() {
        assert_eq!(
            offered(
                "x-webkit-deflate-frame, permessage-deflate;client_max_window_bits ,\n\
                 permessage-deflate ; server_no_context_takeover; client_max_window_bits=\"1\\0\",, \
                 permessage-bzip2; a=\"b\""
            ),
            Ok(vec![
                "permessage-deflate; client_max_window_bits".to_owned(),
                "permessage-deflate; server_no_context_takeover; client_max_window_bits=10"
                    .to_owned(),
            ])
        );
        assert_eq!(offered(""), Ok(Vec::new()));
    }

    #[test]
    fn only_the_offer_with_a_bad_parameter_is_left_out() {
        for bad in [
            "server_max_window_bits=99",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=+8",
            "server_max_window_bits",
            "client_max_window_bits=1",
            "client_max_window_bits=\"16\"",
            "client_no_context_takeover=1",
            "server_no_context_takeover=true",
            "client_max_window_bits; client_max_window_bits=10",
            "server_no_context_takeover; server_no_context_takeover",
            "x-unknown",
            "Server_no_context_takeover",
        ] {
            assert_eq!(
                offered(&format!("permessage-deflate; {bad}, permessage-deflate")),
                Ok(vec!["permessage-deflate".to_owned()]),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_not_a_list_of_extensions_is_malformed() {
        for bad in [
            "permessage-deflate;",
            "permessage-deflate; ;",
            "permessage-deflate; a=",
            "permessage-deflate; a=\"",
            "permessage-deflate; a=\"b",
            "permessage-deflate; a=\"\"",
            "permessage-deflate; a=\"b c\"",
            "permessage-deflate; a=b c",
            "permessage-deflate x",
            "; a",
            "=a",
            "a/b",
        ] {
            assert_eq!(offered(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_compared_with_what_was_offered() {
        let good = [
            ("permessage-deflate", "permessage-deflate"),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=9",
                "permessage-deflate",
            ),
            (
                "permessage-deflate; client_max_window_bits=12",
                "permessage-deflate; client_max_window_bits",
            ),
            (
                "permessage-deflate; client_max_window_bits=9; server_max_window_bits=10",
                "permessage-deflate; client_max_window_bits=9; server_max_window_bits=10",
            ),
            (
                "permessage-deflate",
                "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            ),
        ];
        for (answer, offer) in good {
            let agreement = agreed(answer, offer).unwrap().unwrap();
            assert_eq!(agreed(&agreement.to_element(), offer), Ok(Some(agreement)));
        }
        assert_eq!(agreed("", "permessage-deflate"), Ok(None));
        let not_offered = Err("extension that was not offered");
        assert_eq!(agreed("permessage-deflate", "x"), not_offered);
        assert_eq!(agreed("x", "permessage-deflate"), not_offered);
        assert_eq!(
            agreed(
                "permessage-deflate, permessage-deflate",
                "permessage-deflate"
            ),
            not_offered
        );
        for (answer, offer) in [
            (
                "permessage-deflate",
                "permessage-deflate; server_no_context_takeover",
            ),
            (
                "permessage-deflate; client_max_window_bits=10",
                "permessage-deflate",
            ),
            (
                "permessage-deflate; client_max_window_bits=10",
                "permessage-deflate; client_max_window_bits=9",
            ),
            (
                "permessage-deflate",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                "permessage-deflate; server_max_window_bits=11",
                "permessage-deflate; server_max_window_bits=10",
            ),
        ] {
            assert_eq!(
                agreed(answer, offer),
                Err("permessage-deflate other than it was offered"),
                "{answer} to {offer}"
            );
        }
        for answer in [
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=99",
            "permessage-deflate; x",
        ] {
            assert_eq!(
                agreed(answer, "permessage-deflate; client_max_window_bits"),
                Err("illegal permessage-deflate parameter"),
                "{answer}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "[-a-z0-9_=;,\"\\\\ ]{0,60}") {
            let lines = [HeaderValue::from_str(&text).unwrap()];
            if let Ok(offers) = offers(&lines) {
                for offer in &offers {
                    prop_assert_eq!(offered(&offer.to_element()), Ok(vec![offer.to_element()]));
                }
                let _ = answer(&lines, &offers);
            }
        }
    }
}
