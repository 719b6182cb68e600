//! Frames (RFC 6455 §5.2), decoded piece by piece as they arrive.

/// The longest header: two bytes, a 64-bit length and a mask.
const MAX_HEADER_BYTES: usize = 14;

/// In the place of a length: it follows in two bytes, or in eight.
const LENGTH_16_BITS: u8 = 0x7e;
const LENGTH_64_BITS: u8 = 0x7f;

/// What a frame carries. Others than these never appear here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A fragment after the first.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The closing handshake.
    Close = 8,
    /// To be answered by a pong.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }
}

/// A frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The last frame of its message.
    pub fin: bool,
    /// What it carries.
    pub opcode: Opcode,
    /// The key that the payload is masked with.
    pub mask: Option<[u8; 4]>,
    /// The length of the payload.
    pub payload_bytes: u64,
}

impl Header {
    /// Appends the header as it goes over the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.fin) << 7 | self.opcode as u8);
        let masked = u8::from(self.mask.is_some()) << 7;
        match (
            u8::try_from(self.payload_bytes),
            u16::try_from(self.payload_bytes),
        ) {
            (Ok(length @ 0..=125), _) => out.push(masked | length),
            (_, Ok(length)) => {
                out.push(masked | LENGTH_16_BITS);
                out.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                out.push(masked | LENGTH_64_BITS);
                out.extend_from_slice(&self.payload_bytes.to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |key| key.as_slice()));
    }

    /// The header at the beginning of `bytes`, and its length; `None` while it is incomplete.
    fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, UnknownFrame> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let opcode = Opcode::from_bits(first & 0x7f).ok_or(UnknownFrame(*first))?;
        let length_bytes = match second & 0x7f {
            LENGTH_16_BITS => 2,
            LENGTH_64_BITS => 8,
            _ => 0,
        };
        let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
        let (Some(length), Some(key)) = (
            rest.get(..length_bytes),
            rest.get(length_bytes..length_bytes + mask_bytes),
        ) else {
            return Ok(None);
        };
        let payload_bytes = match length {
            [] => u64::from(second & 0x7f),
            length => length
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let header = Self {
            fin: first & 0x80 != 0,
            opcode,
            mask: key.try_into().ok(),
            payload_bytes,
        };
        Ok(Some((header, 2 + length_bytes + mask_bytes)))
    }
}

/// The first byte of a frame that RFC 6455 does not define.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownFrame(u8);

impl std::fmt::Display for UnknownFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a frame that begins with {:#04x}", self.0)
    }
}

impl std::error::Error for UnknownFrame {}

/// As much of a frame as one read brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The frame.
    pub header: Header,
    /// Where in the frame's payload the piece begins.
    pub offset: u64,
    /// A part of the payload, masked as it came; empty only when all of it is.
    pub payload: &'a [u8],
}

impl Piece<'_> {
    /// Whether the frame begins with this piece.
    pub fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// Whether the frame ends with this piece.
    pub fn is_last(&self) -> bool {
        self.offset + self.payload.len() as u64 == self.header.payload_bytes
    }
}

/// Cuts a stream into pieces of frames, however the network has cut it.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a header that is not complete.
    partial: Vec<u8>,
    /// A frame under way, and how much of its payload has been seen.
    current: Option<(Header, u64)>,
}

impl Decoder {
    /// The next piece of `input`, which is advanced behind it; `None` when all is used.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, UnknownFrame> {
        let (header, offset) = match self.current {
            Some(current) => current,
            None => match self.next_header(input)? {
                Some(header) => (header, 0),
                None => return Ok(None),
            },
        };
        let left = usize::try_from(header.payload_bytes - offset).unwrap_or(usize::MAX);
        let (payload, rest) = input.split_at(left.min(input.len()));
        *input = rest;
        let piece = Piece {
            header,
            offset,
            payload,
        };
        self.current = (!piece.is_last()).then(|| (header, offset + payload.len() as u64));
        let is_empty_by_chance = payload.is_empty() && left > 0;
        Ok((!is_empty_by_chance).then_some(piece))
    }

    fn next_header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, UnknownFrame> {
        if self.partial.is_empty()
            && let Some((header, length)) = Header::decode(input)?
        {
            *input = &input[length..];
            return Ok(Some(header));
        }
        while let [byte, rest @ ..] = *input {
            debug_assert!(self.partial.len() < MAX_HEADER_BYTES);
            self.partial.push(*byte);
            *input = rest;
            if let Some((header, _)) = Header::decode(&self.partial)? {
                self.partial.clear();
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}

/// A whole message in one frame, as it goes over the wire.
pub fn encode_message(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(MAX_HEADER_BYTES + payload.len());
    let payload_bytes = payload.len() as u64;
    Header {
        fin: true,
        opcode,
        mask: key,
        payload_bytes,
    }
    .encode(&mut frame);
    let start = frame.len();
    frame.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut frame[start..], key, 0);
    }
    frame
}

/// Masks, or unmasks, the part of a payload that begins at `offset`.
pub fn mask(payload: &mut [u8], key: [u8; 4], offset: u64) {
    let mut key = key;
    key.rotate_left(usize::try_from(offset % 4).unwrap_or_default());
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    #[test]
    fn the_masked_hello_of_the_rfc_is_encoded() {
        assert_eq!(
            encode_message(Opcode::Text, b"Hello", Some(KEY)),
            [
                0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58
            ]
        );
    }

    #[test]
    fn headers_of_every_length_form_are_read_back() {
        for payload_bytes in [0, 125, 126, 65535, 65536, 1 << 40] {
            for mask in [None, Some(KEY)] {
                let header = Header {
                    fin: false,
                    opcode: Opcode::Binary,
                    mask,
                    payload_bytes,
                };
                let mut bytes = Vec::new();
                header.encode(&mut bytes);

                assert_eq!(Header::decode(&bytes).unwrap(), Some((header, bytes.len())));
                assert_eq!(Header::decode(&bytes[..bytes.len() - 1]).unwrap(), None);
            }
        }
    }

    #[test]
    fn frames_are_decoded_however_the_stream_is_cut() {
        let sent = [
            (Opcode::Text, vec![1; 200]),
            (Opcode::Ping, vec![]),
            (Opcode::Binary, vec![2; 3]),
        ];
        let mut stream = Vec::new();
        for (opcode, payload) in &sent {
            stream.extend(encode_message(*opcode, payload, None));
        }

        for size in 1..=stream.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for mut chunk in stream.chunks(size) {
                while let Some(piece) = decoder.next(&mut chunk).unwrap() {
                    if piece.is_first() {
                        frames.push((piece.header.opcode, Vec::new()));
                    }
                    frames
                        .last_mut()
                        .unwrap()
                        .1
                        .extend_from_slice(piece.payload);
                    assert_eq!(
                        piece.is_last(),
                        frames.last().unwrap().1.len() as u64 == piece.header.payload_bytes
                    );
                }
            }

            assert_eq!(frames, sent, "in chunks of {size}");
        }
    }

    #[test]
    fn a_payload_masked_in_parts_is_the_one_masked_at_once() {
        let mut whole: Vec<u8> = (0..100).collect();
        mask(&mut whole, KEY, 0);

        for cut in 0..100 {
            let mut parts: Vec<u8> = (0..100).collect();
            let (first, second) = parts.split_at_mut(cut);
            mask(first, KEY, 0);
            mask(second, KEY, cut as u64);
            assert_eq!(parts, whole, "cut at {cut}");
        }
    }

    #[test]
    fn reserved_bits_and_opcodes_are_refused() {
        assert_eq!(
            Decoder::default().next(&mut &[0x83, 0][..]),
            Err(UnknownFrame(0x83))
        );
        assert_eq!(
            Decoder::default().next(&mut &[0xc1, 0][..]),
            Err(UnknownFrame(0xc1))
        );
    }
}
