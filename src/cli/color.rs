//! Colour of help and of errors in the command line.
//!
//! Both are written while the command line is being parsed, so a first pass looks for `--color`
//! alone. The real pass reads it again, and reports an invalid value.

use std::ffi::OsString;

use clap::{ColorChoice, ValueEnum};

/// Returns the value of the first `--color` among `arguments`.
pub(super) fn choice(arguments: impl IntoIterator<Item = OsString>) -> ColorChoice {
    let mut arguments = arguments.into_iter();
    let when = arguments.find_map(
        |argument| match argument.to_str()?.strip_prefix("--color")? {
            "" => Some(None),
            // Another option may begin with the same letters.
            rest => rest.strip_prefix('=').map(|when| Some(when.to_owned())),
        },
    );
    let when = when.and_then(|given| given.or_else(|| arguments.next()?.into_string().ok()));
    let choice = when.and_then(|when| ColorChoice::from_str(&when, false).ok());
    choice.unwrap_or(ColorChoice::Auto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_found_wherever_it_stands() {
        let of = |arguments: &[&str]| choice(arguments.iter().map(OsString::from));

        assert_eq!(
            of(&["check", "--color", "always", "--help"]),
            ColorChoice::Always
        );
        assert_eq!(of(&["--color=never", "check"]), ColorChoice::Never);
        for nothing in [
            &["check"][..],
            &["--color"],
            &["--color", "pink"],
            &["--colour=never"],
            &["--color-of", "never"],
        ] {
            assert_eq!(of(nothing), ColorChoice::Auto, "{nothing:?}");
        }
    }
}
