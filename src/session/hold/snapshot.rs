//! The end of the held messages in the upstream's write buffer.

use crate::session::io::write_buffer::WriteBuffer;

/// Messages held when the gate opened.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Snapshot {
    /// Count of written messages at which all of them are written.
    last_message: u64,
}

impl Snapshot {
    pub(in crate::session) fn of(write_buffer: &WriteBuffer) -> Self {
        Self {
            last_message: write_buffer.messages_written() + write_buffer.messages_waiting().0,
        }
    }

    /// Returns whether every held message is written.
    pub(super) fn is_written(self, write_buffer: &WriteBuffer) -> bool {
        write_buffer.messages_written() >= self.last_message
    }
}
