//! Responses of the admin listener.

use std::{convert::Infallible, pin::Pin};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use serde::Serialize;

/// Body of a response: of a known length, or an endless stream of events.
pub(super) type Body = Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = Infallible>>>;

/// Headers of every response: never cached, never sniffed, and not embedded by other origins.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Creates a response with `body`.
pub(super) fn with(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Creates a plain text response; `text` ends without a line break.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let body = Box::pin(Full::from(text.into() + "\n"));
    with(status, "text/plain; charset=utf-8", body)
}

/// Creates a JSON response.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut text = serde_json::to_string_pretty(value).expect("all keys are strings");
    text.push('\n');
    with(status, "application/json", Box::pin(Full::from(text)))
}
