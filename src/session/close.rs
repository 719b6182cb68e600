//! The closing handshake on both sides.
//!
//! However a session ends, each side that is still connected receives a close frame: the one of
//! the other side, or one that the proxy generates.
//!
//! # Invariants
//!
//! * A side receives at most one close frame, and no data after it (RFC 6455 §5.5.1).
//! * A close frame is never sent inside another frame: one sent in part is completed first, and
//!   where that is not possible the connection is closed without.
//! * The handshake ends within `close_timeout`, and in a drain within the grace period.

mod rest;
mod side;

use std::time::Duration;

use futures_util::FutureExt;
use tokio::{io::AsyncWriteExt, time};

pub(super) use self::side::{CloseSide, Forwards};
use self::{
    rest::take_rest_of_message,
    side::{Incoming, Outgoing},
};
use super::{
    Context,
    io::{
        endpoint::{HIGH_WATER_BYTES, progress},
        write_buffer::WriteBuffer,
    },
    pings::own_pong,
    state::SessionState,
    stats::{SessionStats, Unclosed, Written},
    termination::{CloseCodes, EndReason},
};
use crate::{
    transport::Stream,
    websocket::{CloseCode, CloseFrame, Control, Role, frame::Stop},
};

/// Time for a peer to close its connection after the closing handshake.
const LINGER: Duration = Duration::from_secs(1);

/// Both sides while the session closes.
#[derive(Debug)]
pub(super) struct Closing<C, U> {
    pub(super) client: Option<CloseSide<C>>,
    pub(super) upstream: Option<CloseSide<U>>,
}

/// Reason to stop waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Done,
    TimedOut,
    Drained,
}

impl<C: Stream, U: Stream> Closing<C, U> {
    /// Ends the session for `cause`; the close frames are made from `close_codes` and the
    /// session's ledger.
    pub(super) async fn run(
        mut self,
        cause: &EndReason,
        session: &SessionStats,
        settings: &super::Settings,
        context: &Context,
    ) -> Written {
        session.enter(SessionState::Closing, cause.name());
        self.settle(cause, session);
        self.begin(cause, session, &settings.close_codes);
        let mut written = Written::default();
        let exchange = self.exchange(session, &mut written);
        let over = tokio::select! {
            () = exchange => Over::Done,
            () = time::sleep(settings.tunnel.close_timeout) => Over::TimedOut,
            () = drain_deadline(context) => Over::Drained,
        };
        if over == Over::TimedOut {
            session.note_unclosed(Unclosed {
                client: self.client.as_ref().is_some_and(CloseSide::owes_close),
                upstream: self.upstream.as_ref().is_some_and(CloseSide::owes_close),
            });
        }
        if over != Over::Done {
            // The rest is dropped together with the connections.
            self.answer_now().await;
            self.note_codes(session);
        }
        if let Some(upstream) = &self.upstream {
            written = Written::of(&upstream.endpoint.write_buffer);
        }
        written
    }

    /// Settles the messages whose fate the cause alone decides, before a close frame tells the
    /// client how many are lost.
    fn settle(&mut self, cause: &EndReason, session: &SessionStats) {
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        if let EndReason::UpstreamClosed(frame) = cause
            && frame.code.is_some_and(CloseCode::confirms)
        {
            session.confirm();
        }
        // The upstream will confirm nothing more, so the client can be told the final numbers.
        if cause.ends_upstream() {
            session.settle_all(Written::of(&upstream.endpoint.write_buffer));
        // An empty socket at this point makes the upstream's next close frame a confirmation.
        } else if !upstream.scanner.is_in_message() && upstream.endpoint.is_silent() {
            session.note_found_empty(&upstream.endpoint.write_buffer);
            upstream.was_silent = true;
        }
    }

    /// Records the close frames that have come, and sends the ones that the cause calls for.
    fn begin(&mut self, cause: &EndReason, session: &SessionStats, close_codes: &CloseCodes) {
        let ledger = session.ledger();
        if let Some(client) = &mut self.client {
            match cause {
                EndReason::ClientClosed(frame) if client.is_open() => {
                    client.incoming = Incoming::Closed(Some(frame.clone()));
                }
                // A client that has only shut down its writing half may still read the upstream's
                // last messages.
                EndReason::ClientLost if !client.endpoint.is_broken() => {
                    client.incoming = Incoming::Closed(None);
                }
                EndReason::ClientLost => client.lose(),
                EndReason::ClientVanished => client.cut_off(),
                EndReason::ClientError(_) => client.incoming = Incoming::Garbled,
                EndReason::UpstreamClosed(frame) => client.tell(frame.clone()),
                EndReason::ReadyTimeout {
                    last_close: Some(frame),
                    ..
                } => client.tell(CloseFrame::clone(frame)),
                _ => {}
            }
            if let Some(code) = cause.client_code(close_codes) {
                client.tell(CloseFrame::new(code, cause.close_reason(&ledger)));
            }
        }
        if let Some(upstream) = &mut self.upstream {
            match cause {
                EndReason::UpstreamClosed(frame) => {
                    upstream.incoming = Incoming::Closed(Some(frame.clone()));
                }
                EndReason::UpstreamLost => upstream.lose(),
                EndReason::UpstreamVanished => upstream.cut_off(),
                EndReason::UpstreamError(_) => upstream.incoming = Incoming::Garbled,
                EndReason::ClientClosed(frame) => upstream.tell(frame.clone()),
                _ => {}
            }
            if let Some(code) = cause.upstream_code() {
                upstream.tell(CloseFrame::new(code, cause.name()));
            }
        }
    }

    /// Answers a close frame whose answer has to come from the other side: RFC 6455 §5.5.1
    /// requires one for a peer that has closed.
    async fn answer_now(&mut self) {
        if let Some(client) = &mut self.client {
            client.answer(client.said());
            client.endpoint.write_now().await;
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.answer(upstream.said());
            upstream.endpoint.write_now().await;
        }
    }

    /// Records the close codes sent to both sides, once they are written.
    fn note_codes(&self, session: &SessionStats) {
        if let Some(code) = self.client.as_ref().and_then(written_code) {
            session.note_client_code(Some(code));
        }
        if let Some(code) = self.upstream.as_ref().and_then(written_code) {
            session.note_upstream_code(Some(code));
        }
    }

    async fn exchange(&mut self, session: &SessionStats, written: &mut Written) {
        loop {
            let Self { client, upstream } = self;
            session.accept(take(client.as_mut(), upstream.as_mut()));
            // Taken before the upstream's data is processed: the difference shows what that
            // confirms.
            let heard = upstream.as_ref().map(CloseSide::heard);
            session.note_upstream_messages(take(upstream.as_mut(), client.as_mut()));
            self.note_codes(session);
            let Self { client, upstream } = self;
            if let Some(upstream) = upstream {
                *written = Written::of(&upstream.endpoint.write_buffer);
                session.note_written(written.messages);
                session.check(&upstream.endpoint.write_buffer);
                if let Some(heard) = heard {
                    upstream.confirm_since(heard, session);
                }
            }
            drop_if(client, |client| {
                client.endpoint.is_broken() && !client.is_open()
            });
            drop_if(upstream, |upstream| {
                upstream.endpoint.is_broken() && !upstream.is_open()
            });
            // With both close frames exchanged, the client need not wait for the upstream.
            if let Some(party) = client
                && party.is_done()
                && !party.is_garbled()
            {
                party.endpoint.finish().await;
                *client = None;
            }
            if client.as_ref().is_none_or(CloseSide::is_done)
                && upstream.as_ref().is_none_or(CloseSide::is_done)
            {
                tokio::join!(linger(client), linger(upstream));
                return;
            }
            let client_room = room(upstream.as_ref());
            let upstream_room = room(client.as_ref());
            tokio::select! {
                // Each side is read only while the other has room, as in the tunnel.
                _ = progress(client.as_mut().map(|party| &mut party.endpoint), client_room) => {}
                () = progress_upstream(upstream.as_mut(), upstream_room, session) => {}
            }
        }
    }
}

/// [`progress`] of the upstream; records when its socket is found empty.
async fn progress_upstream<U: Stream>(
    party: Option<&mut CloseSide<U>>,
    may_read: bool,
    session: &SessionStats,
) {
    let Some(party) = party else {
        return std::future::pending().await;
    };
    let is_told = party.is_told();
    let is_between = !party.scanner.is_in_message() && party.endpoint.read_buffer.is_empty();
    let CloseSide {
        endpoint,
        was_asked,
        ..
    } = party;
    let on_empty = |write_buffer: &WriteBuffer| {
        if is_between {
            session.note_found_empty(write_buffer);
            *was_asked |= is_told && write_buffer.is_empty();
        }
    };
    endpoint.progress_or(may_read, on_empty).await;
}

/// Code of the close frame sent to `party`, once that is written.
fn written_code<S: Stream>(party: &CloseSide<S>) -> Option<CloseCode> {
    party
        .told()
        .filter(|_| party.endpoint.write_buffer.is_empty())
}

/// Resolves in a drain, shortly before the grace period is over.
async fn drain_deadline(context: &Context) {
    context.drain.begun().await;
    time::sleep_until(context.drain.closed_by()).await;
}

/// Returns whether the other side may be read: `to` has room for its data.
fn room<S: Stream>(to: Option<&CloseSide<S>>) -> bool {
    to.is_none_or(|to| {
        to.endpoint.is_broken() || to.endpoint.write_buffer.waiting_bytes() < HIGH_WATER_BYTES
    })
}

/// Processes the data of `from`; returns the number of data messages forwarded to `to`.
fn take<S: Stream, T: Stream>(
    from: Option<&mut CloseSide<S>>,
    mut to: Option<&mut CloseSide<T>>,
) -> u64 {
    let Some(from) = from else { return 0 };
    let read_buffer = from.endpoint.take_read_buffer();
    let mut input = &read_buffer[..];
    let mut messages = 0;
    while from.is_open() {
        let Some(passed) = take_frames(from, to.as_deref_mut(), &mut input) else {
            break;
        };
        messages += passed;
    }
    // Data behind a close frame is not part of the conversation (RFC 6455 §5.5.1).
    let left = if from.is_open() { input.len() } else { 0 };
    from.endpoint.put_back(read_buffer, left);
    if from.is_open() && from.endpoint.has_ended() {
        from.incoming = Incoming::Closed(None);
    }
    if !from.is_open() {
        pass_on_end(from, to);
    }
    messages
}

/// Takes frames from the front of `input`; `None` when more bytes are needed.
fn take_frames<S: Stream, T: Stream>(
    from: &mut CloseSide<S>,
    to: Option<&mut CloseSide<T>>,
    input: &mut &[u8],
) -> Option<u64> {
    // The message in progress has ended: whatever follows must not reach the other side.
    if from.forwards == Forwards::RestOfMessage && !from.scanner.is_in_message() {
        from.forwards = Forwards::Nothing;
    }
    let forwards = from.forwards;
    let Some(to) = to.filter(|to| forwards != Forwards::Nothing && to.takes_data()) else {
        // Still read, up to the close frame, which has to be answered.
        let skipped = from.scanner.skip(input);
        from.messages += skipped.messages;
        *input = &input[skipped.bytes..];
        return take_stop(from, skipped.stop, input).map(|()| 0);
    };
    if to.outgoing != Outgoing::Open {
        // A close frame is due: only the rest of the frame that was sent in part may go before
        // it.
        let (taken, ended) = from.scanner.take_payload(input.len());
        to.endpoint
            .write_buffer
            .push_passing(&input[..taken], from.scanner.is_at_boundary());
        from.messages += u64::from(ended);
        to.endpoint.write_buffer.count_passed(u64::from(ended));
        to.tell_at_boundary();
        *input = &input[taken..];
        return (taken > 0 || to.is_told()).then_some(u64::from(ended));
    }
    if forwards == Forwards::RestOfMessage {
        return take_rest_of_message(from, to, input);
    }
    let skipped = from.scanner.skip(input);
    from.messages += skipped.messages;
    to.endpoint
        .write_buffer
        .push_passing(&input[..skipped.bytes], from.scanner.is_at_boundary());
    to.endpoint.write_buffer.count_passed(skipped.messages);
    *input = &input[skipped.bytes..];
    if skipped.stop == Stop::Pong
        && let Some(pong) = Control::take_next(&from.scanner, input)
    {
        if let Some(number) = own_pong(&pong) {
            from.note_own_pong(number);
        } else {
            to.endpoint.write_buffer.push_passing(&pong.wire, true);
        }
        return Some(skipped.messages);
    }
    // With bytes forwarded there is progress to report, even if the close frame is incomplete.
    if take_stop(from, skipped.stop, input).is_none() && skipped.bytes == 0 {
        return None;
    }
    Some(skipped.messages)
}

/// Takes the frame that the scan stopped at; `None` when more bytes are needed.
fn take_stop<S: Stream>(from: &mut CloseSide<S>, stop: Stop, input: &mut &[u8]) -> Option<()> {
    match stop {
        Stop::End | Stop::PartialHeader => return None,
        Stop::Violation(_) => from.incoming = Incoming::Garbled,
        // Only counted: nothing of this side is forwarded.
        Stop::Pong => {
            let pong = Control::take_next(&from.scanner, input)?;
            if let Some(number) = own_pong(&pong) {
                from.note_own_pong(number);
            }
        }
        Stop::Close => {
            let control = Control::take_next(&from.scanner, input)?;
            from.incoming = match CloseFrame::parse(&control.payload) {
                Ok(frame) => Incoming::Closed(Some(frame)),
                Err(_) => Incoming::Garbled,
            };
        }
    }
    Some(())
}

/// Handles the end of `from`'s data: tells `to`, or answers `from` when there is no other side to
/// ask.
fn pass_on_end<S: Stream, T: Stream>(from: &mut CloseSide<S>, to: Option<&mut CloseSide<T>>) {
    let Some(to) = to else {
        from.answer(from.said());
        return;
    };
    // A side that has closed receives its own code and reason as the answer.
    to.tell(
        from.said()
            .or_else(|| to.said())
            .unwrap_or_else(|| from.loss()),
    );
    if !to.is_told() {
        // The rest of the frame sent in part will never come, so the connection ends inside it.
        to.lose();
    }
    if !to.is_open() && !from.is_told() {
        from.answer(to.said());
    }
}

fn drop_if<S>(slot: &mut Option<CloseSide<S>>, is_over: impl Fn(&CloseSide<S>) -> bool) {
    if slot.as_ref().is_some_and(is_over) {
        *slot = None;
    }
}

/// Waits for the peer to close its connection, if only for a moment. RFC 6455 §7.1.1 has the
/// server close first, so an upstream is waited for, unless it was left inside a frame. Data that
/// still arrives is discarded: closing with unread bytes would reset the connection and could
/// destroy the close frame in transit.
async fn linger<S: Stream>(slot: &mut Option<CloseSide<S>>) {
    let Some(party) = slot else { return };
    let _ = time::timeout(LINGER, async {
        if party.role == Role::Client || !party.endpoint.write_buffer.is_at_boundary() {
            let _ = party.endpoint.stream.shutdown().await;
        }
        while !party.endpoint.has_ended() {
            party.endpoint.read_buffer = Vec::new();
            party.endpoint.progress(true).await;
        }
    })
    .await;
    // Some streams end with a message of their own, like TLS with `close_notify`, which the peer
    // may wait for, even one that did not close in time. Either there is room for it, or the peer
    // no longer reads.
    if party.endpoint.stream.as_tcp().is_none() {
        let _ = party.endpoint.stream.shutdown().now_or_never();
    }
}
