//! Keys of plain requests.

use crate::{
    config_file::{
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
    pub(in crate::config_file) HTTP: HttpSettings = "route[].http", plain_requests;

    /// HTTP version that is spoken to the backend: "1.1", or "2" for gRPC and the like: HTTP/2 by prior
    /// knowledge (h2c), on one connection for each worker, or up to eight when the backend allows no
    /// more streams on it; those beside the first are closed after idle_timeout without requests.
    version: VERSION = "1.1";
    /// Time that a request waits for an upstream that does not listen yet; then it gets 504. "" is as
    /// long as sessions wait: the gate's `timeout`. "0s": not at all.
    hold_timeout: HOLD_TIMEOUT = "";
    /// Requests that may wait at the same time. More get 503.
    max_held_requests: COUNT = 500;
    /// Largest body of a request; "" is no limit, since bodies are streamed. A larger one gets 413, or is
    /// cut off where the response has begun.
    max_body_bytes: OPTIONAL_SIZE = "";
    /// Client headers with an underscore in the name, in WebSocket handshakes as well: "drop", because
    /// many applications cannot tell X_Forwarded_For from X-Forwarded-For, or "pass".
    underscores: UNDERSCORES = "drop", all;
    /// Requests and handshakes with header values that are not ASCII, such as a name in a cookie: "pass",
    /// byte for byte, or "refuse" with 400, for an application that decodes them differently.
    non_ascii: NON_ASCII = "pass", all;
    /// Connections to the backend that each worker keeps for further requests. 0: none.
    max_idle_connections: COUNT = 128;
    /// Time that a connection waits for another request: less than the backend's own keep-alive, or
    /// requests meet a connection that is just being closed. uvicorn and Node close after 5 s.
    idle_timeout: POSITIVE_TIME = "4s";
    /// Time until the backend's response begins, after the last piece of the request; then the request
    /// gets 504. A response that has begun may take any time. "": no limit
    response_timeout: OPTIONAL_TIME = "5m";
    /// Time in which a client may send nothing of a body that it announced, while the response has not
    /// begun; then it gets 408. "": no limit
    body_timeout: OPTIONAL_TIME = "60s";
    /// Longest header section of the backend's responses, "8KiB" to "256KiB", and most header lines in
    /// it, up to 1000; for WebSocket handshakes as well. A longer one becomes 502, and a WebSocket is
    /// closed with 1014. Over HTTP/2 each field counts 32 bytes beside its own.
    max_response_header_bytes: RESPONSE_HEADER_BYTES = "64KiB" => response_limits.max_header_bytes;
    max_response_headers: RESPONSE_HEADERS = 100 => response_limits.max_headers;
}
