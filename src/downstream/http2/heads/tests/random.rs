//! Random header sections, passed through the reader to h2 and hyper.

use std::convert::Infallible;

use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// Names that requests have, and names that they must not have.
const NAMES: [&[u8]; 24] = [
    b":method",
    b":path",
    b":scheme",
    b":authority",
    b":protocol",
    b":status",
    b":unknown",
    b":",
    b"",
    b"content-length",
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
    b"upgrade",
    b"te",
    b"expect",
    b"host",
    b"cookie",
    b"x",
    b"X",
    b"a b",
    b"a\0",
    b"a:",
    b"\xff",
];

/// Values that fields may have, and values that they must not have.
const VALUES: [&[u8]; 24] = [
    b"",
    b"GET",
    b"POST",
    b"CONNECT",
    b"get it",
    b"/",
    b"/a#b",
    b"*",
    b"no path",
    b"http",
    b"1://",
    b"websocket",
    b"a.example:80",
    b"a@b:c",
    b"0",
    b"5",
    b"+5",
    b"99999999999999999999",
    b"trailers",
    b"200",
    b" blank ",
    b"a\nb",
    b"a\0",
    b"\xe9\xff",
];

/// One field as HPACK writes it (RFC 7541 §6): an entry of the static table, or a literal that
/// is kept, not kept, or never kept.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        20 => select(VALUES.to_vec()).prop_map(<[u8]>::to_vec),
        1 => Just(vec![b'v'; 5000]),
    ];
    let literal = (
        select(vec![0x00_u8, 0x10, 0x40]),
        select(NAMES.to_vec()),
        value,
    );
    let literal = literal.prop_map(|(first, name, value)| {
        let mut field = Vec::new();
        hpack::encode(name, &value, &mut field);
        field[0] = first;
        field
    });
    let entry = (1..=61_u8).prop_map(|index| vec![0x80 | index]);
    prop_oneof![2 => literal, 1 => entry]
}

/// The beginning of a request that is well-formed if nothing follows, or nothing.
fn beginning() -> impl Strategy<Value = Vec<u8>> {
    let connect: &[_] = &[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
    ];
    let plain_connect: &[_] = &[(":method", "CONNECT"), (":authority", "a")];
    select(vec![&[][..], &GET, connect, plain_connect]).prop_map(block)
}

/// A section and how it is framed.
#[derive(Clone, Debug)]
struct Random {
    block: Vec<u8>,
    ends_stream: bool,
    depends_on_itself: bool,
    /// Positions of the boundaries between its frames.
    cuts: Vec<prop::sample::Index>,
}

fn section() -> impl Strategy<Value = Random> {
    let cuts = prop_oneof![3 => Just(Vec::new()), 1 => vec(any::<prop::sample::Index>(), 1..4)];
    let fields = vec(field(), 0..8);
    (beginning(), fields, any::<bool>(), 0..8, cuts).prop_map(
        |(beginning, fields, ends_stream, dependency, cuts)| Random {
            block: [beginning, fields.concat()].concat(),
            ends_stream,
            depends_on_itself: dependency == 0,
            cuts,
        },
    )
}

impl Random {
    fn write(&self, stream: u32, bytes: &mut Vec<u8>) {
        let mut payload = Vec::new();
        if self.depends_on_itself {
            payload.extend(stream.to_be_bytes());
            payload.push(0);
        }
        payload.extend(&self.block);
        // No frame may exceed the maximum.
        let mut ends: Vec<_> = (1..=payload.len() / MAX_FRAME_BYTES)
            .map(|frames| frames * MAX_FRAME_BYTES)
            .chain(self.cuts.iter().map(|cut| cut.index(payload.len() + 1)))
            .filter(|end| !self.depends_on_itself || *end >= 5)
            .chain([payload.len()])
            .collect();
        ends.sort_unstable();
        let mut begin = 0;
        for (index, end) in ends.iter().enumerate() {
            let mut flags = 0;
            let kind = if index == 0 { HEADERS } else { CONTINUATION };
            if index == 0 && self.ends_stream {
                flags |= END_STREAM;
            }
            if index == 0 && self.depends_on_itself {
                flags |= PRIORITY;
            }
            if index + 1 == ends.len() {
                flags |= END_HEADERS;
            }
            bytes.extend(frame(kind, flags, stream, &payload[begin..*end]));
            begin = *end;
        }
    }
}

/// Returns whether hyper responds to a request on `stream`, the last one of a connection on which
/// a client sends `bytes`.
async fn is_answered(bytes: &[u8], stream: u32) -> bool {
    let (server, mut client) = duplex(1 << 20);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.enable_connect_protocol()
        .max_header_list_size(u32::try_from(MAX_LIST_BYTES).unwrap());
    let service =
        service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(String::new())));
    let running = tokio::spawn(http.serve_connection(TokioIo::new(server), service));
    client.write_all(bytes).await.unwrap();
    let mut header = [0; HEADER_LENGTH];
    let mut is_answered = false;
    while !is_answered && client.read_exact(&mut header).await.is_ok() {
        let header = Http2FrameHeader::parse(header);
        let mut payload = vec![0; header.length];
        client.read_exact(&mut payload).await.unwrap();
        is_answered = header.kind == HEADERS && header.stream == stream;
    }
    running.abort();
    is_answered
}

proptest! {
    #[test]
    fn no_section_of_one_stream_keeps_another_from_its_answer(
        sections in vec(section(), 1..6),
        piece in 1_usize..3000,
    ) {
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let mut stream = 1;
        for section in &sections {
            section.write(stream, &mut bytes);
            stream += 2;
        }
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET)));
        let bytes = followed(&bytes, piece);

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert!(runtime.block_on(is_answered(&bytes, stream)));
    }

    #[test]
    fn whatever_comes_is_followed_in_pieces_as_it_is_as_a_whole(
        sections in vec(section(), 0..3),
        noise in vec(any::<u8>(), 0..60),
        piece in 1_usize..50,
    ) {
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        for (section, stream) in sections.iter().zip((1..).step_by(2)) {
            section.write(stream, &mut bytes);
        }
        bytes.extend(frame(HEADERS, END_HEADERS, 99, &noise));

        prop_assert_eq!(followed(&bytes, piece), followed(&bytes, bytes.len()));
    }
}

/// Fields that recur, so that the client's table has them, and new ones.
fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let names = [
        "user-agent",
        "cookie",
        "authorization",
        "x-a",
        "x-b",
        "accept",
    ];
    let value = prop_oneof![
        2 => select(vec!["", "a", "gzip, deflate", "Mozilla/5.0 (X11)"]).prop_map(str::to_owned),
        1 => "[ -~]{0,40}",
        1 => "[a-z]{1500}",
    ];
    vec(
        (select(names.to_vec()).prop_map(str::to_owned), value),
        0..6,
    )
}

/// Bytes that h2's client writes for a request with each of `requests` as its fields.
async fn written(requests: &[Vec<(String, String)>]) -> Vec<u8> {
    let (client, mut server) = duplex(1 << 20);
    let (mut send, connection) = h2::client::handshake(client).await.unwrap();
    let driver = tokio::spawn(connection);
    for fields in requests {
        let mut request = Request::get("http://a.example/");
        for (name, value) in fields {
            request = request.header(name, value);
        }
        send = send.ready().await.unwrap();
        let _ = send.send_request(request.body(()).unwrap(), true).unwrap();
        tokio::task::yield_now().await;
    }
    // The client then waits for responses and writes no more.
    let mut bytes = Vec::new();
    let mut sections = 0;
    while sections < requests.len() {
        server.read_buf(&mut bytes).await.unwrap();
        sections = blocks(&bytes).len();
    }
    driver.abort();
    bytes
}

/// Returns the complete sections in what a client has sent so far.
fn blocks(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes.get(PREFACE.len()..).unwrap_or_default();
    let (mut blocks, mut block) = (Vec::new(), Vec::new());
    while let Some((header, behind)) = rest.split_first_chunk() {
        let header = Http2FrameHeader::parse(*header);
        let Some((payload, behind)) = behind.split_at_checked(header.length) else {
            break;
        };
        if header.is_of_section() {
            block.extend_from_slice(payload);
            if header.has(END_HEADERS) {
                blocks.push(std::mem::take(&mut block));
            }
        }
        rest = behind;
    }
    blocks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn fields_are_read_as_another_encoder_means_them(requests in vec(fields(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = runtime.block_on(written(&requests));

        let mut decoder = Decoder::default();
        for (block, sent) in blocks(&bytes).iter().zip(&requests) {
            let mut read = Vec::new();
            let length = decoder.decode(block, &mut false, |field| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                if !field.kind.is_pseudo() {
                    read.push((text(field.name), text(field.value)));
                }
            });
            prop_assert_eq!(length, Ok(block.len()));
            let mut sent = sent.clone();
            // Only fields of the same name have to keep their order.
            read.sort_by(|one, other| one.0.cmp(&other.0));
            sent.sort_by(|one, other| one.0.cmp(&other.0));
            prop_assert_eq!(read, sent);
        }
    }
}
