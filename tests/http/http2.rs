//! HTTP/2 from clients: requests, sessions, and rejected frames.

mod client;
mod faults;
mod floods;
mod frames;
mod memory;
mod requests;
mod strictness;
mod tls;
mod websocket;

use readygate::config_file::Config;

use crate::support::Proxy;

/// A proxy that takes HTTP/2 without TLS.
fn start(config: Config) -> Proxy {
    let mut config = config;
    for listener in &mut config.listen {
        listener.h2c = true;
    }
    Proxy::start(config)
}
