//! Keys of routes, and of the connections to their upstreams.

use crate::{
    config::Retry,
    config_file::{
        routes::Draft,
        section::section,
        tls::UpstreamTls,
        values::{
            FRACTION, OPTIONAL_TIME, ORIGINS, POSITIVE_TIME, UPSTREAM,
            files::{AUTHORITIES, CERTIFICATE, PRIVATE_KEY, SERVER_NAME},
            requests::{HOST, PATH, PATH_CHECKS, SUBPROTOCOLS},
            words::{ACCEPT, PROXY_PROTOCOL},
        },
    },
    upstream,
};

section! {
    /// One [[route]] for each upstream. A request takes the route that names its host before one with a
    /// wildcard, and that before one for every host; among those an exact path before a prefix, and the
    /// longest prefix. A host without a route gets 421, a path without one 404.
    pub(in crate::config_file) ROUTE: Draft = "route[]";

    /// Host that clients ask for, without a port; "*.example.com" is every host below example.com, and
    /// "" is every host.
    host: HOST = "" => route.host;
    /// Prefix of the path, in whole segments: "/chat" is /chat and /chat/x, not /chats. "=/chat" is
    /// /chat alone. The path goes upstream unchanged; one that servers read in different ways, such as
    /// /chat/../admin, gets 400.
    path: PATH = "/" => route.path;
    /// Checks of the path: "strict", or a list of what is allowed nevertheless, ["%5C"] and ['\'], the
    /// backslash, as in names of Windows accounts. Some servers read it as a slash: /a%5Cb passes
    /// where /a/b takes the same route, and /a%5C.. never does.
    path_checks: PATH_CHECKS = "strict" => route.passes;
    /// Destination of the requests, which keep their path and query: "http://host:port",
    /// "https://host:port" (see [route.tls] at the end), "http://[::1]:port" or "unix:/path.sock".
    upstream: UPSTREAM = "http://127.0.0.1:8081", required;
    /// Header of the PROXY protocol with the client's address at the beginning of each upstream
    /// connection: "v1" (text), "v2" (binary), or "" for none. With one, a connection serves a single
    /// request.
    proxy_protocol: PROXY_PROTOCOL = "" => route.upstream.proxy_protocol;
    /// Moment of the response to a client that opens a WebSocket:
    ///   "early"           at once, before the upstream has responded. Extensions are declined. A client
    ///                     that the upstream refused within the last 30 s waits for its response.
    ///   "after-upstream"  when the upstream has responded: its own 101, with subprotocol, cookies and
    ///                     compression, or its 401, 302 and so on, with the body. Messages are held
    ///                     until the gate opens in this case as well. While the upstream does not
    ///                     respond, or responds 500, 502, 503 or 504, it is retried until the gate's
    ///                     `timeout`.
    accept: ACCEPT = "early" => route.accept, websockets;
    /// WebSocket subprotocols that the upstream speaks, in order of preference, for accept = "early": the
    /// client gets the first one that it offers. With an empty list it gets the one that the upstream
    /// has named before for the same offers, or else its own first offer that does not look like a token;
    /// if all do, it waits for the upstream. The log warns where this list needs an entry.
    subprotocols: SUBPROTOCOLS = [] => route.subprotocols, websockets;
    /// Origins whose pages may connect, such as "https://example.com"; others get 403. With an empty
    /// list every origin may. "https://*.example.com" is every host below that name, "file://" is what
    /// desktop applications send, and "null" is that of sandboxed pages, which any site can produce.
    origins: ORIGINS = [] => route.origins, websockets;
}

section! {
    /// Connections to the upstream. While it does not respond, a session retries until its gate's
    /// `timeout`; a refusal (400, 401, 403, 404) is final, and so is an untrusted certificate.
    pub(in crate::config_file) CONNECT: upstream::Settings = "route[].connect";

    /// Timeout of one connection attempt.
    timeout: POSITIVE_TIME = "1s";
    /// Time in which the upstream has to respond to the WebSocket handshake before it is retried on
    /// another connection; a TLS handshake may take as long before that. "": until the gate's `timeout`,
    /// because an application that works before it accepts starts over when it is retried. A vanished
    /// host is detected anyway, within 20 s once it has acknowledged what it was sent.
    handshake_timeout: OPTIONAL_TIME = "";
}

section! {
    /// Delays between attempts: the first one, doubled each time up to the longest; `jitter` is the
    /// random part of each delay, 0 to 1.
    pub(in crate::config_file) RETRY: Retry = "route[].connect.retry", inline;

    /// First delay.
    initial: POSITIVE_TIME = "25ms";
    /// Longest delay.
    max: POSITIVE_TIME = "1s";
    /// Random part of each delay.
    jitter: FRACTION = 0.5;
}

section! {
    /// Only for https://. Files are reloaded as those of [listen.tls] are.
    pub(in crate::config_file) TLS: UpstreamTls = "route[].tls", commented_out;

    /// CAs that are trusted, and no others; "": those of this machine.
    ca: AUTHORITIES = "", example("${TLS_FILES:-/etc/readygate}/ca.crt");
    /// Name that the upstream's certificate has to be valid for; "": the host in `upstream`.
    server_name: SERVER_NAME = "";
    /// Certificate and key to present to an upstream that asks for one; left out: none.
    certificate: CERTIFICATE = "${TLS_FILES:-/etc/readygate}/tls.crt" => pair.certificate, optional;
    key: PRIVATE_KEY = "${TLS_FILES:-/etc/readygate}/tls.key" => pair.key, optional;
}
