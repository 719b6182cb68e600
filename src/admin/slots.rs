//! Slots of the admin listener: a bound on its connections, and the choice of the one that has to
//! go for another.
//!
//! The purpose of a connection is unknown before its first request, so it begins in a slot for new
//! connections ([`AdminSlot::Asking`]) and then moves to one for what it requests.
//!
//! # Invariants
//!
//! * Requests of one kind never take the slot of another kind: health checks have slots of their
//!   own, and so do streams of events.
//! * A connection with an unread response goes first, the longest unread first; then an idle one;
//!   then one that has had a response already.
//! * A connection has [`PATIENCE`] to ask, however many others come.
//! * While clients have taken all descriptors but those that are reserved for operators
//!   ([`descriptors`](crate::transport::descriptors)), connections leave half of those to the next
//!   ones, and where none is left at all another one goes: all slots together are more than there
//!   are. Health checks go last, and whoever waits for a first response, or has some of its
//!   [`PATIENCE`] left to ask, does not go.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use super::connection::AdminActivity;

/// Time for which a new connection keeps its slot without a request.
const PATIENCE: Duration = Duration::from_millis(50);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminSlot {
    /// No request yet.
    Asking,
    /// The latest request was a health check.
    Health,
    /// The response is a stream of events.
    Stream,
    /// The latest request was for something else.
    Other,
}

impl AdminSlot {
    /// Returns the number of slots.
    const fn count(self) -> usize {
        match self {
            Self::Asking | Self::Other => 64,
            Self::Health => 32,
            // `events` rejects listeners beyond these with a `503`.
            Self::Stream => 16,
        }
    }
}

/// Order in which connections go for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Unread,
    Idle,
    AskingAgain,
    Asking,
}

/// A connection with a slot.
#[derive(Debug)]
pub struct Visitor {
    pub(super) activity: Rc<AdminActivity>,
    place: Cell<AdminSlot>,
    /// Time of the accept, or of the latest request.
    asked: Cell<Instant>,
    /// True from a request to its response.
    is_asking: Cell<bool>,
    /// True after the first response.
    was_answered: Cell<bool>,
}

impl Visitor {
    fn new() -> Self {
        Self {
            activity: Rc::default(),
            place: Cell::new(AdminSlot::Asking),
            asked: Cell::new(Instant::now()),
            is_asking: Cell::new(false),
            was_answered: Cell::new(false),
        }
    }

    /// Records that the response is ready to be written.
    pub(super) fn answered(&self) {
        self.is_asking.set(false);
        self.was_answered.set(true);
    }

    /// Returns whether it may go for a connection of another class: it neither waits for its first
    /// response nor has time left to ask.
    fn may_go(&self) -> bool {
        if self.place.get() == AdminSlot::Asking {
            self.asked.get().elapsed() >= PATIENCE
        } else {
            self.worth().0 != Worth::Asking
        }
    }

    fn worth(&self) -> (Worth, Instant) {
        if self.place.get() == AdminSlot::Asking {
            // Bytes that are not a whole request earn nothing: a flood could send them.
            (Worth::Asking, self.asked.get())
        } else if self.activity.is_unread() {
            (Worth::Unread, self.activity.latest())
        } else if !self.is_asking.get() {
            (Worth::Idle, self.activity.latest())
        } else if self.was_answered.get() {
            (Worth::AskingAgain, self.asked.get())
        } else {
            (Worth::Asking, self.asked.get())
        }
    }
}

/// Slots of all connections.
#[derive(Debug, Default)]
pub(super) struct AdminSlots {
    visitors: RefCell<Vec<Weak<Visitor>>>,
    /// Wakes `welcome` when a connection has moved on to another class.
    asked: Notify,
}

impl AdminSlots {
    /// Acquires a slot for a new connection, within [`PATIENCE`].
    pub(super) async fn welcome(&self) -> Rc<Visitor> {
        while let Some(oldest) = self.next_to_go(AdminSlot::Asking) {
            let patience = oldest.asked.get() + PATIENCE;
            tokio::select! {
                () = time::sleep_until(patience) => close(&oldest),
                () = self.asked.notified() => {}
            }
        }
        let visitor = Rc::new(Visitor::new());
        let mut visitors = self.visitors.borrow_mut();
        // The list is short, so ended connections are removed only here.
        visitors.retain(|visitor| visitor.strong_count() > 0);
        visitors.push(Rc::downgrade(&visitor));
        visitor
    }

    /// Has connections go for the next ones, where there are more than `most`.
    pub(super) fn leave(&self, most: usize) {
        let surplus = self.open().len().saturating_sub(most);
        let least = self.in_order_to_go();
        least.iter().take(surplus).for_each(|it| close(it));
    }

    /// Has a connection go, unless one is going; returns whether one is.
    pub(super) fn free_one(&self) -> bool {
        let is_going = self.all().iter().any(|it| it.activity.is_closed());
        let least = self.in_order_to_go().into_iter().next();
        if !is_going && let Some(least) = &least {
            close(least);
        }
        is_going || least.is_some()
    }

    /// Returns the connections that may go, the first to go first.
    fn in_order_to_go(&self) -> Vec<Rc<Visitor>> {
        let mut there = self.open();
        there.retain(|it| it.may_go());
        there.sort_by_key(|it| (it.place.get() == AdminSlot::Health, it.worth()));
        there
    }

    /// Returns the connections that are not about to close.
    fn open(&self) -> Vec<Rc<Visitor>> {
        let mut all = self.all();
        all.retain(|it| !it.activity.is_closed());
        all
    }

    fn all(&self) -> Vec<Rc<Visitor>> {
        let visitors = self.visitors.borrow();
        visitors.iter().filter_map(Weak::upgrade).collect()
    }

    /// Gives `visitor`, which has asked, that place; if there is none, another one goes.
    pub(super) fn seat(&self, visitor: &Visitor, place: AdminSlot) {
        visitor.asked.set(Instant::now());
        visitor.is_asking.set(place != AdminSlot::Stream);
        if visitor.place.get() == place {
            return;
        }
        if let Some(other) = self.next_to_go(place) {
            close(&other);
        }
        visitor.place.set(place);
        self.asked.notify_one();
    }

    /// Returns the connection that has to go for another one of that class; `None` while a slot is
    /// free.
    fn next_to_go(&self, place: AdminSlot) -> Option<Rc<Visitor>> {
        let mut there = self.open();
        there.retain(|it| it.place.get() == place);
        let is_full = there.len() >= place.count();
        let least = there.into_iter().min_by_key(|it| it.worth());
        least.filter(|_| is_full)
    }
}

fn close(visitor: &Visitor) {
    tracing::debug!("too many admin connections: one is closed for another");
    visitor.activity.close();
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::admin::connection::AdminConnection;

    async fn seated(places: &AdminSlots, place: AdminSlot) -> Rc<Visitor> {
        let visitor = places.welcome().await;
        places.seat(&visitor, place);
        visitor
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_the_place_of_who_asks_for_health() {
        let places = AdminSlots::default();
        let health = seated(&places, AdminSlot::Health).await;
        health.answered();

        let mut crowd = Vec::new();
        for _ in 0..400 {
            crowd.push(seated(&places, AdminSlot::Other).await);
        }
        for _ in 0..400 {
            crowd.push(places.welcome().await);
        }

        assert!(!health.activity.is_closed());
        let left = crowd.iter().filter(|it| !it.activity.is_closed());
        assert_eq!(
            left.count(),
            AdminSlot::Other.count() + AdminSlot::Asking.count()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_its_first_answer_goes_last() {
        let places = AdminSlots::default();
        let first = seated(&places, AdminSlot::Health).await;
        let mut crowd = Vec::new();
        for _ in 1..AdminSlot::Health.count() {
            time::advance(PATIENCE).await;
            let again = seated(&places, AdminSlot::Health).await;
            again.answered();
            places.seat(&again, AdminSlot::Health);
            crowd.push(again);
        }
        let idle = crowd.last().unwrap();
        idle.answered();

        let _further = seated(&places, AdminSlot::Health).await;
        assert!(idle.activity.is_closed());
        let _further = seated(&places, AdminSlot::Health).await;
        assert!(crowd[0].activity.is_closed());
        assert!(!first.activity.is_closed());
    }

    /// Has a connection write an answer of which its peer reads nothing.
    async fn leave_unread(visitor: &Visitor) {
        let (ours, _peer) = duplex(1);
        visitor.answered();
        let mut connection = AdminConnection::new(ours, Rc::clone(&visitor.activity));
        let written = time::timeout(PATIENCE, connection.write_all(b"ok\n"));
        assert!(written.await.is_err());
        assert!(visitor.activity.is_unread());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_read_its_answer_goes_first() {
        let places = AdminSlots::default();
        let mut crowd = Vec::new();
        for _ in 0..AdminSlot::Other.count() {
            let visitor = seated(&places, AdminSlot::Other).await;
            visitor.answered();
            crowd.push(visitor);
        }
        let unread = &crowd[7];
        leave_unread(unread).await;

        let _further = seated(&places, AdminSlot::Other).await;

        let closed = crowd.iter().filter(|it| it.activity.is_closed());
        assert_eq!(closed.count(), 1);
        assert!(unread.activity.is_closed());
    }

    /// Connections that stay while only the last descriptors are left.
    const FEW: usize = 4;

    fn count_open(crowd: &[Rc<Visitor>]) -> usize {
        let left = crowd.iter().filter(|it| !it.activity.is_closed());
        left.count()
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_last_descriptors_only_those_stay_that_are_asking() {
        let places = AdminSlots::default();
        let health = seated(&places, AdminSlot::Health).await;
        let stream = seated(&places, AdminSlot::Stream).await;
        let mut crowd = Vec::new();
        for _ in 0..AdminSlot::Other.count() {
            let unread = seated(&places, AdminSlot::Other).await;
            leave_unread(&unread).await;
            crowd.push(unread);
        }

        places.leave(FEW);

        assert_eq!(count_open(&crowd), FEW - 2);
        for _ in 0..FEW {
            let further = seated(&places, AdminSlot::Health).await;
            places.leave(FEW);
            crowd.push(further);
        }
        assert_eq!(count_open(&crowd), FEW, "all of which ask for health");
        assert!(!health.activity.is_closed());
        assert!(stream.activity.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_last_descriptors_a_moment_to_ask_is_left() {
        let places = AdminSlots::default();
        let mut health = Vec::new();
        for _ in 0..FEW {
            let idle = seated(&places, AdminSlot::Health).await;
            idle.answered();
            health.push(idle);
        }
        let crowd = [places.welcome().await, places.welcome().await];

        places.leave(FEW);
        assert_eq!((count_open(&crowd), count_open(&health)), (2, FEW - 2));
        time::advance(PATIENCE).await;
        places.leave(FEW - 2);

        assert_eq!((count_open(&crowd), count_open(&health)), (0, FEW - 2));
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_one_goes_at_a_time() {
        let places = AdminSlots::default();
        let mut crowd = vec![places.welcome().await, places.welcome().await];
        assert!(!places.free_one(), "both have a moment to ask");
        time::advance(PATIENCE).await;

        assert!(places.free_one());
        assert!(places.free_one());
        assert_eq!(count_open(&crowd), 1, "the first is still on its way");
        crowd.retain(|it| !it.activity.is_closed());
        assert!(places.free_one());
        assert_eq!(count_open(&crowd), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_a_moment_to_ask_however_many_come() {
        let places = AdminSlots::default();
        let first = places.welcome().await;
        let mut crowd = Vec::new();
        for _ in 1..AdminSlot::Asking.count() {
            crowd.push(places.welcome().await);
        }
        let begun = Instant::now();

        let further = async {
            crowd.push(places.welcome().await);
            assert!(begun.elapsed() < PATIENCE, "room as soon as one has asked");
            crowd.push(places.welcome().await);
            assert_eq!(begun.elapsed(), PATIENCE);
        };
        let asks = async {
            tokio::task::yield_now().await;
            places.seat(&first, AdminSlot::Health);
        };
        tokio::join!(further, asks);

        assert!(crowd[0].activity.is_closed());
        assert!(!first.activity.is_closed());
    }
}
