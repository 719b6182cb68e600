//! What the gate sees of the upstream's messages while they pass to the client.
//!
//! # Invariants
//!
//! * Every byte of a data frame is reported exactly once and in order; control frames are
//!   reported as a whole.
//! * Of a message at most `inspect_bytes` are kept.

use crate::{
    matcher::Sample,
    websocket::{FrameScanner, Opcode, ProtocolError, Role, message::Control},
};

/// Follows the upstream's frames and keeps the beginning of each message.
#[derive(Debug)]
pub(super) struct Tap {
    scanner: FrameScanner,
    sample: Vec<u8>,
    inspect_bytes: usize,
    is_text: bool,
    /// More of the message has come than the sample holds.
    is_cut: bool,
    message_ended: bool,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tapped<'i> {
    /// The header of a message's first frame.
    MessageStart(&'i [u8]),
    /// Further bytes of data frames.
    Data(&'i [u8]),
    /// A data message is complete: [`Tap::sample`] is about it until the next call.
    MessageEnd,
    /// A control frame.
    Control(Control),
}

impl Tap {
    pub(super) const fn new(inspect_bytes: usize) -> Self {
        Self {
            scanner: FrameScanner::new(Role::Server),
            sample: Vec::new(),
            inspect_bytes,
            is_text: false,
            is_cut: false,
            message_ended: false,
        }
    }

    /// Keeps no samples from here on.
    pub(super) fn stop_sampling(&mut self) {
        self.inspect_bytes = 0;
        self.sample = Vec::new();
    }

    /// The beginning of the present message.
    pub(super) fn sample(&self) -> Sample<'_> {
        Sample {
            is_text: self.is_text,
            payload: &self.sample,
            is_whole: !self.is_cut,
        }
    }

    /// Whether more of the message has come than matchers look at.
    pub(super) const fn is_sample_cut(&self) -> bool {
        self.is_cut
    }

    /// The memory that the sample occupies.
    pub(super) fn held_bytes(&self) -> usize {
        self.sample.capacity()
    }

    /// Whether the next byte starts a frame.
    pub(super) const fn is_at_boundary(&self) -> bool {
        self.scanner.is_at_boundary()
    }

    /// The scanner at this place of the stream.
    pub(super) fn into_scanner(self) -> FrameScanner {
        self.scanner
    }

    /// Takes from the front of `input`; `None` when more bytes are needed.
    pub(super) fn advance<'i>(
        &mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Tapped<'i>>, ProtocolError> {
        if self.message_ended {
            self.message_ended = false;
            return Ok(Some(Tapped::MessageEnd));
        }
        if input.is_empty() {
            return Ok(None);
        }
        if !self.scanner.is_at_boundary() {
            let (taken, ended) = self.scanner.take_payload(input.len());
            self.message_ended = ended;
            let payload = split_off_front(input, taken);
            let room = self.inspect_bytes - self.sample.len();
            self.sample.extend_from_slice(&payload[..taken.min(room)]);
            self.is_cut |= taken > room;
            return Ok(Some(Tapped::Data(payload)));
        }
        let Some((header, header_bytes)) = self.scanner.peek(input)? else {
            return Ok(None);
        };
        if header.opcode.is_control() {
            return Ok(Control::take(&header, header_bytes, input).map(Tapped::Control));
        }
        self.message_ended = self.scanner.enter(&header);
        let bytes = split_off_front(input, header_bytes);
        if header.opcode == Opcode::Continuation {
            return Ok(Some(Tapped::Data(bytes)));
        }
        self.is_text = header.opcode == Opcode::Text;
        self.sample = Vec::new();
        self.is_cut = false;
        Ok(Some(Tapped::MessageStart(bytes)))
    }
}

fn split_off_front<'i>(input: &mut &'i [u8], bytes: usize) -> &'i [u8] {
    let (front, rest) = input.split_at(bytes);
    *input = rest;
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragmented_message_is_sampled_whole_at_any_split_of_the_stream() {
        let stream = b"\x01\x02he\x89\x01p\x00\x00\x80\x03llo\x82\x01b";
        for step in 1..stream.len() {
            let mut tap = Tap::new(4);
            let mut data = Vec::new();
            let mut samples = Vec::new();
            let mut pings = 0;
            let mut inbox = Vec::new();
            for chunk in stream.chunks(step) {
                inbox.extend_from_slice(chunk);
                let mut input = &inbox[..];
                while let Some(tapped) = tap.advance(&mut input).unwrap() {
                    match tapped {
                        Tapped::MessageStart(bytes) | Tapped::Data(bytes) => {
                            data.extend_from_slice(bytes);
                        }
                        Tapped::MessageEnd => {
                            let Sample {
                                is_text,
                                payload,
                                is_whole,
                            } = tap.sample();
                            samples.push((is_text, payload.to_vec(), is_whole));
                        }
                        Tapped::Control(_) => pings += 1,
                    }
                }
                inbox.drain(..inbox.len() - input.len());
            }

            assert_eq!(
                data, b"\x01\x02he\x00\x00\x80\x03llo\x82\x01b",
                "step {step}"
            );
            assert_eq!(
                samples,
                [
                    (true, b"hell".to_vec(), false),
                    (false, b"b".to_vec(), true)
                ]
            );
            assert_eq!(pings, 1);
        }
    }
}
