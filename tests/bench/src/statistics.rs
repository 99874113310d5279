//! Medians and latency figures: pure arithmetic on what a round has measured.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The middle value, or the mean of the two middle ones; `None` without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// How long calls took from the first byte sent to the trailers, in microseconds. In a closed
/// loop, so an answer that is late also delays the calls after it: under load these are no
/// figures for a fixed rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// The mean.
    pub(crate) mean_us: f64,
    /// Half of the calls were faster.
    pub(crate) p50_us: f64,
    /// One of a hundred calls was slower.
    pub(crate) p99_us: f64,
}

impl Latency {
    /// Reads the figures off a histogram of nanoseconds.
    pub(crate) fn of(nanoseconds: &Histogram<u64>) -> Self {
        Self {
            mean_us: nanoseconds.mean() / 1e3,
            p50_us: microseconds(nanoseconds.value_at_quantile(0.50)),
            p99_us: microseconds(nanoseconds.value_at_quantile(0.99)),
        }
    }

    /// The median of each figure over several rounds; `None` without rounds.
    pub(crate) fn median(rounds: &[Self]) -> Option<Self> {
        Some(Self {
            mean_us: median(rounds.iter().map(|round| round.mean_us))?,
            p50_us: median(rounds.iter().map(|round| round.p50_us))?,
            p99_us: median(rounds.iter().map(|round| round.p99_us))?,
        })
    }
}

/// Nanoseconds as microseconds; exact far beyond the hour, where a double's precision begins to
/// matter.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// A count as a number to divide by; exact below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_order_and_outliers() {
        assert_eq!(median([3.0, 1000.0, 1.0, 2.0, 0.5]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn latency_is_read_in_microseconds() {
        let mut histogram = Histogram::new(3).unwrap();
        for call in 1..=100_u64 {
            histogram.record(call * 1000).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert!((latency.mean_us - 50.5).abs() < 0.1, "{latency:?}");
        assert!((latency.p50_us - 50.0).abs() < 0.1, "{latency:?}");
        assert!((latency.p99_us - 99.0).abs() < 0.1, "{latency:?}");
    }

    #[test]
    fn each_figure_has_its_own_median() {
        let round = |mean_us, p50_us, p99_us| Latency {
            mean_us,
            p50_us,
            p99_us,
        };
        let rounds = [
            round(1.0, 30.0, 5.0),
            round(2.0, 10.0, 6.0),
            round(3.0, 20.0, 4.0),
        ];
        assert_eq!(Latency::median(&rounds), Some(round(2.0, 20.0, 5.0)));
    }
}
