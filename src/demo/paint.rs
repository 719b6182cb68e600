//! Colours of the terminal, where they are wanted.

/// Adds colours to text, or leaves it unchanged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) is_colored: bool,
}

/// Kinds of emphasis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

impl Paint {
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.is_colored || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Bold => "1",
            Tone::Dim => "2",
            Tone::Good => "32",
            Tone::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
