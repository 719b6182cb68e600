//! Random frame streams, valid and invalid, for the property tests.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{frame::Role, mask};

/// The first byte of an unfragmented text message and of its first fragment.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// The short lengths that announce a longer one.
const BITS_16: u8 = 126;
const BITS_64: u8 = 127;

/// Encoding of a frame's length.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Shortest,
    Bits16,
    Bits64,
    /// 64 bits with the highest one set.
    Negative,
}

/// Encodes one frame of `sender`, legal or not.
pub(super) fn frame(sender: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    raw_frame(sender == Role::Client, first, Length::Shortest, payload)
}

fn raw_frame(masked: bool, first: u8, length: Length, payload: &[u8]) -> Vec<u8> {
    let mask_bit = u8::from(masked) << 7;
    let mut out = vec![first];
    match (length, payload.len()) {
        (Length::Shortest, short @ ..126) => out.push(mask_bit | u8::try_from(short).unwrap()),
        (Length::Shortest, long @ ..0x1_0000) | (Length::Bits16, long) => {
            out.push(mask_bit | BITS_16);
            out.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
        (Length::Shortest | Length::Bits64, long) => {
            out.push(mask_bit | BITS_64);
            out.extend((long as u64).to_be_bytes());
        }
        (Length::Negative, long) => {
            out.push(mask_bit | BITS_64);
            out.extend((long as u64 | 1 << 63).to_be_bytes());
        }
    }
    if !masked {
        out.extend_from_slice(payload);
        return out;
    }
    let key = [0x9e, 0x37, payload.len().to_le_bytes()[0], first];
    out.extend(key);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::apply(&mut out[start..], key, 0);
    out
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[aé€𝄞]{0,60}".prop_map(String::into_bytes),
        1 => "[ -~]{100,300}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..8),
    ]
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..40),
        2 => vec(any::<u8>(), 120..132),
        1 => vec(any::<u8>(), 65_530..65_540),
    ]
}

fn control() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (select(&[PING, PONG][..]), vec(any::<u8>(), 0..=125))
}

/// A message cut into fragments at random places, with control frames between some.
fn message(sender: Role) -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        text().prop_map(|payload| (TEXT, payload)),
        binary().prop_map(|payload| (BINARY, payload)),
    ];
    let cuts = vec(
        (any::<prop::sample::Index>(), prop::option::of(control())),
        0..4,
    );
    (payload, cuts).prop_map(move |((first, payload), cuts)| {
        let mut places: Vec<_> = cuts
            .into_iter()
            .map(|(index, control)| (index.index(payload.len() + 1), control))
            .collect();
        places.sort_by_key(|(place, _)| *place);
        let mut out = Vec::new();
        let mut opcode = first & 0x0f;
        let mut start = 0;
        for (place, control) in places {
            out.extend(frame(sender, opcode, &payload[start..place]));
            if let Some((control, payload)) = control {
                out.extend(frame(sender, control, &payload));
            }
            opcode = 0;
            start = place;
        }
        out.extend(frame(sender, FIN | opcode, &payload[start..]));
        out
    })
}

/// A close frame, most often legal.
fn close(sender: Role) -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![3 => 1000_u16..1015, 1 => 2990..3010_u16, 1 => any::<u16>()];
    let said = (code, text()).prop_map(|(code, reason)| {
        let reason = &reason[..reason.len().min(123)];
        [&code.to_be_bytes()[..], reason].concat()
    });
    prop_oneof![4 => said, 1 => vec(any::<u8>(), 0..2)]
        .prop_map(move |payload| frame(sender, CLOSE, &payload))
}

/// A frame that breaks one rule or several.
fn mischief(sender: Role) -> impl Strategy<Value = Vec<u8>> {
    let length = select(
        &[
            Length::Shortest,
            Length::Bits16,
            Length::Bits64,
            Length::Negative,
        ][..],
    );
    let masked = prop::bool::weighted(if sender == Role::Client { 0.8 } else { 0.2 });
    let first = prop_oneof![
        any::<u8>(),
        select(&[TEXT, BINARY, RSV1 | TEXT, RSV1 | BINARY][..]),
    ];
    (masked, first, length, vec(any::<u8>(), 0..140))
        .prop_map(|(masked, first, length, payload)| raw_frame(masked, first, length, &payload))
}

/// Frames that `sender` sends: mostly messages and control frames, sometimes a close frame or
/// mischief, perhaps truncated at the end.
pub(super) fn stream(sender: Role) -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        12 => message(sender),
        4 => control().prop_map(move |(first, payload)| frame(sender, first, &payload)),
        1 => close(sender),
        2 => mischief(sender),
    ];
    let missing = prop_oneof![2 => Just(0_usize), 1 => 1..40_usize];
    (vec(part, 0..8), missing).prop_map(|(parts, missing)| {
        let mut stream = parts.concat();
        stream.truncate(stream.len().saturating_sub(missing));
        stream
    })
}

/// Both roles.
pub(super) fn role() -> impl Strategy<Value = Role> {
    select(&[Role::Client, Role::Server][..])
}

/// A role and the frames that it sends.
pub(super) fn role_and_stream() -> impl Strategy<Value = (Role, Vec<u8>)> {
    role().prop_flat_map(|role| (Just(role), stream(role)))
}

/// Sizes of the pieces in which a stream arrives, repeated as often as needed.
pub(super) fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        1 => Just(vec![1]),
        2 => vec(1..4_usize, 1..20),
        2 => vec(1..200_usize, 1..20),
    ]
}

/// Splits `stream` into pieces of the given sizes.
pub(super) fn cut<'s>(stream: &'s [u8], sizes: &[usize]) -> Vec<&'s [u8]> {
    let mut rest = stream;
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}
