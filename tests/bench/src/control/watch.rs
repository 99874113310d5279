//! What all simulated sidecars have seen, in one place: which change reached whom and when, what
//! was pushed, and who is settled. A change is known by its mark: the weight that it gives an
//! endpoint, or the generation that it takes away; each is used once in a mesh.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Weights up to this one mark nothing: 100 is what an offer without a weight has.
pub(super) const UNMARKED: u64 = 100;

/// Longer than any change takes; whoever has not seen one by then has missed it.
const SIGHTING_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at what was seen.
const LOOK: Duration = Duration::from_millis(5);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When each change was made.
    made: HashMap<u64, Instant>,
    /// For each subscriber that has seen a change, how long after it was made.
    sightings: Vec<Duration>,
    /// What was pushed.
    pub(super) pushed: Pushed,
    /// Sidecars that hold all they should, all of it healthy, on an open stream.
    settled: usize,
    /// When the last one settled.
    last_settled: Option<Instant>,
    /// The first thing that went wrong.
    pub(super) failure: Option<String>,
}

/// What control has pushed to all sidecars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pushed {
    /// Updates, the first of each stream included.
    pub(crate) updates: u64,
    /// Their bytes, without the headers of gRPC and HTTP/2.
    pub(crate) bytes: u64,
    /// First updates of a stream that held all there is, and of those nothing was held before.
    pub(crate) whole: u64,
    /// First updates of a stream that went on from the version that was held.
    pub(crate) resumed: u64,
    /// Attempts to open a stream that failed.
    pub(crate) failed_attempts: u64,
}

impl Pushed {
    /// What came since an earlier look.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            updates: self.updates - earlier.updates,
            bytes: self.bytes - earlier.bytes,
            whole: self.whole - earlier.whole,
            resumed: self.resumed - earlier.resumed,
            failed_attempts: self.failed_attempts - earlier.failed_attempts,
        }
    }
}

/// How long changes took, from what a sidecar says to what each subscriber has read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Reached {
    /// Changes that were made.
    pub(crate) changes: usize,
    /// Subscribers that were to see one, over all changes.
    pub(crate) expected: usize,
    /// How many of them did within 10 s.
    pub(crate) seen: usize,
    /// Half of the subscribers saw it within this time, in milliseconds.
    pub(crate) p50_ms: f64,
    /// All but one of a hundred did.
    pub(crate) p99_ms: f64,
    /// The last one did.
    pub(crate) max_ms: f64,
}

impl Watch {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was pushed so far.
    pub(super) fn pushed(&self) -> Pushed {
        self.seen().pushed
    }

    /// How many sidecars are settled, and when the last one was.
    pub(super) fn settled(&self) -> Result<(usize, Option<Instant>)> {
        let seen = self.seen();
        if let Some(failure) = &seen.failure {
            bail!("a simulated sidecar has failed: {failure}");
        }
        Ok((seen.settled, seen.last_settled))
    }

    /// Waits until every change was seen by as many sidecars as expected, or the time is over, and
    /// forgets all sightings.
    pub(super) async fn reached(&self, expected: usize) -> Result<Reached> {
        let until = Instant::now() + SIGHTING_LIMIT;
        while self.seen().sightings.len() < expected && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        let mut seen = self.seen();
        if let Some(failure) = &seen.failure {
            bail!("a simulated sidecar has failed: {failure}");
        }
        let made = std::mem::take(&mut seen.made);
        let sightings = std::mem::take(&mut seen.sightings);
        drop(seen);
        let mut latencies = Histogram::<u64>::new(3)?;
        for latency in &sightings {
            latencies.record(u64::try_from(latency.as_nanos())?)?;
        }
        let milliseconds = |nanoseconds| crate::statistics::microseconds(nanoseconds) / 1e3;
        Ok(Reached {
            changes: made.len(),
            expected,
            seen: sightings.len(),
            p50_ms: milliseconds(latencies.value_at_quantile(0.50)),
            p99_ms: milliseconds(latencies.value_at_quantile(0.99)),
            max_ms: milliseconds(latencies.max()),
        })
    }
}

impl Seen {
    /// A change is made now.
    pub(super) fn make(&mut self, mark: u64) {
        self.made.insert(mark, Instant::now());
    }

    /// A sidecar has read of a change. Only one counts that was made while it was there: who comes
    /// later reads of all that were before, too.
    pub(super) fn sight(&mut self, mark: u64, since: Instant, at: Instant) {
        if let Some(made) = self.made.get(&mark).filter(|made| **made >= since) {
            let latency = at.saturating_duration_since(*made);
            self.sightings.push(latency);
        }
    }

    /// A sidecar has become settled, or is no longer.
    pub(super) fn settle(&mut self, settled: bool) {
        if settled {
            self.settled += 1;
            self.last_settled = Some(Instant::now());
        } else {
            self.settled -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_changes_that_were_made_meanwhile_count_as_seen() {
        let watch = Watch::default();
        let before = Instant::now();
        watch.seen().make(101);
        for mark in [101, 101, 102] {
            watch.seen().sight(mark, before, Instant::now());
        }
        let late = Instant::now() + Duration::from_secs(1);
        watch.seen().sight(101, late, late);
        let reached = watch.reached(2).await.unwrap();
        assert_eq!((reached.changes, reached.expected, reached.seen), (1, 2, 2));
        let again = watch.reached(0).await.unwrap();
        assert_eq!((again.changes, again.seen), (0, 0));
    }

    #[tokio::test]
    async fn what_a_sidecar_could_not_do_ends_the_measurement() {
        let watch = Watch::default();
        watch.seen().failure = Some("refused".to_owned());
        let error = watch.reached(0).await.unwrap_err().to_string();
        assert!(error.ends_with("refused"), "{error}");
    }
}
