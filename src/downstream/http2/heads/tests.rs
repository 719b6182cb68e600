//! Sections that pass unchanged, sections that are replaced, and bytes that are not sections.

mod random;

use super::{section::MAX_LIST_BYTES, *};
use crate::downstream::http2::hpack::{self, FieldKind};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    let length = payload.len();
    Http2FrameHeader {
        length,
        kind,
        flags,
        stream,
    }
    .write(&mut frame);
    frame.extend_from_slice(payload);
    frame.to_vec()
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::encode(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

/// Bytes that h2 gets of a connection whose bytes come in pieces of `piece`.
fn followed(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut heads = HeadReader::default();
    let mut all = Vec::new();
    for piece in bytes.chunks(piece) {
        let passed = heads.follow(piece);
        all.extend_from_slice(&piece[..passed]);
        let mut few = [0; 7];
        while heads.has_output() {
            let mut buffer = ReadBuf::new(&mut few);
            heads.read(&mut buffer);
            all.extend_from_slice(buffer.filled());
        }
    }
    all
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

/// A `CONNECT` whose length the table keeps, and a request that refers to that entry.
fn with_a_table() -> (Vec<u8>, Vec<u8>) {
    let mut connect = block(&[(":method", "CONNECT"), (":authority", "a")]);
    connect.extend([0x5c, 1, b'0']);
    let mut get = block(&GET);
    get.push(0xbe);
    (connect, get)
}

#[test]
fn what_needs_no_change_goes_on_byte_for_byte() {
    let (_, get) = with_a_table();
    let padded = [&[3, 0, 0, 0, 0, 9][..], &block(&GET), &[0; 3]].concat();
    let kept = [&block(&GET)[..], &[0x40, 1, b'a', 1, b'b']].concat();
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &kept),
        &frame(0, 0, 1, &[7; 100]),
        &frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 3, &padded),
        &frame(HEADERS, END_HEADERS | END_STREAM, 5, &get),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x", "y")])),
    ]
    .concat();
    for piece in 1..=bytes.len() {
        assert_eq!(followed(&bytes, piece), bytes, "pieces of {piece}");
    }
}

#[test]
fn from_the_first_change_on_sections_need_no_table() {
    let (connect, get) = with_a_table();
    let split = block(&GET);
    let bytes = [
        PREFACE,
        &frame(HEADERS, END_HEADERS, 1, &connect),
        &frame(0, 0, 1, b"a"),
        &frame(HEADERS, END_HEADERS | END_STREAM, 3, &get),
        &frame(HEADERS, END_STREAM, 5, &split[..7]),
        &frame(CONTINUATION, 0, 5, &[]),
        &frame(CONTINUATION, END_HEADERS, 5, &split[7..]),
        &frame(SETTINGS, 1, 0, &[]),
    ]
    .concat();
    let with_length = [&GET[..], &[("content-length", "0")]].concat();
    let expected = [
        PREFACE,
        &frame(HEADERS, END_HEADERS, 1, &connect[..connect.len() - 3]),
        &frame(0, 0, 1, b"a"),
        &frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&with_length)),
        &frame(HEADERS, END_HEADERS | END_STREAM, 5, &split),
        &frame(SETTINGS, 1, 0, &[]),
    ]
    .concat();
    for piece in 1..=bytes.len() {
        assert_eq!(followed(&bytes, piece), expected, "pieces of {piece}");
    }
}

#[test]
fn a_section_that_is_none_is_h2s_to_refuse() {
    let get = block(&GET);
    let unfinished = frame(HEADERS, 0, 1, &get[..7]);
    let begun = frame(HEADERS, 0, 1, &[]);
    let data = frame(0, 0, 1, b"a");
    let other = frame(CONTINUATION, END_HEADERS, 3, &get[7..]);
    let padded = frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0]);
    let long = frame(HEADERS, END_HEADERS, 1, &vec![0; MAX_FRAME_BYTES + 1]);
    for (bytes, expected) in [
        (
            [&unfinished[..], &data].concat(),
            [&begun[..], &data].concat(),
        ),
        (
            [&unfinished[..], &other].concat(),
            [&begun[..], &other].concat(),
        ),
        (other.clone(), other),
        (padded.clone(), padded),
        (long.clone(), long),
        (
            frame(HEADERS, END_HEADERS, 1, &[0xbe]),
            frame(HEADERS, END_HEADERS, 1, &[0x80]),
        ),
    ] {
        let bytes = [PREFACE, &bytes, b"more"].concat();
        let got = followed(&bytes, bytes.len());
        assert!(got.starts_with(&[PREFACE, &expected].concat()), "{got:x?}");
        let split = followed(&bytes, 5);
        assert!(
            split.starts_with(&[PREFACE, &expected].concat()),
            "{split:x?}"
        );
    }
}

#[test]
fn of_a_section_that_is_too_large_little_is_kept() {
    let mut section = Section::default();
    section.begin(true, false);
    let mut add = |name: &[u8], value: &[u8], kind| {
        let is_legal = true;
        section.add(Field {
            name,
            value,
            kind,
            is_legal,
        });
    };
    add(b":path", &vec![b'p'; 2 * MAX_LIST_BYTES], FieldKind::Path);
    for _ in 0..100_000 {
        add(b":path", b"/", FieldKind::Path);
        add(b"a", b"b", FieldKind::Other);
    }

    assert!(section.end());
    let refused = [(":path", "/"), ("readygate-refused", "too large")];
    assert_eq!(section.block, block(&refused));
}
