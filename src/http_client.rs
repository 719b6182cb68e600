//! The upstream side of plain HTTP: connections over HTTP/1.1 and HTTP/2, kept in pools.

pub mod http1;
pub mod http2;
pub mod pending;
pub mod pool;
pub mod upload;
