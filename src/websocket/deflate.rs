//! Inflating compressed messages in order to inspect them (RFC 7692 §7.2).
//!
//! The proxy never compresses, and never forwards what it has inflated: it inspects the beginning
//! of a message and forwards the bytes that it received.
//!
//! # Invariants
//!
//! * No more of the inflated data is kept than the caller asked for.
//! * Inflating takes time linear in the bytes received. A single message is inflated only as far as
//!   the caller asks. A stream of messages must be inflated to the end of each, for the sake of the
//!   next one; it is abandoned when it expands far more than real data does. For many messages that
//!   each stand alone, the caller keeps the account ([`Inflation`]).
//! * A compressor that ends its stream inside a message (BFINAL, RFC 7692 §7.2.3.4) starts a new
//!   one behind it. No known compressor refers back across that boundary.

use flate2::{Decompress, FlushDecompress, Status};

use super::close_code::ProtocolError;

/// Bytes that a sender strips from the end of each message (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// An empty last block; the decoder reaches it only if the message ended properly.
const LAST_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// DEFLATE's highest expansion: 258 bytes from two bits.
const MAX_RATIO: usize = 1032;

/// Number of streams that a compressor may start inside one message.
const MAX_STREAMS: usize = 8;

/// Inflates the beginning of a message that depends on none before it.
///
/// `compressed` is the message's payload, or its beginning where `is_all` is false. Returns at most
/// `max_bytes`, and whether that is the whole message.
///
/// # Errors
///
/// [`ProtocolError::InvalidDeflate`] within the part that was inflated; also when the message ends
/// in the middle of a block, or refers to bytes before its own.
pub fn inflate(
    mut compressed: Vec<u8>,
    is_all: bool,
    max_bytes: usize,
) -> Result<(Vec<u8>, bool), ProtocolError> {
    // RFC 7692 §7.2.3.6 demands a block even here; its absence is harmless.
    if is_all && compressed.is_empty() {
        return Ok((compressed, true));
    }
    let end = [&TAIL[..], &LAST_BLOCK].concat();
    if is_all {
        compressed.extend_from_slice(&end);
    }
    // A short message cannot inflate to more, so no more is allocated.
    let bound = max_bytes.min(compressed.len().saturating_mul(MAX_RATIO));
    // One byte more than the bound shows that the message continues beyond it.
    let mut out = vec![0; bound + 1];
    let mut written = 0;
    let mut rest = &compressed[..];
    let mut is_whole = false;
    for _ in 0..MAX_STREAMS {
        // Messages are raw DEFLATE, without a zlib header.
        let mut stream = Decompress::new(false);
        let status = stream
            .decompress(rest, &mut out[written..], FlushDecompress::Finish)
            .map_err(|_| ProtocolError::InvalidDeflate)?;
        written += usize::try_from(stream.total_out()).unwrap_or(usize::MAX);
        rest = &rest[usize::try_from(stream.total_in()).unwrap_or(usize::MAX)..];
        if written > bound {
            break;
        }
        if status != Status::StreamEnd {
            if is_all {
                return Err(ProtocolError::InvalidDeflate);
            }
            break;
        }
        // The message's own last block may take the place of the one that was appended.
        if rest.is_empty() || rest == end {
            is_whole = is_all;
            break;
        }
    }
    out.truncate(written.min(bound));
    Ok((out, is_whole))
}

/// Memory of an [`Inflater`]: a window of 32 KiB and the tables of a block.
pub const INFLATER_BYTES: usize = 44 * 1024;

/// Output that is never suspicious, in bytes.
const FREE_BYTES: u64 = 16 * 1024 * 1024;

/// Output per input byte that is tolerated beyond that. Text compresses to 10 %, a log to 2 %.
const SUSPICIOUS_RATIO: u64 = 100;

/// Account of one side's inflated messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inflation {
    taken: u64,
    inflated: u64,
}

impl Inflation {
    /// Adds `taken` compressed bytes and the `inflated` bytes that they produced.
    pub const fn add(&mut self, taken: u64, inflated: u64) {
        self.taken += taken;
        self.inflated += inflated;
    }

    /// Returns whether the output exceeds what real data produces: 16 MiB plus 100 times the input.
    #[must_use]
    pub const fn is_suspicious(&self) -> bool {
        self.inflated > FREE_BYTES + SUSPICIOUS_RATIO * self.taken
    }
}

/// Inflates a stream of messages, piece by piece as they arrive.
///
/// Each is inflated to its end, because the next one may refer to its last 32 KiB. A reference to
/// before the first message reads as zeros: rejecting such a message is left to the receiver.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    /// No input has been taken since the stream began.
    is_fresh: bool,
    inflation: Inflation,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            stream: Decompress::new(false),
            is_fresh: true,
            inflation: Inflation::default(),
        }
    }
}

impl Inflater {
    /// Inflates the next piece of a message and passes the output to `look`, in pieces.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::InvalidDeflate`] as soon as it shows, and
    /// [`ProtocolError::InflatesTooMuch`] beyond 16 MiB plus 100 times the input.
    pub fn feed(
        &mut self,
        mut compressed: &[u8],
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), ProtocolError> {
        // The output is inspected piece by piece, so no message needs a buffer of its own size.
        let mut plain = [0; 4096];
        loop {
            let (taken, written) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(compressed, &mut plain, FlushDecompress::None)
                .map_err(|_| ProtocolError::InvalidDeflate)?;
            let taken = usize::try_from(self.stream.total_in() - taken).unwrap_or(usize::MAX);
            let written = usize::try_from(self.stream.total_out() - written).unwrap_or(usize::MAX);
            compressed = &compressed[taken..];
            self.is_fresh &= taken == 0;
            look(&plain[..written]);
            self.account(taken as u64, written as u64)?;
            if status == Status::StreamEnd {
                self.stream.reset(false);
                self.is_fresh = true;
                // Resetting clears the window. Without a charge, empty streams would make it clear
                // for free.
                self.account(0, 32 * 1024)?;
            } else if compressed.is_empty() && written < plain.len() {
                // Only with room left in `plain` is nothing more pending for this input.
                return Ok(());
            }
        }
    }

    /// Ends a message of which a piece was fed.
    ///
    /// # Errors
    ///
    /// See [`feed`](Self::feed).
    pub fn end_message(&mut self, look: impl FnMut(&[u8])) -> Result<(), ProtocolError> {
        // Behind a last block there is no open stream whose tail was stripped.
        if self.is_fresh {
            return Ok(());
        }
        self.feed(&TAIL, look)
    }

    fn account(&mut self, taken: u64, inflated: u64) -> Result<(), ProtocolError> {
        self.inflation.add(taken, inflated);
        if self.inflation.is_suspicious() {
            return Err(ProtocolError::InflatesTooMuch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A sender of compressed messages.
    struct Sender {
        stream: Compress,
        takes_over: bool,
    }

    impl Sender {
        fn new(level: u32, takes_over: bool) -> Self {
            Self {
                stream: Compress::new(Compression::new(level), false),
                takes_over,
            }
        }

        /// The payload of a message, without its tail.
        fn message(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(plain.len() + 1024);
            let before = self.stream.total_in();
            loop {
                let taken = usize::try_from(self.stream.total_in() - before).unwrap();
                self.stream
                    .compress_vec(&plain[taken..], &mut out, FlushCompress::Sync)
                    .unwrap();
                if out.len() < out.capacity() {
                    break;
                }
                out.reserve(out.len());
            }
            if !self.takes_over {
                self.stream.reset();
            }
            assert!(out.ends_with(&TAIL));
            out.truncate(out.len() - TAIL.len());
            out
        }
    }

    fn compressed(plain: &[u8]) -> Vec<u8> {
        Sender::new(6, false).message(plain)
    }

    /// What an [`Inflater`] makes of messages that arrive in pieces.
    fn fed(messages: &[Vec<u8>], piece_bytes: usize) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let mut inflater = Inflater::default();
        let mut all = Vec::new();
        for message in messages {
            let mut plain = Vec::new();
            for piece in message.chunks(piece_bytes) {
                inflater.feed(piece, |bytes| plain.extend_from_slice(bytes))?;
            }
            inflater.end_message(|bytes| plain.extend_from_slice(bytes))?;
            all.push(plain);
        }
        Ok(all)
    }

    fn plain() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[a-e]{0,300}".prop_map(String::into_bytes),
            2 => vec(any::<u8>(), 0..300),
            1 => (any::<u8>(), 1..80_000_usize).prop_map(|(byte, count)| vec![byte; count]),
            1 => vec(any::<u8>(), 65_530..65_540),
        ]
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_out_at_any_split(
            plain in vec(plain(), 1..6),
            level in 0..10_u32,
            takes_over in any::<bool>(),
            piece_bytes in 1..5_000_usize,
        ) {
            let mut sender = Sender::new(level, takes_over);
            let messages: Vec<_> = plain.iter().map(|plain| sender.message(plain)).collect();

            prop_assert_eq!(fed(&messages, piece_bytes), Ok(plain));
        }

        #[test]
        fn the_inflated_beginning_is_that_of_the_message(
            plain in plain(),
            level in 0..10_u32,
            max_bytes in prop_oneof![0..400_usize, 60_000..90_000_usize],
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut message = Sender::new(level, false).message(&plain);
            let is_all = cut.is_none();
            if let Some(cut) = cut {
                message.truncate(cut.index(message.len()));
            }

            let (beginning, is_whole) = inflate(message, is_all, max_bytes).unwrap();

            prop_assert!(beginning.len() <= max_bytes);
            prop_assert!(plain.starts_with(&beginning));
            prop_assert_eq!(is_whole, is_all && plain.len() <= max_bytes);
            prop_assert!(!is_whole || beginning == plain);
        }

        #[test]
        fn no_bytes_at_all_make_it_panic(
            garbage in vec(vec(any::<u8>(), 0..200), 1..4),
            max_bytes in 0..1_000_usize,
            is_all in any::<bool>(),
        ) {
            let _ = fed(&garbage, 7);
            if let Ok((plain, _)) = inflate(garbage[0].clone(), is_all, max_bytes) {
                prop_assert!(plain.len() <= max_bytes);
            }
        }
    }

    #[test]
    fn a_message_without_its_end_is_refused() {
        let whole = compressed(b"Hello, hello, hello!");
        for cut in 1..whole.len() - 1 {
            assert_eq!(
                inflate(whole[..cut].to_vec(), true, 1_000),
                Err(ProtocolError::InvalidDeflate),
                "{cut} bytes"
            );
        }
    }

    // RFC 7692 §7.2.3
    #[test]
    fn the_examples_of_the_rfc_come_out() {
        let hello = b"Hello".to_vec();
        let examples: [&[u8]; 4] = [
            b"\xf2\x48\xcd\xc9\xc9\x07\x00",
            b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ];
        for example in examples {
            let example = example.to_vec();
            assert_eq!(
                inflate(example.clone(), true, 100),
                Ok((hello.clone(), true))
            );
            let twice = [example.clone(), example];
            assert_eq!(fed(&twice, 1), Ok(vec![hello.clone(), hello.clone()]));
        }
        // The second one refers to the first.
        let messages = [examples[0].to_vec(), b"\xf2\x00\x11\x00\x00".to_vec()];
        assert_eq!(fed(&messages, 2), Ok(vec![hello.clone(), hello]));
    }

    #[test]
    fn an_empty_message_is_empty_however_it_is_written() {
        for empty in [&b"\x00"[..], b"", b"\x02\x00"] {
            assert_eq!(inflate(empty.to_vec(), true, 10), Ok((Vec::new(), true)));
            assert_eq!(fed(&[empty.to_vec()], 1), Ok(vec![Vec::new()]));
        }
    }

    #[test]
    fn a_last_block_without_padding_is_taken() {
        let message = b"\xf3\x48\xcd\xc9\xc9\x07\x00".to_vec();
        let hello = b"Hello".to_vec();

        assert_eq!(
            inflate(message.clone(), true, 10),
            Ok((hello.clone(), true))
        );
        let messages = [message.clone(), message];
        assert_eq!(fed(&messages, 3), Ok(vec![hello.clone(), hello]));
    }

    #[test]
    fn a_message_that_must_stand_alone_may_not_refer_back() {
        let mut sender = Sender::new(6, true);
        sender.message(b"the quick brown fox jumps over the lazy dog");
        let second = sender.message(b"the quick brown fox jumps over the lazy dog");

        assert_eq!(
            inflate(second, true, 100),
            Err(ProtocolError::InvalidDeflate)
        );
    }

    #[test]
    fn a_bomb_is_not_inflated_further_than_was_asked_for() {
        let bomb = compressed(&vec![b'a'; 100 << 20]);
        assert!(bomb.len() < 150_000);

        let (plain, is_whole) = inflate(bomb, true, 1_000).unwrap();

        assert_eq!((plain.len(), is_whole), (1_000, false));
    }

    #[test]
    fn a_bomb_that_must_be_inflated_is_given_up_and_data_is_not() {
        let megabyte = compressed(&vec![b'a'; 1 << 20]);
        let mut inflater = Inflater::default();
        let mut plain_bytes = 0;
        let mut result = Ok(());
        for _ in 0..100 {
            result = inflater
                .feed(&megabyte, |bytes| plain_bytes += bytes.len())
                .and_then(|()| inflater.end_message(|_| {}));
            if result.is_err() {
                break;
            }
        }
        assert_eq!(result, Err(ProtocolError::InflatesTooMuch));
        assert!((16 << 20..20 << 20).contains(&plain_bytes), "{plain_bytes}");

        let numbers: Vec<_> = (0..150_000).map(|number| number.to_string()).collect();
        let megabyte = compressed(numbers.join(",").as_bytes());
        let mut inflater = Inflater::default();
        for _ in 0..20 {
            inflater.feed(&megabyte, |_| {}).unwrap();
            inflater.end_message(|_| {}).unwrap();
        }
        assert!(inflater.inflation.inflated > FREE_BYTES);
    }

    #[test]
    fn a_compressor_that_starts_anew_without_end_is_given_up() {
        let mut inflater = Inflater::default();
        let nothing = b"\x03\x00".repeat(10_000);

        assert_eq!(
            inflater.feed(&nothing, |_| {}),
            Err(ProtocolError::InflatesTooMuch)
        );
        assert_eq!(inflate(nothing, true, 10), Ok((Vec::new(), false)));
    }
}
