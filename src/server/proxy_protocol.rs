//! PROXY protocol header, with which a proxy passes on the addresses of its client.
//!
//! The first byte tells version 1 (text) from version 2 (binary). The header precedes everything
//! else, a TLS handshake included.
//!
//! # Invariants
//!
//! * No byte behind the header is consumed: bytes are peeked first, and consumed once they are
//!   known to belong to it. The next reader finds its own first byte.
//! * No connection is served without a header. If it were optional, a client could send one itself.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::listener::AcceptedSocket;
use crate::client_addr::{ClientAddr, Endpoints};

/// Longest header in bytes; addresses and a few extensions (TLVs) need some hundreds.
const MAX_HEADER_BYTES: usize = 4096;

/// Bytes peeked at a time.
const CHUNK_BYTES: usize = 512;

/// Reason that a connection has no valid header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error("the connection ended before its end")]
    Incomplete,
    #[error("not a header of the PROXY protocol")]
    Invalid,
    #[error("longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
}

/// Client of a connection, as its header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// The client's addresses.
    Client(Endpoints),
    /// No client: the proxy speaks for itself (LOCAL), say in a health check.
    Proxy,
    /// A client whose addresses the proxy does not know (UNKNOWN, UNSPEC).
    Somebody,
}

/// Consumes the header of `socket` and returns the client in it.
pub(super) async fn read(socket: &AcceptedSocket) -> Result<Behind, HeaderError> {
    let mut header = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        // Peeked, because a byte consumed past the header could not be put back for TLS or HTTP.
        let seen = receive(socket, &mut chunk, RecvFlags::PEEK).await?;
        if seen == 0 {
            return Err(HeaderError::Incomplete);
        }
        let taken_before = header.len();
        header.extend_from_slice(&chunk[..seen]);
        let parsed = ProxyHeader::parse(&header, CONFIG).map(|(parsed, length)| {
            let behind = behind(&parsed, &header);
            (behind, length)
        });
        match parsed {
            Ok((behind, length)) => {
                take(socket, &mut chunk[..length - taken_before]).await?;
                return behind;
            }
            Err(proxy_header::Error::BufferTooShort) if header.len() < MAX_HEADER_BYTES => {
                // The header does not end in this chunk, so that all of it belongs to it. Consuming
                // it makes the next peek wait for more.
                take(socket, &mut chunk[..seen]).await?;
            }
            Err(proxy_header::Error::BufferTooShort) => return Err(HeaderError::TooLong),
            Err(_) => return Err(HeaderError::Invalid),
        }
    }
}

/// Extensions carry nothing that is needed here.
const CONFIG: ParseConfig = ParseConfig {
    include_tlvs: false,
    allow_v1: true,
    allow_v2: true,
};

fn behind(header: &ProxyHeader<'_>, bytes: &[u8]) -> Result<Behind, HeaderError> {
    /// Version 2 with the command LOCAL; version 1 has a letter at this offset.
    const LOCAL: u8 = 0x20;
    /// Version 2 with the command PROXY, then the family `AF_UNIX`, a stream.
    const UNIX_STREAM: [u8; 2] = [0x21, 0x31];
    match header.proxied_address() {
        Some(addresses) if addresses.protocol == Protocol::Stream => {
            Ok(Behind::Client(Endpoints {
                client: ClientAddr::from(addresses.source),
                server: Some(canonical(addresses.destination)),
                is_known: true,
            }))
        }
        // A datagram's addresses on a stream: the proxy is misconfigured.
        Some(_datagrams) => Err(HeaderError::Invalid),
        None if bytes.get(12..14) == Some(&UNIX_STREAM) => Ok(Behind::Client(Endpoints {
            client: ClientAddr::Unix,
            server: None,
            is_known: true,
        })),
        None if bytes.get(12) == Some(&LOCAL) => Ok(Behind::Proxy),
        None => Ok(Behind::Somebody),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Consumes peeked bytes, which are known to be in the socket's buffer.
async fn take(socket: &AcceptedSocket, bytes: &mut [u8]) -> io::Result<()> {
    let taken = receive(socket, bytes, RecvFlags::empty()).await?;
    debug_assert_eq!(taken, bytes.len());
    Ok(())
}

async fn receive(socket: &AcceptedSocket, bytes: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let mut receive = |socket: BorrowedFd<'_>| -> io::Result<usize> {
        let (received, _) = recv(socket, &mut *bytes, flags)?;
        Ok(received)
    };
    match socket {
        AcceptedSocket::Tcp(stream) => {
            let receive = || receive(stream.as_fd());
            stream.async_io(Interest::READABLE, receive).await
        }
        AcceptedSocket::Unix(stream) => {
            let receive = || receive(stream.as_fd());
            stream.async_io(Interest::READABLE, receive).await
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
        runtime, task,
    };

    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const REST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, body].concat()
    }

    fn ipv4_with(tlvs: &[u8]) -> Vec<u8> {
        let addresses = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0x01, 0xbb];
        v2(0x21, 0x11, &[&addresses, tlvs].concat())
    }

    /// Reads a header from `input`, which arrives in two pieces cut at `cut`; returns it and the rest.
    async fn read_of(input: &[u8], cut: usize) -> (Result<Behind, String>, Vec<u8>) {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        let ours = AcceptedSocket::Unix(ours);
        peer.write_all(&input[..cut]).await.unwrap();
        let later = async {
            // The reader has seen the first piece when it waits for the second.
            task::yield_now().await;
            peer.write_all(&input[cut..]).await.unwrap();
            drop(peer);
        };
        let (read, ()) = tokio::join!(read(&ours), later);
        let AcceptedSocket::Unix(mut ours) = ours else {
            unreachable!("it is a Unix socket")
        };
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        (read.map_err(|error| error.to_string()), rest)
    }

    fn shown(behind: Behind) -> String {
        match behind {
            Behind::Client(ends) => format!("{} {:?}", ends.client, ends.server),
            Behind::Proxy => "proxy".to_owned(),
            Behind::Somebody => "somebody".to_owned(),
        }
    }

    #[tokio::test]
    async fn both_versions_are_read_at_every_cut_without_losing_a_byte() {
        let ipv6 = [[0x20; 16], [0x30; 16]].concat();
        let cases = [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(),
                "192.0.2.7:4660 Some(10.0.0.1:443)",
            ),
            (
                b"PROXY TCP6 2001:db8::7 ::1 4660 443\r\n".to_vec(),
                "[2001:db8::7]:4660 Some([::1]:443)",
            ),
            (
                b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 4660 443\r\n".to_vec(),
                "192.0.2.7:4660 Some(10.0.0.1:443)",
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), "somebody"),
            (b"PROXY UNKNOWN what ever 1 2\r\n".to_vec(), "somebody"),
            (ipv4_with(&[]), "192.0.2.7:4660 Some(10.0.0.1:443)"),
            (
                ipv4_with(&[&[0x04, 0x02, 0x58][..], &[0; 600]].concat()),
                "192.0.2.7:4660 Some(10.0.0.1:443)",
            ),
            (
                v2(0x21, 0x21, &[&ipv6[..], &[0, 1, 0, 2]].concat()),
                "[2020:2020:2020:2020:2020:2020:2020:2020]:1 \
                 Some([3030:3030:3030:3030:3030:3030:3030:3030]:2)",
            ),
            (v2(0x20, 0x00, &[]), "proxy"),
            (v2(0x20, 0x11, &[0; 12]), "proxy"),
            (v2(0x21, 0x00, &[1, 2, 3]), "somebody"),
            (v2(0x21, 0x31, &[0; 216]), "unix None"),
        ];
        for (header, expected) in cases {
            let input = [&header[..], REST].concat();
            for cut in 1..input.len() {
                let (read, rest) = read_of(&input, cut).await;

                assert_eq!(read.map(shown).as_deref(), Ok(expected), "cut at {cut}");
                assert_eq!(rest, REST, "{expected} cut at {cut}");
            }
        }
    }

    /// Generates headers with some bytes changed.
    fn damaged() -> impl Strategy<Value = Vec<u8>> {
        let header = prop_oneof![
            Just(b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec()),
            Just(b"PROXY UNKNOWN\r\n".to_vec()),
            vec(any::<u8>(), 0..40).prop_map(|tlvs| ipv4_with(&tlvs)),
            (0x1e..0x24_u8, 0..0x34_u8, vec(any::<u8>(), 0..300))
                .prop_map(|(command, family, body)| v2(command, family, &body)),
        ];
        let damage = vec((any::<Index>(), any::<u8>()), 0..3);
        (header, damage).prop_map(|(mut header, damage)| {
            for (place, byte) in damage {
                let place = place.index(header.len());
                header[place] = byte;
            }
            header
        })
    }

    proptest! {
        #[test]
        fn whatever_is_wrong_with_a_header_nothing_behind_it_is_taken(
            header in damaged(),
            cut in any::<Index>(),
        ) {
            let input = [&header, REST].concat();
            let cut = 1 + cut.index(input.len() - 1);
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();

            let (read, rest) = runtime.block_on(read_of(&input, cut));
            let (in_one_piece, same_rest) = runtime.block_on(read_of(&input, input.len()));

            prop_assert!(input.ends_with(&rest));
            if read.is_ok() {
                prop_assert_eq!(rest, same_rest);
            }
            prop_assert_eq!(read, in_one_piece);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_or_none_that_can_be_used_is_refused() {
        let invalid = "not a header of the PROXY protocol";
        let cases = [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), invalid),
            (b"\x16\x03\x01\x02\x00\x01".to_vec(), invalid),
            (b"PROXY TCP4 a b c d\r\n".to_vec(), invalid),
            (b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(), invalid),
            ([b"PROXY TCP4 ", &[b'1'; 200][..]].concat(), invalid),
            (v2(0x31, 0x11, &[0; 12]), invalid),
            (v2(0x22, 0x11, &[0; 12]), invalid),
            (v2(0x21, 0x12, &[0; 12]), invalid),
            ([&v2(0x21, 0x11, &[0; 11])[..], REST].concat(), invalid),
            (v2(0x21, 0x00, &[0; 5000]), "longer than 4096 bytes"),
            (
                b"PROXY TCP4 192".to_vec(),
                "the connection ended before its end",
            ),
            (
                v2(0x21, 0x11, &[0; 12])[..20].to_vec(),
                "the connection ended before its end",
            ),
        ];
        for (input, expected) in cases {
            let (read, _) = read_of(&input, 1).await;

            assert_eq!(read.map(shown), Err(expected.to_owned()), "{input:?}");
        }
    }
}
