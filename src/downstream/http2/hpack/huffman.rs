//! The Huffman code of strings in header sections (RFC 7541 §5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols, and
//! longer ones follow shorter ones. So the lengths alone are the whole table.

use super::HpackError;

/// The end-of-string symbol, which no string contains.
const END: usize = 256;

/// Bits in the code of each symbol.
const LENGTHS: [u8; END + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

const MAX_LENGTH: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct CodeRow {
    /// The first code after this length's, and this length's first, both aligned to the highest
    /// of 32 bits.
    end: u32,
    first: u32,
    /// Index in [`SYMBOLS`] of the symbol that `first` stands for.
    symbol: usize,
}

static ROWS: [CodeRow; MAX_LENGTH + 1] = rows();
static SYMBOLS: [u16; END + 1] = symbols();

const fn rows() -> [CodeRow; MAX_LENGTH + 1] {
    let none = CodeRow {
        end: 0,
        first: 0,
        symbol: 0,
    };
    let mut rows = [none; MAX_LENGTH + 1];
    let (mut code, mut symbol, mut length) = (0_u32, 0, 1);
    while length <= MAX_LENGTH {
        let shift = 32 - length;
        let first = code;
        let mut count = 0;
        let mut each = 0;
        while each <= END {
            if LENGTHS[each] as usize == length {
                count += 1;
            }
            each += 1;
        }
        // The last code of all is 30 ones, so the code after it does not fit into 32 bits.
        code = code.saturating_add(count << shift);
        rows[length] = CodeRow {
            end: code,
            first,
            symbol,
        };
        symbol += count as usize;
        length += 1;
    }
    rows
}

/// Lists the symbols in the order of their codes.
const fn symbols() -> [u16; END + 1] {
    let mut symbols = [0; END + 1];
    let (mut at, mut length) = (0, 1);
    while length <= MAX_LENGTH {
        let mut symbol = 0_u16;
        while symbol as usize <= END {
            if LENGTHS[symbol as usize] as usize == length {
                symbols[at] = symbol;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

/// Appends the decoded form of `coded` to `text`.
///
/// # Errors
///
/// The end-of-string symbol occurs, or the padding is not a prefix of its code, or is 8 bits or
/// longer.
pub(crate) fn decode(coded: &[u8], text: &mut Vec<u8>) -> Result<(), HpackError> {
    let mut coded = coded.iter();
    // Bits that are still to be decoded, left-aligned.
    let (mut bits, mut count) = (0_u64, 0);
    loop {
        while count <= 56
            && let Some(byte) = coded.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let code = u32::try_from(bits >> 32).expect("half of it");
        // The shortest code has five bits.
        let mut length = 5;
        while length < MAX_LENGTH && code >= ROWS[length].end {
            length += 1;
        }
        if length > count {
            let is_padding = count < 8 && bits.leading_ones() as usize == count;
            return is_padding.then_some(()).ok_or(HpackError);
        }
        let row = ROWS[length];
        let at = ((code - row.first) >> (32 - length)) as usize;
        match u8::try_from(SYMBOLS[row.symbol + at]) {
            Ok(symbol) => text.push(symbol),
            Err(_) => return Err(HpackError),
        }
        bits <<= length;
        count -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an encoder writes.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            let at = SYMBOLS
                .iter()
                .position(|symbol| *symbol == u16::from(*byte));
            let (at, length) = (at.unwrap(), usize::from(LENGTHS[usize::from(*byte)]));
            let row = ROWS[length];
            let code = (row.first >> (32 - length)) + u32::try_from(at - row.symbol).unwrap();
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        bits.chunks(8).map(byte).collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut text = Vec::new();
        decode(coded, &mut text).map(|()| text)
    }

    #[test]
    fn the_codes_are_those_of_the_rfc() {
        // Appendix B: the first of five bits, one of thirty, and one in between.
        assert_eq!(encode(b"0"), [0b0000_0111]);
        assert_eq!(encode(b"z"), [0b1111_0111]);
        assert_eq!(encode(b"\n"), [0xff, 0xff, 0xff, 0xf3]);
        // Appendix C.4.1.
        let coded = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(encode(b"www.example.com"), coded);
        assert_eq!(decoded(&coded).unwrap(), b"www.example.com");
    }

    #[test]
    fn every_byte_survives_at_every_place() {
        let all: Vec<u8> = (0..=255).collect();
        for start in 0..all.len() {
            assert_eq!(decoded(&encode(&all[start..])).unwrap(), all[start..]);
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        // The end of strings, padding of eight bits, and one that is not all ones.
        for coded in [&[0xff; 4][..], &[0xff], &[0b0000_0111, 0xff], &[0]] {
            assert!(decoded(coded).is_err(), "{coded:x?}");
        }
    }
}
