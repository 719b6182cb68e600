//! Keys of plain requests.

use crate::{
    config::{
        section::section,
        values::{
            COUNT, OPTIONAL_SIZE, OPTIONAL_TIME, POSITIVE_TIME,
            bounds::{HOLD_TIMEOUT, RESPONSE_HEADER_BYTES, RESPONSE_HEADERS},
            words::{NON_ASCII, UNDERSCORES, VERSION},
        },
    },
    route::HttpSettings,
};

section! {
    /// Requests that are not WebSockets.
    pub(in crate::config) HTTP: HttpSettings = "route[].http", plain_requests;

    /// Which HTTP the backend speaks with them: "1.1", or "2" for gRPC and the like: HTTP/2 by prior
    /// knowledge (h2c), on one connection for each worker, or up to eight when the backend allows no
    /// more streams on it; those beside the first are closed after idle_timeout without requests.
    version: VERSION = "1.1";
    /// How long a request waits for an upstream that does not listen yet; then it is answered 504.
    /// "" is as long as sessions wait: the gate's `timeout`. "0s": not at all.
    hold_timeout: HOLD_TIMEOUT = "";
    /// How many requests may wait at once. More are answered 503.
    max_held_requests: COUNT = 500;
    /// The largest body of a request; "" is no limit, for a body is passed on as it comes and not
    /// kept. A larger one is answered 413, or cut off where the answer has begun.
    max_body_bytes: OPTIONAL_SIZE = "";
    /// Headers of clients whose names have an underscore, those of WebSocket handshakes included:
    /// "drop", because many applications cannot tell X_Forwarded_For from X-Forwarded-For, or "pass".
    underscores: UNDERSCORES = "drop", all;
    /// Requests and handshakes with header values that are not ASCII, say a name in a cookie: "pass",
    /// byte for byte, or "refuse" with 400, for an application that makes something else of them.
    non_ascii: NON_ASCII = "pass", all;
    /// How many connections to the backend each worker keeps for further requests. 0: none.
    max_idle_connections: COUNT = 128;
    /// How long a connection waits for another request: less than the backend's own keep-alive, or
    /// requests meet a connection that it is just closing. uvicorn and Node close after 5 s.
    idle_timeout: POSITIVE_TIME = "4s";
    /// How long the backend may take until its answer begins, after the last piece of the request
    /// that it was sent; then the request is answered 504. An answer that has begun may take any
    /// time. "": for ever
    response_timeout: OPTIONAL_TIME = "5m";
    /// How long a client may send nothing of a body that it announced, while the answer has not
    /// begun; then it is answered 408. "": for ever
    body_timeout: OPTIONAL_TIME = "60s";
    /// The longest header section of the backend's answers, "8KiB" to "256KiB", and the most header
    /// lines in it, up to 1000; of those to WebSocket handshakes, too. A longer one is answered 502, and a
    /// WebSocket closed with 1014. Over HTTP/2 each field counts 32 bytes beside its own.
    max_response_header_bytes: RESPONSE_HEADER_BYTES = "64KiB" => response_limits.max_header_bytes;
    max_response_headers: RESPONSE_HEADERS = 100 => response_limits.max_headers;
}
