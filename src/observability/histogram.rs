//! Histograms of durations, with the same buckets on all workers, so that they can be added.

use std::{ops::AddAssign, time::Duration};

/// Most bounds that a histogram may have.
const MAX_BOUNDS: usize = 16;

/// Bounds for waiting times, from 5 ms to two minutes.
pub const WAITS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
];

/// Bounds for work done by the proxy or a fast upstream, from 100 µs to ten seconds.
pub const WORK: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Bounds for session lengths, from a second to a day.
pub const LENGTHS: &[f64] = &[
    1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 21_600.0,
    86_400.0,
];

/// Counts of durations by size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram {
    /// Inclusive upper bounds, ascending, in seconds.
    bounds: &'static [f64],
    /// One count per bound, and one for durations beyond them all.
    counts: [u64; MAX_BOUNDS + 1],
    /// Not a float, whose sum would depend on the order of additions and so could decrease.
    sum: Duration,
}

impl Histogram {
    /// Creates an empty histogram.
    ///
    /// # Panics
    ///
    /// With more than 16 bounds.
    #[must_use]
    pub const fn new(bounds: &'static [f64]) -> Self {
        assert!(bounds.len() <= MAX_BOUNDS, "too many bounds");
        Self {
            bounds,
            counts: [0; MAX_BOUNDS + 1],
            sum: Duration::ZERO,
        }
    }

    /// Counts a duration.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        // A duration equal to a bound is in that bucket, as Prometheus' `le` demands.
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(duration);
    }

    /// Iterates over the buckets: upper bound in seconds, infinite for the last one, and number of
    /// durations in that bucket alone.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts)
    }

    /// Number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of the durations in seconds.
    #[must_use]
    pub const fn sum_seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }
}

impl AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, more: &Self) {
        debug_assert_eq!(self.bounds, more.bounds, "the same buckets");
        for (count, more) in self.counts.iter_mut().zip(more.counts) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(more.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        for millis in [100, 500, 501, 1000, 2000] {
            histogram.observe(Duration::from_millis(millis));
        }

        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets, [(0.5, 2), (1.0, 2), (f64::INFINITY, 1)]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum_seconds() - 4.101).abs() < 1e-9);
    }

    #[test]
    fn the_sum_of_two_has_the_durations_of_both() {
        let mut one = Histogram::new(&[1.0]);
        let mut other = one;
        one.observe(Duration::from_secs(1));
        other.observe(Duration::from_secs(2));

        one += &other;

        assert_eq!(one.buckets().collect::<Vec<_>>()[1].1, 1);
        assert_eq!(one.count(), 2);
    }

    #[test]
    fn all_bounds_ascend() {
        for bounds in [WAITS, WORK, LENGTHS] {
            assert!(bounds.is_sorted(), "{bounds:?}");
            let _fits = Histogram::new(bounds);
        }
    }
}
