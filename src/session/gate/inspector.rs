//! Inspection of the upstream's messages for the gate, while they pass to the client.
//!
//! # Invariants
//!
//! * Every byte of a data frame is reported exactly once and in order; control frames are
//!   reported as a whole.
//! * At most `inspect_bytes` of a message are kept, inflated if it is compressed.
//! * While compressed messages depend on those before them, each is inflated to its end, however
//!   little of it is kept: the next one refers to its last 32 KiB.

use super::Settings;
use crate::{
    matcher::Sample,
    websocket::{
        Compression, FrameScanner, Opcode, ProtocolError, Role,
        deflate::{INFLATER_BYTES, Inflater},
        extension::Agreement,
        frame::starts_compressed,
        message::{Control, max_compressed_bytes},
    },
};

/// Follows the upstream's frames and keeps the beginning of each message.
#[derive(Debug)]
pub(in crate::session) struct Inspector {
    scanner: FrameScanner,
    sample: Vec<u8>,
    inspect_bytes: usize,
    is_text: bool,
    /// Whether the message is longer than the sample.
    is_cut: bool,
    message_ended: bool,
    compressed: Compressed,
}

/// State for compressed messages.
#[derive(Debug, Default)]
struct Compressed {
    /// Whether the current message is compressed.
    is_present: bool,
    /// Compressed bytes of it received so far.
    bytes: usize,
    /// Whether each message can be inflated on its own.
    is_independent: bool,
    /// Whether any trigger depends on the content of messages.
    is_read: bool,
    /// Created for the first compressed message; dropped once no more are inspected.
    inflater: Option<Box<Inflater>>,
    /// Error in the current message; returned where its frame ends, since only there the client
    /// can be sent a close frame.
    error: Option<ProtocolError>,
}

/// Item that the upstream sent.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::session) enum Tapped<'i> {
    /// The header of a message's first frame.
    MessageStart(&'i [u8]),
    /// Further bytes of data frames.
    Data(&'i [u8]),
    /// End of a data message; [`Inspector::sample`] is about it until the next call.
    MessageEnd,
    /// A control frame.
    Control(Control),
}

impl Inspector {
    /// Creates an inspector at the beginning of an upstream's data, for `gate`, with the
    /// `agreement` on compression.
    pub(in crate::session) fn new(gate: &Settings, agreement: Option<Agreement>) -> Self {
        let mut tap = Self::blind(agreement);
        if gate.wants_pong() {
            // The scanner outlives the inspector, and whatever reads with it needs to see pongs.
            tap.scanner.stop_at_pongs();
        }
        Self {
            inspect_bytes: gate.inspect_bytes,
            compressed: Compressed {
                is_independent: agreement.is_some_and(|it| it.server_no_context_takeover),
                is_read: gate.reads_messages(),
                ..Compressed::default()
            },
            ..tap
        }
    }

    /// Creates an inspector that keeps no samples.
    pub(in crate::session) fn blind(agreement: Option<Agreement>) -> Self {
        let compression = match agreement {
            Some(_) => Compression::Agreed,
            None => Compression::Declined,
        };
        Self {
            scanner: FrameScanner::new(Role::Server).with(compression),
            sample: Vec::new(),
            inspect_bytes: 0,
            is_text: false,
            is_cut: false,
            message_ended: false,
            compressed: Compressed::default(),
        }
    }

    /// Keeps no samples from here on.
    pub(in crate::session) fn stop_sampling(&mut self) {
        self.inspect_bytes = 0;
        self.sample = Vec::new();
        self.compressed.inflater = None;
    }

    /// Beginning of the current message.
    pub(in crate::session) fn sample(&self) -> Sample<'_> {
        Sample {
            is_text: self.is_text,
            payload: &self.sample,
            is_whole: !self.is_cut,
        }
    }

    /// Returns whether the message is longer than matchers inspect.
    pub(in crate::session) const fn is_sample_cut(&self) -> bool {
        self.is_cut
    }

    /// Bytes kept of the current message.
    pub(in crate::session) const fn sample_bytes(&self) -> usize {
        self.sample.len()
    }

    /// Memory occupied by the sample and by the inflater.
    pub(in crate::session) fn held_bytes(&self) -> usize {
        let inflater = self.compressed.inflater.as_ref();
        self.sample.capacity() + inflater.map_or(0, |_| INFLATER_BYTES)
    }

    /// Returns whether the next byte starts a frame.
    pub(in crate::session) const fn is_at_boundary(&self) -> bool {
        self.scanner.is_at_boundary()
    }

    /// Returns whether a data message has begun and not ended.
    pub(in crate::session) const fn is_in_message(&self) -> bool {
        self.scanner.is_in_message()
    }

    /// Returns whether every message that has begun has ended and been reported.
    pub(in crate::session) const fn is_between_messages(&self) -> bool {
        !self.scanner.is_in_message() && !self.message_ended
    }

    /// Returns the scanner, at its position in the stream.
    pub(in crate::session) fn into_scanner(self) -> FrameScanner {
        self.scanner
    }

    /// Takes the next item from the front of `input`; `None` when more bytes are needed.
    pub(in crate::session) fn advance<'i>(
        &mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Tapped<'i>>, ProtocolError> {
        // Inflating the end may fail, which has to be known before the message is reported as
        // complete.
        if self.message_ended {
            self.end_compressed();
        }
        if self.scanner.is_at_boundary()
            && let Some(error) = self.compressed.error
        {
            return Err(error);
        }
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
            if self.compressed.is_present {
                self.inflate(payload);
            } else {
                // Frames are opaque from here on: the payload is reported as it comes, never
                // collected.
                self.keep(payload);
            }
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
        self.compressed.is_present = starts_compressed(bytes);
        self.compressed.bytes = 0;
        self.sample = Vec::new();
        self.is_cut = false;
        Ok(Some(Tapped::MessageStart(bytes)))
    }

    /// Cuts the sample of the current message: no more of it is kept.
    pub(in crate::session) const fn cut_sample(&mut self) {
        self.is_cut = true;
    }

    /// Adds `plain` to the sample, as far as there is room.
    fn keep(&mut self, plain: &[u8]) {
        if self.is_cut {
            return;
        }
        let room = self.inspect_bytes - self.sample.len();
        let kept = plain.len().min(room);
        extend(&mut self.sample, &plain[..kept], self.inspect_bytes);
        self.is_cut |= plain.len() > room;
    }

    /// Adds the inflated `payload` to the sample.
    ///
    /// Also cuts a message whose compressed form is longer than that of any message with
    /// `inspect_bytes` of content should be.
    fn inflate(&mut self, payload: &[u8]) {
        self.compressed.bytes = self.compressed.bytes.saturating_add(payload.len());
        let is_unread = self.inspect_bytes == 0 || !self.compressed.is_read;
        // Nothing inspects the rest, and no later message needs its window.
        if is_unread || (self.compressed.is_independent && self.is_cut) {
            self.is_cut = true;
            self.compressed.inflater = None;
            return;
        }
        let mut inflater = self.compressed.inflater.take().unwrap_or_default();
        let fed = inflater.feed(payload, |plain| self.keep(plain));
        self.compressed.inflater = Some(inflater);
        // Otherwise a message that inflates to almost nothing would be withheld however long it
        // is.
        self.is_cut |= self.compressed.bytes > max_compressed_bytes(self.inspect_bytes);
        self.note(fed);
    }

    fn note(&mut self, result: Result<(), ProtocolError>) {
        if let Err(error) = result {
            self.compressed.error = Some(error);
            self.stop_sampling();
        }
    }

    /// Inflates the rest of a compressed message.
    fn end_compressed(&mut self) {
        if !self.compressed.is_present || self.compressed.bytes == 0 {
            return;
        }
        let Some(mut inflater) = self.compressed.inflater.take() else {
            return;
        };
        let ended = inflater.end_message(|plain| self.keep(plain));
        // Kept between messages only if the next one needs its window.
        if !self.compressed.is_independent {
            self.compressed.inflater = Some(inflater);
        }
        self.note(ended);
    }
}

/// Appends `bytes` to `kept`, which should not grow far beyond `max_bytes`. Grows by half, so
/// that it copies seldom and never occupies twice the memory it needs.
pub(in crate::session) fn extend(kept: &mut Vec<u8>, bytes: &[u8], max_bytes: usize) {
    if kept.capacity() - kept.len() < bytes.len() {
        let ahead = (kept.len() / 2).min(max_bytes.saturating_sub(kept.len()));
        kept.reserve_exact(ahead.max(bytes.len()));
    }
    kept.extend_from_slice(bytes);
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
    fn a_fragmented_message_is_sampled_whole_at_any_split() {
        let stream = b"\x01\x02he\x89\x01p\x00\x00\x80\x03llo\x82\x01b";
        for step in 1..stream.len() {
            let gate = Settings {
                inspect_bytes: 4,
                ..Settings::default()
            };
            let mut tap = Inspector::new(&gate, None);
            let mut data = Vec::new();
            let mut samples = Vec::new();
            let mut pings = 0;
            let mut read_buffer = Vec::new();
            for chunk in stream.chunks(step) {
                read_buffer.extend_from_slice(chunk);
                let mut input = &read_buffer[..];
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
                read_buffer.drain(..read_buffer.len() - input.len());
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
