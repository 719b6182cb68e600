//! Trace context of requests: `traceparent` of W3C Trace Context, or Google's
//! `X-Cloud-Trace-Context`.
//!
//! The headers are forwarded unchanged, valid or not; invalid ones are merely not logged.

use http::HeaderMap;

/// Trace of a request, with the span that the request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    /// Id of the span; zero: unknown.
    span: u64,
    /// True if the trace is recorded.
    pub is_sampled: bool,
}

impl Trace {
    /// Length of [`digits`](Self::digits).
    pub const DIGITS: usize = 32 + 16 + 1;

    /// Reads the headers of a request; `None` without a valid one. `traceparent` wins over the
    /// other.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        only(headers, "traceparent")
            .and_then(w3c)
            .or_else(|| only(headers, "x-cloud-trace-context").and_then(cloud))
    }

    /// Formats the whole trace context as digits.
    #[must_use]
    pub fn digits(&self) -> String {
        format!(
            "{:032x}{:016x}{}",
            self.id,
            self.span,
            u8::from(self.is_sampled)
        )
    }

    /// Parses [`digits`](Self::digits).
    #[must_use]
    pub fn from_digits(digits: &str) -> Option<Self> {
        let (id, rest) = digits.split_at_checked(32)?;
        let (span, is_sampled) = rest.split_at_checked(16)?;
        Some(Self {
            id: u128::from_str_radix(id, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            is_sampled: is_sampled == "1",
        })
    }

    /// Formats the trace id: 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// Formats the span id: 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> Option<String> {
        (self.span != 0).then(|| format!("{:016x}", self.span))
    }
}

/// Returns the value of a header that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    // Two values contradict each other, so neither counts.
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// Parses `00-{32 digits}-{16 digits}-{2 digits}`; a later version may append more
/// (<https://www.w3.org/TR/trace-context/#versioning-of-traceparent>).
fn w3c(value: &str) -> Option<Trace> {
    const LENGTH: usize = "00-".len() + 32 + "-".len() + 16 + "-00".len();
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let mut parts = known.split('-');
    let mut part = |digits| hexadecimal(parts.next()?, digits);
    let (version, id, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let may_be_longer = version > 0 && rest.starts_with('-');
    // The specification forbids version `ff` and ids of zero.
    let is_valid = version != 0xff && id != 0 && span != 0 && (rest.is_empty() || may_be_longer);
    is_valid.then_some(Trace {
        id,
        span: u64::try_from(span).ok()?,
        is_sampled: flags & 1 == 1,
    })
}

/// Parses a number of exactly `digits` lower-case digits.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_number = text.len() == digits && text.bytes().all(is_digit);
    is_number.then(|| u128::from_str_radix(text, 16).ok())?
}

/// Parses `{32 digits}/{span, decimal};o={0 or 1}`, of which only the first part is required
/// (<https://cloud.google.com/trace/docs/trace-context#legacy-http-header>).
fn cloud(value: &str) -> Option<Trace> {
    let (path, options) = value.split_once(';').unwrap_or((value, ""));
    let (id, span) = path.split_once('/').unwrap_or((path, "0"));
    let is_number = !span.is_empty() && span.bytes().all(|byte| byte.is_ascii_digit());
    let is_sampled = match options {
        "" | "o=0" => false,
        "o=1" => true,
        _ => return None,
    };
    Some(Trace {
        id: hexadecimal(&id.to_ascii_lowercase(), 32).filter(|id| *id != 0)?,
        span: span.parse().ok().filter(|_| is_number)?,
        is_sampled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(lines: &[(&'static str, &str)]) -> Option<Trace> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        Trace::of(&headers)
    }

    fn w3c(value: &str) -> Option<(String, Option<String>, bool)> {
        let trace = read(&[("traceparent", value)])?;
        Some((trace.id(), trace.span_id(), trace.is_sampled))
    }

    fn cloud(value: &str) -> Option<(String, Option<String>, bool)> {
        let trace = read(&[("x-cloud-trace-context", value)])?;
        Some((trace.id(), trace.span_id(), trace.is_sampled))
    }

    #[test]
    fn a_traceparent_names_trace_and_span() {
        let span = Some("00f067aa0ba902b7".to_owned());
        let whole = |flags: &str| w3c(&format!("00-{ID}-00f067aa0ba902b7-{flags}"));

        assert_eq!(whole("01"), Some((ID.into(), span.clone(), true)));
        assert_eq!(whole("02"), Some((ID.into(), span.clone(), false)));
        let later = w3c(&format!(
            "cc-{ID}-00f067aa0ba902b7-01-what-the-future-brings"
        ));
        assert_eq!(later, Some((ID.into(), span, true)));
    }

    #[test]
    fn the_short_form_is_read_as_it_was_written() {
        for trace in [format!("{ID}/25;o=1"), format!("{ID}/0;o=0")] {
            let trace = read(&[("x-cloud-trace-context", &trace)]).unwrap();
            let digits = trace.digits();
            assert_eq!(digits.len(), Trace::DIGITS);
            assert_eq!(Trace::from_digits(&digits), Some(trace));
        }
    }

    #[test]
    fn an_invalid_traceparent_is_none() {
        let zeros = "0".repeat(32);
        for value in [
            "",
            "00",
            &format!("00-{ID}-00f067aa0ba902b7-0"),
            &format!("00-{ID}-00f067aa0ba902b7-011"),
            &format!("00-{ID}-00f067aa0ba902b7-01-"),
            &format!("cc-{ID}-00f067aa0ba902b7-01."),
            &format!("ff-{ID}-00f067aa0ba902b7-01"),
            &format!("00-{zeros}-00f067aa0ba902b7-01"),
            &format!("00-{ID}-0000000000000000-01"),
            &format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            &format!("00-{ID}-00f067aa0ba902bg-01"),
            &format!("00-{ID}-+0f067aa0ba902b7-01"),
            &format!("0-{ID}-00f067aa0ba902b7-001"),
            &format!("00_{ID}_00f067aa0ba902b7_01"),
            &format!("00-{ID}-00f067aa0ba902b7-é"),
        ] {
            assert_eq!(w3c(value), None, "{value}");
        }
        let valid = format!("00-{ID}-00f067aa0ba902b7-01");
        assert_eq!(
            read(&[("traceparent", &valid), ("traceparent", &valid)]),
            None
        );
    }

    #[test]
    fn google_s_header_names_trace_and_perhaps_span() {
        let span = Some("0000000000000019".to_owned());
        assert_eq!(
            cloud(&format!("{ID}/25;o=1")),
            Some((ID.into(), span, true))
        );
        assert_eq!(
            cloud(&format!("{ID}/0;o=0")),
            Some((ID.into(), None, false))
        );
        assert_eq!(cloud(ID), Some((ID.into(), None, false)));
        for value in [
            "",
            "1/2;o=1",
            &format!("{ID}/x"),
            &format!("{ID}/-1"),
            &format!("{ID}/"),
        ] {
            assert_eq!(cloud(value), None, "{value}");
        }
    }

    #[test]
    fn a_valid_traceparent_counts_before_google_s_header() {
        let other = "1".repeat(32);
        let w3c = format!("00-{ID}-00f067aa0ba902b7-01");
        let both = |w3c: &str| {
            let trace = read(&[("x-cloud-trace-context", &other), ("traceparent", w3c)]);
            trace.unwrap().id()
        };

        assert_eq!(both(&w3c), ID);
        assert_eq!(both("nonsense"), other);
    }
}
