//! Keys of routes, and of the connections to their upstreams.

use crate::{
    config::{
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
    upstream::{self, Retry},
};

section! {
    /// One [[route]] for each upstream. A request takes the route that names its host before one
    /// with a wildcard, and that before one for every host; among those an exact path before a
    /// prefix, and the longest prefix. A host that no route has is answered 421, and a path that
    /// none has 404.
    pub(in crate::config) ROUTE: Draft = "route[]";

    /// The host that clients ask for, without a port; "*.example.com" is every host below
    /// example.com, and "" is every host.
    host: HOST = "" => route.host;
    /// The beginning of the path, in whole segments: "/chat" is /chat and /chat/x, not /chats. With
    /// "=/chat" it is /chat alone. The path goes upstream as it came; one that servers read in
    /// different ways, such as /chat/../admin, is answered 400.
    path: PATH = "/" => route.path;
    /// How paths are checked: "strict", or a list of what passes all the same, ["%5C"] and ['\'], the
    /// backslash, as in the name of a Windows account. To some servers it is a slash: /a%5Cb passes
    /// where /a/b takes the same route, and /a%5C.. never does.
    path_checks: PATH_CHECKS = "strict" => route.passes;
    /// Where the requests go, with their own path and query: "http://host:port",
    /// "https://host:port" (see [route.tls] at the end), "http://[::1]:port" or "unix:/path.sock".
    upstream: UPSTREAM = "http://127.0.0.1:8081", required;
    /// Whether each connection to the upstream begins with a header of the PROXY protocol that says
    /// who the client is: "v1" (text), "v2" (binary), or "" for none. With one a connection serves
    /// a single request.
    proxy_protocol: PROXY_PROTOCOL = "" => route.upstream.proxy_protocol;
    /// When a client that opens a WebSocket gets its answer:
    ///   "early"           at once, whatever the upstream does. Extensions are declined. Who was
    ///                     refused by the upstream within the last 30 s waits for its answer.
    ///   "after-upstream"  when the upstream has answered, and then its very answer: its 101, with
    ///                     subprotocol, cookies and compression, or its 401, 302 and so on, with
    ///                     the body. Messages are held until the gate opens all the same. While the
    ///                     upstream does not answer, or answers 500, 502, 503 or 504, it is asked
    ///                     again until the gate's `timeout`.
    accept: ACCEPT = "early" => route.accept, websockets;
    /// The WebSocket subprotocols that the upstream speaks, the preferred one first, for
    /// accept = "early": the client gets the first one that it offers. With an empty list it gets what
    /// the upstream has named before to the same offers, or else its own first offer that does not look
    /// like a token; if all do, it waits for the upstream. The log warns where something is to be
    /// written here.
    subprotocols: SUBPROTOCOLS = [] => route.subprotocols, websockets;
    /// The origins whose pages may connect, such as "https://example.com"; others are answered
    /// 403. With an empty list every origin may. "https://*.example.com" is every host below that
    /// name, "file://" is what desktop applications send, and "null" pages in a sandbox, which anybody
    /// can make.
    origins: ORIGINS = [] => route.origins, websockets;
}

section! {
    /// How the upstream is connected. While it does not answer, a session tries again until its
    /// gate's `timeout`; a refusal (400, 401, 403, 404) is final, and so is a certificate that is
    /// not trusted.
    pub(in crate::config) CONNECT: upstream::Settings = "route[].connect";

    /// How long one connection attempt may take.
    timeout: POSITIVE_TIME = "1s";
    /// How long the upstream may take to answer the WebSocket handshake, until it is asked again on
    /// another connection; with TLS its handshake may take as long before that. "": until the gate's
    /// `timeout`, for an application that works first and accepts then begins anew when it is asked
    /// again. A host that has vanished is found out all the same, within 20 s
    /// once it has acknowledged what it was sent.
    handshake_timeout: OPTIONAL_TIME = "";
}

section! {
    /// The waits between attempts: the first, doubled each time up to the longest; `jitter` is the
    /// part of each wait that is random, 0 to 1.
    pub(in crate::config) RETRY: Retry = "route[].connect.retry", inline;

    /// The first wait.
    initial: POSITIVE_TIME = "25ms";
    /// The longest wait.
    max: POSITIVE_TIME = "1s";
    /// The part of each wait that is random.
    jitter: FRACTION = 0.5;
}

section! {
    /// Only for https://. Files are read again as those of [listen.tls] are.
    pub(in crate::config) TLS: UpstreamTls = "route[].tls", commented_out;

    /// The authorities that are trusted, and no others; "": those of this machine.
    ca: AUTHORITIES = "", example("${TLS_FILES:-/etc/readygate}/ca.crt");
    /// The name that the upstream's certificate has to be for; "": the host in `upstream`.
    server_name: SERVER_NAME = "";
    /// The certificate and key to show to an upstream that asks for one; left out: none.
    certificate: CERTIFICATE = "${TLS_FILES:-/etc/readygate}/tls.crt" => pair.certificate, optional;
    key: PRIVATE_KEY = "${TLS_FILES:-/etc/readygate}/tls.key" => pair.key, optional;
}
