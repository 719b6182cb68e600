//! The timeouts of a session, as its tunnel keeps them.

use std::task::{Context, Poll, ready};

use super::TunnelEnd;
use crate::session::{
    stats::SessionStats,
    termination::EndReason,
    timeouts::{Keepalive, Side},
};

/// Checks the tunnel when that is due, and sends pings; resolves when the session ends.
pub(super) fn poll_keepalive<C, U>(
    context: &mut Context<'_>,
    keepalive: &mut Keepalive,
    session: &SessionStats,
    client: &mut TunnelEnd<C>,
    upstream: &mut TunnelEnd<U>,
) -> Poll<EndReason> {
    loop {
        let to_client = keepalive.ping_client(&mut client.endpoint.write_buffer);
        let to_upstream = keepalive.ping_upstream(&mut upstream.endpoint.write_buffer, session);
        if to_client || to_upstream {
            // The pushed ping is written when the tunnel is polled next.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(keepalive.poll_due(context));
        let (client_side, upstream_side) = sides(session, client, upstream);
        if let Err(cause) = keepalive.look_tunnel(session, client_side, upstream_side) {
            return Poll::Ready(cause);
        }
    }
}

/// Both sides as the timeouts see them.
fn sides<C, U>(
    session: &SessionStats,
    client: &TunnelEnd<C>,
    upstream: &TunnelEnd<U>,
) -> (Side, Side) {
    let traffic = session.traffic();
    let client_waits = client.waits_for(upstream);
    let upstream_waits = upstream.waits_for(client);
    let client_side = Side {
        is_read: !client_waits,
        has_backlog: upstream_waits,
        taken_bytes: upstream.taken_of(traffic.upstream_bytes, client),
    };
    let upstream_side = Side {
        is_read: !upstream_waits,
        has_backlog: client_waits,
        taken_bytes: client.taken_of(traffic.client_bytes, upstream),
    };
    (client_side, upstream_side)
}

impl<S> TunnelEnd<S> {
    /// Returns whether data that it has sent waits for `target` to accept it.
    fn waits_for<T>(&self, target: &TunnelEnd<T>) -> bool {
        !target.endpoint.write_buffer.is_empty() || self.piped_bytes() > 0
    }

    /// Bytes that `target` has accepted, if `read_bytes` have been read from this end.
    fn taken_of<T>(&self, read_bytes: u64, target: &TunnelEnd<T>) -> u64 {
        read_bytes.saturating_sub(self.piped_bytes()) + target.endpoint.write_buffer.bytes_written()
    }

    fn piped_bytes(&self) -> u64 {
        self.pipe.as_ref().map_or(0, |pipe| pipe.filled_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        session::io::{endpoint::EndpointIo, splice::Pipe},
        transport::Transport,
        websocket::{FrameScanner, Opened, Role},
    };

    #[tokio::test]
    async fn data_in_a_pipe_waits_and_is_not_accepted_yet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(connect, listener.accept());
        let (mut near, (far, _)) = (near.unwrap(), far.unwrap());
        near.write_all(&[7; 100]).await.unwrap();
        let taken = poll_fn(|context| Pipe::poll_take(context, &far)).await;
        let mut pipe = taken.unwrap();
        let filled = poll_fn(|context| pipe.poll_fill(context, &far, 60)).await;
        assert_eq!(filled.unwrap(), 60);
        let end = |stream| {
            let opened = Opened {
                stream,
                read_buf: Bytes::new(),
            };
            TunnelEnd::new(EndpointIo::new(opened), FrameScanner::new(Role::Client))
        };
        let (mut source, target) = (end(Transport::Tcp(near)), end(Transport::Tcp(far)));
        assert!(!source.waits_for(&target));
        assert_eq!(source.taken_of(100, &target), 100);

        source.pipe = Some(pipe);

        assert!(source.waits_for(&target));
        assert_eq!(source.taken_of(100, &target), 40);
        assert!(!target.waits_for(&source));
    }
}
