//! Backoff between attempts: exponential, bounded, with jitter. Neither clock nor randomness is
//! used here.

use std::time::Duration;

use crate::config::Retry;

/// Backoff of one series of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Next wait, before jitter.
    wait: Duration,
    max: Duration,
    jitter: f64,
}

impl Backoff {
    /// Creates the backoff that `retry` describes, at its first wait.
    #[must_use]
    pub fn new(retry: &Retry) -> Self {
        Self {
            wait: retry.initial.min(retry.max),
            max: retry.max,
            jitter: retry.jitter.clamp(0.0, 1.0),
        }
    }

    /// Continues the backoff behind `attempts` attempts.
    #[must_use]
    pub fn after(mut self, attempts: u32) -> Self {
        // A shift by more than 31 would overflow; `max` is reached long before.
        let doublings = attempts.saturating_sub(1).min(31);
        self.wait = self.wait.saturating_mul(1 << doublings).min(self.max);
        self
    }

    /// Returns the next wait; `random`, from 0 to 1, is the share of the jitter to subtract.
    ///
    /// Jitter only shortens a wait, so that `max` holds; clients that were refused at the same
    /// moment still spread over that part of it.
    pub fn next(&mut self, random: f64) -> Duration {
        let wait = self.wait;
        self.wait = wait.saturating_mul(2).min(self.max);
        wait.mul_f64(1.0 - self.jitter * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(initial: u64, max: u64, jitter: f64) -> Retry {
        Retry {
            initial: Duration::from_millis(initial),
            max: Duration::from_millis(max),
            jitter,
        }
    }

    fn waits(retry: &Retry, random: f64) -> Vec<u128> {
        let mut backoff = Backoff::new(retry);
        (0..6).map(|_| backoff.next(random).as_millis()).collect()
    }

    #[test]
    fn waits_go_on_where_earlier_attempts_left_off() {
        let retry = retry(25, 1000, 0.0);
        for (attempts, wait) in [(1, 25), (3, 100), (7, 1000), (u32::MAX, 1000)] {
            let mut backoff = Backoff::new(&retry).after(attempts);
            assert_eq!(backoff.next(0.0).as_millis(), wait, "{attempts}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(
            waits(&retry(25, 300, 0.5), 0.0),
            [25, 50, 100, 200, 300, 300]
        );
    }

    #[test]
    fn jitter_takes_at_most_its_part_off_a_wait() {
        assert_eq!(
            waits(&retry(100, 400, 0.5), 1.0),
            [50, 100, 200, 200, 200, 200]
        );
        assert_eq!(
            waits(&retry(100, 400, 0.0), 1.0),
            [100, 200, 400, 400, 400, 400]
        );
    }

    #[test]
    fn an_initial_wait_above_the_longest_is_cut() {
        assert_eq!(waits(&retry(500, 200, 0.0), 0.0), [200; 6]);
    }

    #[test]
    fn the_longest_representable_wait_does_not_overflow() {
        let mut backoff = Backoff::new(&Retry {
            initial: Duration::MAX,
            max: Duration::MAX,
            jitter: 1.0,
        });

        backoff.next(0.5);

        assert!(backoff.next(0.5) > Duration::from_secs(1));
    }
}
