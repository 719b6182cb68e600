//! Messages whose echo can be recognised.

use crate::{
    Result,
    websocket::{Decoder, Opcode, encode_message},
};

/// Consecutive messages differ, so that a lost or repeated one is noticed.
const VARIANTS: usize = 4;
const KEYS: [[u8; 4]; VARIANTS] = [
    [0x37, 0xfa, 0x21, 0x3d],
    [0x01, 0x80, 0xff, 0x7e],
    [0xa5, 0x5a, 0x0f, 0xf0],
    [9, 8, 7, 6],
];

/// All messages of a run: what goes out, and what has to come back.
#[derive(Debug)]
pub struct Messages {
    frames: [Vec<u8>; VARIANTS],
    payloads: [Vec<u8>; VARIANTS],
}

impl Messages {
    /// Messages of `payload_bytes`, made in advance: masking is not what is measured.
    pub fn new(payload_bytes: usize) -> Self {
        let payloads: [_; VARIANTS] =
            std::array::from_fn(|variant| payload(payload_bytes, variant));
        let frame = |variant: usize| {
            encode_message(Opcode::Binary, &payloads[variant], Some(KEYS[variant]))
        };
        Self {
            frames: std::array::from_fn(frame),
            payloads,
        }
    }

    /// The frame of the message with this number.
    pub fn frame(&self, number: u64) -> &[u8] {
        &self.frames[variant(number)]
    }

    /// The payload of the message with this number.
    pub fn payload(&self, number: u64) -> &[u8] {
        &self.payloads[variant(number)]
    }
}

/// A period that is no power of two, so that a shifted or repeated piece differs.
fn payload(payload_bytes: usize, variant: usize) -> Vec<u8> {
    let bytes = (0..=250).cycle().skip(variant * 60);
    bytes.take(payload_bytes).collect()
}

fn variant(number: u64) -> usize {
    usize::try_from(number % VARIANTS as u64).unwrap_or_default()
}

/// Compares what comes back with what was sent.
#[derive(Debug, Default)]
pub struct Checker {
    decoder: Decoder,
    next: u64,
}

impl Checker {
    /// Takes a piece of the stream; returns how many messages it completed.
    ///
    /// # Errors
    ///
    /// When it is not the next of `messages`, each in one unmasked frame.
    pub fn receive(&mut self, messages: &Messages, mut input: &[u8]) -> Result<u32> {
        let mut completed = 0;
        while let Some(piece) = self.decoder.next(&mut input)? {
            let expected = messages.payload(self.next);
            let header = piece.header;
            if header.opcode != Opcode::Binary || !header.fin || header.mask.is_some() {
                return Err(format!("message {} came back as {header:?}", self.next).into());
            }
            // A piece lies within its frame, so this range exists if the lengths agree.
            let start = usize::try_from(piece.offset)?;
            let part = expected.get(start..start + piece.payload.len());
            if header.payload_bytes != expected.len() as u64 || part != Some(piece.payload) {
                return Err(format!("message {} came back changed", self.next).into());
            }
            if piece.is_last() {
                self.next += 1;
                completed += 1;
            }
        }
        Ok(completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echoes(messages: &Messages, count: u64) -> Vec<u8> {
        let echo = |number| encode_message(Opcode::Binary, messages.payload(number), None);
        (0..count).flat_map(echo).collect()
    }

    #[test]
    fn messages_in_order_are_counted_however_they_are_cut() {
        let messages = Messages::new(300);
        let stream = echoes(&messages, 9);

        for size in 1..400 {
            let mut checker = Checker::default();
            let count = |chunk| checker.receive(&messages, chunk).unwrap();
            assert_eq!(stream.chunks(size).map(count).sum::<u32>(), 9);
        }
    }

    #[test]
    fn a_changed_byte_a_lost_message_and_a_wrong_length_are_noticed() {
        let messages = Messages::new(32);
        let stream = echoes(&messages, 5);
        let frame_bytes = stream.len() / 5;

        let mut changed = stream.clone();
        changed[frame_bytes - 1] ^= 1;
        assert!(Checker::default().receive(&messages, &changed).is_err());
        assert!(
            Checker::default()
                .receive(&messages, &stream[frame_bytes..])
                .is_err()
        );
        let short = echoes(&Messages::new(31), 1);
        assert!(Checker::default().receive(&messages, &short).is_err());
    }

    #[test]
    fn a_masked_echo_is_noticed() {
        let messages = Messages::new(32);
        assert!(
            Checker::default()
                .receive(&messages, messages.frame(0))
                .is_err()
        );
    }
}
