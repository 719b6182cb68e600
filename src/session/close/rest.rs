//! Forwarding of the rest of a message whose beginning was forwarded, when nothing after it may
//! be.

use super::{CloseSide, take_stop};
use crate::{
    session::pings::own_pong,
    transport::Stream,
    websocket::{Control, Opcode, frame::Stop},
};

/// Forwards the next piece of the current message, or a control frame from between its fragments;
/// returns the number of messages that ended with it, `None` when more bytes are needed.
pub(super) fn take_rest_of_message<S: Stream, T: Stream>(
    from: &mut CloseSide<S>,
    to: &mut CloseSide<T>,
    input: &mut &[u8],
) -> Option<u64> {
    if from.scanner.is_at_boundary() {
        return take_header(from, to, input);
    }
    let (taken, ended) = from.scanner.take_payload(input.len());
    from.messages += u64::from(ended);
    let (payload, rest) = input.split_at(taken);
    pass(from, to, payload, ended);
    *input = rest;
    (taken > 0).then_some(u64::from(ended))
}

fn take_header<S: Stream, T: Stream>(
    from: &mut CloseSide<S>,
    to: &mut CloseSide<T>,
    input: &mut &[u8],
) -> Option<u64> {
    let (header, header_bytes) = match from.scanner.peek(input) {
        Ok(header) => header?,
        Err(error) => return take_stop(from, Stop::Violation(error), input).map(|()| 0),
    };
    if header.opcode == Opcode::Close {
        return take_stop(from, Stop::Close, input).map(|()| 0);
    }
    if header.opcode.is_control() {
        let control = Control::take(&header, header_bytes, input)?;
        if let Some(number) = own_pong(&control) {
            from.note_own_pong(number);
        } else {
            // Control frames may come between fragments (RFC 6455 §5.4), and belong to the peer
            // as they do in the tunnel.
            pass(from, to, &control.wire, false);
        }
        return Some(0);
    }
    let ended = from.scanner.enter(&header);
    from.messages += u64::from(ended);
    let (bytes, rest) = input.split_at(header_bytes);
    pass(from, to, bytes, ended);
    *input = rest;
    Some(u64::from(ended))
}

fn pass<S: Stream, T: Stream>(
    from: &CloseSide<S>,
    to: &mut CloseSide<T>,
    bytes: &[u8],
    ended: bool,
) {
    let is_whole = from.scanner.is_at_boundary();
    to.endpoint.write_buffer.push_passing(bytes, is_whole);
    to.endpoint.write_buffer.count_passed(u64::from(ended));
}
