//! The drain: the end of a process, whose open sessions get a grace period to end in order.
//!
//! ```text
//!  0                        spread                 ¾ grace          19/20     grace
//!  ├── tunnels get their 1001 ──┤                      │                │        │
//!  ├── held sessions may still become ready ───────────┤                │        │
//!  └── closing handshakes ──────────────────────────────────────────────┤   cut off
//! ```
//!
//! A drain is announced first. During its delay nothing changes except that readiness checks
//! fail, so that load balancers send new clients elsewhere by the time it begins.
//!
//! # Invariants
//!
//! * A drain begins once for the whole process, however late a thread notices.
//! * Until then, no session has a timer for it.

use std::{
    future,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll, ready},
};

use futures_util::future::Either;
use tokio::{
    sync::mpsc,
    time::{self, Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::config::DrainSettings;

/// Drain of a process: whether it has begun, and its deadlines.
///
/// Clones refer to the same drain.
#[derive(Clone, Debug)]
pub struct Drain(Arc<DrainState>);

#[derive(Debug)]
struct DrainState {
    settings: Mutex<DrainSettings>,
    schedule: OnceLock<DrainSchedule>,
    is_announced: CancellationToken,
    has_begun: CancellationToken,
    is_cut_off: CancellationToken,
}

/// Deadlines of a drain that has begun.
#[derive(Clone, Copy, Debug)]
struct DrainSchedule {
    began: Instant,
    settings: DrainSettings,
}

impl Drain {
    /// Creates a drain that has not begun.
    #[must_use]
    pub fn new(settings: DrainSettings) -> Self {
        Self(Arc::new(DrainState {
            settings: Mutex::new(settings),
            schedule: OnceLock::new(),
            is_announced: CancellationToken::new(),
            has_begun: CancellationToken::new(),
            is_cut_off: CancellationToken::new(),
        }))
    }

    /// Current settings; a drain that has begun keeps those that it began with.
    #[must_use]
    pub fn settings(&self) -> DrainSettings {
        let settings = self.0.settings.lock();
        *settings.unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the settings; a drain that has begun is not affected.
    pub fn set(&self, settings: DrainSettings) {
        let current = self.0.settings.lock();
        *current.unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Announces the drain without beginning it.
    pub fn announce(&self) {
        self.0.is_announced.cancel();
    }

    /// Returns whether the drain has been announced or has begun.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.0.is_announced.is_cancelled()
    }

    /// Resolves when the drain is announced or begins; immediately if it has been.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub fn announced(&self) -> WaitForCancellationFuture<'_> {
        self.0.is_announced.cancelled()
    }

    /// Begins the drain after its delay, unless it has begun.
    ///
    /// # Cancel safety
    ///
    /// A later call waits for the whole delay again.
    pub async fn begin_late(&self) {
        self.announce();
        let DrainSettings { delay, .. } = self.settings();
        if !delay.is_zero() {
            self.run_until_begun(time::sleep(delay)).await;
        }
        self.begin();
    }

    /// Handles stop signals until nothing is to be waited for any longer: the first announces the
    /// drain, one during the delay begins it, and one after that returns.
    ///
    /// If the drain was started by other means, the first signal only confirms it: nothing is
    /// forcibly closed before the second.
    pub async fn told(&self, stops: mpsc::UnboundedReceiver<()>) {
        // The first signal never ends the process, even if a drain was begun by other means.
        let mut stops = stops;
        let mut is_first = true;
        while stops.recv().await.is_some() {
            if !self.is_announced() {
                self.announce();
            } else if !self.has_begun() {
                self.begin();
            } else if !is_first {
                return;
            }
            is_first = false;
        }
        future::pending::<()>().await;
    }

    /// Begins the drain, unless it has begun.
    pub fn begin(&self) {
        self.announce();
        // The schedule is set before the token: a session that it wakes finds the deadlines.
        self.0.schedule.get_or_init(|| DrainSchedule {
            began: Instant::now(),
            settings: self.settings(),
        });
        self.0.has_begun.cancel();
    }

    /// Ends the drain at once, regardless of the rest of the grace period.
    pub fn cut_off(&self) {
        self.begin();
        self.0.is_cut_off.cancel();
    }

    /// Resolves when the drain is over: whatever is open then is dropped.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn over(&self) {
        let in_time = time::sleep_until(self.over_at());
        self.0.is_cut_off.run_until_cancelled(in_time).await;
    }

    /// Returns a guard that begins the drain when it is dropped.
    #[must_use]
    pub fn begin_on_drop(&self) -> BeginOnDrop {
        BeginOnDrop(self.clone())
    }

    /// Returns whether the drain has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.schedule.get().is_some()
    }

    /// Resolves when the drain begins; immediately if it has.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.0.has_begun.cancelled()
    }

    /// Runs `future` to its output; `None` if the drain begins before.
    pub async fn run_until_begun<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.has_begun.run_until_cancelled(future).await
    }

    /// Wait of one session for its turn, to be polled with [`poll_turn`](Self::poll_turn).
    #[must_use]
    pub fn turn(&self) -> Turn<'_> {
        Either::Left(self.begun())
    }

    /// Returns `Ready` once the drain has begun and the caller has its turn: at a random instant
    /// of the remaining spread.
    ///
    /// Not an `async fn`, whose future would store its argument twice for as long as nothing
    /// happens.
    pub fn poll_turn(&self, turn: Pin<&mut Turn<'_>>, context: &mut Context<'_>) -> Poll<()> {
        let mut turn = turn;
        if matches!(*turn, Either::Left(_)) {
            ready!(turn.as_mut().poll(context));
            let at = self.draw_turn();
            // Without a spread, the millisecond that a timer takes at least would be a race with
            // the upstream, which is often stopped at the same time.
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            turn.set(Either::Right(Box::pin(time::sleep_until(at))));
        }
        turn.poll(context)
    }

    /// Random instant of the remaining spread; the current time once that is over.
    #[must_use]
    pub fn draw_turn(&self) -> Instant {
        let DrainSchedule { began, settings } = self.schedule();
        let spread = settings.spread.min(settings.grace * 3 / 4);
        let now = Instant::now();
        let left = (began + spread).saturating_duration_since(now);
        now + left.mul_f64(rand::random())
    }

    /// Time until which a session that holds messages may become ready.
    #[must_use]
    pub fn ready_by(&self) -> Instant {
        let DrainSchedule { began, settings } = self.schedule();
        began + settings.grace * 3 / 4
    }

    /// Time at which closing handshakes are broken off, early enough to send both sides the
    /// reason.
    #[must_use]
    pub fn closed_by(&self) -> Instant {
        let DrainSchedule { began, settings } = self.schedule();
        began + settings.grace * 19 / 20
    }

    /// Time at which everything is over.
    #[must_use]
    pub fn over_at(&self) -> Instant {
        let DrainSchedule { began, settings } = self.schedule();
        began + settings.grace
    }

    /// Schedule of the drain; of one that has not begun, as if it began now.
    fn schedule(&self) -> DrainSchedule {
        let schedule = self.0.schedule.get().copied();
        schedule.unwrap_or_else(|| DrainSchedule {
            began: Instant::now(),
            settings: self.settings(),
        })
    }
}

/// Wait for one's turn in a drain: for its beginning, then for a timer.
pub type Turn<'d> = Either<WaitForCancellationFuture<'d>, Pin<Box<Sleep>>>;

/// Guard that begins a drain when it is dropped.
#[derive(Debug)]
pub struct BeginOnDrop(Drain);

impl Drop for BeginOnDrop {
    fn drop(&mut self) {
        self.0.begin();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn drain(grace: u64, spread: u64) -> Drain {
        Drain::new(DrainSettings {
            delay: Duration::ZERO,
            grace: Duration::from_secs(grace),
            spread: Duration::from_secs(spread),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_spread_evenly_over_the_remaining_spread() {
        let drain = drain(8, 4);
        drain.begin();
        let began = Instant::now();
        let turns = || (0..1000).map(|_| drain.draw_turn() - began);

        let first_half = turns()
            .filter(|turn| *turn < Duration::from_secs(2))
            .count();
        assert!((400..600).contains(&first_half), "{first_half}");
        assert!(turns().all(|turn| turn <= Duration::from_secs(4)));

        time::advance(Duration::from_secs(3)).await;
        let left = Duration::from_secs(3)..=Duration::from_secs(4);
        assert!(turns().all(|turn| left.contains(&turn)));
        time::advance(Duration::from_secs(3)).await;
        assert_eq!(drain.draw_turn(), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn the_spread_leaves_a_quarter_of_the_grace_for_closing() {
        let drain = drain(8, 60);
        drain.begin();

        for _ in 0..1000 {
            assert!(drain.draw_turn() <= drain.ready_by());
        }
        assert_eq!(drain.ready_by(), Instant::now() + Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_period_begins_after_the_delay() {
        let delay = Duration::from_secs(5);
        let drain = Drain::new(DrainSettings {
            delay,
            ..DrainSettings::default()
        });
        let announced = Instant::now();

        drain.begin_late().await;

        assert_eq!(announced.elapsed(), delay);
        assert_eq!(drain.over_at(), announced + delay + drain.settings().grace);
    }

    #[tokio::test(start_paused = true)]
    async fn beginning_a_drain_at_once_ends_its_delay() {
        let drain = Drain::new(DrainSettings {
            delay: Duration::from_secs(5),
            ..DrainSettings::default()
        });
        let announced = Instant::now();

        tokio::join!(drain.begin_late(), async { drain.begin() });

        assert_eq!(announced.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_has_begun_stays_as_it_is() {
        let drain = drain(8, 0);
        drain.begin();
        let over_at = drain.over_at();

        drain.set(DrainSettings::default());
        time::advance(Duration::from_secs(1)).await;
        drain.begin();

        assert_eq!(drain.over_at(), over_at);
    }
}
