//! Interpretation of request paths.
//!
//! A request is forwarded with its path unchanged, byte for byte. So the proxy must not read the
//! path in one way and the upstream in another: a request could then reach `/admin` by the route of
//! `/ws`. The parts of a path, and their treatment:
//!
//! | in the path | verdict |
//! |---|---|
//! | an encoded letter, digit, `-`, `_`, `~` or `.`, such as `%77` | equals the character itself, for every server (RFC 3986 §6.2.2.2) |
//! | a segment `.` or `..`, also with encoded dots, behind `%2F` or before a parameter (`..;x`) | refused: some servers resolve it to another path |
//! | `\`, `%5C` | refused: some servers take it for a slash; where a route allows it, it is read in both ways, see below |
//! | `%00` | refused: some servers end the path there |
//! | `%` without two hexadecimal digits behind it | refused: servers fail on it, each in its own way |
//! | `#` | refused before it gets here: not part of a request target |
//! | `%2F`, `//`, `;x`, `%3Bx` | read in both ways, see below |
//! | everything else, also encoded: `%20`, `%25`, `%3F` | itself; `%2f` and `%2F` are equal, upper and lower case letters are not |
//!
//! In the strict reading `%2F`, `%5C`, `\` and `;x` are part of a segment, and between two slashes
//! there is an empty one. In the lenient reading the former three are slashes, several slashes are
//! one, and a parameter is not part of the path. Servers do either. Where both readings lead to the
//! same route, as for `/chat//room;x` with one route for `/`, the request passes; where they do
//! not, as for `/ws;x` with routes for `/` and `/ws`, it is refused.

use std::borrow::Cow;

/// Parts of a path that only a route's setting allows; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// A literal `\`.
    pub backslash: bool,
    /// `%5C`, as in the name of a Windows account.
    pub encoded_backslash: bool,
}

impl Passes {
    /// Returns whether `others` allows everything that this does.
    #[must_use]
    pub const fn is_within(self, others: Self) -> bool {
        (!self.backslash || others.backslash)
            && (!self.encoded_backslash || others.encoded_backslash)
    }

    const fn is_nothing(self) -> bool {
        !self.backslash && !self.encoded_backslash
    }
}

/// A request's path in both readings; see the [module](self).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    pub(super) strict: Cow<'a, str>,
    /// The lenient reading, if it differs.
    pub(super) lenient: Option<String>,
    /// Parts of the path that most routes refuse.
    pub(super) needs: Passes,
}

/// Error for a path that needs more than its route allows.
pub(super) const BACKSLASH: &str = "backslash in the path";

impl<'a> Path<'a> {
    /// Reads a path without its query.
    ///
    /// # Errors
    ///
    /// The reason why the path is refused whatever the routes are.
    pub(super) fn read(path: &'a str) -> Result<Self, &'static str> {
        let mut needs = Passes {
            backslash: path.contains('\\'),
            ..Passes::default()
        };
        let strict = normalize(path, &mut needs)?;
        let lenient = lenient(&strict, needs)?;
        let lenient = (lenient != strict).then(|| lenient.into_owned());
        Ok(Self {
            strict,
            lenient,
            needs,
        })
    }
}

/// Normalizes the path of a route.
///
/// # Errors
///
/// The reason why no request can ever have this path.
pub fn of_route(path: &str) -> Result<String, &'static str> {
    match Path::read(path)? {
        Path { needs, .. } if !needs.is_nothing() => Err(BACKSLASH),
        Path {
            lenient: Some(_), ..
        } => Err("a path with `//`, `;` or an encoded slash can be read in two ways"),
        path => Ok(path.strict.into_owned()),
    }
}

/// Decodes what is encoded without need, and writes all other escapes in upper case.
///
/// # Errors
///
/// Encodings that are refused.
fn normalize<'a>(path: &'a str, needs: &mut Passes) -> Result<Cow<'a, str>, &'static str> {
    let mut parts = path.split('%');
    let first = parts.next().unwrap_or_default();
    // No `%`: the usual path is not copied.
    if first.len() == path.len() {
        return Ok(Cow::Borrowed(path));
    }
    let mut normalized = String::with_capacity(path.len());
    normalized.push_str(first);
    for part in parts {
        let byte = part.get(..2).filter(|hex| is_hex(hex));
        let byte = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.ok_or("broken percent-encoding in the path")? {
            0 => return Err("NUL in the path"),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                normalized.push(char::from(byte));
            }
            byte => {
                needs.encoded_backslash |= byte == b'\\';
                normalized.push('%');
                normalized.push_str(&part[..2].to_ascii_uppercase());
            }
        }
        normalized.push_str(&part[2..]);
    }
    Ok(Cow::Owned(normalized))
}

fn is_hex(digits: &str) -> bool {
    digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Returns the lenient reading of a normalized path.
fn lenient(strict: &str, needs: Passes) -> Result<Cow<'_, str>, &'static str> {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    let has_escapes = strict.contains("%2F") || strict.contains("%3B");
    let is_plain = !has_escapes && needs.is_nothing();
    if is_plain && !strict.contains(';') && !strict.contains("//") {
        if strict.split('/').any(is_dots) {
            return Err(DOT_SEGMENT);
        }
        return Ok(Cow::Borrowed(strict));
    }
    let mut decoded = strict.replace("%2F", "/").replace("%3B", ";");
    if !needs.is_nothing() {
        // Servers that take a backslash for a slash do so after decoding it.
        decoded = decoded.replace("%5C", "/").replace('\\', "/");
    }
    let mut lenient = String::with_capacity(decoded.len());
    for segment in decoded.split('/') {
        // A parameter is cut off first: servers resolve `..;x` like `..`.
        let name = segment.split(';').next().unwrap_or_default();
        if is_dots(name) {
            return Err(DOT_SEGMENT);
        }
        if !name.is_empty() {
            lenient.push('/');
            lenient.push_str(name);
        }
    }
    if decoded.ends_with('/') || lenient.is_empty() {
        lenient.push('/');
    }
    Ok(Cow::Owned(lenient))
}

const DOT_SEGMENT: &str = "dot segment in the path";

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// What paths are made of, and what makes them ambiguous.
    fn pieces() -> impl Strategy<Value = String> {
        let pieces = [
            "/", "/", ".", "..", ";", "a", "b=1", "%2f", "%2F", "%2e", "%2E", "%61", "%3b", "%5C",
            "\\", "%00", "%25", "%252e", "%c3%a9", "é", "%", "%2", "+", " ",
        ];
        vec(select(pieces.to_vec()), 0..12).prop_map(|pieces| pieces.concat())
    }

    fn decoded(path: &str) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut rest = path.as_bytes();
        while let [first, behind @ ..] = rest {
            let digits = behind.get(..2).filter(|_| *first == b'%');
            let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            decoded.push(byte.unwrap_or(*first));
            rest = &behind[if byte.is_some() { 2 } else { 0 }..];
        }
        decoded
    }

    /// The names on the way, to a server that decodes first and takes parameters off.
    fn resolved(path: &str) -> Vec<Vec<u8>> {
        let decoded = decoded(path);
        let segments = decoded.split(|byte| b"/\\".contains(byte));
        let names = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap());
        let names = names.filter(|name| !name.is_empty());
        names.map(<[u8]>::to_vec).collect()
    }

    proptest! {
        #[test]
        fn a_path_let_through_is_the_same_to_a_lenient_server(path in pieces()) {
            if let Ok(read) = Path::read(&path) {
                let lenient = read.lenient.as_deref().unwrap_or(&read.strict);
                let names = resolved(&path);
                prop_assert!(names.iter().all(|name| name != b"." && name != b".."));
                let segments = lenient.split('/').filter(|segment| !segment.is_empty());
                prop_assert_eq!(names, segments.map(decoded).collect::<Vec<_>>());
                prop_assert!(!path.contains("%00"));
                let again = Path::read(&read.strict);
                prop_assert_eq!(again.as_ref(), Ok(&read));
                let again = Path::read(lenient).unwrap();
                prop_assert_eq!((&*again.strict, again.lenient), (lenient, None));
            }
        }
    }

    #[test]
    fn most_paths_have_one_reading() {
        for path in ["/", "/a/b", "/a.b/..c/...", "/a%20b", "/%25", "*", ""] {
            let read = Path::read(path).unwrap();

            assert_eq!((&*read.strict, read.lenient), (path, None));
        }
    }

    #[test]
    fn a_route_has_a_path_with_one_reading() {
        assert_eq!(of_route("/%77s").as_deref(), Ok("/ws"));
        for path in [
            "/a//b", "/a;b", "/a%2fb", "/a/../b", "/%", "/a%5Cb", "/a\\b",
        ] {
            assert!(of_route(path).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_encoded_without_need_is_decoded() {
        for (path, strict) in [
            ("/%77s", "/ws"),
            ("/a%2Db%5f%7E%2e", "/a-b_~."),
            ("/caf%c3%a9%2B", "/caf%C3%A9%2B"),
            ("/%2577", "/%2577"),
        ] {
            let read = Path::read(path).unwrap();

            assert_eq!((&*read.strict, read.lenient), (strict, None), "{path}");
        }
    }

    #[test]
    fn slashes_and_parameters_have_a_lenient_reading() {
        for (path, strict, lenient) in [
            ("//ws", "//ws", "/ws"),
            ("/a//b/", "/a//b/", "/a/b/"),
            ("//", "//", "/"),
            ("/ws;x=1", "/ws;x=1", "/ws"),
            ("/ws%3bx/;y/b", "/ws%3Bx/;y/b", "/ws/b"),
            ("/ws%2fa", "/ws%2Fa", "/ws/a"),
            ("/%2F;%3B", "/%2F;%3B", "/"),
        ] {
            let read = Path::read(path).unwrap();

            assert_eq!(read.strict, strict);
            assert_eq!(read.lenient.as_deref(), Some(lenient), "{path}");
        }
    }

    #[test]
    fn a_backslash_is_a_slash_to_lenient_servers_and_needs_leave() {
        for (path, strict, lenient, backslash, encoded_backslash) in [
            (
                "/DOMAIN%5cuser",
                "/DOMAIN%5Cuser",
                "/DOMAIN/user",
                false,
                true,
            ),
            (
                "/DOMAIN\\user",
                "/DOMAIN\\user",
                "/DOMAIN/user",
                true,
                false,
            ),
            ("/a%5C\\b;c", "/a%5C\\b;c", "/a/b", true, true),
            ("/a\\", "/a\\", "/a/", true, false),
        ] {
            let read = Path::read(path).unwrap();

            let needs = Passes {
                backslash,
                encoded_backslash,
            };
            assert_eq!((&*read.strict, read.needs), (strict, needs));
            assert_eq!(read.lenient.as_deref(), Some(lenient), "{path}");
        }
    }

    #[test]
    fn a_path_that_a_server_may_resolve_to_another_one_is_refused() {
        for path in [
            "/ws/../admin",
            "/ws/..",
            "/./a",
            "..",
            "/ws/%2e%2E/admin",
            "/ws/.%2e",
            "/ws%2F..%2fadmin",
            "/ws%2f%2e%2e%2fadmin",
            "/ws/..;/admin",
            "/ws/..%3b/admin",
            "/ws\\..\\admin",
            "/ws%5c..%5Cadmin",
            "\\..;x/",
            "/a%00",
            "/%",
            "/%2",
            "/%zz",
            "/%+1",
            "/%é",
        ] {
            assert!(Path::read(path).is_err(), "{path}");
        }
    }
}
