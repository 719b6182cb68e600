//! Timeouts of a session: its maximum age, its idle timeout, and pings that find out whether both
//! sides are still there.
//!
//! Sessions of a route that sets none of these have no `Keepalive`. Others have one timer,
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
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{self, Instant, Sleep};

use super::{
    io::write_buffer::WriteBuffer,
    pings::{ping_for_client, ping_for_upstream},
    stats::SessionStats,
    termination::EndReason,
};

/// Fraction of its maximum age by which a session may end earlier.
const MAX_EARLINESS: f64 = 0.1;

/// Settings of the tunnel and the closing handshake.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time without traffic after which a session is reported as idle; default 10 s.
    pub idle_after: Duration,
    /// Time without traffic after which a session is closed with 1001; default never.
    pub idle_timeout: Option<Duration>,
    /// Silence after which a side is sent a ping, and then the time that it has to reply; default
    /// no pings. Clients are also pinged while they are held.
    pub ping_interval: Option<Duration>,
    /// Maximum age of a session, counted from the client's `101`; default none. The session is
    /// closed with 1012 at that age or up to 10 % earlier, held or not.
    pub max_session_age: Option<Duration>,
    /// Time limit of a closing handshake; default 5 s.
    pub close_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_after: Duration::from_secs(10),
            idle_timeout: None,
            ping_interval: None,
            max_session_age: None,
            close_timeout: Duration::from_secs(5),
        }
    }
}

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

    /// Sends the ping that is due, if there is one and `write_buffer` is at a boundary; returns whether
    /// it did.
    fn send(
        &mut self,
        write_buffer: &mut WriteBuffer,
        ping_behind: impl FnOnce(&WriteBuffer) -> Vec<u8>,
    ) -> bool {
        let Some(ping) = self.ping.as_mut().filter(|ping| !ping.is_sent) else {
            return false;
        };
        if !write_buffer.is_at_boundary() {
            return false;
        }
        let frame = ping_behind(write_buffer);
        write_buffer.push_control(frame);
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

    /// Records that data has just arrived from the upstream.
    pub(super) fn hear_upstream(&mut self) {
        self.upstream.heard_at = Instant::now();
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

    /// Sends the client the ping that is due, if any; returns whether it did.
    pub(super) fn ping_client(&mut self, write_buffer: &mut WriteBuffer) -> bool {
        self.client.send(write_buffer, |_| ping_for_client())
    }

    /// Sends the upstream the ping that is due, if any; returns whether it did.
    pub(super) fn ping_upstream(
        &mut self,
        write_buffer: &mut WriteBuffer,
        session: &SessionStats,
    ) -> bool {
        self.upstream.send(write_buffer, |write_buffer| {
            ping_for_upstream(session.number_ping(write_buffer))
        })
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

    /// Resolves when the next check of the tunnel is due.
    pub(super) fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }

    /// Checks the tunnel, whose two sides are as given, and sets the time of the next check.
    ///
    /// # Errors
    ///
    /// The reason that the session ends.
    pub(super) fn look_tunnel(
        &mut self,
        session: &SessionStats,
        client: Side,
        upstream: Side,
    ) -> Result<(), EndReason> {
        let now = Instant::now();
        self.check_age(now)?;
        let idle_at = self.idle_at(now, session, client, upstream);
        if idle_at.is_some_and(|at| at <= now) {
            return Err(EndReason::Idle);
        }
        let mut next = [self.ends_at, idle_at, None, None];
        if let Some(interval) = self.ping_interval {
            let client = self.client.look(now, interval, client);
            let upstream = self.upstream.look(now, interval, upstream);
            next[2] = Some(client.map_err(|PeerTimeout| EndReason::ClientVanished)?);
            next[3] = Some(upstream.map_err(|PeerTimeout| EndReason::UpstreamVanished)?);
        }
        let next = next.into_iter().flatten().min();
        let at = next.expect("a watch is over something");
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(time::sleep_until(at))),
        }
        Ok(())
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

#[cfg(test)]
mod tests;
