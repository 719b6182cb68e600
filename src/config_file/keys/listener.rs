//! Keys of listeners.

use crate::{
    config::ListenSettings,
    config_file::{
        section::section,
        tls::{ListenerTls, Pair},
        values::{
            BOOLEAN, LISTEN_ADDRESS,
            files::{AUTHORITIES, CERTIFICATE, PRIVATE_KEY},
        },
    },
};

section! {
    /// One [[listen]] for each address where clients connect. If only the address is set, a line above
    /// the tables is enough:  listen = "0.0.0.0:8080"
    pub(in crate::config_file) LISTEN: ListenSettings = "listen[]";

    /// An IP address and a port, or "unix:/path.sock".
    address: LISTEN_ADDRESS = "0.0.0.0:${PORT:-8080}", required;
    /// Accepts HTTP/2 by prior knowledge without TLS, as gRPC clients and proxies use it. WebSockets
    /// work on it as well (RFC 8441).
    h2c: BOOLEAN = false;
    /// Requires a header of the PROXY protocol, version 1 or 2, at the beginning of every connection,
    /// as load balancers send it. Connections that do not come from `trusted_proxies`, or do not begin
    /// with it, are closed.
    proxy_protocol: BOOLEAN = false;
}

section! {
    /// TLS 1.2 and 1.3 for the listener above. All files are PEM. A change of their contents applies
    /// within 4 s and closes no connection; a broken file is logged, and the previous one stays in use.
    /// Remove the # at the beginning of each line to use it.
    pub(in crate::config_file) LISTEN_TLS: ListenerTls = "listen[].tls", commented_out;

    /// The certificate, followed by the intermediate certificates.
    certificate: CERTIFICATE = "${TLS_FILES:-/etc/readygate}/tls.crt" => pair.certificate, required;
    /// Its private key, without a passphrase.
    key: PRIVATE_KEY = "${TLS_FILES:-/etc/readygate}/tls.key" => pair.key, required;
    /// CAs, of which every client needs a certificate; "": clients need none.
    client_ca: AUTHORITIES = "";
    /// Offers HTTP/2 beside HTTP/1.1; WebSockets work on it as well (RFC 8441).
    h2: BOOLEAN = true;
}

section! {
    /// One [[listen.tls.additional]] for each further certificate. A client gets the first one that is
    /// valid for the host name it asks for, or the one above if none is.
    pub(in crate::config_file) ADDITIONAL: Pair = "listen[].tls.additional[]", commented_out;

    /// The certificate and its private key, as above.
    certificate: CERTIFICATE = "${TLS_FILES:-/etc/readygate}/tls.crt", required;
    key: PRIVATE_KEY = "${TLS_FILES:-/etc/readygate}/tls.key", required;
}
