//! Masking (RFC 6455 §5.3): an XOR with a four-byte key, its own inverse.

/// Masks or unmasks `payload` in place.
///
/// `offset` is the number of payload bytes of the same frame that came before, so that a payload
/// can be processed in pieces.
pub fn apply(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let mut key = key;
    // The mask repeats over the frame's payload, not over this piece.
    key.rotate_left(offset % 4);
    // Eight bytes at a time. In native order the key's bytes stay where they are in memory, so
    // nothing is swapped on any machine.
    let wide = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let (chunks, tail) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_masked_in_pieces_equals_one_masked_whole() {
        let key = [1, 2, 3, 4];
        let plain: Vec<u8> = (0..50).collect();
        let mut whole = plain.clone();
        apply(&mut whole, key, 0);

        for cut in 0..plain.len() {
            let mut pieces = plain.clone();
            let (head, tail) = pieces.split_at_mut(cut);
            apply(head, key, 0);
            apply(tail, key, cut);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
        for (index, byte) in whole.iter().enumerate() {
            assert_eq!(*byte, plain[index] ^ key[index % 4]);
        }
    }
}
