//! Capitalization of header names on the wire of HTTP/1.
//!
//! Header names are case-insensitive (RFC 9110 §5.1), but devices and old servers compare them
//! literally, and expect the spelling of the RFCs. So in handshakes, `1xx` responses and the
//! proxy's own responses, forwarded names keep the spelling in which they were received, and all
//! others get that of the RFCs, as far as their words tell it. Forwarded plain HTTP is in lower
//! case; `downstream/spelling.rs` says why, with figures.
//!
//! The names of the handshake itself are never forwarded: each side gets a handshake of the proxy's
//! own.
//!
//! Names are rewritten within a serialized head, where the http crate has put them in lower case:
//! no byte moves.

use std::iter;

use memchr::memchr;

/// Names of one received head in their original spelling and order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelling(Vec<u8>);

impl Spelling {
    /// Records the spelling of `names`, except those of more than 255 bytes and those that the
    /// proxy writes itself.
    pub fn of<'a>(names: &(impl Iterator<Item = &'a str> + Clone)) -> Self {
        let kept = || names.clone().filter(|name| is_kept(name));
        // Reserves exactly what is needed: many heads may arrive at once.
        let mut all = Vec::with_capacity(kept().map(|name| 1 + name.len()).sum());
        for name in kept() {
            all.extend(u8::try_from(name.len()));
            all.extend_from_slice(name.as_bytes());
        }
        Self(all)
    }

    /// Iterates over the names from byte `start` on, each with the offset of the next.
    fn from(&self, start: usize) -> impl Iterator<Item = (&[u8], usize)> {
        let mut at = start;
        iter::from_fn(move || {
            let (length, rest) = self.0.get(at..)?.split_first()?;
            let name = rest.get(..usize::from(*length))?;
            at += 1 + name.len();
            Some((name, at))
        })
    }

    /// Finds `name`, first from offset `next` on, then before it; returns the recorded spelling and
    /// the offset of the name behind it.
    fn find(&self, name: &[u8], next: usize) -> Option<(&[u8], usize)> {
        let is_it = |known: &(&[u8], usize)| known.0.eq_ignore_ascii_case(name);
        let mut behind = self.from(next);
        behind.find(is_it).or_else(|| {
            let mut before = self.from(0).take_while(|(_, behind)| *behind <= next);
            before.find(is_it)
        })
    }

    /// Rewrites the field names of `head`, which begins with its first line: recorded names as they
    /// were received, the others as in the RFCs.
    pub fn apply(&self, head: &mut [u8]) {
        let mut rest = next_line(head);
        // Names mostly come in the order in which they were read, so the search starts behind the
        // last hit.
        let mut next = 0;
        // An empty line ends the head.
        while !rest.is_empty() && !rest.starts_with(b"\r") {
            let Some(colon) = memchr(b':', rest) else {
                return;
            };
            let name = &mut rest[..colon];
            if let Some((known, behind)) = self.find(name, next) {
                name.copy_from_slice(known);
                next = behind;
            } else {
                spell(name);
            }
            rest = next_line(&mut rest[colon..]);
        }
    }
}

fn is_kept(name: &str) -> bool {
    const PREFIX: &str = "Sec-WebSocket-";
    let start = name.get(..PREFIX.len());
    let is_of_the_handshake = start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        || name.eq_ignore_ascii_case("Connection")
        || name.eq_ignore_ascii_case("Upgrade");
    // The length is stored in one byte.
    !is_of_the_handshake && u8::try_from(name.len()).is_ok()
}

/// Returns the part of `head` behind its first line.
fn next_line(head: &mut [u8]) -> &mut [u8] {
    let end = memchr(b'\n', head).map_or(head.len(), |feed| feed + 1);
    &mut head[end..]
}

/// Capitalizes a lower-case name as the RFCs do.
fn spell(name: &mut [u8]) {
    for word in name.split_mut(|byte| *byte == b'-') {
        match known_word(word) {
            Some(known) => word.copy_from_slice(known),
            None => {
                if let Some(first) = word.first_mut() {
                    first.make_ascii_uppercase();
                }
            }
        }
    }
}

/// Spelling of a word that is not simply capitalized.
const fn known_word(word: &[u8]) -> Option<&'static [u8]> {
    Some(match word {
        b"alpn" => b"ALPN",
        b"ch" => b"CH",
        b"csp" => b"CSP",
        b"ct" => b"CT",
        b"dns" => b"DNS",
        b"dnt" => b"DNT",
        b"dpr" => b"DPR",
        b"etag" => b"ETag",
        b"gpc" => b"GPC",
        b"http2" => b"HTTP2",
        b"im" => b"IM",
        b"md5" => b"MD5",
        b"nel" => b"NEL",
        b"p3p" => b"P3P",
        b"soapaction" => b"SOAPAction",
        b"te" => b"TE",
        b"ua" => b"UA",
        b"websocket" => b"WebSocket",
        b"www" => b"WWW",
        b"xss" => b"XSS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(spelling: &Spelling, head: &str) -> String {
        let mut head = head.as_bytes().to_vec();
        spelling.apply(&mut head);
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn names_that_nobody_has_spelled_are_those_of_the_rfcs() {
        for name in [
            "Sec-WebSocket-Accept",
            "Sec-WebSocket-Version",
            "ETag",
            "WWW-Authenticate",
            "TE",
            "Content-MD5",
            "X-Forwarded-For",
            "X-Request-Id",
            "X-XSS-Protection",
            "Sec-CH-UA-Mobile",
            "HTTP2-Settings",
            "X--Y-",
            "Api_key",
        ] {
            let head = format!("GET / HTTP/1.1\r\n{name}: {name}\r\nhost: a\r\n\r\n");
            let lower = head.replacen(name, &name.to_lowercase(), 1);

            let expected = head.replace("host", "Host");
            assert_eq!(applied(&Spelling::default(), &lower), expected);
        }
    }

    #[test]
    fn names_that_are_passed_on_keep_their_spelling_in_any_order() {
        let names = ["HOST", "x-Device-ID", "UPGRADE", "Cookie", "cookie"];
        let spelling = Spelling::of(&names.into_iter());
        let head = "GET /host: HTTP/1.1\r\ncookie: host: a\r\nhost: b\r\ncookie: c\r\ncookie: d\r\n\
            accept: e\r\nx-device-id: f\r\nupgrade: g\r\n\r\nhost: body";

        assert_eq!(
            applied(&spelling, head),
            "GET /host: HTTP/1.1\r\nCookie: host: a\r\nHOST: b\r\nCookie: c\r\ncookie: d\r\n\
            Accept: e\r\nx-Device-ID: f\r\nUpgrade: g\r\n\r\nhost: body"
        );
    }

    #[test]
    fn a_name_that_is_too_long_to_be_kept_is_spelled_as_well() {
        let long = "x".repeat(300);
        let spelling = Spelling::of(&[&*long, "HOST"].into_iter());

        let head = applied(&spelling, &format!("GET\r\n{long}: a\r\nhost: b\r\n\r\n"));

        let expected = format!("GET\r\nX{}: a\r\nHOST: b\r\n\r\n", &long[1..]);
        assert_eq!(head, expected);
    }

    #[test]
    fn what_is_no_head_is_left_alone() {
        for head in ["", "GET", "GET\r\n", "GET\r\nhost", "GET\r\n\r\nhost: a"] {
            assert_eq!(applied(&Spelling::default(), head), head);
        }
    }
}
