//! Decoding of HTTP/2 header sections (RFC 7541), beside the h2 crate's own.
//!
//! h2's own decoder is private. loona-hpack, a fork of hpack by way of fluke-hpack, takes whole
//! sections only: one that ends inside a field is an error, and the fields before it are in the
//! table by then, so that a section that the client does not end would have to be buffered. hpack
//! and httlib-hpack are not maintained. Field by field, only the table is kept.
//!
//! # Invariants
//!
//! * The table equals that of the client's encoder, whatever it contains: a field that is illegal
//!   in HTTP is an entry like any other, for the table belongs to the connection and the field to
//!   one request.
//! * The table has at most [`MAX_TABLE_BYTES`].

mod huffman;
mod table;

use std::collections::VecDeque;

use hyper::{Method, StatusCode, header::HeaderName};

use self::table::{STATIC, static_kind};

/// Size of the table that clients may use: the default, which h2's settings do not change (RFC
/// 9113 §6.5.2).
const MAX_TABLE_BYTES: usize = 4096;

/// Overhead of an entry, counted beside its name and its value (RFC 7541 §4.1).
const ENTRY_BYTES: usize = 32;

/// A decoding error: the connection cannot continue (RFC 7541 §2.4 and RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HpackError;

/// A field of a section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) kind: FieldKind,
    /// Set when HTTP allows the name and the value.
    pub(crate) is_legal: bool,
}

/// Kinds of fields that are told apart, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
    ContentLength,
    Other,
    /// A name that HTTP does not allow (RFC 9113 §8.2.1 and §8.3).
    Illegal,
}

impl FieldKind {
    fn of(name: &[u8]) -> Self {
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            b"content-length" => Self::ContentLength,
            name if HeaderName::from_lowercase(name).is_ok() => Self::Other,
            _ => Self::Illegal,
        }
    }

    /// Returns whether the field is a pseudo-header field.
    pub(crate) const fn is_pseudo(self) -> bool {
        !matches!(self, Self::ContentLength | Self::Other | Self::Illegal)
    }

    /// Returns whether a field of this kind may have this value, by h2's rules.
    fn allows(self, value: &[u8]) -> bool {
        match self {
            Self::Authority | Self::Path | Self::Protocol | Self::Scheme => {
                str::from_utf8(value).is_ok()
            }
            Self::Method => Method::from_bytes(value).is_ok(),
            Self::Status => StatusCode::from_bytes(value).is_ok(),
            Self::ContentLength | Self::Other => value
                .iter()
                .all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f),
            Self::Illegal => false,
        }
    }
}

/// An entry of the dynamic table.
#[derive(Debug)]
struct Entry {
    /// The name, followed by the value.
    text: Box<[u8]>,
    name_length: usize,
    kind: FieldKind,
    is_legal: bool,
}

impl Entry {
    fn field(&self) -> Field<'_> {
        let (name, value) = self.text.split_at(self.name_length);
        Field {
            name,
            value,
            kind: self.kind,
            is_legal: self.is_legal,
        }
    }

    const fn bytes(&self) -> usize {
        self.text.len() + ENTRY_BYTES
    }
}

/// Decoder of one connection's sections, in their order.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Newest first.
    entries: VecDeque<Entry>,
    bytes: usize,
    max_bytes: usize,
    /// Scratch buffer of a literal field: its name, followed by its value.
    text: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes: MAX_TABLE_BYTES,
            text: Vec::new(),
        }
    }
}

/// Why decoding stops.
enum DecodeStop {
    /// The field is incomplete.
    NeedsMore,
    Malformed,
}

impl From<HpackError> for DecodeStop {
    fn from(HpackError: HpackError) -> Self {
        Self::Malformed
    }
}

impl Decoder {
    /// Decodes the complete fields of `block`, and returns how many bytes they take.
    ///
    /// `has_begun` says whether the section has had a field: after one, the table may not change
    /// its size (RFC 7541 §4.2).
    ///
    /// # Errors
    ///
    /// The bytes cannot be the beginning of a section.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        has_begun: &mut bool,
        mut each: impl FnMut(Field<'_>),
    ) -> Result<usize, HpackError> {
        let mut rest = Reader(block);
        while !rest.0.is_empty() {
            // A copy, which is discarded if the field is incomplete.
            let mut reader = Reader(rest.0);
            match self.decode_one(&mut reader, has_begun, &mut each) {
                Ok(()) => rest = reader,
                Err(DecodeStop::NeedsMore) => break,
                Err(DecodeStop::Malformed) => return Err(HpackError),
            }
        }
        Ok(block.len() - rest.0.len())
    }

    fn decode_one(
        &mut self,
        reader: &mut Reader<'_>,
        has_begun: &mut bool,
        each: &mut impl FnMut(Field<'_>),
    ) -> Result<(), DecodeStop> {
        let first = reader.0[0];
        // The three forms differ in their first bits (RFC 7541 §6): a size update, an indexed
        // field, and a literal, which may go into the table.
        if first & 0b1110_0000 == 0b0010_0000 {
            let max_bytes = reader.integer(5)?;
            if *has_begun || max_bytes > MAX_TABLE_BYTES {
                return Err(DecodeStop::Malformed);
            }
            self.max_bytes = max_bytes;
            self.evict();
            return Ok(());
        }
        if first & 0b1000_0000 != 0 {
            let index = reader.integer(7)?;
            *has_begun = true;
            each(self.get(index)?);
            return Ok(());
        }
        let is_kept = first & 0b0100_0000 != 0;
        let index = reader.integer(if is_kept { 6 } else { 4 })?;
        // Taken out because `literal` borrows the tables.
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let read = self.literal(reader, index, &mut text);
        self.text = text;
        let (kind, name_length) = read?;
        *has_begun = true;
        let (name, value) = self.text.split_at(name_length);
        let is_legal = kind.allows(value);
        each(Field {
            name,
            value,
            kind,
            is_legal,
        });
        if is_kept {
            let entry = Entry {
                text: self.text.as_slice().into(),
                name_length,
                kind,
                is_legal,
            };
            self.insert(entry);
        }
        Ok(())
    }

    /// Decodes a literal field: its name, unless that is the name of entry `index`, and its
    /// value.
    fn literal(
        &self,
        reader: &mut Reader<'_>,
        index: usize,
        text: &mut Vec<u8>,
    ) -> Result<(FieldKind, usize), DecodeStop> {
        let kind = if index == 0 {
            reader.string(text)?;
            FieldKind::of(text)
        } else {
            let known = self.get(index)?;
            text.extend_from_slice(known.name);
            known.kind
        };
        let name_length = text.len();
        reader.string(text)?;
        Ok((kind, name_length))
    }

    /// Returns entry `index` of the two tables (RFC 7541 §2.3.3).
    fn get(&self, index: usize) -> Result<Field<'_>, HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok(Field {
                name: name.as_bytes(),
                value: value.as_bytes(),
                kind: static_kind(index),
                is_legal: true,
            });
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(HpackError)?;
        Ok(entry.field())
    }

    fn insert(&mut self, entry: Entry) {
        // An entry larger than the table empties it (RFC 7541 §4.4).
        self.bytes += entry.bytes();
        self.entries.push_front(entry);
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.max_bytes
            && let Some(oldest) = self.entries.pop_back()
        {
            self.bytes -= oldest.bytes();
        }
    }
}

/// The rest of a section.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, DecodeStop> {
        let (first, rest) = self.0.split_first().ok_or(DecodeStop::NeedsMore)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Decodes an integer that begins in the last `bits` of a byte (RFC 7541 §5.1), in at most
    /// five bytes, the bound that h2 has.
    fn integer(&mut self, bits: u32) -> Result<usize, DecodeStop> {
        let mask = (1 << bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeStop::Malformed)
    }

    /// Appends a string literal to `text` (RFC 7541 §5.2).
    fn string(&mut self, text: &mut Vec<u8>) -> Result<(), DecodeStop> {
        let is_coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (string, rest): (&'a [u8], _) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeStop::NeedsMore)?;
        self.0 = rest;
        if is_coded {
            huffman::decode(string, text)?;
        } else {
            text.extend_from_slice(string);
        }
        Ok(())
    }
}

/// Appends a literal field that no table keeps (RFC 7541 §6.2.2).
pub(crate) fn encode(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    for string in [name, value] {
        if let Ok(length @ 0..0x7f) = u8::try_from(string.len()) {
            block.push(length);
        } else {
            block.push(0x7f);
            let mut left = string.len() - 0x7f;
            while left >= 0x80 {
                block.push(u8::try_from(left & 0x7f).expect("seven bits") | 0x80);
                left >>= 7;
            }
            block.push(u8::try_from(left).expect("seven bits"));
        }
        block.extend_from_slice(string);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap();
        let pair = |pair: &[u8]| u8::try_from(digit(&pair[0]) * 16 + digit(&pair[1])).unwrap();
        hex.as_bytes().chunks(2).map(pair).collect()
    }

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<String, HpackError> {
        let mut lines = String::new();
        let length = decoder.decode(block, &mut false, |field| {
            for text in [field.name, b": ", field.value, b"\n"] {
                lines.push_str(str::from_utf8(text).unwrap());
            }
        })?;
        if length < block.len() {
            return Err(HpackError);
        }
        Ok(lines)
    }

    #[test]
    fn the_static_kinds_are_those_of_the_names() {
        for (index, (name, value)) in STATIC.iter().enumerate() {
            assert_eq!(static_kind(index), FieldKind::of(name.as_bytes()), "{name}");
            assert!(static_kind(index).allows(value.as_bytes()), "{name}");
        }
    }

    // RFC 7541, appendix C.4
    #[test]
    fn three_requests_share_a_table() {
        let mut decoder = Decoder::default();
        let start = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n";

        let first = bytes("828684418cf1e3c2e5f23a6ba0ab90f4ff");
        assert_eq!(decoded(&mut decoder, &first).unwrap(), start);
        let second = bytes("828684be5886a8eb10649cbf");
        assert_eq!(
            decoded(&mut decoder, &second).unwrap(),
            format!("{start}cache-control: no-cache\n")
        );
        let third = bytes("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf");
        assert_eq!(
            decoded(&mut decoder, &third).unwrap(),
            ":method: GET\n:scheme: https\n:path: /index.html\n\
             :authority: www.example.com\ncustom-key: custom-value\n"
        );
        assert_eq!((decoder.entries.len(), decoder.bytes), (3, 164));
    }

    #[test]
    fn the_oldest_entries_make_room_for_new_ones() {
        let mut decoder = Decoder::default();
        // A table of 70 bytes has room for one entry of 35, or for two.
        let resize = [0x3f, 70 - 31];
        let kept = |name: u8| [0x40, 1, name, 2, b'v', b'v'];
        let block = [&resize[..], &kept(b'a'), &kept(b'b'), &kept(b'c')].concat();
        decoded(&mut decoder, &block).unwrap();

        assert_eq!(
            decoded(&mut decoder, &[0xbe, 0xbf]).unwrap(),
            "c: vv\nb: vv\n"
        );
        assert!(decoded(&mut decoder, &[0xc0]).is_err(), "a is gone");
        // Nothing is left of a table that has no room.
        decoded(&mut decoder, &[0x20]).unwrap();
        assert!(decoded(&mut decoder, &[0xbe]).is_err());
        decoded(&mut decoder, &kept(b'd')).unwrap();
        assert_eq!((decoder.entries.len(), decoder.bytes), (0, 0));
    }

    #[test]
    fn what_is_no_section_is_refused() {
        for block in [
            &[0x80][..],                           // there is no entry 0
            &[0xbe],                               // the table is empty
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff], // an integer without end
            &[0x82, 0x20],                         // the size behind a field
            &[0x3f, 0xe2, 0x1f],                   // a size of 4097
            &[0, 0x81, 0xff, 0],                   // padding of a byte
        ] {
            let mut decoder = Decoder::default();
            assert!(decoded(&mut decoder, block).is_err(), "{block:x?}");
        }
        decoded(&mut Decoder::default(), &[0x3f, 0xe1, 0x1f]).unwrap();
    }

    #[test]
    fn fields_are_read_as_soon_as_they_are_whole() {
        let mut block = vec![0x82];
        encode(b"name", &[b'v'; 300], &mut block);
        for length in 1..block.len() {
            let read = Decoder::default().decode(&block[..length], &mut false, |_| {});
            assert_eq!(read, Ok(1), "{length} bytes");
        }
        let read = Decoder::default().decode(&block, &mut false, |_| {});
        assert_eq!(read, Ok(block.len()));
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for length in [0, 1, 126, 127, 128, 254, 255, 256, 5000, 16_511, 16_512] {
            let value = vec![b'v'; length];
            let mut block = Vec::new();
            encode(b"a", &value, &mut block);
            let mut lengths = Vec::new();
            Decoder::default()
                .decode(&block, &mut false, |field| lengths.push(field.value.len()))
                .unwrap();
            assert_eq!(lengths, [length]);
        }
    }

    #[test]
    fn an_illegal_field_stays_one_when_the_table_has_it() {
        let mut decoder = Decoder::default();
        let mut legal = Vec::new();
        let blocks = [
            &[0x40, 1, b'A', 1, b'v'][..], // upper case
            &[0xbe],                       // the same
            &[0x0f, 0x2f, 1, b'v'],        // another value for its name
            &[0x40, 1, b'a', 1, 0],        // a NUL
            &[0xbe],                       // the same
            &[0x0f, 0x2f, 1, b'v'],        // another value for its name
            &[0x04, 1, 0xff],              // a path that is no UTF-8
            &[0, 0, 0],                    // no name
        ];
        for block in blocks {
            let read = decoder.decode(block, &mut false, |field| legal.push(field.is_legal));
            assert_eq!(read, Ok(block.len()), "{block:x?}");
        }
        assert_eq!(
            legal,
            [false, false, false, false, false, true, false, false]
        );
    }
}
