//! Whether help and what is wrong with the command line are in colour.
//!
//! Both are written while the command line is being read, so `--color` is looked for before
//! that. It is read again with all the rest, which finds what is wrong with it.

use std::ffi::OsString;

use clap::{ColorChoice, ValueEnum};

/// What the first `--color` among `arguments` says.
pub(super) fn choice(arguments: impl IntoIterator<Item = OsString>) -> ColorChoice {
    let mut arguments = arguments.into_iter();
    let when = arguments.find_map(
        |argument| match argument.to_str()?.strip_prefix("--color")? {
            "" => Some(None),
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
