//! Spelling of the field names in the heads that hyper writes.
//!
//! hyper writes them in lower case, or keeps the spelling of each in a map of its own. Here
//! letters change case in the bytes that hyper hands to the stream, so lengths stay as they are
//! and a count of written bytes is a count of hyper's.
//!
//! # Why plain HTTP stays in lower case
//!
//! Only handshakes, `1xx` responses and the proxy's own responses are spelled; their heads are few.
//! A plain request and its response are forwarded with hyper's lower case. Names are
//! case-insensitive (RFC 9110 §5.1), HTTP/2 has no others (RFC 9113 §8.2.1), and every other
//! spelling is paid by each request. Instructions of one with eight headers, by the benchmark
//! `forward`:
//!
//! | spelling of plain HTTP | instructions |
//! |---|---|
//! | lower case | 70 000 |
//! | hyper's `title_case_headers` | + 5.3 % |
//! | this module | + 11.5 % |
//! | hyper's `preserve_header_case` | + 17 % |
//!
//! The cheapest change, `title_case_headers`, writes `Etag` and `Www-Authenticate`, as no RFC does.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::websocket::spelling::Spelling;

/// Longest part of the first slice that is taken for a head; a body behind it, and the rest of a
/// longer head, stay as hyper wrote them.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Slices passed to the stream at once; hyper has more only within a long body.
const MAX_PIECES: usize = 8;

/// Capacity that is kept for the next head.
const KEPT_BYTES: usize = 2 * 1024;

/// The spelling of the next head on one stream.
#[derive(Debug, Default)]
pub(crate) struct SpelledHeads {
    spelling: Spelling,
    /// Set when the next byte to be written begins a head.
    is_due: bool,
    /// The spelled head that is being written and its written bytes; empty when there is none.
    head: Vec<u8>,
    written: usize,
}

impl SpelledHeads {
    /// Expects a head at the next byte, and spells its names as `spelling` says.
    pub(crate) fn expect(&mut self, spelling: Spelling) {
        self.spelling = spelling;
        self.is_due = true;
    }

    /// Writes `bytes`, as [`poll_write_vectored`](Self::poll_write_vectored) does.
    pub(crate) fn poll_write(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_due || !self.head.is_empty() {
            return self.poll_head(stream, context, &[IoSlice::new(bytes)]);
        }
        stream.poll_write(context, bytes)
    }

    /// Writes `slices`, with a head at their beginning spelled.
    pub(crate) fn poll_write_vectored(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_due || !self.head.is_empty() {
            return self.poll_head(stream, context, slices);
        }
        stream.poll_write_vectored(context, slices)
    }

    fn poll_head(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The head may take several writes, in which hyper passes the unspelled rest again.
        if self.is_due
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
        {
            self.is_due = false;
            self.head
                .extend_from_slice(&first[..first.len().min(MAX_HEAD_BYTES)]);
            self.written = 0;
            self.spelling.apply(&mut self.head);
        }
        let head = &self.head[self.written..];
        let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
        pieces[0] = IoSlice::new(head);
        let mut count = 1;
        let mut covered = head.len();
        for slice in slices {
            let behind = &slice[covered.min(slice.len())..];
            covered -= slice.len() - behind.len();
            if !behind.is_empty() && count < MAX_PIECES {
                pieces[count] = IoSlice::new(behind);
                count += 1;
            }
        }
        let written = ready!(stream.poll_write_vectored(context, &pieces[..count]))?;
        self.written += written;
        if self.written >= self.head.len() {
            self.head.clear();
            self.head.shrink_to(KEPT_BYTES);
        }
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A stream that takes a fixed number of bytes at once.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let taken = bytes.len().min(this.1);
            this.0.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = all.len().min(this.1);
            this.0.extend_from_slice(&all[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }
    }

    /// The bytes written for `pieces`, `at_once` at a time, in one vectored call or one per
    /// piece.
    fn written(pieces: &[&[u8]], at_once: usize, is_vectored: bool) -> Vec<u8> {
        let mut heads = SpelledHeads::default();
        let mut stream = Slow(Vec::new(), at_once);
        let mut context = Context::from_waker(Waker::noop());
        let all = pieces.concat();
        heads.expect(Spelling::of(&["HOST"].into_iter()));
        while stream.0.len() < all.len() {
            let mut done = stream.0.len();
            let mut left = Vec::new();
            for piece in pieces {
                let behind = &piece[done.min(piece.len())..];
                done -= piece.len() - behind.len();
                left.push(IoSlice::new(behind));
            }
            let stream = Pin::new(&mut stream);
            let poll = if is_vectored {
                heads.poll_write_vectored(stream, &mut context, &left)
            } else {
                let first = left.iter().find(|slice| !slice.is_empty()).unwrap();
                heads.poll_write(stream, &mut context, first)
            };
            assert!(matches!(poll, Poll::Ready(Ok(1..))));
        }
        stream.0
    }

    #[test]
    fn only_the_head_is_spelled_however_it_is_written() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n\r\n";
        let spelled = b"GET / HTTP/1.1\r\nHOST: a\r\nX-A: b\r\n\r\n";
        let body = b"body\r\nhost: a\r\n\r\nmore";
        let cases = [
            (1, 10),
            (7, 10),
            (head.len(), 10),
            (usize::MAX, 2 * MAX_HEAD_BYTES),
        ];
        for (at_once, more_bytes) in cases {
            let more = vec![b'x'; more_bytes];
            let expected = [&spelled[..], body, &more].concat();
            for is_vectored in [false, true] {
                for pieces in [
                    &[&head[..], body, &more][..],
                    &[&[&head[..], body].concat(), &more],
                    &[&[&head[..], body, &more].concat()],
                    &[&[], head, body, &more],
                ] {
                    let got = written(pieces, at_once, is_vectored);
                    assert!(got == expected, "{at_once} {is_vectored} {}", pieces.len());
                }
            }
        }
    }
}
