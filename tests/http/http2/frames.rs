//! A client that writes frames by hand (RFC 9113 §4), for what no library would send.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::Proxy;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a `RST_STREAM` or a `GOAWAY`.
    pub(super) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The value of a setting.
    pub(super) fn setting(&self, id: u16) -> Option<u32> {
        assert_eq!(self.kind, SETTINGS);
        let setting = self
            .payload
            .chunks(6)
            .find(|one| one[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(setting[2..].try_into().unwrap()))
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literal fields that are not indexed (RFC 7541 §6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127, "{text}");
            block.push(length);
            block.extend(text.bytes());
        }
    }
    block
}

pub(super) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "chat.example"),
    (":path", "/"),
];

/// The setting of a client that keeps no table, so that every block can be read by itself.
pub(super) const NO_TABLE: [u8; 6] = [0, 1, 0, 0, 0, 0];

/// A whole request without a body.
pub(super) fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
}

/// A connection.
pub(super) struct Raw {
    pub(super) stream: TcpStream,
}

impl Raw {
    /// After both preambles.
    pub(super) async fn open(proxy: &Proxy) -> Self {
        let (raw, _settings) = Self::open_with(proxy, &[]).await;
        raw
    }

    /// With these settings; returns those of the proxy.
    pub(super) async fn open_with(proxy: &Proxy, settings: &[u8]) -> (Self, Frame) {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let preamble = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        stream.write_all(&preamble).await.unwrap();
        let mut raw = Self { stream };
        let settings = raw.next().await.unwrap();
        assert_eq!(settings.kind, SETTINGS);
        raw.send(&frame(SETTINGS, ACK, 0, &[])).await;
        (raw, settings)
    }

    /// Sends what the other end may have stopped reading.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).await.ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: header[3],
            flags: header[4],
            stream: u32::from_be_bytes(header[5..].try_into().unwrap()),
            payload,
        })
    }

    /// The next frame of one of these kinds; `None` at the end of the connection.
    pub(super) async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// The error with which the proxy says goodbye; `None` when it closes without a word.
    pub(super) async fn goodbye(&mut self) -> Option<u32> {
        let mut error = None;
        while let Some(frame) = self.next_of(&[GOAWAY]).await {
            error = Some(frame.error());
        }
        error
    }
}

/// The `:status` of a header block that begins with it, as an encoder does.
pub(super) fn status(block: &[u8]) -> String {
    // The table of a client that wants none has no size (RFC 7541 §6.3).
    let block = block.strip_prefix(&[0x20]).unwrap_or(block);
    // An index into the static table, or a literal value under the name that stands there.
    match block[0] {
        0x88 => "200".to_owned(),
        0x8c => "400".to_owned(),
        0x8d => "404".to_owned(),
        0x8e => "500".to_owned(),
        0x08 | 0x48 if block[1] & 0x80 == 0 => String::from_utf8(block[2..5].to_vec()).unwrap(),
        0x08 | 0x48 => huffman_digits(&block[2..2 + usize::from(block[1] & 0x7f)]),
        other => panic!("{other:x} is no status"),
    }
}

/// Three digits in the code of RFC 7541, appendix B: five bits for 0 to 2, six for the rest.
fn huffman_digits(bytes: &[u8]) -> String {
    let mut left = bytes
        .iter()
        .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte))
        << (64 - 8 * bytes.len());
    let digit = |_| {
        let (digit, bits) = match left >> 59 {
            five @ 0..=2 => (five, 5),
            _ => ((left >> 58) - 0x19 + 3, 6),
        };
        left <<= bits;
        char::from(b'0' + u8::try_from(digit).unwrap())
    };
    (0..3).map(digit).collect()
}
