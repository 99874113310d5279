//! A histogram of a call's time or size: to take a value in is one look for its bucket and two
//! additions. Bounds are whole numbers of the smallest unit, so that nothing is rounded on a call's
//! way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use super::target::add;
use super::trace::Context;

/// The most bounds that a histogram may be given: each is a series for every method.
pub const BOUNDS_LIMIT: usize = 32;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The upper bounds of the buckets, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// Of durations, in nanoseconds.
    pub durations: Arc<[u64]>,
    /// Of sizes, in bytes.
    pub sizes: Arc<[u64]>,
}

impl Default for Buckets {
    fn default() -> Self {
        let microseconds = [
            500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 5_000_000, 10_000_000,
        ];
        Self {
            durations: microseconds.iter().map(|it| it * 1_000).collect(),
            // 64 bytes to 64 MiB.
            sizes: (0..=10).map(|power| 64 << (2 * power)).collect(),
        }
    }
}

/// What a histogram counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Durations in nanoseconds, shown in seconds.
    Seconds,
    /// Sizes.
    Bytes,
}

impl Unit {
    /// A value as it is shown, exactly.
    pub(super) fn show(self, value: u64) -> String {
        match self {
            Self::Seconds => format!("{}.{:09}", value / SECOND, value % SECOND),
            Self::Bytes => value.to_string(),
        }
    }

    /// A bound as the label `le` has it: always with a point, as `OpenMetrics` wants it, and with no
    /// more digits than it needs.
    pub(super) fn bound(self, bound: u64) -> String {
        let (whole, fraction) = match self {
            Self::Seconds => (bound / SECOND, format!("{:09}", bound % SECOND)),
            Self::Bytes => (bound, String::new()),
        };
        let fraction = fraction.trim_end_matches('0');
        format!(
            "{whole}.{}",
            if fraction.is_empty() { "0" } else { fraction }
        )
    }
}

/// A histogram.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: Arc<[u64]>,
    /// One more than there are bounds: what is beyond the last.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// One for each bucket at most; made with the first.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>]>>,
}

/// One value of a bucket, and the call that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exemplar {
    pub(super) value: u64,
    pub(super) of: Context,
    pub(super) at: SystemTime,
}

impl Histogram {
    pub(super) fn new(bounds: &Arc<[u64]>) -> Self {
        Self {
            bounds: Arc::clone(bounds),
            buckets: (0..=bounds.len()).map(|_| AtomicU64::default()).collect(),
            sum: AtomicU64::default(),
            exemplars: OnceLock::new(),
        }
    }

    /// Takes a value in, of a call that is recorded. The newest of its bucket is kept; where another
    /// one is being kept or shown at this moment, that one is as good.
    pub(super) fn record_exemplar(&self, exemplar: Exemplar) {
        self.record(exemplar.value);
        let fresh = || self.buckets.iter().map(|_| Mutex::default()).collect();
        let bucket = self.bucket(exemplar.value);
        if let Ok(mut kept) = self.exemplars.get_or_init(fresh)[bucket].try_lock() {
            *kept = Some(exemplar);
        }
    }

    fn bucket(&self, value: u64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    /// That of the bucket at this place.
    pub(super) fn exemplar(&self, bucket: usize) -> Option<Exemplar> {
        *self.exemplars.get()?.get(bucket)?.try_lock().ok()?
    }

    /// Takes a value in.
    pub(super) fn record(&self, value: u64) {
        add(&self.buckets[self.bucket(value)]);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many were up to each bound, `None` for no bound.
    pub(super) fn cumulated(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let mut sum = 0;
        bounds.zip(&self.buckets).map(move |(bound, bucket)| {
            sum += bucket.load(Ordering::Relaxed);
            (bound, sum)
        })
    }

    /// All values together.
    pub(super) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bounds_by_default_are_those_of_the_documentation() {
        let buckets = Buckets::default();
        let seconds: Vec<_> = buckets
            .durations
            .iter()
            .map(|it| Unit::Seconds.bound(*it))
            .collect();
        assert_eq!(seconds.first().unwrap(), "0.0005");
        assert_eq!(&seconds[8..12], ["0.25", "0.5", "1.0", "2.5"]);
        assert_eq!(seconds.last().unwrap(), "10.0");
        let bytes: Vec<_> = buckets
            .sizes
            .iter()
            .map(|it| Unit::Bytes.bound(*it))
            .collect();
        assert_eq!(&bytes[..3], ["64.0", "256.0", "1024.0"]);
        assert_eq!(bytes.last().unwrap(), "67108864.0");
        assert_eq!(Unit::Seconds.show(1_000_000_500), "1.000000500");
    }

    #[test]
    fn a_bucket_keeps_the_newest_of_its_calls() {
        let histogram = Histogram::new(&[10, 20].into());
        assert_eq!(histogram.exemplar(0), None);
        let exemplar = |value| Exemplar {
            value,
            of: Context::new(true),
            at: SystemTime::now(),
        };
        let kept = [11, 20, 21].map(exemplar);
        kept.iter().for_each(|it| histogram.record_exemplar(*it));
        assert_eq!(
            [0, 1, 2].map(|it| histogram.exemplar(it)),
            [None, Some(kept[1]), Some(kept[2])]
        );
        assert_eq!(histogram.cumulated().last(), Some((None, 3)));
    }

    proptest! {
        #[test]
        fn a_value_is_counted_up_to_each_bound_that_is_not_below_it(
            bounds in prop::collection::btree_set(0_u64..100, 0..8),
            values in prop::collection::vec(0_u64..120, 0..40),
        ) {
            let bounds: Arc<[u64]> = bounds.into_iter().collect();
            let histogram = Histogram::new(&bounds);
            for value in &values {
                histogram.record(*value);
            }
            for (bound, count) in histogram.cumulated() {
                let up_to = values.iter().filter(|it| bound.is_none_or(|bound| **it <= bound));
                prop_assert_eq!(count, up_to.count() as u64);
            }
            prop_assert_eq!(histogram.sum(), values.iter().sum::<u64>());
        }
    }
}
