//! Timeouts of a session: its maximum age, its idle timeout, and pings that find out whether both
//! sides are still there.
//!
//! Sessions of a route that sets none of these have no [`Keepalive`]. Others have one timer,
//! which messages never reset: they only record the time, which is examined when the timer fires.
//!
//! # Invariants
//!
//! * A session ends no later than its maximum age, and up to 10 % earlier, so that sessions that
//!   began together do not reconnect together.
//! * The proxy's pings and the pongs that answer them do not count as traffic, and these pongs
//!   are not forwarded. Other pings and pongs count like messages.
//! * A ping is sent only between two frames. A side has a whole ping interval from the moment it
//!   was sent.
//! * A peer never times out while backpressure keeps us from reading it, or while it drains our
//!   write buffer. One that does neither times out, whether its ping could be sent or not. Data
//!   in the kernel's send buffer is out of sight: a ping queued behind it still has to be
//!   answered in time.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{self, Instant, Sleep};

use super::{
    pings::{ping_for_client, ping_for_upstream},
    stats::SessionStats,
    termination::EndReason,
    tunnel::{Passed, Settings, TunnelEnd},
    write_buffer::WriteBuffer,
};

/// Fraction of its maximum age by which a session may end earlier.
const MAX_EARLINESS: f64 = 0.1;

/// The bounds of one session, and what is known of it.
#[derive(Debug)]
pub(super) struct Keepalive {
    idle_timeout: Option<Duration>,
    ping_interval: Option<Duration>,
    ends_at: Option<Instant>,
    client: Liveness,
    upstream: Liveness,
    /// Time at which a side was last seen to drain its write buffer.
    taken_at: Instant,
    /// Set in the tunnel only.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Liveness of one side.
#[derive(Clone, Copy, Debug)]
struct Liveness {
    /// Time at which data last arrived from it.
    heard_at: Instant,
    /// Ping that it has not answered.
    ping: Option<Ping>,
    /// [Bytes taken](Side::taken_bytes) at the last check.
    taken_bytes: u64,
}

/// Unanswered ping.
#[derive(Clone, Copy, Debug)]
struct Ping {
    /// Time from which the pong is awaited.
    since: Instant,
    is_sent: bool,
    /// [Bytes taken](Side::taken_bytes) at that time.
    taken_bytes: u64,
}

/// Observable state of one side at a check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// Whether it is read, so that a pong would be noticed.
    pub(super) is_read: bool,
    /// Whether data waits for it to accept.
    pub(super) has_backlog: bool,
    /// Counter that grows as it accepts data.
    pub(super) taken_bytes: u64,
}

/// Timeout of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PeerTimeout;

impl Liveness {
    const fn new(now: Instant) -> Self {
        Self {
            heard_at: now,
            ping: None,
            taken_bytes: 0,
        }
    }

    /// Returns whether it has accepted some of the waiting data since the last check.
    fn takes(&mut self, side: Side) -> bool {
        let before = std::mem::replace(&mut self.taken_bytes, side.taken_bytes);
        side.has_backlog && side.taken_bytes > before
    }

    /// Checks whether the side is alive, and returns the time of the next check; a
    /// [ping](Self::send) may then be due.
    fn look(
        &mut self,
        now: Instant,
        interval: Duration,
        side: Side,
    ) -> Result<Instant, PeerTimeout> {
        if self.ping.is_some_and(|ping| self.heard_at >= ping.since) {
            self.ping = None;
        }
        let since = self.ping.map_or(self.heard_at, |ping| ping.since);
        if now < since + interval {
            return Ok(since + interval);
        }
        if let Some(ping) = self.ping {
            // A ping waits behind the backlog: without progress there, it could not be answered
            // either.
            let is_there = if side.has_backlog {
                side.taken_bytes > ping.taken_bytes
            } else {
                !ping.is_sent
            };
            if side.is_read && !is_there {
                return Err(PeerTimeout);
            }
        }
        self.ping = Some(Ping {
            since: now,
            is_sent: self.ping.is_some_and(|ping| ping.is_sent),
            taken_bytes: side.taken_bytes,
        });
        Ok(now + interval)
    }

    /// Sends the ping that is due, if there is one and `outbox` is at a boundary; returns whether
    /// it did.
    fn send(
        &mut self,
        outbox: &mut WriteBuffer,
        ping_behind: impl FnOnce(&WriteBuffer) -> Vec<u8>,
    ) -> bool {
        let Some(ping) = self.ping.as_mut().filter(|ping| !ping.is_sent) else {
            return false;
        };
        if !outbox.is_at_boundary() {
            return false;
        }
        let frame = ping_behind(outbox);
        outbox.push_control(frame);
        ping.is_sent = true;
        ping.since = Instant::now();
        true
    }
}

impl Keepalive {
    /// Creates the timeouts of a new session; `None` if `settings` sets none.
    pub(super) fn new(settings: &Settings, started: Instant) -> Option<Box<Self>> {
        let &Settings {
            idle_timeout,
            ping_interval,
            max_session_age,
            ..
        } = settings;
        let is_bounded = idle_timeout.or(ping_interval).or(max_session_age).is_some();
        is_bounded.then(|| {
            let age = |max: Duration| max.mul_f64(1.0 - MAX_EARLINESS * rand::random::<f64>());
            Box::new(Self {
                idle_timeout,
                ping_interval,
                ends_at: max_session_age.map(|max| started + age(max)),
                client: Liveness::new(started),
                upstream: Liveness::new(started),
                taken_at: started,
                timer: None,
            })
        })
    }

    /// Returns whether a pong may answer a ping of these.
    pub(super) const fn has_pings(&self) -> bool {
        self.ping_interval.is_some()
    }

    /// Records that data has just arrived from the client.
    pub(super) fn hear_client(&mut self) {
        self.client.heard_at = Instant::now();
    }

    /// Checks a session that is held: its age, and its client if still connected. Returns the
    /// time of the next check.
    ///
    /// # Errors
    ///
    /// The reason that the session ends.
    pub(super) fn look_held(&mut self, client: Option<Side>) -> Result<Option<Instant>, EndReason> {
        let now = Instant::now();
        self.check_age(now)?;
        let mut next = self.ends_at;
        if let Some((side, interval)) = client.zip(self.ping_interval) {
            let looked = self.client.look(now, interval, side);
            let at = looked.map_err(|PeerTimeout| EndReason::ClientVanished)?;
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        Ok(next)
    }

    /// Sends the client the ping that is due, if any.
    pub(super) fn ping_client(&mut self, outbox: &mut WriteBuffer) {
        self.client.send(outbox, |_| ping_for_client());
    }

    fn check_age(&self, now: Instant) -> Result<(), EndReason> {
        match self.ends_at {
            Some(ends_at) if ends_at <= now => Err(EndReason::TooOld),
            _ => Ok(()),
        }
    }

    /// Also starts monitoring the upstream.
    pub(super) fn enter_tunnel(&mut self) {
        self.upstream = Liveness::new(Instant::now());
    }

    /// Records the data that has just arrived from either side.
    pub(super) fn hear(&mut self, from_client: &Passed, from_upstream: &Passed) {
        for (pulse, passed) in [
            (&mut self.client, from_client),
            (&mut self.upstream, from_upstream),
        ] {
            if passed.bytes > 0 {
                pulse.heard_at = Instant::now();
            }
        }
    }

    /// Checks the tunnel when that is due, and sends pings; resolves when the session ends.
    pub(super) fn poll<C, U>(
        &mut self,
        context: &mut Context<'_>,
        session: &SessionStats,
        client: &mut TunnelEnd<C>,
        upstream: &mut TunnelEnd<U>,
    ) -> Poll<EndReason> {
        loop {
            let to_client = &mut client.peer.outbox;
            let to_client = self.client.send(to_client, |_| ping_for_client());
            let to_upstream = &mut upstream.peer.outbox;
            let to_upstream = self.upstream.send(to_upstream, |outbox| {
                ping_for_upstream(session.number_ping(outbox))
            });
            if to_client || to_upstream {
                // The pushed ping is written when the tunnel is polled next.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(context));
            }
            match self.look(session, client, upstream) {
                Err(cause) => return Poll::Ready(cause),
                Ok(at) => match &mut self.timer {
                    Some(timer) => timer.as_mut().reset(at),
                    None => self.timer = Some(Box::pin(time::sleep_until(at))),
                },
            }
        }
    }

    /// Checks the tunnel; returns the time of the next check.
    fn look<C, U>(
        &mut self,
        session: &SessionStats,
        client: &TunnelEnd<C>,
        upstream: &TunnelEnd<U>,
    ) -> Result<Instant, EndReason> {
        let now = Instant::now();
        self.check_age(now)?;
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
        let idle_at = self.idle_at(now, session, client_side, upstream_side);
        if idle_at.is_some_and(|at| at <= now) {
            return Err(EndReason::Idle);
        }
        let mut next = [self.ends_at, idle_at, None, None];
        if let Some(interval) = self.ping_interval {
            let client = self.client.look(now, interval, client_side);
            let upstream = self.upstream.look(now, interval, upstream_side);
            next[2] = Some(client.map_err(|PeerTimeout| EndReason::ClientVanished)?);
            next[3] = Some(upstream.map_err(|PeerTimeout| EndReason::UpstreamVanished)?);
        }
        let next = next.into_iter().flatten().min();
        Ok(next.expect("a watch is over something"))
    }

    /// Time at which the idle timeout expires unless there is traffic before; a side that still
    /// drains its write buffer counts as traffic.
    fn idle_at(
        &mut self,
        now: Instant,
        session: &SessionStats,
        client: Side,
        upstream: Side,
    ) -> Option<Instant> {
        let timeout = self.idle_timeout?;
        // `|`, not `||`: both sides have to record their counters.
        if self.client.takes(client) | self.upstream.takes(upstream) {
            self.taken_at = now;
        }
        Some(session.last_traffic().max(self.taken_at) + timeout)
    }
}

impl<S> TunnelEnd<S> {
    /// Returns whether data that it has sent waits for `target` to accept it.
    fn waits_for<T>(&self, target: &TunnelEnd<T>) -> bool {
        !target.peer.outbox.is_empty() || self.piped_bytes() > 0
    }

    /// Bytes that `target` has accepted, if `read_bytes` have been read from this end.
    fn taken_of<T>(&self, read_bytes: u64, target: &TunnelEnd<T>) -> u64 {
        read_bytes.saturating_sub(self.piped_bytes()) + target.peer.outbox.bytes_written()
    }

    fn piped_bytes(&self) -> u64 {
        self.pipe.as_ref().map_or(0, |pipe| pipe.filled_bytes())
    }
}

#[cfg(test)]
mod tests;
