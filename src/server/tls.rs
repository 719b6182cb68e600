//! TLS handshakes with clients.
//!
//! # Invariants
//!
//! * A handshake runs in the task of its connection and has to end within `header_timeout`.

use std::{io, time::Duration};

use tokio::{io::AsyncWriteExt, time};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::{tls::ServerTls, transport::Transport};

/// Response to a plain HTTP request on a TLS listener.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 33\r\n\r\n\
    this port speaks HTTPS, not HTTP\n";

/// Time for the client to read it.
const LINGER: Duration = Duration::from_secs(1);

/// Performs the handshake with a client.
///
/// # Errors
///
/// The client did not finish within `timeout`, was rejected, or does not speak TLS: a plain
/// HTTP request has got a `400`.
pub(super) async fn accept(
    tls: &ServerTls,
    stream: Transport,
    timeout: Duration,
) -> io::Result<Transport> {
    let config = tls.config();
    let handshake = async {
        if speaks_http(&stream).await? {
            return Err(refuse_http(stream).await);
        }
        TlsAcceptor::from(config).accept(stream).await
    };
    let stream = time::timeout(timeout, handshake).await??;
    Ok(Transport::Tls(Box::new(TlsStream::Server(stream))))
}

/// Returns whether the client's first byte is the first letter of an HTTP method, which no TLS
/// record begins with.
///
/// On sockets that cannot be peeked the client is taken to speak TLS.
async fn speaks_http(stream: &Transport) -> io::Result<bool> {
    let Transport::Tcp(stream) = stream else {
        return Ok(false);
    };
    let mut first = [0];
    let peeked = stream.peek(&mut first).await?;
    Ok(peeked == 1 && first[0].is_ascii_uppercase())
}

/// Responds to an HTTP client, and closes in a way that lets it read the response.
async fn refuse_http(mut stream: Transport) -> io::Error {
    let told = async {
        stream.write_all(PLAIN_HTTP).await?;
        // A close with unread bytes in the socket would reset the connection and discard the
        // response.
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = time::timeout(LINGER, told).await;
    io::Error::new(io::ErrorKind::InvalidData, "plain HTTP on a TLS port")
}
