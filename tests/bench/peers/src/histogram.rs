//! Durations counted in buckets of about 1.6 %.

use std::time::Duration;

/// Buckets per power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Up to 2^40 ns, 18 minutes; longer ones count as that.
const BUCKETS: usize = 36 * 64;

/// How long things took.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
}

impl Histogram {
    /// One without entries.
    pub fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS].into(),
            total: 0,
        }
    }

    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds).min(BUCKETS - 1)] += 1;
        self.total += 1;
    }

    /// How many durations were added.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The duration that `per_mille` of a thousand do not exceed, rounded up to its bucket;
    /// zero without entries.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.total * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return Duration::from_nanos(upper_bound(index));
            }
        }
        Duration::ZERO
    }
}

/// Below `STEPS` each value has its bucket; above, the leading bits choose it.
fn bucket(nanoseconds: u64) -> usize {
    let shift = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let bucket = u64::from(shift) * STEPS + (nanoseconds >> shift);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_bucket() {
        let mut histogram = Histogram::new();
        for microseconds in 1..=1000 {
            histogram.record(Duration::from_micros(microseconds));
        }

        let near = |quantile: Duration, microseconds: f64| {
            (quantile.as_secs_f64() * 1e6 / microseconds - 1.0).abs() < 0.02
        };
        assert_eq!(histogram.total(), 1000);
        assert!(near(histogram.quantile(500), 500.0));
        assert!(near(histogram.quantile(990), 990.0));
        assert!(near(histogram.quantile(1000), 1000.0));
    }

    #[test]
    fn every_value_lies_in_the_bucket_it_is_counted_in() {
        for value in (0..100_000).chain([1 << 20, (1 << 30) + 12345, (1 << 39) - 1]) {
            let index = bucket(value);
            assert!(value <= upper_bound(index), "{value}");
            assert!(index == 0 || value > upper_bound(index - 1), "{value}");
        }
    }

    #[test]
    fn an_empty_one_says_zero_and_long_durations_are_kept() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(500), Duration::ZERO);

        histogram.record(Duration::from_hours(1));
        assert!(histogram.quantile(500) > Duration::from_secs(1000));
    }
}
