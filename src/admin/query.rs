//! Query parameters of a request.

use percent_encoding::percent_decode_str;

/// Parameters of a query, each of which may occur once.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// A repeated parameter, or a broken percent-encoding.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if !is_well_encoded(text) {
            return Err("the query has a broken percent-encoding".to_owned());
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()).into_owned() {
            // Rejected, because it would be a guess which of the two is meant.
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(format!("{name:?} is there twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Takes the value of a parameter, which may be empty.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Takes a boolean parameter: `?name`, `?name=1` and `?name=true` are true.
    pub(super) fn take_switch(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name).as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(other) => Err(format!("{name} cannot be {other:?}; expected 1 or 0")),
        }
    }

    /// Rejects parameters that were not taken; `known` lists the valid ones.
    pub(super) fn finish(self, known: &str) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) if known.is_empty() => {
                Err(format!("unknown parameter {name:?}; there are none here"))
            }
            Some((name, _)) => Err(format!("unknown parameter {name:?}; expected {known}")),
        }
    }
}

/// Returns whether each `%` begins an encoded byte, and all bytes are UTF-8: the URL Standard's parser
/// keeps any other `%`, and replaces other bytes, which would look for something never asked for.
fn is_well_encoded(text: &str) -> bool {
    let is_byte = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    text.split('%').skip(1).all(is_byte) && percent_decode_str(text).decode_utf8().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_taken_once() {
        let mut query = Query::read("route=%2Fchat+room&verbose&min_age=5s").unwrap();

        assert_eq!(query.take("route").as_deref(), Some("/chat room"));
        assert_eq!(query.take("route"), None);
        assert_eq!(query.take_switch("verbose"), Ok(true));
        assert_eq!(query.take_switch("backend"), Ok(false));
        let left = query.finish("limit").unwrap_err();
        assert!(left.contains("min_age") && left.contains("limit"), "{left}");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=1&a=2"] {
            assert!(Query::read(text).is_err(), "{text}");
        }
        let mut query = Query::read("backend=maybe").unwrap();
        assert!(query.take_switch("backend").is_err());
    }
}
