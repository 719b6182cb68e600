//! Tests of frame headers and of the scanner.

use std::io::Cursor;

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader as OtherHeader,
    coding::{Control as OtherControl, Data as OtherData, OpCode as OtherOpcode},
};

use super::*;
use crate::websocket::samples;

const OPCODES: [Opcode; 6] = [
    Opcode::Continuation,
    Opcode::Text,
    Opcode::Binary,
    Opcode::Close,
    Opcode::Ping,
    Opcode::Pong,
];

fn header() -> impl Strategy<Value = FrameHeader> {
    let length = prop_oneof![
        0..300_u64,
        65_500..65_600_u64,
        0..=i64::MAX as u64,
        Just(i64::MAX as u64)
    ];
    let mask = prop::option::of(any::<[u8; 4]>());
    (
        any::<bool>(),
        prop::sample::select(&OPCODES[..]),
        mask,
        length,
    )
        .prop_map(|(fin, opcode, mask, length)| {
            let is_control = opcode.is_control();
            FrameHeader {
                fin: fin || is_control,
                opcode,
                mask,
                payload_bytes: if is_control { length % 126 } else { length },
            }
        })
}

fn sender(header: &FrameHeader) -> Role {
    match header.mask {
        Some(_) => Role::Client,
        None => Role::Server,
    }
}

fn other_opcode(opcode: Opcode) -> OtherOpcode {
    match opcode {
        Opcode::Continuation => OtherOpcode::Data(OtherData::Continue),
        Opcode::Text => OtherOpcode::Data(OtherData::Text),
        Opcode::Binary => OtherOpcode::Data(OtherData::Binary),
        Opcode::Close => OtherOpcode::Control(OtherControl::Close),
        Opcode::Ping => OtherOpcode::Control(OtherControl::Ping),
        Opcode::Pong => OtherOpcode::Control(OtherControl::Pong),
    }
}

/// What comes out of a stream: forwardable bytes, messages, where it stopped.
type Scan = (Vec<u8>, u64, Stop);

fn scan(sender: Role, pieces: &[&[u8]]) -> Scan {
    scan_by(FrameScanner::new(sender), pieces)
}

fn scan_by(scanner: FrameScanner, pieces: &[&[u8]]) -> Scan {
    let mut scanner = scanner;
    let mut inbox = Vec::new();
    let mut forwarded = Vec::new();
    let mut messages = 0;
    let mut stop = Stop::End;
    for piece in pieces {
        inbox.extend_from_slice(piece);
        let skipped = scanner.skip(&inbox);
        forwarded.extend(inbox.drain(..skipped.bytes));
        messages += skipped.messages;
        stop = skipped.stop;
        match stop {
            Stop::End => assert!(inbox.is_empty()),
            Stop::PartialHeader => assert!((1..MAX_HEADER_BYTES).contains(&inbox.len())),
            Stop::Close | Stop::Pong | Stop::Violation(_) => break,
        }
    }
    (forwarded, messages, stop)
}

#[test]
fn a_scanner_stops_at_pongs_only_where_it_is_told_to() {
    let stream = b"\x81\x01a\x89\x01p\x8a\x01p\x81\x01b";
    let mut scanner = FrameScanner::new(Role::Server);
    assert_eq!(scanner.clone().skip(stream).bytes, stream.len());

    scanner.stop_at_pongs();

    let skipped = scanner.skip(stream);
    assert_eq!((skipped.bytes, skipped.messages), (6, 1));
    assert_eq!(skipped.stop, Stop::Pong);
    assert!(scanner.is_at_boundary());
}

proptest! {
    #[test]
    fn a_header_survives_writing_and_parsing(header in header(), behind in any::<[u8; 3]>()) {
        let mut wire = Vec::new();
        header.write(&mut wire);
        let header_bytes = wire.len();
        wire.extend(behind);

        prop_assert!(header_bytes <= MAX_HEADER_BYTES);
        prop_assert_eq!(
            FrameHeader::parse(&wire, sender(&header)),
            Ok(Some((header, header_bytes)))
        );
        for cut in 0..header_bytes {
            prop_assert_eq!(FrameHeader::parse(&wire[..cut], sender(&header)), Ok(None));
        }
    }

    #[test]
    fn tungstenite_reads_every_header_that_is_written(header in header()) {
        let mut wire = Vec::new();
        header.write(&mut wire);

        let mut cursor = Cursor::new(&wire);
        let (other, length) = OtherHeader::parse(&mut cursor).unwrap().unwrap();

        prop_assert_eq!(cursor.position(), wire.len() as u64);
        prop_assert_eq!(length, header.payload_bytes);
        prop_assert_eq!(other.is_final, header.fin);
        prop_assert_eq!(other.mask, header.mask);
        prop_assert_eq!(other.opcode, other_opcode(header.opcode));
        prop_assert!(!other.rsv1 && !other.rsv2 && !other.rsv3);
    }

    #[test]
    fn a_header_that_is_accepted_is_the_one_tungstenite_reads(
        sender in samples::role(),
        wire in prop::collection::vec(any::<u8>(), 14),
    ) {
        if let Ok(Some((header, header_bytes))) = FrameHeader::parse(&wire, sender) {
            let mut cursor = Cursor::new(&wire);
            let (other, length) = OtherHeader::parse(&mut cursor).unwrap().unwrap();
            prop_assert_eq!(cursor.position(), header_bytes as u64);
            prop_assert_eq!(
                (length, other.is_final, other.mask, other.opcode),
                (header.payload_bytes, header.fin, header.mask, other_opcode(header.opcode))
            );
        }
    }

    #[test]
    fn a_scan_comes_to_the_same_at_any_split_of_the_stream(
        (sender, stream) in samples::role_and_stream(),
        sizes in samples::pieces(),
    ) {
        let whole = scan(sender, &[&stream]);
        prop_assert!(stream.starts_with(&whole.0));
        prop_assert_eq!(scan(sender, &samples::cut(&stream, &sizes)), whole);
    }
}

#[test]
fn a_frame_is_judged_the_same_at_any_split() {
    // Also as the lengths of frames with 16 bits for them: 0, 125 and 126.
    let lengths = [[0, 0], [0, 125], [0, 126]];
    let starts = (0..=u8::MAX).flat_map(|first| {
        [0, 1, 125, LENGTH_16, LENGTH_64]
            .into_iter()
            .flat_map(move |length| [[first, length], [first, 0x80 | length]])
    });
    for (start, length) in starts.flat_map(|start| lengths.map(|length| (start, length))) {
        let mut stream = [&start[..], &length].concat();
        stream.resize(stream.len() + 140, 0x81);
        for sender in [Role::Client, Role::Server] {
            for compression in [Compression::Declined, Compression::Agreed] {
                let scanner = FrameScanner::new(sender).with(compression);
                let bytes: Vec<_> = stream.chunks(1).collect();
                assert_eq!(
                    scan_by(scanner.clone(), &[&stream]),
                    scan_by(scanner, &bytes),
                    "{start:02x?} {length:02x?} {sender:?} {compression:?}"
                );
            }
        }
    }
}

#[test]
fn each_way_to_break_the_protocol_is_named() {
    let client: [(&[u8], ProtocolError); 12] = [
        (b"\xc1", ProtocolError::ReservedBits),
        (b"\xa1", ProtocolError::ReservedBits),
        (b"\x91", ProtocolError::ReservedBits),
        (b"\x83", ProtocolError::ReservedOpcode(3)),
        (b"\x8f", ProtocolError::ReservedOpcode(15)),
        (b"\x09", ProtocolError::FragmentedControl),
        (b"\x89\xfe", ProtocolError::LongControl),
        (b"\x81\x01", ProtocolError::Unmasked),
        (b"\x81\xfe\x00\x7d", ProtocolError::LengthNotMinimal),
        (
            b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff",
            ProtocolError::LengthNotMinimal,
        ),
        (
            b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00",
            ProtocolError::NegativeLength,
        ),
        (b"\x80", ProtocolError::UnexpectedContinuation),
    ];
    for (wire, error) in client {
        let (forwarded, _, stop) = scan(Role::Client, &[wire]);
        assert_eq!(stop, Stop::Violation(error), "{wire:02x?}");
        assert_eq!(forwarded, b"");
    }
    assert_eq!(
        scan(Role::Server, &[b"\x81\x81"]).2,
        Stop::Violation(ProtocolError::Masked)
    );
    assert_eq!(
        scan(Role::Server, &[b"\x01\x01a", b"\x81"]).2,
        Stop::Violation(ProtocolError::ExpectedContinuation)
    );
}

#[test]
fn rsv1_may_stand_only_on_the_first_frame_of_a_message() {
    let scan = |pieces: &[&[u8]]| {
        let mut scanner = FrameScanner::new(Role::Server).with(Compression::Agreed);
        let skips = pieces.iter().map(|piece| scanner.skip(piece).stop);
        skips.last().unwrap()
    };
    assert_eq!(scan(&[b"\xc1\x00\xc2\x00"]), Stop::End);
    assert_eq!(scan(&[b"\x41\x01a\x89\x00\x00\x00\x80\x01b"]), Stop::End);
    let rsv1_elsewhere: [&[u8]; 6] = [
        b"\x41\x01a\xc0\x01b",
        b"\x41\x01a\x40\x01b",
        b"\xc0\x00",
        b"\xc8\x00",
        b"\xc9\x00",
        b"\xca\x00",
    ];
    let other_bits: [&[u8]; 3] = [b"\xa1\x00", b"\x91\x00", b"\xf1\x00"];
    for wire in rsv1_elsewhere.into_iter().chain(other_bits) {
        let violation = Stop::Violation(ProtocolError::ReservedBits);
        assert_eq!(scan(&[wire]), violation, "{wire:02x?}");
    }
}

#[test]
fn a_misplaced_wrong_frame_is_judged_the_same_at_any_split() {
    // A continuation without a start, and without a mask.
    let wire = b"\x80\x01a";
    for cut in 1..wire.len() {
        assert_eq!(
            scan(Role::Client, &[&wire[..cut], &wire[cut..]]).2,
            scan(Role::Client, &[wire]).2
        );
    }
}

#[test]
fn lengths_change_their_form_at_126_and_65536() {
    for (payload_bytes, header_bytes) in [
        (125, 2),
        (126, 4),
        (65_535, 4),
        (65_536, 10),
        (i64::MAX as u64, 10),
    ] {
        let mut wire = Vec::new();
        let header = FrameHeader {
            fin: true,
            opcode: Opcode::Binary,
            mask: None,
            payload_bytes,
        };
        header.write(&mut wire);
        assert_eq!(wire.len(), header_bytes);
        assert_eq!(
            FrameHeader::parse(&wire, Role::Server),
            Ok(Some((header, header_bytes)))
        );
    }
}

#[test]
fn the_longest_legal_length_is_stepped_over_without_overflow() {
    let mut scanner = FrameScanner::new(Role::Server);
    let skipped = scanner.skip(b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xffabc");

    assert_eq!(
        (skipped.bytes, skipped.messages, skipped.stop),
        (13, 0, Stop::End)
    );
    assert_eq!(scanner.payload_left(), i64::MAX as u64 - 3);
    assert!(scanner.is_in_message() && !scanner.is_at_boundary());
}

#[test]
fn control_frames_between_fragments_do_not_end_the_message() {
    let mut scanner = FrameScanner::new(Role::Server);

    let skipped = scanner.skip(b"\x01\x01a\x89\x01p\x8a\x00\x00\x00");
    assert_eq!((skipped.messages, scanner.is_in_message()), (0, true));

    let skipped = scanner.skip(b"\x80\x00");
    assert_eq!((skipped.messages, scanner.is_in_message()), (1, false));
}
