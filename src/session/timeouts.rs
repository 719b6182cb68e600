//! What a session is watched for while it lasts: its age, that something goes through it, and
//! that both sides are still there.
//!
//! Sessions of a route that bounds none of these have no [`Keepalive`]. One that has sets one
//! timer, and nothing is done to that for a message: what has come is only noted, and looked
//! at when the timer fires.
//!
//! # Invariants
//!
//! * A session ends no later than its greatest age, and up to a tenth earlier: sessions that
//!   began together do not come back together.
//! * The proxy's pings, and the pongs that answer them, are no traffic, and no such pong gets to
//!   the other side. Other pings and pongs are traffic like messages.
//! * A ping goes only between two frames. A side has a whole ping interval from the moment it
//!   was sent.
//! * No side is given up that could not be heard, because the other one takes nothing and it
//!   is not read, or that still takes what waits for it here. One that does not even do that is
//!   given up whether its ping could be sent or not. What the system has taken for a side, and
//!   holds, cannot be seen: a ping that waits behind that has to be answered all the same.

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

/// By how much of its greatest age a session may end earlier.
const MAX_EARLINESS: f64 = 0.1;

/// The bounds of one session, and what is known of it.
#[derive(Debug)]
pub(super) struct Keepalive {
    idle_timeout: Option<Duration>,
    ping_interval: Option<Duration>,
    ends_at: Option<Instant>,
    client: Liveness,
    upstream: Liveness,
    /// When a side was last seen to have taken something that waited for it.
    taken_at: Instant,
    /// Only in the tunnel.
    timer: Option<Pin<Box<Sleep>>>,
}

/// What is known of whether one side is there.
#[derive(Clone, Copy, Debug)]
struct Liveness {
    /// When something came from it, at the latest.
    heard_at: Instant,
    /// The ping that it has not answered since, if there is one.
    ping: Option<Ping>,
    /// What it had [taken](Side::taken_bytes) when that was last looked at.
    taken_bytes: u64,
}

/// A ping that is not answered.
#[derive(Clone, Copy, Debug)]
struct Ping {
    /// From when on its answer is waited for.
    since: Instant,
    is_sent: bool,
    /// What the side had [taken](Side::taken_bytes) by then.
    taken_bytes: u64,
}

/// What can be seen of one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// Whether it is read, so that its answer would be noticed.
    pub(super) is_read: bool,
    /// Whether something waits until it takes that.
    pub(super) has_backlog: bool,
    /// A count that grows when it does.
    pub(super) taken_bytes: u64,
}

/// A side is not there.
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

    /// Whether it has taken something since the last look of what waits for it.
    fn takes(&mut self, side: Side) -> bool {
        let before = std::mem::replace(&mut self.taken_bytes, side.taken_bytes);
        side.has_backlog && side.taken_bytes > before
    }

    /// Finds out whether the side is there, and when to look again; it may want to
    /// [send a ping](Self::send) then.
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

    /// Sends the ping that is due, if there is one and `outbox` is between two frames; whether
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
    /// The watch over a session that begins; `None` where `settings` bound nothing.
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

    /// Whether pongs may be answers to its pings.
    pub(super) const fn has_pings(&self) -> bool {
        self.ping_interval.is_some()
    }

    /// Takes note that something came from the client just now.
    pub(super) fn hear_client(&mut self) {
        self.client.heard_at = Instant::now();
    }

    /// Looks after a session that is held: only its age, and its client, if that is there;
    /// returns when to look again.
    ///
    /// # Errors
    ///
    /// Why the session ends.
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

    /// Sends the client the ping that is due, if one is.
    pub(super) fn ping_client(&mut self, outbox: &mut WriteBuffer) {
        self.client.send(outbox, |_| ping_for_client());
    }

    fn check_age(&self, now: Instant) -> Result<(), EndReason> {
        match self.ends_at {
            Some(ends_at) if ends_at <= now => Err(EndReason::TooOld),
            _ => Ok(()),
        }
    }

    /// The tunnel begins: from now on the upstream is looked after, too.
    pub(super) fn enter_tunnel(&mut self) {
        self.upstream = Liveness::new(Instant::now());
    }

    /// Takes note of what has just come from either side.
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

    /// Looks after the tunnel when that is due, and sends pings; resolves when the session
    /// ends.
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
                // What is in an outbox is written when the tunnel has its next turn.
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

    /// Looks after the tunnel, and returns when to do so again.
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

    /// When the tunnel is idle, unless something goes through it until then: a side that still
    /// takes what waits for it counts as that.
    fn idle_at(
        &mut self,
        now: Instant,
        session: &SessionStats,
        client: Side,
        upstream: Side,
    ) -> Option<Instant> {
        let timeout = self.idle_timeout?;
        if self.client.takes(client) | self.upstream.takes(upstream) {
            self.taken_at = now;
        }
        Some(session.last_traffic().max(self.taken_at) + timeout)
    }
}

impl<S> TunnelEnd<S> {
    /// Whether something that it has sent waits until `target` takes it.
    fn waits_for<T>(&self, target: &TunnelEnd<T>) -> bool {
        !target.peer.outbox.is_empty() || self.piped_bytes() > 0
    }

    /// How much `target` has taken in all, if `read_bytes` have been read from this one.
    fn taken_of<T>(&self, read_bytes: u64, target: &TunnelEnd<T>) -> u64 {
        read_bytes.saturating_sub(self.piped_bytes()) + target.peer.outbox.bytes_written()
    }

    fn piped_bytes(&self) -> u64 {
        self.pipe.as_ref().map_or(0, |pipe| pipe.filled_bytes())
    }
}

#[cfg(test)]
mod tests;
