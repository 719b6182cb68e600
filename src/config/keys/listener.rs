//! Keys of listeners.

use crate::{
    config::{
        section::section,
        tls::{ListenerTls, Pair},
        values::{
            BOOLEAN, LISTEN_ADDRESS,
            files::{AUTHORITIES, CERTIFICATE, PRIVATE_KEY},
        },
    },
    server::ListenSettings,
};

section! {
    /// One [[listen]] for each address where clients connect. If there is nothing to say but the
    /// address, a line above the tables will do:  listen = "0.0.0.0:8080"
    pub(in crate::config) LISTEN: ListenSettings = "listen[]";

    /// An IP address and a port, or "unix:/path.sock".
    address: LISTEN_ADDRESS = "0.0.0.0:${PORT:-8080}", required;
    /// Whether clients may also speak HTTP/2 here, by prior knowledge, as gRPC clients and proxies
    /// do. WebSockets work on it as well (RFC 8441).
    h2c: BOOLEAN = false;
    /// Whether every connection begins with a header of the PROXY protocol, version 1 or 2, as load
    /// balancers send it. Then connections that do not come from `trusted_proxies`, or begin
    /// otherwise, are closed.
    proxy_protocol: BOOLEAN = false;
}

section! {
    /// TLS 1.2 and 1.3 for the listener above. All files are PEM. When their contents change they
    /// are read again, within 4 s and without dropping anybody; if one is broken then, it is logged
    /// and what was read before stays in use. Remove the # at the beginning of each line to use it.
    pub(in crate::config) LISTEN_TLS: ListenerTls = "listen[].tls", commented_out;

    /// The certificate, followed by those of the authorities between it and the root.
    certificate: CERTIFICATE = "${TLS_FILES:-/etc/readygate}/tls.crt" => pair.certificate, required;
    /// Its private key, without a passphrase.
    key: PRIVATE_KEY = "${TLS_FILES:-/etc/readygate}/tls.key" => pair.key, required;
    /// The authorities of one of which every client then needs a certificate; "": clients need none.
    client_ca: AUTHORITIES = "";
    /// Whether HTTP/2 is offered beside HTTP/1.1; WebSockets work on it as well (RFC 8441).
    h2: BOOLEAN = true;
}

section! {
    /// One [[listen.tls.additional]] for each further certificate. A client gets the first one that
    /// is for the host that it asks for, and the one above if there is none.
    pub(in crate::config) ADDITIONAL: Pair = "listen[].tls.additional[]", commented_out;

    /// The certificate and its private key, as above.
    certificate: CERTIFICATE = "${TLS_FILES:-/etc/readygate}/tls.crt", required;
    key: PRIVATE_KEY = "${TLS_FILES:-/etc/readygate}/tls.key", required;
}
