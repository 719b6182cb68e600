//! readygate: a reverse proxy that accepts WebSocket clients at once, holds what they
//! send until the upstream application says that it is ready, flushes, and then gets
//! out of the way.

pub mod cli;
pub mod config;
pub mod http;
pub mod matcher;
pub mod route;
pub mod server;
pub mod session;
pub mod telemetry;
pub mod transport;
pub mod upstream;
pub mod websocket;
