//! HTTP versions of connections to upstreams.

/// HTTP version for a connection to the upstream; with TLS it is negotiated by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, which opening handshakes use.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Protocol name in ALPN (RFC 7301 §6).
    pub(super) const fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}
