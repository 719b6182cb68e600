//! Carrying by `recv` and `send`, through one buffer.

use std::{io, net::TcpStream};

use super::{Carried, Carrier};
use crate::socket;

const BUFFER_BYTES: usize = 64 * 1024;

/// The buffer that all sessions share.
pub struct Copy(Vec<u8>);

impl Copy {
    /// One buffer of 64 KiB.
    pub fn new() -> Self {
        Self(vec![0; BUFFER_BYTES])
    }
}

impl Carrier for Copy {
    type Kept = Vec<u8>;

    fn flush(&mut self, kept: &mut Vec<u8>, to: &TcpStream) -> io::Result<bool> {
        if kept.is_empty() {
            return Ok(true);
        }
        let written = socket::write(to, kept)?.unwrap_or(0);
        kept.drain(..written);
        if kept.is_empty() {
            *kept = Vec::new();
        }
        Ok(kept.is_empty())
    }

    fn carry(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        kept: &mut Vec<u8>,
    ) -> io::Result<Carried> {
        let Some(count) = socket::read(from, &mut self.0)? else {
            return Ok(Carried::Nothing);
        };
        if count == 0 {
            return Ok(Carried::End);
        }
        let written = socket::write(to, &self.0[..count])?.unwrap_or(0);
        kept.extend_from_slice(&self.0[written..count]);
        Ok(if count < BUFFER_BYTES {
            Carried::All
        } else {
            Carried::Some
        })
    }
}
