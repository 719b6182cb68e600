//! UTF-8 validation of text that arrives in pieces (RFC 6455 §8.1).

use super::close_code::ProtocolError;

/// Validates a text message piece by piece, however it is split.
#[derive(Clone, Debug, Default)]
pub struct Utf8Validator {
    /// First bytes of a character that the last piece split.
    partial: [u8; 4],
    partial_bytes: usize,
}

impl Utf8Validator {
    /// Checks the next piece.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`] as soon as no continuation can make the text valid.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), ProtocolError> {
        // Completes the split character byte by byte; it needs three more at most.
        while let ([next, rest @ ..], 1..) = (piece, self.partial_bytes) {
            self.partial[self.partial_bytes] = *next;
            self.partial_bytes += 1;
            piece = rest;
            match std::str::from_utf8(&self.partial[..self.partial_bytes]) {
                Ok(_) => self.partial_bytes = 0,
                Err(error) if error.error_len().is_some() => {
                    return Err(ProtocolError::InvalidUtf8);
                }
                Err(_) => {}
            }
        }
        if let Err(error) = std::str::from_utf8(piece) {
            if error.error_len().is_some() {
                return Err(ProtocolError::InvalidUtf8);
            }
            // No error length: the piece ends inside a character that is valid so far.
            let tail = &piece[error.valid_up_to()..];
            self.partial[..tail.len()].copy_from_slice(tail);
            self.partial_bytes = tail.len();
        }
        Ok(())
    }

    /// Checks that the text ends with a whole character, and resets the validator.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidUtf8`] when the text ends inside a character.
    pub fn finish(&mut self) -> Result<(), ProtocolError> {
        match std::mem::take(&mut self.partial_bytes) {
            0 => Ok(()),
            _ => Err(ProtocolError::InvalidUtf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(pieces: &[&[u8]]) -> Result<(), ProtocolError> {
        let mut validator = Utf8Validator::default();
        pieces.iter().try_for_each(|piece| validator.feed(piece))?;
        validator.finish()
    }

    #[test]
    fn text_cut_inside_a_character_is_valid() {
        let text = "κόσμε 𝄞 é".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(validate(&pieces), Ok(()), "{first} {second}");
            }
        }
    }

    #[test]
    fn malformed_sequences_are_refused_at_any_cut() {
        for bad in [
            &b"a\xc0\xaf"[..],
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"ok\xf0\x9d\x84",
        ] {
            for cut in 0..=bad.len() {
                let pieces = [&bad[..cut], &bad[cut..]];
                assert_eq!(
                    validate(&pieces),
                    Err(ProtocolError::InvalidUtf8),
                    "{bad:?} {cut}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_become_valid_is_refused_before_its_end() {
        let mut validator = Utf8Validator::default();
        assert_eq!(validator.feed(b"\xf4"), Ok(()));
        assert_eq!(validator.feed(b"\x90"), Err(ProtocolError::InvalidUtf8));
    }
}
