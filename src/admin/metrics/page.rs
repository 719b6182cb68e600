//! Writer of metric families on top of `prometheus-client`.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, NoLabelSet},
    metrics::MetricType,
};

use super::Labels;
use crate::observability::histogram::Histogram;

/// A metrics page that is being written.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl<'a> Page<'a> {
    pub(super) const fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Writes a gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauges(name, help, [(Labels::new(), value)])
    }

    /// Writes a gauge with a fractional value.
    pub(super) fn real_gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    /// Writes gauges with fractional values and labels.
    pub(super) fn real_gauges(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    pub(super) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            // `OpenMetrics` has signed integers.
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    /// Writes counters; `_total` is appended to the name.
    pub(super) fn counters<T: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, T)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            } else {
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }

    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, Histogram)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in series {
            let buckets: Vec<_> = histogram.buckets().collect();
            let (sum, count) = (histogram.sum_seconds(), histogram.count());
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// Converts a page of `OpenMetrics` to the older text format of Prometheus, in which a counter's
/// own name ends with `_total` and nothing marks the end.
pub(super) fn prometheus_text(open_metrics: &str) -> String {
    let mut page = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        // A family's type is in the line after its help.
        let family = match described(line, "# TYPE ") {
            Some((name, "counter")) => Some((name, "# TYPE ", "counter")),
            _ => described(line, "# HELP ")
                .filter(|_| lines.peek().is_some_and(|next| next.ends_with(" counter")))
                .map(|(name, help)| (name, "# HELP ", help)),
        };
        // Only the two comment lines of a counter differ; its samples already have the suffix.
        let parts = match family {
            Some((name, kind, rest)) => [kind, name, "_total ", rest, "\n"],
            None if line == "# EOF" => continue,
            None => [line, "\n", "", "", ""],
        };
        page.extend(parts);
    }
    page
}

/// Splits a `HELP` or `TYPE` line into the name and the text.
fn described<'a>(line: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(kind)?.split_once(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_called_as_their_samples_in_the_older_format() {
        let open_metrics = "# HELP a_seconds What.\n# TYPE a_seconds counter\n\
            a_seconds_total{b=\"# TYPE c counter\"} 1\n# HELP d D.\n# TYPE d gauge\nd 2\n# EOF\n";

        assert_eq!(
            prometheus_text(open_metrics),
            "# HELP a_seconds_total What.\n# TYPE a_seconds_total counter\n\
             a_seconds_total{b=\"# TYPE c counter\"} 1\n# HELP d D.\n# TYPE d gauge\nd 2\n"
        );
    }
}
